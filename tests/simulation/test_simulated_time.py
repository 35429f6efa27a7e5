"""What simulations stand on: virtual time, processes that die and stand still, and the judge's own reading."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from headrace_contracts.events import EntryKind, JournalEntry
from headrace_streams.offsets import OffsetTracker
from headrace_streams.records import Record
from headrace_testing.simulation.cluster import Seen
from headrace_testing.simulation.loop import Fate, SimulationStuck, VirtualLoop
from headrace_testing.simulation.oracle_work import finished_by
from headrace_testing.simulation.record import JournalPartition


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop(max_steps=10_000, max_seconds=100.0)  # type: ignore[abstract]  # what is left out is not used
    yield loop
    loop.close()


class Life:
    """A process that notes the time every second."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.fate = Fate("life")
        self.times: list[float] = []
        self.ended = False
        loop.outside(0.0, lambda: loop.as_process(self.fate, lambda: asyncio.ensure_future(self._live(loop))))

    async def _live(self, loop: VirtualLoop) -> None:
        try:
            while True:
                self.times.append(loop.time())
                await asyncio.sleep(1.0)
        finally:
            self.ended = True


def test_time_leaps_to_the_next_timer(loop: VirtualLoop) -> None:
    life = Life(loop)
    loop.run_until(lambda: loop.time() >= 3.0)
    assert life.times == [0.0, 1.0, 2.0, 3.0]


def test_a_killed_process_runs_nothing_more(loop: VirtualLoop) -> None:
    life = Life(loop)
    loop.outside(1.5, setattr, life.fate, "alive", False)
    loop.outside(5.0, lambda: None)
    loop.run_until(lambda: loop.time() >= 5.0)
    assert life.times == [0.0, 1.0]
    assert not life.ended


def test_a_frozen_process_goes_on_late_with_what_it_had(loop: VirtualLoop) -> None:
    life = Life(loop)
    loop.outside(1.5, setattr, life.fate, "frozen", True)
    loop.outside(4.5, loop.thaw, life.fate)
    loop.run_until(lambda: loop.time() >= 5.5)
    assert life.times == [0.0, 1.0, 4.5, 5.5]


def test_what_never_comes_about_is_no_hang(loop: VirtualLoop) -> None:
    Life(loop)
    with pytest.raises(SimulationStuck, match="100 s after the start"):
        loop.run_until(lambda: False)


def test_what_goes_round_in_circles_is_no_hang(loop: VirtualLoop) -> None:
    async def spin() -> None:
        while not loop.is_closed():  # noqa: ASYNC110 - it waits for nothing
            await asyncio.sleep(0)

    loop.outside(0.0, lambda: asyncio.ensure_future(spin()))
    with pytest.raises(SimulationStuck, match="something loops"):
        loop.run_until(lambda: False)


def entries(*numbered: tuple[EntryKind, int, int]) -> list[bool]:
    """Which of these records of a journal count, given with kind, epoch and sequence."""
    partition = JournalPartition()
    found = []
    for offset, (kind, epoch, sequence) in enumerate(numbered):
        entry = replace(JournalEntry(kind=kind, decided_at=0), epoch=epoch, sequence=sequence)
        seen = Seen(offset, 0.0, "router", Record("tasks.journal", 0, offset, 0, b"", b""))
        found.append(partition.take(seen, entry))
    return found


def test_the_judge_counts_entries_in_their_places_only() -> None:
    epoch_start, decision = EntryKind.EPOCH_START, EntryKind.DECISION
    assert entries((epoch_start, -1, 0), (decision, 0, 1), (decision, 0, 2)) == [False, True, True]
    assert entries((decision, 0, 0)) == [False]
    assert entries((epoch_start, -1, 0), (epoch_start, -1, 0), (decision, 0, 2), (decision, 1, 2)) == [False] * 4
    assert entries((epoch_start, -1, 0), (decision, 0, 2), (decision, 0, 1)) == [False] * 3
    assert entries((epoch_start, -1, 0), (decision, 0, 2), (epoch_start, -1, 0), (decision, 2, 1)) == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("step", [2, 3, 7])
def test_the_judge_reads_maps_of_finished_records(step: int) -> None:
    tracker = OffsetTracker(10)
    for offset in range(10, 400):
        tracker.received(offset)
    done = [offset for offset in range(11, 400) if offset % step]
    for offset in done:
        tracker.finished(offset)
    progress = tracker.committable()
    assert progress is not None
    assert list(finished_by(progress)) == [offset for offset in done if offset > progress.next_offset]
