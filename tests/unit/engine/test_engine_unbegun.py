"""A task that is cancelled before its first step never runs: its record must be accounted for all the same."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable

import pytest
from headrace_streams.buffering import HeldBytes
from headrace_streams.executing import Executor
from headrace_streams.lanes import LaneShare
from headrace_streams.offsets import OffsetTracker
from headrace_streams.parallel import Ending
from headrace_streams.records import Record, TopicPartition
from headrace_streams.scheduling import Scheduler
from headrace_streams.work import AssignedPartition, Work
from headrace_testing.engine import Counting, Letters, eventually, options

TOPIC = "work"


class Bench:
    """An executor over partitions 0 and 1 of one lane."""

    def __init__(self, handler: Callable[[Record], Awaitable[None]], max_in_flight: int) -> None:
        self.scheduler: Scheduler[Work] = Scheduler([LaneShare()], max_in_flight)
        self.held = HeldBytes(1, 1_000_000)
        self.observer = Counting()
        self.broken: list[Exception] = []
        self.partitions = [AssignedPartition(TopicPartition(TOPIC, number), 0, OffsetTracker(0)) for number in (0, 1)]
        self.executor = Executor(
            self.scheduler, self.held, handler, lambda _record: None, Letters(), options(), self.observer,
            work_of=lambda record, partition, now: Work(record, partition, "", record.key, now),
            admit=lambda _partition: None, relieve=lambda: None, suspended=lambda _partition: None,
            broke=self.broken.append,
        )  # fmt: skip

    def add(self, partition: int, offset: int, key: bytes) -> None:
        record = Record(TOPIC, partition, offset, 0, key, b"")
        place = self.partitions[partition]
        place.tracker.received(offset)
        work = Work(record, place, "", record.key, 0.0)
        self.held.take(work)
        self.scheduler.add(work)


@pytest.mark.parametrize(("records", "max_in_flight"), [(1, 1), (3, 3), (5, 2)])
async def test_room_and_keys_are_free_when_the_partition_leaves_at_once(records: int, max_in_flight: int) -> None:
    begun: list[tuple[int, int]] = []

    async def handle(record: Record) -> None:
        begun.append((record.partition, record.offset))

    bench = Bench(handle, max_in_flight)
    for number in range(records):
        bench.add(0, number, b"k%d" % number)
    bench.executor.pump()
    leaving, other = bench.partitions
    leaving.leaving = True
    bench.executor.drop_waiting([leaving])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bench.executor.abandon([leaving])
        async with asyncio.timeout(0.5):
            await leaving.quiet()
    assert not begun
    assert bench.scheduler.idle
    assert bench.held.held(0) == 0
    assert bench.observer.endings == {Ending.ABANDONED: min(records, max_in_flight)}
    # The same keys and all of the room are there for the next owner of the partition, here this member again.
    for number in range(records):
        bench.add(1, number, b"k%d" % number)
    bench.executor.pump()
    await eventually(lambda: bench.scheduler.idle, "everything is handled")
    assert sorted(begun) == [(1, number) for number in range(records)]
    assert other.tracker.position == records
    assert not bench.broken


async def test_one_that_has_begun_is_accounted_for_once() -> None:
    async def handle(record: Record) -> None:
        await asyncio.sleep(60.0)

    bench = Bench(handle, 4)
    bench.add(0, 0, b"a")
    bench.executor.pump()
    await asyncio.sleep(0)
    bench.add(0, 1, b"b")
    bench.executor.pump()
    bench.executor.abandon(bench.partitions[:1])
    async with asyncio.timeout(0.5):
        await bench.partitions[0].quiet()
    assert bench.scheduler.idle
    assert bench.held.held(0) == 0
    assert bench.observer.endings == {Ending.ABANDONED: 2}
    assert bench.partitions[0].tracker.position == 0
