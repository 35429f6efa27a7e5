"""From a skill and a submission to the skill's new state, and the feed events for its followers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace_contracts.events import (
    Position,
    SkillAction,
    SkillChange,
    SkillChanged,
    SkillPublished,
    SkillStatus,
    SkillSubmitted,
    SkillVersion,
)

from headrace_skill_broadcaster.decide.rules import Flaw, SkillLimits, body_digest, flaw_in

HISTORY = 50
"""Versions in a catalog record. A submission repeated after that many later ones counts as new."""


@dataclass(frozen=True, slots=True)
class CatalogUpdate:
    """Write this entry to the catalog; `told` says whether it differs from the last one, so that followers get it."""

    entry: SkillPublished
    told: bool


@dataclass(frozen=True, slots=True)
class Repeated:
    """Nothing to do: this submission has been handled."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Dead-letter the submission: it can never become a skill."""

    flaw: Flaw


CatalogDecision = CatalogUpdate | Repeated | Refused


def skill_key(tenant: str, name: str) -> str:
    """Key of a skill's records. Names contain no slash, so the last slash separates the two parts."""
    return f"{tenant}/{name}"


def interest_key(tenant: str, interest: str) -> str:
    """Key of the feed records of a tenant's domain."""
    return f"{tenant}/{interest}"


def decide(
    current: SkillPublished | None,
    submission: SkillSubmitted,
    position: Position,
    now_ms: int,
    limits: SkillLimits,
    forgotten_version: int = 0,
) -> CatalogDecision:
    """The effect of a submission on a skill.

    `current` is the skill's present state, `position` the consumed offset of the submissions including this one,
    `forgotten_version` the highest version among the tenant's forgotten skills, of which this may be one.
    """
    flaw = flaw_in(submission, limits)
    if flaw is not None:
        return Refused(flaw)
    if current is not None and _has_dealt_with(current, submission.submission_id):
        return Repeated()
    if submission.submitted_at <= now_ms - limits.revoked_ms:
        # It cannot be told from a repetition of one whose effect is forgotten, and would bring a revoked skill back.
        return Refused(Flaw("submitted_at", "is so long ago that it may have been handled before: submit it anew"))
    if submission.action is SkillAction.REVOKE:
        if current is None:
            return Refused(Flaw("name", "no skill of this name exists, so there is nothing to revoke"))
        if current.status is SkillStatus.REVOKED:
            return _update(_unchanged(current, submission, position), forgotten_version, told=False)
        return _update(_revoked(current, submission, position, now_ms), forgotten_version)
    if current is not None and _says_the_same(current, submission):
        return _update(_unchanged(current, submission, position), forgotten_version, told=False)
    version = forgotten_version + 1 if current is None else current.version + 1
    return _update(_published(current, submission, position, now_ms, version), forgotten_version)


def feed_events(entry: SkillPublished) -> tuple[SkillChanged, ...]:
    """The feed events for the version in a catalog record, one per domain."""
    change = change_of(entry)
    return tuple(
        SkillChanged(
            interest=interest,
            tenant=entry.tenant,
            name=entry.name,
            version=entry.version,
            change=change,
            title=entry.title,
            summary=entry.summary,
            body=entry.body,
            interests=entry.interests,
            digest=entry.digest,
            author=entry.author,
            submitted_at=entry.submitted_at,
            published_at=entry.published_at,
        )
        for interest in dict.fromkeys((*entry.interests, *entry.previous_interests))
    )


def change_of(entry: SkillPublished) -> SkillChange:
    """The kind of change in a catalog record: a skill that returns after it was revoked counts as published."""
    if entry.status is SkillStatus.REVOKED:
        return SkillChange.REVOKED
    before = next((past for past in reversed(entry.history) if past.version < entry.version), None)
    if before is None or before.status is SkillStatus.REVOKED:
        return SkillChange.PUBLISHED
    return SkillChange.UPDATED


