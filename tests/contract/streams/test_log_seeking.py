"""A group member that goes back, or forward, in a partition."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from headrace_streams.ports import Consumer
from headrace_streams.records import Record, TopicPartition
from headrace_testing.logs import Listener, LogBench, take, until

VALUES = [b"%d" % number for number in range(10)]


async def _gone_to(consumer: Consumer, name: TopicPartition, offset: int) -> None:
    """As the router does it: hold the partition, move, go on."""
    moved: list[int] = []
    consumer.pause([name])
    async with asyncio.timeout(20):
        while not moved:
            await consumer.seek(name, offset, lambda: moved.append(offset))
            await asyncio.sleep(0.02)
    consumer.resume([name])


def _offsets(records: Sequence[Record], partition: int) -> list[int]:
    return [record.offset for record in records if record.partition == partition]


@pytest.mark.parametrize("target", [0, 4, 9], ids=["start", "middle", "last"])
async def test_a_partition_is_read_again_from_an_earlier_offset(bench: LogBench, target: int) -> None:
    topic = await bench.topic()
    await bench.write(topic, VALUES)
    consumer = await bench.member(topic, Listener())
    await take(consumer, 10)
    await _gone_to(consumer, TopicPartition(topic, 0), target)
    assert _offsets(await take(consumer, 10 - target), 0) == list(range(target, 10))
    assert not await consumer.poll(10, 0.2)


async def test_records_fetched_before_are_not_delivered(bench: LogBench) -> None:
    topic = await bench.topic()
    await bench.write(topic, [b"x" * 100] * 1000)
    consumer = await bench.member(topic, Listener())
    assert await consumer.poll(1, 20.0)
    await _gone_to(consumer, TopicPartition(topic, 0), 990)
    assert _offsets(await take(consumer, 10), 0) == list(range(990, 1000))


async def test_the_other_partitions_stay_where_they_are(bench: LogBench) -> None:
    topic = await bench.topic(2)
    for partition in (0, 1):
        await bench.write(topic, VALUES, partition=partition)
    consumer = await bench.member(topic, Listener())
    first = list(await take(consumer, 20))
    assert sorted(_offsets(first, 1)) == list(range(10))
    await _gone_to(consumer, TopicPartition(topic, 0), 7)
    again = await take(consumer, 3)
    assert _offsets(again, 0) == [7, 8, 9]
    assert _offsets(again, 1) == []


async def test_a_paused_partition_stays_paused(bench: LogBench) -> None:
    topic = await bench.topic()
    name = TopicPartition(topic, 0)
    await bench.write(topic, VALUES)
    consumer = await bench.member(topic, Listener())
    await take(consumer, 10)
    consumer.pause([name])
    await consumer.seek(name, 2)
    assert not await consumer.poll(10, 0.5)
    consumer.resume([name])
    assert _offsets(await take(consumer, 8), 0) == list(range(2, 10))


async def test_a_partition_that_is_not_assigned_is_not_moved(bench: LogBench) -> None:
    topic = await bench.topic(2)
    listener = Listener()
    consumer = await bench.member(topic, listener)
    await until(lambda: bool(listener.owned), consumer)
    moved: list[int] = []
    await consumer.seek(TopicPartition(topic, 5), 0, lambda: moved.append(0))
    assert moved == []
