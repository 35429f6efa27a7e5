"""Taking partitions over on the log's in-memory twin: kept ones, zombies, what one's own process has under way,
cancellation requests that came early, what retention would remove, and clocks that jump."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from headrace_contracts import topics
from headrace_contracts.events import (
    EntryKind,
    JournalEntry,
    Privacy,
    ReplyKind,
    TaskCancelled,
    TaskStatus,
    TaskSubmitted,
)
from headrace_router import service, timers
from headrace_streams.errors import TransientError
from headrace_streams.memory import NetworkRequest, Operation
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_testing import routing
from headrace_testing.router_twin import PREFIX, Twin, Wire, now_ms

JOURNAL = PREFIX + "tasks.journal"
T = TypeVar("T")


def tasks(count: int, name: str = "task", **fields: Any) -> list[TaskSubmitted]:
    now = now_ms()
    return [
        routing.task(f"{name}-{number}", f"{name} {number}?", **{"submitted_at": now, "allow_cached": False, **fields})
        for number in range(count)
    ]


def epoch_starts(twin: Twin) -> Counter[str]:
    return Counter(entry.owner for entry in twin.journal() if entry.kind is EntryKind.EPOCH_START)


def ends(twin: Twin) -> dict[str, int]:
    return {task_id: len(found) for task_id, found in twin.completed().items()}


def once(sent: list[TaskSubmitted]) -> dict[str, int]:
    return {task.task_id: 1 for task in sent}


async def test_partitions_that_stay_are_not_read_again() -> None:
    async with Twin(partitions=4, session_timeout=5.0) as twin:
        twin.nodes = {}
        first = twin.router("a", static=False)
        await twin.until(lambda: len(first.service.partitions) == 4)
        waiting = tasks(12, privacy=Privacy.SENSITIVE)
        expiring = tasks(8, "expiring", deadline_at=now_ms() + 700, privacy=Privacy.SENSITIVE)
        await twin.submit(*waiting, *expiring)
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) >= 20)
        second = twin.router("b", static=False)
        await twin.until(lambda: len(first.service.partitions) == len(second.service.partitions) == 2)
        assert epoch_starts(twin) == {"a": 4, "b": 2}
        # What time, the fleet and new input do to the tasks of kept partitions goes on as before.
        await twin.until_completed(expiring)
        twin.work()
        for router in (first, second):
            router.world.node_changed("workstation", replace(routing.LOCAL, reported_at=now_ms()))
        late = tasks(12, "late")
        await twin.submit(*late)
        await twin.until_completed([*waiting, *late])
        await second.stop()
        await twin.until(lambda: len(first.service.partitions) == 4)
        assert epoch_starts(twin) == {"a": 6, "b": 2}
        await twin.quiet(0.05)
        assert ends(twin) == once([*waiting, *expiring, *late])


async def test_what_does_not_come_back_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_REST_SECONDS", 0.3)
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        first = twin.router("a", static=False)
        await twin.until(lambda: len(first.service.partitions) == 1)
        # Before the other one in the order of names, so that it gets the only partition.
        second = twin.router("above")
        await twin.until(lambda: len(second.service.partitions) == 1)
        membership = first.service._membership
        assert membership is not None
        assert len(membership._resting) == 1
        await twin.until(lambda: not membership._resting)


@dataclass
class Meddler(Wire):
    """Writes into the journal when its client looks where that ends: before the look, or after it."""

    meddle: Callable[[], None] | None = None
    after: bool = False
    looks: int = 0

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        looks = request.operation is Operation.OFFSETS and any(p.topic == JOURNAL for p in request.partitions)
        self.looks += looks
        if not looks or self.meddle is None:
            return await super().call(request, perform)
        meddle, self.meddle = self.meddle, None
        if self.after:
            answer = await super().call(request, perform)
            meddle()
            return answer
        meddle()
        return await super().call(request, perform)


@pytest.mark.parametrize("after", [False, True], ids=["before the look", "after the look"])
async def test_a_partition_that_somebody_wrote_to_meanwhile_is_not_kept(after: bool) -> None:
    async with Twin(partitions=2, session_timeout=5.0) as twin:
        wire = Meddler(after=after)
        first = twin.router("a", static=False, wire=wire)
        sent = tasks(6)
        await twin.submit(*sent)
        await twin.until(lambda: len(twin.cluster.records(PREFIX + "work.local.batch")) == 6)
        await twin.quiet(0.05)
        foreign = twin.codec.encode(topics.TASKS_JOURNAL, twin.journal()[-1])

        def meddle() -> None:
            for number in range(2):
                twin.cluster.append(ProducerRecord(JOURNAL, foreign, b"x", number))

        wire.meddle = meddle
        twin.router("b", static=False)
        await twin.until(lambda: len(first.service.partitions) == 1 and wire.meddle is None)
        twin.work()
        for request in twin.written(topics.WORK_LOCAL_BATCH):
            twin.requests.append(request)
        late = tasks(6, "late")
        await twin.submit(*late)
        await twin.until_completed([*sent, *late])
        await twin.quiet()
        assert ends(twin) == once([*sent, *late])
        assert epoch_starts(twin)["a"] >= 3
        # Neither costs more than reading the journal: the member stays in its group.
        assert first.service._trouble is None


async def test_what_ones_own_process_still_has_under_way_is_waited_for() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.work()
        wire = Wire()
        twin.router(wire=wire)
        await twin.until(lambda: len(twin.journal()) == 1)
        task, other = tasks(2, reply_partition=0)
        # On its way, and there, while the partition is already being taken over again.
        wire.slow[PREFIX + "tasks.completed"] = 0.3
        await twin.submit(task)
        await twin.until(lambda: PREFIX + "tasks.completed" not in wire.slow)
        wire.fail[PREFIX + "tasks.journal"] = [TransientError("lost")]
        await twin.submit(other)
        await twin.until_completed([task, other])
        await twin.until(lambda: any(reply.kind is ReplyKind.FINISHED for reply in twin.replies()))
        await asyncio.sleep(0.4)
        assert epoch_starts(twin) == {"r1": 2}
        assert ends(twin) == once([task, other])


@pytest.mark.parametrize("skew_ms", [0, 20_000, -20_000, 86_400_000])
async def test_a_decision_of_an_owner_that_stands_still_is_given_time_to_be_carried_out(skew_ms: int) -> None:
    """Also where the successor's clock says that the time is long over."""
    async with Twin(partitions=1) as twin:
        twin.work()
        old = twin.router("old", static=False, wire=Wire(freeze_on=PREFIX + "tasks.completed"))
        (task,) = tasks(1)
        await twin.submit(task)
        await twin.until(lambda: old.wire.frozen)
        new = twin.router("new", static=False, settle_seconds=1.5, skew_ms=skew_ms)
        await twin.until(lambda: epoch_starts(twin)["new"] == 1)
        await asyncio.sleep(0.1)
        assert not twin.completed()
        old.wire.thaw()
        await twin.until(lambda: len(new.service.partitions) + len(old.service.partitions) == 1)
        await twin.quiet()
        assert ends(twin) == once([task])


