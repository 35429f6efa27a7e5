"""What a partition's owner holds: early cancellation requests, what is to be looked at, what is under way, when tasks
were written."""

from __future__ import annotations

import asyncio

import pytest
from headrace_contracts.events import EntryKind, JournalEntry, Outcome, TaskCancelled, TaskPhase
from headrace_router.decide.early_cancellations import EarlyCancellations
from headrace_router.decide.policy import CacheLimits
from headrace_router.limits import RouterLimits
from headrace_router.partition_state import PartitionState
from headrace_router.pending_appends import PendingAppends
from headrace_router.reevaluation_queue import ReevaluationQueue
from headrace_streams.journal import JournaledDecision
from headrace_testing.routing import NOW, Desk, cancelled, task


def cancellations(count: int, most: int = 2, keep_ms: int = 1_000) -> EarlyCancellations:
    found = EarlyCancellations(most, keep_ms)
    for number in range(count):
        found.keep(f"t{number}", cancelled(f"t{number}"), NOW + number, NOW + number)
    return found


def test_cancellations_are_bounded_by_number_and_age() -> None:
    found = cancellations(3)
    assert [found.find(f"t{number}", NOW + 3) is not None for number in range(3)] == [False, True, True]
    assert found.find("t1", NOW + 1_000) is not None
    assert found.find("t1", NOW + 1_001) is None
    found.keep("t9", cancelled("t9"), NOW + 1_002, NOW + 1_002)
    assert len(found) == 1
    found.keep("old", cancelled("old"), NOW, NOW + 1_002)
    assert found.find("old", NOW + 1_002) is None
    found.forget("t9")
    assert len(found) == 0


def test_the_first_cancellation_for_a_task_stands() -> None:
    found = cancellations(1)
    found.keep("t0", cancelled("t0", "mallory"), NOW + 1, NOW + 1)
    cancellation = found.find("t0", NOW + 2)
    assert cancellation is not None
    assert cancellation.tenant == "acme"


def recorded(
    task_id: str, phase: TaskPhase | None, timestamp_ms: int = NOW, cancellation: TaskCancelled | None = None
) -> JournaledDecision:
    desk = Desk()
    desk.submit(task_id=task_id)
    desk.end(Outcome.ANSWERED, task_id=task_id)
    state = None if phase is None else desk.decisions[0 if phase is TaskPhase.RUNNING else 1].state
    entry = JournalEntry(kind="decision", task_id=task_id, state=state, cancellation=cancellation, decided_at=NOW)  # type: ignore[arg-type]
    cause = "attempt_finished" if cancellation is None else "cancelled"
    return JournaledDecision(
        0, timestamp_ms, task_id, cause, phase, "" if state is None else state.digest,
        None if state is None else state.wake_at, b"", lambda *_: entry,
    )  # fmt: skip


def test_a_cancellation_from_the_journal_is_decoded_when_its_task_comes_and_no_earlier() -> None:
    found = PartitionState(CacheLimits(), RouterLimits(early_cancellation_seconds=10), lambda: 100.0)
    found.restore(recorded("x", None, cancellation=cancelled("x")), NOW)
    found.restore(recorded("nothing", None), NOW)
    found.restore(recorded("known", TaskPhase.RUNNING), NOW)
    found.restore(recorded("known", None, cancellation=cancelled("known")), NOW)
    found.restore(recorded("ended", TaskPhase.FINISHED), NOW)
    found.restore(recorded("ended", None, cancellation=cancelled("ended")), NOW)
    assert len(found.cancellations) == 1
    assert found.cancellations.find("x", NOW) == cancelled("x")
    assert found.cancellations.find("nothing", NOW) is None
    found.restore(recorded("x", TaskPhase.RUNNING), NOW)
    assert found.cancellations.find("x", NOW) is None


def test_an_entry_that_replaces_an_invalid_record_hides_no_cancellation_request() -> None:
    found = PartitionState(CacheLimits(), RouterLimits(early_cancellation_seconds=10), lambda: 100.0)
    found.restore(recorded("x", None), NOW)
    found.restore(recorded("x", None, cancellation=cancelled("x")), NOW)
    assert found.cancellations.find("x", NOW) == cancelled("x")


