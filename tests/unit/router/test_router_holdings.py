"""What a partition's owner holds: early wishes, what is to be looked at, what is under way, when tasks were written."""

from __future__ import annotations

import asyncio

import pytest
from headrace_contracts.events import JournalEntry, Outcome, TaskCancelled, TaskPhase
from headrace_router.agenda import Agenda
from headrace_router.decide.policy import CacheLimits
from headrace_router.decide.wishes import EarlyWishes
from headrace_router.holdings import Holdings
from headrace_router.limits import Limits
from headrace_router.underway import Underway
from headrace_streams.journal import Recorded
from headrace_testing.routing import NOW, Desk, cancelled


def wishes(count: int, most: int = 2, keep_ms: int = 1_000) -> EarlyWishes:
    found = EarlyWishes(most, keep_ms)
    for number in range(count):
        found.keep(f"t{number}", cancelled(f"t{number}"), NOW + number, NOW + number)
    return found


def test_wishes_are_bounded_by_number_and_age() -> None:
    found = wishes(3)
    assert [found.find(f"t{number}", NOW + 3) is not None for number in range(3)] == [False, True, True]
    assert found.find("t1", NOW + 1_000) is not None
    assert found.find("t1", NOW + 1_001) is None
    found.keep("t9", cancelled("t9"), NOW + 1_002, NOW + 1_002)
    assert len(found) == 1
    found.keep("old", cancelled("old"), NOW, NOW + 1_002)
    assert found.find("old", NOW + 1_002) is None
    found.forget("t9")
    assert len(found) == 0


def test_the_first_wish_for_a_task_stands() -> None:
    found = wishes(1)
    found.keep("t0", cancelled("t0", "mallory"), NOW + 1, NOW + 1)
    wish = found.find("t0", NOW + 2)
    assert wish is not None
    assert wish.tenant == "acme"


def recorded(
    task_id: str, phase: TaskPhase | None, timestamp_ms: int = NOW, wish: TaskCancelled | None = None
) -> Recorded:
    desk = Desk()
    desk.submit(task_id=task_id)
    desk.end(Outcome.ANSWERED, task_id=task_id)
    state = None if phase is None else desk.decisions[0 if phase is TaskPhase.RUNNING else 1].state
    entry = JournalEntry(kind="decision", task_id=task_id, state=state, wish=wish, decided_at=NOW)  # type: ignore[arg-type]
    return Recorded(
        0, timestamp_ms, task_id, "attempt_finished", phase, "" if state is None else state.digest,
        None if state is None else state.wake_at, b"", lambda *_: entry,
    )  # fmt: skip


def test_a_wish_from_the_journal_is_decoded_when_its_task_comes_and_no_earlier() -> None:
    found = Holdings(CacheLimits(), Limits(early_wish_seconds=10), lambda: 100.0)
    found.restore(recorded("x", None, wish=cancelled("x")), NOW)
    found.restore(recorded("nothing", None), NOW)
    found.restore(recorded("known", TaskPhase.RUNNING), NOW)
    found.restore(recorded("known", None, wish=cancelled("known")), NOW)
    found.restore(recorded("ended", TaskPhase.FINISHED), NOW)
    found.restore(recorded("ended", None, wish=cancelled("ended")), NOW)
    assert len(found.wishes) == 2
    assert found.wishes.find("x", NOW) == cancelled("x")
    assert found.wishes.find("nothing", NOW) is None
    assert len(found.wishes) == 1
    found.restore(recorded("x", TaskPhase.RUNNING), NOW)
    assert found.wishes.find("x", NOW) is None


def test_the_age_of_a_task_counts_from_its_last_entry_in_the_order_of_the_log() -> None:
    now = 100.0
    found = Holdings(CacheLimits(), Limits(), lambda: now)
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


def test_the_agenda_has_each_once_and_the_newest_word_on_orphans() -> None:
    desk = Desk()
    desk.submit()
    result = desk.end(Outcome.ANSWERED).state.result
    agenda = Agenda()
    agenda.add(["a", "b"])
    agenda.add(["b", "a", "c"])
    agenda.add_orphans("a", None)
    agenda.add_orphans("a", result)
    assert len(agenda) == 4
    assert agenda.take() == "a"
    agenda.put_back("a")
    assert [agenda.take() for _ in range(3)] == ["a", "b", "c"]
    item = agenda.take()
    assert item == ("a", result)
    agenda.put_back(("a", None))
    agenda.add_orphans("a", result)
    assert agenda.take() == item
    with pytest.raises(KeyError):
        agenda.take()


async def test_what_is_under_way_in_one_partition_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    underway = Underway()
    first, second, other = [loop.create_future() for _ in range(3)]
    underway.add(1, first)
    underway.add(1, second)
    underway.add(2, other)
    waiting = asyncio.create_task(underway.settled(1))
    first.set_result(None)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    # How it ends does not matter.
    second.set_exception(ValueError("no"))
    await asyncio.wait_for(waiting, 1)
    await asyncio.wait_for(underway.settled(3), 1)
    assert isinstance(second.exception(), ValueError)
    other.cancel()
    await asyncio.wait_for(underway.settled(2), 1)