async def test_a_repetition_of_somebody_who_stands_still_is_given_time_as_well() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        first = twin.router("first", static=False, wire=Wire(crash_on=PREFIX + "tasks.completed"))
        (task,) = tasks(1)
        await twin.submit(task)
        await asyncio.wait_for(first.wire.crashed.wait(), 30)
        await first.kill()
        repeating = twin.router("repeating", static=False, wire=Wire(freeze_on=PREFIX + "tasks.completed"))
        await twin.until(lambda: repeating.wire.frozen)
        # The decision is its own predecessor's, so only the repetition says that somebody may be about to act on it.
        new = twin.router("first", static=False, settle_seconds=1.5)
        await twin.until(lambda: epoch_starts(twin)["first"] == 2)
        await asyncio.sleep(0.1)
        assert not twin.completed()
        repeating.wire.thaw()
        await twin.until(lambda: len(new.service.partitions) + len(repeating.service.partitions) == 1)
        await twin.quiet()
        assert ends(twin) == once([task])


async def test_what_ones_predecessor_left_is_not_waited_for() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        first = twin.router("r1", wire=Wire(crash_on=PREFIX + "tasks.completed"))
        (task,) = tasks(1)
        await twin.submit(task)
        await asyncio.wait_for(first.wire.crashed.wait(), 30)
        await first.kill()
        began = now_ms()
        twin.router("r1", settle_seconds=60.0)
        await twin.until_completed([task])
        assert now_ms() - began < 30_000


