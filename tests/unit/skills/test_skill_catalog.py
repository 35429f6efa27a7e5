"""From skill and submission to the next version and to what followers are told."""

from dataclasses import replace

from headrace_contracts.content import plain
from headrace_contracts.events import Position, SkillAction, SkillChange, SkillPublished, SkillStatus, SkillSubmitted
from headrace_skill_broadcaster.decide.catalog import (
    HISTORY,
    CatalogUpdate,
    Refused,
    Repeated,
    change_of,
    decide,
    feed_event_id,
    feed_events,
    outcome_of,
    supersedes,
)
from headrace_skill_broadcaster.decide.rules import SkillLimits

LIMITS = SkillLimits()
FIRST = SkillSubmitted(
    submission_id="s-1",
    tenant="acme",
    name="retry",
    title="Retry",
    body=plain("one"),
    interests=("testing", "backend", "testing"),
    author="ada",
    submitted_at=5,
)


def position(offset: int) -> Position:
    return Position(topic="skills.submitted", partition=3, next_offset=offset)


def recorded(
    current: SkillPublished | None, submission: SkillSubmitted, offset: int = 1, now: int = 100
) -> CatalogUpdate:
    decision = decide(current, submission, position(offset), now, LIMITS)
    assert isinstance(decision, CatalogUpdate)
    return decision


def test_the_first_version() -> None:
    entry = recorded(None, FIRST, offset=8).entry
    assert (entry.version, entry.status, entry.interests) == (1, SkillStatus.LIVE, ("testing", "backend"))
    assert entry.positions == (position(8),)
    assert (entry.submitted_at, entry.published_at) == (5, 100)
    assert [(past.version, past.submission_id) for past in entry.history] == [(1, "s-1")]
    assert change_of(entry) is SkillChange.PUBLISHED
    assert outcome_of(entry) == "published"


def test_new_content_makes_the_next_version_and_old_followers_are_told_as_well() -> None:
    first = recorded(None, FIRST).entry
    second = recorded(first, replace(FIRST, submission_id="s-2", body=plain("two"), interests=("security",)), 2).entry
    assert second.version == 2
    assert outcome_of(second) == "updated"
    events = feed_events(second)
    assert [event.interest for event in events] == ["security", "testing", "backend"]
    assert {event.interests for event in events} == {("security",)}
    assert {feed_event_id(event) for event in events} == {
        "acme/retry/2/security",
        "acme/retry/2/testing",
        "acme/retry/2/backend",
    }


def test_changed_words_about_the_same_body_are_a_version_too() -> None:
    first = recorded(None, FIRST).entry
    assert recorded(first, replace(FIRST, submission_id="s-2", title="Retry!"), 2).entry.version == 2


def test_the_same_again_makes_no_version_but_moves_the_position() -> None:
    first = recorded(None, FIRST).entry
    decision = recorded(first, replace(FIRST, submission_id="s-2", author="bob"), offset=9, now=200)
    assert not decision.told
    assert decision.entry == replace(first, submission_id="s-2", positions=(position(9),))
    assert outcome_of(decision.entry) == "unchanged"


def test_a_repeated_submission_is_passed_over_even_behind_later_ones() -> None:
    first = recorded(None, FIRST).entry
    second = recorded(first, replace(FIRST, submission_id="s-2", body=plain("two")), 2).entry
    assert decide(second, FIRST, position(3), 300, LIMITS) == Repeated()


def test_revoking_keeps_the_number_and_tells_the_followers() -> None:
    first = recorded(None, FIRST).entry
    revoke = SkillSubmitted(submission_id="s-2", tenant="acme", name="retry", action=SkillAction.REVOKE, submitted_at=6)
    decision = recorded(first, revoke, 2)
    revoked = decision.entry
    assert decision.told
    assert (revoked.version, revoked.status, revoked.body) == (2, SkillStatus.REVOKED, None)
    assert [(event.interest, event.change, event.body) for event in feed_events(revoked)] == [
        ("testing", SkillChange.REVOKED, None),
        ("backend", SkillChange.REVOKED, None),
    ]
    again = recorded(revoked, replace(revoke, submission_id="s-3"), 3)
    assert not again.told
    assert again.entry.version == 2


def test_a_revoked_skill_comes_back_as_published_with_the_next_number() -> None:
    first = recorded(None, FIRST).entry
    revoke = SkillSubmitted(submission_id="s-2", tenant="acme", name="retry", action=SkillAction.REVOKE, submitted_at=6)
    revoked = recorded(first, revoke, 2).entry
    back = recorded(revoked, replace(FIRST, submission_id="s-3"), 3).entry
    assert (back.version, back.status) == (3, SkillStatus.LIVE)
    assert change_of(back) is SkillChange.PUBLISHED


def test_what_does_not_exist_cannot_be_revoked() -> None:
    revoke = SkillSubmitted(submission_id="s", tenant="acme", name="retry", action=SkillAction.REVOKE, submitted_at=6)
    decision = decide(None, revoke, position(1), 1, LIMITS)
    assert isinstance(decision, Refused)
    assert decision.flaw.field == "name"


def test_a_flawed_submission_is_refused() -> None:
    decision = decide(None, replace(FIRST, body=plain("")), position(1), 1, LIMITS)
    assert isinstance(decision, Refused)


def test_history_is_bounded_and_ends_with_the_newest() -> None:
    entry = None
    for number in range(HISTORY + 5):
        submission = replace(FIRST, submission_id=f"s-{number}", body=plain(str(number)))
        entry = recorded(entry, submission, number + 1).entry
    assert entry is not None
    assert [past.version for past in entry.history] == list(range(6, HISTORY + 6))


def test_a_lower_version_read_later_does_not_stand() -> None:
    first = recorded(None, FIRST).entry
    second = recorded(first, replace(FIRST, submission_id="s-2", body=plain("two")), 2).entry
    assert supersedes(second, first)
    assert supersedes(first, None)
    assert supersedes(replace(second, submission_id="s-3"), second)
    assert not supersedes(first, second)