def outcome_of(entry: SkillPublished) -> str:
    """The outcome of the submission in a catalog record: published, updated, revoked or unchanged."""
    made_it = any(past.version == entry.version and past.submission_id == entry.submission_id for past in entry.history)
    return change_of(entry).value if made_it else "unchanged"


def feed_event_id(event: SkillChanged) -> str:
    """The outcome for a repeat of the same event."""
    return f"{event.tenant}/{event.name}/{event.version}/{event.interest}"


def position_in(entry: SkillPublished) -> int:
    """The consumed offset of its partition's submissions in a catalog record."""
    return max((position.next_offset for position in entry.positions), default=0)


def supersedes(newer: SkillPublished, older: SkillPublished | None) -> bool:
    """Whether a record read later is the skill's valid state.

    It is not if a writer that had lost its partition appended it after its successor's records.
    """
    return older is None or newer.version >= older.version


def _has_dealt_with(current: SkillPublished, submission_id: str) -> bool:
    return current.submission_id == submission_id or any(
        past.submission_id == submission_id for past in current.history
    )


def _says_the_same(current: SkillPublished, submission: SkillSubmitted) -> bool:
    assert submission.body is not None  # flaw_in rejects a publication without one
    return (
        current.status is SkillStatus.LIVE
        and current.digest == body_digest(submission.body)
        and current.title == submission.title
        and current.summary == submission.summary
        and current.interests == _distinct(submission.interests)
    )


def _update(entry: SkillPublished, forgotten_version: int, *, told: bool = True) -> CatalogUpdate:
    # Every record carries it on, so that the one with the furthest position does.
    version = max(entry.forgotten_version, forgotten_version)
    return CatalogUpdate(replace(entry, forgotten_version=version), told)


def _unchanged(current: SkillPublished, submission: SkillSubmitted, position: Position) -> SkillPublished:
    # Written even so: the record moves the position, and tells the submitter the outcome.
    return replace(current, submission_id=submission.submission_id, positions=(position,))


def _revoked(
    current: SkillPublished, submission: SkillSubmitted, position: Position, now_ms: int
) -> SkillPublished:  # fmt: skip
    return replace(
        current,
        version=current.version + 1,
        status=SkillStatus.REVOKED,
        body=None,
        interests=(),
        previous_interests=current.interests,
        author=submission.author or current.author,
        submission_id=submission.submission_id,
        positions=(position,),
        history=_history(current, submission, SkillStatus.REVOKED, current.digest, now_ms, current.version + 1),
        submitted_at=submission.submitted_at,
        published_at=now_ms,
    )


def _published(
    current: SkillPublished | None, submission: SkillSubmitted, position: Position, now_ms: int, version: int
) -> SkillPublished:
    assert submission.body is not None  # flaw_in rejects a publication without one
    digest = body_digest(submission.body)
    return SkillPublished(
        tenant=submission.tenant,
        name=submission.name,
        version=version,
        status=SkillStatus.LIVE,
        title=submission.title,
        summary=submission.summary,
        body=submission.body,
        interests=_distinct(submission.interests),
        previous_interests=() if current is None else current.interests,
        digest=digest,
        author=submission.author,
        submission_id=submission.submission_id,
        positions=(position,),
        history=_history(current, submission, SkillStatus.LIVE, digest, now_ms, version),
        submitted_at=submission.submitted_at,
        published_at=now_ms,
    )


def _history(
    current: SkillPublished | None,
    submission: SkillSubmitted,
    status: SkillStatus,
    digest: str,
    now_ms: int,
    version: int,
) -> tuple[SkillVersion, ...]:
    past = () if current is None else current.history
    newest = SkillVersion(
        version=version,
        status=status,
        digest=digest,
        author=submission.author,
        submission_id=submission.submission_id,
        published_at=now_ms,
    )
    return (*past, newest)[-HISTORY:]


def _distinct(interests: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(interests))