@pytest.mark.parametrize("slow", [0.05, 0.2, 0.5])
async def test_what_a_takeover_that_was_cancelled_has_under_way_is_waited_for(slow: float) -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        first = twin.router("r1", wire=Wire(crash_on=PREFIX + "tasks.completed"))
        (task,) = tasks(1)
        await twin.submit(task)
        await asyncio.wait_for(first.wire.crashed.wait(), 30)
        await first.kill()
        wire = Wire(slow={PREFIX + "tasks.completed": slow})
        second = twin.router("r1", wire=wire)
        # The terminal state is being repeated when the partition is lost, and comes back at once.
        await twin.until(lambda: TopicPartition(PREFIX + "tasks.completed", 0) in wire.appends)
        membership = second.service._membership
        assert membership is not None
        inputs = [TopicPartition(PREFIX + spec.name, 0) for spec in service.INPUTS]
        await membership.lost(inputs)
        await membership.assigned(inputs)
        await twin.until_completed([task])
        await twin.quiet(2 * slow + 0.1)
        assert ends(twin) == once([task])


async def test_a_reply_that_nobody_can_read_harms_nobody() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.work()
        first = twin.router()
        sent = [*tasks(1, "odd", reply_partition=99), *tasks(2, reply_partition=0)]
        await twin.submit(*sent)
        await twin.until_completed(sent)
        await twin.quiet(0.05)
        assert epoch_starts(twin) == {"r1": 1}
        assert {reply.task_id for reply in twin.replies()} == {"task-0", "task-1"}
        await first.kill()
        # The same holds for an owner that takes over in the middle.
        second = twin.router(wire=Wire(crash_on=PREFIX + "tasks.completed"))
        more = tasks(1, "more", reply_partition=99)
        await twin.submit(*more)
        await asyncio.wait_for(second.wire.crashed.wait(), 30)
        await second.kill()
        twin.router()
        await twin.until_completed(more)
        assert ends(twin) == once([*sent, *more])


async def requested(twin: Twin, task: TaskSubmitted, **router: Any) -> None:
    """A cancellation request that is journaled before its task is there, and a crash."""
    first = twin.router(**router)
    await twin.cancel(task)
    await twin.until(lambda: any(entry.cancellation is not None for entry in twin.journal()))
    await first.kill()


async def test_a_cancellation_that_came_early_survives_a_crash() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.work()
        task, other = tasks(2)
        await requested(twin, task)
        twin.cluster.compact(JOURNAL)
        second = twin.router()
        await twin.submit(task, other)
        await twin.until_completed([task, other])
        assert {task_id: found[0].status for task_id, found in twin.completed().items()} == {
            task.task_id: TaskStatus.CANCELLED, other.task_id: TaskStatus.SUCCEEDED,
        }  # fmt: skip
        assert [request.task_id for request in twin.requests] == [other.task_id]
        await second.kill()
        # A task that has come is not cancelled once more.
        twin.router()
        await twin.submit(task)
        await twin.quiet()
        assert ends(twin) == once([task, other])


async def test_a_cancellation_is_obeyed_for_its_time_only() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.work()
        (task,) = tasks(1)
        await requested(twin, task, early_cancellation_seconds=0.2)
        await asyncio.sleep(0.25)
        twin.router(early_cancellation_seconds=0.2)
        await twin.submit(task)
        await twin.until_completed([task])
        assert twin.completed()[task.task_id][0].status is TaskStatus.SUCCEEDED


async def test_a_strangers_cancellation_is_not_obeyed_after_a_crash_either() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.work()
        (task,) = tasks(1)
        first = twin.router()
        cancellation = TaskCancelled(task_id=task.task_id, tenant="mallory", requested_at=now_ms())
        await twin.publish(topics.TASKS_CANCELLED, cancellation, "cancellation", b"k", 0)
        await twin.until(lambda: any(entry.cancellation is not None for entry in twin.journal()))
        await first.kill()
        twin.router()
        await twin.submit(task)
        await twin.until_completed([task])
        assert twin.completed()[task.task_id][0].status is TaskStatus.SUCCEEDED


