"""Skills that were revoked long ago are forgotten; what agents and consumers rely on is not."""

from __future__ import annotations

from dataclasses import replace

from headrace_contracts.content import plain
from headrace_contracts.events import Position, SkillAction, SkillChange, SkillPublished, SkillStatus, SkillSubmitted
from headrace_skill_broadcaster.decide.catalog import (
    CatalogUpdate,
    Refused,
    change_of,
    decide,
    feed_event_id,
    feed_events,
    position_in,
)
from headrace_skill_broadcaster.decide.forgetting import forgotten_versions, sweep
from headrace_skill_broadcaster.decide.rules import SkillLimits
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

DAY = 86_400_000
KEPT = 30 * DAY
LIMITS = SkillLimits(revoked_ms=KEPT)
KEYS = st.sampled_from(["acme/a", "acme/b", "acme/c", "globex/a", "globex/b"])


class Partition(RuleBasedStateMachine):
    """One partition of the catalog, as a log: owners come and go, and know what the log says."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_760_000_000_000
        self.offset = 0
        self.number = 0
        self.log: list[tuple[str, SkillPublished | None]] = []
        self.entries: dict[str, SkillPublished] = {}
        self.told: dict[str, int] = {}
        self.event_ids: set[str] = set()
        self.sent: list[SkillSubmitted] = []
        self.position = 0

    def append(self, key: str, entry: SkillPublished | None) -> None:
        self.log.append((key, entry))
        if entry is None:
            del self.entries[key]
        else:
            self.entries[key] = entry

    def take(self, submission: SkillSubmitted) -> CatalogUpdate | None:
        key = f"{submission.tenant}/{submission.name}"
        self.offset += 1
        forgotten = forgotten_versions(self.entries).get(submission.tenant, 0)
        position = Position(topic="skills.submitted", partition=0, next_offset=self.offset)
        decision = decide(self.entries.get(key), submission, position, self.now, LIMITS, forgotten)
        if not isinstance(decision, CatalogUpdate):
            return None
        self.append(key, decision.entry)
        self.position = self.offset
        if decision.told:
            # Agents and consumers take what has a name and a version that they have seen for a repetition.
            assert decision.entry.version > self.told.get(key, 0)
            self.told[key] = decision.entry.version
            for event in feed_events(decision.entry):
                assert feed_event_id(event) not in self.event_ids
                self.event_ids.add(feed_event_id(event))
        return decision

    @rule(key=KEYS, text=st.integers(0, 1), times=st.sampled_from([1, 1, 5]))
    def publish_often(self, key: str, text: int, times: int) -> None:
        self.publish(key, text, times)

    def publish(self, key: str, text: int, times: int) -> None:
        for more in range(times):
            before = self.entries.get(key)
            update = self.take(self.submission(key, f"{text}{more % 2}"))
            assert update is not None
            if before is None or before.status is SkillStatus.REVOKED:
                assert change_of(update.entry) is SkillChange.PUBLISHED

    @rule(key=KEYS)
    def revoke_one(self, key: str) -> None:
        self.revoke(key)

    def revoke(self, key: str) -> None:
        known = key in self.entries
        assert (self.take(self.submission(key, None)) is not None) == known

    @rule(keys=st.lists(KEYS, min_size=1, max_size=3, unique=True), changes=st.sampled_from([1, 1, 5]))
    def come_and_go(self, keys: list[str], changes: int) -> None:
        for key in keys:
            self.publish(key, 0, changes)
            self.revoke(key)
        self.wait(31)
        self.sweep(99)

    def submission(self, key: str, text: str | None) -> SkillSubmitted:
        self.number += 1
        tenant, name = key.split("/")
        made = SkillSubmitted(
            submission_id=f"s-{self.number}", tenant=tenant, name=name, interests=("testing",),
            action=SkillAction.PUBLISH if text is not None else SkillAction.REVOKE,
            body=None if text is None else plain(text), submitted_at=self.now,
        )  # fmt: skip
        self.sent.append(made)
        return made

    @rule(data=st.data())
    def repeat_an_old_submission(self, data: st.DataObject) -> None:
        old = [each for each in self.sent if each.submitted_at <= self.now - KEPT]
        if old:
            before = dict(self.entries)
            # Whether it is still known or only old: what somebody has recorded brings nothing back.
            assert self.take(data.draw(st.sampled_from(old))) is None
            assert self.entries == before

    @rule(days=st.sampled_from([0, 1, 10, 30, 31]))
    def wait_days(self, days: int) -> None:
        self.wait(days)

    def wait(self, days: int) -> None:
        self.now += days * DAY

    @rule(crash_after=st.integers(0, 9))
    def sweep_once(self, crash_after: int) -> None:
        self.sweep(crash_after)

    def sweep(self, crash_after: int) -> None:
        before = dict(self.entries)
        due = sweep(self.entries, self.entries.get, self.now, KEPT)
        steps: list[tuple[str, SkillPublished | None]] = [*due.restated.items(), *dict.fromkeys(due.forgotten).items()]
        for step in steps[:crash_after]:
            self.append(*step)
        for key, version in due.forgotten.items():
            assert (before[key].status, before[key].version) == (SkillStatus.REVOKED, version)
            assert before[key].published_at + KEPT <= self.now
        if crash_after >= len(steps):
            assert not sweep(self.entries, self.entries.get, self.now, KEPT)
            for tenant in ("acme", "globex"):
                old = [
                    entry
                    for entry in self.entries.values()
                    if entry.tenant == tenant
                    and entry.status is SkillStatus.REVOKED
                    and entry.published_at + KEPT <= self.now
                ]
                assert len(old) <= 1, "of a tenant at most one stays"

    @rule()
    def take_over(self) -> None:
        found: dict[str, SkillPublished] = {}
        for key, entry in self.log:
            if entry is None:
                found.pop(key, None)
            else:
                found[key] = entry
        assert found == self.entries

    @invariant()
    def the_position_is_in_the_catalog(self) -> None:
        assert max(map(position_in, self.entries.values()), default=0) == self.position

    @invariant()
    def live_skills_are_all_there(self) -> None:
        live = {key for key, entry in self.entries.items() if entry.status is SkillStatus.LIVE}
        last = {key: entry for key, entry in self.log if entry is not None}
        assert live == {key for key, entry in last.items() if entry.status is SkillStatus.LIVE}


TestPartition = Partition.TestCase
TestPartition.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_former_partition_is_told_of_the_revocation_before_the_skill_is_forgotten() -> None:
    position = Position(topic="skills.submitted", partition=0, next_offset=9)
    submission = SkillSubmitted(
        submission_id="s", tenant="acme", name="a", body=plain("x"), interests=("t",), submitted_at=KEPT
    )
    first = decide(None, submission, position, KEPT, LIMITS)
    assert isinstance(first, CatalogUpdate)
    there = replace(position, partition=5, next_offset=2)
    gone = replace(submission, submission_id="r", action=SkillAction.REVOKE, body=None)
    last = decide(first.entry, gone, there, KEPT, LIMITS)
    assert isinstance(last, CatalogUpdate)
    stale, newest = {"acme/a": first.entry}, {"acme/a": last.entry}
    due = sweep(stale, newest.get, KEPT + 1, KEPT)
    assert due.restated == {"acme/a": replace(last.entry, positions=(position,))}
    assert not sweep(due.restated, newest.get, KEPT + 1, KEPT)
    # A live one that has only moved is left as it is.
    assert not sweep(stale, {"acme/a": replace(first.entry, version=2)}.get, 9 * KEPT, KEPT)


def test_a_submission_that_is_too_old_is_refused_with_what_to_do() -> None:
    position = Position(topic="skills.submitted", partition=0, next_offset=1)
    for age, refused in ((0, False), (KEPT - 1, False), (KEPT, True), (9 * KEPT, True)):
        old = SkillSubmitted(submission_id="s", tenant="acme", name="a", body=plain("x"), submitted_at=9 * KEPT - age)
        decision = decide(None, old, position, 9 * KEPT, LIMITS)
        assert isinstance(decision, Refused) == refused
        if isinstance(decision, Refused):
            assert "submit it anew" in str(decision.flaw)
