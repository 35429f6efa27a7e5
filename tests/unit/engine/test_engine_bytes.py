"""The engine's limit in bytes: from the receipt of a record until it is finished."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from headrace_streams.buffering import HeldBytes
from headrace_streams.errors import RetryRecord
from headrace_streams.memory import MemoryCluster
from headrace_streams.offsets import OffsetTracker
from headrace_streams.parallel import EngineOptions, ParallelConsumer, TopicLane
from headrace_streams.records import ProducerRecord, Record, TopicPartition
from headrace_streams.work import AssignedPartition, Work
from headrace_testing.engine import TOPIC, all_committed, eventually, running

SIZE = 10_000
URGENT = "urgent"


def fill(
    cluster: MemoryCluster, count: int, *, size: int = SIZE, topic: str = TOPIC, partition: int | None = None
) -> None:
    for number in range(count):
        key = f"{topic} {partition} {number}".encode()
        cluster.append(ProducerRecord(topic, bytes(size), key, partition=partition))


def held(engine: ParallelConsumer) -> int:
    return sum(engine.state().held_bytes.values())


async def test_no_more_bytes_are_held_than_the_limit_and_one_record_of_each_partition(cluster: MemoryCluster) -> None:
    fill(cluster, 300)
    most = 0

    async def handle(record: Record) -> None:
        nonlocal most
        await asyncio.sleep(0.001)
        most = max(most, held(engine))

    async with running(cluster, handle, max_held_bytes=10 * SIZE, max_in_flight=5) as engine:
        await eventually(lambda: all_committed(cluster), "all is done")
        assert held(engine) == 0
        assert not engine.state().full
        assert engine.state().paused == 0
    assert 10 * SIZE <= most <= 13 * SIZE


async def test_a_record_larger_than_the_limit_is_handled(cluster: MemoryCluster) -> None:
    fill(cluster, 30, size=SIZE)
    handled = 0

    async def handle(record: Record) -> None:
        nonlocal handled
        assert held(engine) <= 3 * SIZE, "one of each partition"
        await asyncio.sleep(0)
        handled += 1

    async with running(cluster, handle, max_held_bytes=1) as engine:
        await eventually(lambda: all_committed(cluster), "all is done")
    assert handled == 30


async def test_a_partition_whose_records_wait_does_not_stop_the_others(cluster: MemoryCluster) -> None:
    fill(cluster, 50, partition=0)
    done: list[int] = []

    async def handle(record: Record) -> None:
        if record.partition == 0:
            raise RetryRecord("not now", 3600.0)
        await asyncio.sleep(0)
        done.append(record.offset)

    async with running(cluster, handle, max_held_bytes=5 * SIZE, drain_seconds=0.0) as engine:
        await eventually(lambda: TOPIC in engine.state().full, "the lane is full")
        fill(cluster, 50, partition=1)
        await eventually(lambda: len(done) == 50, "the other partition goes on, one record after the other")
        assert done == list(range(50))
        assert engine.state().parked == 5


async def test_waiting_batch_work_takes_no_room_of_interactive_work(cluster: MemoryCluster) -> None:
    cluster.create_topic(URGENT, 1)
    fill(cluster, 100)
    release = asyncio.Event()
    urgent = 0

    async def handle(record: Record) -> None:
        nonlocal urgent
        if record.topic == URGENT:
            urgent += 1
            await asyncio.sleep(0)
        else:
            await release.wait()

    lanes = (TopicLane(URGENT), TopicLane(TOPIC, max_in_flight=1))
    async with running(cluster, handle, lanes=lanes, max_held_bytes=20 * SIZE) as engine:
        await eventually(lambda: TOPIC in engine.state().full, "batch work holds what it may")
        fill(cluster, 20, topic=URGENT)
        await eventually(lambda: urgent == 20, "interactive work is done meanwhile")
        assert URGENT not in engine.state().full
        assert engine.state().held_bytes[TOPIC] <= 13 * SIZE
        release.set()
        await eventually(lambda: all_committed(cluster), "all is done")


async def test_what_leaves_with_a_partition_is_given_back(cluster: MemoryCluster) -> None:
    fill(cluster, 200)
    release = asyncio.Event()

    async def handle(record: Record) -> None:
        await release.wait()

    member = partial(
        running, cluster, handle, max_held_bytes=30 * SIZE, max_in_flight=2, drain_seconds=0.0, metadata_limit=64
    )
    async with member() as first:
        await eventually(lambda: held(first) >= 30 * SIZE, "the first one is full")
        async with member() as second:
            await eventually(lambda: 0 < second.state().partitions < 3, "they share the partitions")
            release.set()
            await eventually(lambda: all_committed(cluster), "all is done")
            assert (held(first), held(second)) == (0, 0)


async def test_a_record_that_the_handler_finishes_at_once_is_not_held(cluster: MemoryCluster) -> None:
    fill(cluster, 40)
    seen: set[int] = set()
    async with running(cluster, lambda _record: seen.add(held(engine)), max_held_bytes=SIZE) as engine:
        await eventually(lambda: all_committed(cluster), "all is done")
    assert seen <= {0, SIZE, 2 * SIZE, 3 * SIZE}


def test_a_lane_goes_on_at_three_quarters() -> None:
    budget = HeldBytes(2, 80)
    partition = AssignedPartition(TopicPartition(TOPIC, 0), 1, OffsetTracker(0))
    works = [Work(Record(TOPIC, 0, n, 0, None, bytes(10)), partition, "", None, 0.0) for n in range(5)]
    for work in works[:3]:
        budget.take(work)
    assert not budget.changed(1)
    budget.take(works[3])
    assert budget.changed(1)
    assert budget.is_full(1)
    assert not budget.is_full(0)
    assert budget.room == 1
    budget.take(works[4])
    assert not budget.changed(1)
    budget.give_back(works[0])
    assert not budget.changed(1)
    budget.give_back(works[1])
    assert budget.changed(1)
    assert not budget.is_full(1)
    assert (budget.held(1), partition.held, budget.held(0)) == (30, 3, 0)


def test_a_limit_below_one_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="max_held_bytes"):
        EngineOptions(max_held_bytes=0)