async def test_a_cancellation_that_comes_twice_is_noted_once() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        (task,) = tasks(1)
        first = twin.router()
        for _ in range(3):
            await twin.cancel(task)
        await twin.until(lambda: any(p.next_offset == 3 for e in twin.journal() for p in e.positions))
        assert sum(entry.cancellation is not None for entry in twin.journal()) == 1
        await first.stop()


def expire(twin: Twin, topic: str, before: int, partition: int = 0) -> None:
    """What retention does: remove what is older than a time."""
    records = twin.cluster.records(PREFIX + topic, partition)
    offset = next((record.offset for record in records if record.timestamp_ms >= before), None)
    if offset is not None:
        twin.cluster.delete_before(TopicPartition(PREFIX + topic, partition), offset)


async def test_an_idle_partition_keeps_its_positions_past_retention() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.work()
        first = twin.router(keep_alive_seconds=0.15)
        sent = tasks(5)
        await twin.submit(*sent)
        await twin.until_completed(sent)
        await twin.quiet(0.05)
        await asyncio.sleep(0.5)
        # Nothing has happened for long; the group's offsets are gone as well.
        expire(twin, "tasks.journal", now_ms() - 300)
        twin.cluster.group(PREFIX + "router").committed_offsets.clear()
        assert not [entry for entry in twin.journal() if entry.task_id]
        await first.kill()
        before = twin.count()
        second = twin.router()
        await twin.until(lambda: len(second.service.partitions) == 1)
        await twin.quiet()
        assert twin.count() == before
        assert ends(twin) == once(sent)


async def test_a_task_that_lives_longer_than_retention_is_written_once_more() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.nodes = {}
        first = twin.router(restate_seconds=0.2)
        sent = tasks(3, privacy=Privacy.SENSITIVE)
        await twin.submit(*sent)
        await twin.until(lambda: sum(entry.cause == "restated" for entry in twin.journal()) >= len(sent))
        await first.kill()
        restated = next(entry for entry in twin.journal() if entry.cause == "restated")
        expire(twin, "tasks.journal", restated.decided_at)
        expire(twin, "tasks.submitted", now_ms())
        assert {entry.cause for entry in twin.journal() if entry.task_id} == {"restated"}
        second = twin.router()
        await twin.until(lambda: len(second.service.partitions) == 1)
        twin.work()
        second.world.node_changed("workstation", replace(routing.LOCAL, reported_at=now_ms()))
        await twin.until_completed(sent)
        assert ends(twin) == once(sent)


async def test_a_task_written_by_a_predecessor_is_restated_in_time_as_well() -> None:
    async with Twin(partitions=1, session_timeout=10.0) as twin:
        twin.nodes = {}
        first = twin.router()
        sent = tasks(2, privacy=Privacy.SENSITIVE)
        await twin.submit(*sent)
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) == 2)
        await first.kill()
        await asyncio.sleep(2.0)
        began = now_ms()
        twin.router(restate_seconds=3.0)
        await twin.until(lambda: sum(entry.cause == "restated" for entry in twin.journal()) >= 2)
        # Its age counts from when it was written, not from the take-over.
        assert now_ms() - began < 2_900


def test_tasks_and_positions_are_renewed_long_before_they_expire() -> None:
    from headrace_router.limits import RouterLimits

    retention = topics.TASKS_JOURNAL.retention_ms
    assert retention is not None
    assert RouterLimits().restate_seconds * 1000 * 2 < retention
    assert RouterLimits().keep_alive_seconds * 1000 * 100 < retention
    assert RouterLimits().early_cancellation_seconds * 1000 * 2 < retention


@dataclass
class Clock:
    """A wall clock that can be set."""

    ahead: int = 0
    reads: list[int] = field(default_factory=list)

    def __call__(self) -> int:
        return now_ms() + self.ahead