def test_the_age_of_a_task_counts_from_its_last_entry_in_the_order_of_the_log() -> None:
    now = 100.0
    found = PartitionState(CacheLimits(), RouterLimits(), lambda: now)
    found.restore(recorded("old", TaskPhase.RUNNING, NOW - 60_000), NOW)
    found.restore(recorded("newer", TaskPhase.RUNNING, NOW - 20_000), NOW)
    # Of somebody whose clock is ahead.
    found.restore(recorded("tomorrow", TaskPhase.RUNNING, NOW + 86_400_000), NOW)
    assert list(found.written_before(61)) == []
    assert list(found.written_before(60)) == ["old"]
    assert list(found.written_before(10)) == ["old", "newer"]
    state = found.tasks.get("old")
    assert state is not None
    found.apply("old", state)
    now = 170.0
    assert list(found.written_before(70)) == ["newer", "tomorrow", "old"]
    found.restore(recorded("newer", TaskPhase.FINISHED), NOW)
    assert list(found.written_before(70)) == ["tomorrow", "old"]


def test_the_queue_has_each_once_and_the_newest_word_on_leaderless_followers() -> None:
    desk = Desk()
    desk.submit()
    result = desk.end(Outcome.ANSWERED).state.result
    reevaluations = ReevaluationQueue()
    reevaluations.add(["a", "b"])
    reevaluations.add(["b", "a", "c"])
    reevaluations.add_leaderless_followers("a", None)
    reevaluations.add_leaderless_followers("a", result)
    assert len(reevaluations) == 4
    assert reevaluations.take() == "a"
    reevaluations.put_back("a")
    assert [reevaluations.take() for _ in range(3)] == ["a", "b", "c"]
    item = reevaluations.take()
    assert item == ("a", result)
    reevaluations.put_back(("a", None))
    reevaluations.add_leaderless_followers("a", result)
    assert reevaluations.take() == item
    with pytest.raises(KeyError):
        reevaluations.take()


async def test_what_is_under_way_in_one_partition_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    pending_appends = PendingAppends()
    first, second, other = [loop.create_future() for _ in range(3)]
    pending_appends.add(1, first)
    pending_appends.add(1, second)
    pending_appends.add(2, other)
    waiting = asyncio.create_task(pending_appends.settled(1))
    first.set_result(None)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    # How it ends does not matter.
    second.set_exception(ValueError("no"))
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(pending_appends.settled(3), 1)
    assert isinstance(second.exception(), ValueError)
    other.cancel()
    await asyncio.wait_for(pending_appends.settled(2), 1)


def test_live_states_are_held_as_bytes_and_those_used_last_decoded() -> None:
    desk = Desk()
    desk.submit()
    assert desk.state is not None
    reads: list[bytes] = []

    def read(value: bytes) -> JournalEntry:
        reads.append(value)
        return JournalEntry(kind=EntryKind.DECISION, state=desk.state, decided_at=NOW)

    held = PartitionState(CacheLimits(), RouterLimits(), lambda: 0.0)
    names = [f"t{number}" for number in range(300)]
    for name in names:
        held.apply(name, desk.state, name.encode(), read)
    assert held.tasks.get("t299") is desk.state
    assert reads == []
    assert held.tasks.get("t0") == desk.state
    assert held.tasks.get("t0") == desk.state
    assert reads == [b"t0"]
    assert dict(held.tasks.wake_times()) == dict.fromkeys(names, desk.state.wake_at)
    # What is newer is what is read, also right after an older state was used.
    held.apply("t0", desk.state, b"t0 again", read)
    for name in names[1:]:
        held.tasks.get(name)
    held.tasks.get("t0")
    assert reads[-1] == b"t0 again"


def test_few_large_states_stay_decoded() -> None:
    desk = Desk()
    desk.submit(task(text="x" * 3_000_000))
    assert desk.state is not None
    reads: list[bytes] = []

    def read(value: bytes) -> JournalEntry:
        reads.append(value)
        return JournalEntry(kind=EntryKind.DECISION, state=desk.state, decided_at=NOW)

    held = PartitionState(CacheLimits(), RouterLimits(), lambda: 0.0)
    for name in ("a", "b"):
        held.apply(name, desk.state, name.encode(), read)
        held.tasks.get(name)
    assert reads == []
    held.tasks.get("a")
    assert reads == [b"a"]