async def test_a_clock_set_forward_is_noticed_and_one_set_back_loses_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "_LOOK_AGAIN_SECONDS", 0.05)
    clock = Clock()
    async with Twin(partitions=1, session_timeout=5.0, clock=clock) as twin:
        twin.nodes = {}
        twin.router()
        sent = tasks(2, privacy=Privacy.SENSITIVE, deadline_at=clock() + 3_600_000)
        await twin.submit(*sent)
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) == 2)
        clock.ahead = -3_600_000
        await asyncio.sleep(0.1)
        assert not twin.completed()
        clock.ahead = 3_590_000
        await asyncio.sleep(0.1)
        # Not earlier than the jump, and not later.
        assert not twin.completed()
        clock.ahead = 3_600_001
        await twin.until_completed(sent, 3.0)
        assert {found[0].status for found in twin.completed().values()} == {TaskStatus.EXPIRED}


async def test_a_clock_set_back_between_the_call_and_the_decision_loses_no_wake_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timers, "_LOOK_AGAIN_SECONDS", 0.05)
    clock = Clock()
    fire = timers.Timers._fire

    def fire_and_set_back(own: timers.Timers) -> None:
        due = own._due

        def set_back(task_id: str) -> None:
            clock.ahead = -200
            due(task_id)

        own._due = set_back
        fire(own)
        own._due = due

    async with Twin(partitions=1, session_timeout=5.0, clock=clock) as twin:
        twin.nodes = {}
        twin.router()
        monkeypatch.setattr(timers.Timers, "_fire", fire_and_set_back)
        sent = tasks(2, privacy=Privacy.SENSITIVE, deadline_at=clock() + 1_000)
        await twin.submit(*sent)
        await twin.until(lambda: clock.ahead < 0)
        monkeypatch.setattr(timers.Timers, "_fire", fire)
        assert not twin.completed()
        await twin.until_completed(sent)


async def test_ids_of_waiting_tasks_do_not_pile_up_when_the_fleet_flaps() -> None:
    async with Twin(partitions=1, session_timeout=5.0) as twin:
        twin.nodes = {}
        router = twin.router(in_flight=20)
        sent = tasks(60, privacy=Privacy.SENSITIVE)
        await twin.submit(*sent)
        await twin.until(lambda: sum(entry.task_id != "" for entry in twin.journal()) == 60)
        (partition,) = router.service._membership.routers.values()  # type: ignore[union-attr]
        for _ in range(50):
            partition.gained()
        assert len(partition._reevaluations) <= 60
        twin.work()
        router.world.node_changed("workstation", replace(routing.LOCAL, reported_at=now_ms()))
        await twin.until_completed(sent)
        assert ends(twin) == once(sent)


@pytest.mark.parametrize("kind", ["an old epoch's", "one read again", "junk"])
async def test_an_end_whose_record_somebody_wrote_over_is_remembered(kind: str) -> None:
    """A record that does not count becomes the newest of the task's key, and compaction removes the one that counts."""
    async with Twin(partitions=1) as twin:
        twin.work()
        first = twin.router("r1")
        sent = tasks(3)
        await twin.submit(*sent)
        await twin.until_completed(sent)
        await twin.quiet()
        await first.stop()
        entries = {entry.task_id: entry for entry in twin.journal() if entry.kind is EntryKind.DECISION}
        for task in sent:
            ended = entries[task.task_id]
            if kind == "an old epoch's":
                ended = replace(ended, epoch=0, sequence=1)
            value = b"junk" if kind == "junk" else twin.codec.encode(topics.TASKS_JOURNAL, ended)
            twin.cluster.append(ProducerRecord(JOURNAL, value, task.task_id.encode(), 0))
        if kind == "junk":
            for offset in [record.offset for record in twin.cluster.records(JOURNAL) if record.value == b"junk"]:
                skip = JournalEntry(
                    kind=EntryKind.SKIP, owner="eve@desk", skipped_offset=offset, note="junk", decided_at=now_ms()
                )
                twin.cluster.append(
                    ProducerRecord(JOURNAL, twin.codec.encode(topics.TASKS_JOURNAL, skip), b"skip/%d" % offset, 0)
                )
        second = twin.router("r2")
        await twin.until(lambda: len(second.service.partitions) == 1)
        await twin.quiet()
        await second.stop()
        twin.cluster.compact(JOURNAL)
        third = twin.router("r3")
        await twin.until(lambda: len(third.service.partitions) == 1)
        await twin.submit(*sent)
        late = tasks(1, "late")
        await twin.submit(*late)
        await twin.until_completed(late)
        await twin.quiet()
        assert ends(twin) == once([*sent, *late])
