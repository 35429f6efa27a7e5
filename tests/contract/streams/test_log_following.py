"""Followers of one log: each reads its own partitions, and none is held up by what another one has."""

from __future__ import annotations

import asyncio

import pytest
from headrace_streams.errors import LeaveGroup, OffsetOutOfRange, StreamsError, TopicMissing
from headrace_streams.ports import PartitionReader
from headrace_streams.records import ProducerRecord, Record, TopicPartition
from headrace_testing.logs import PATIENCE, LogBench, take


async def following(bench: LogBench, topic: str, offset: int = 0) -> PartitionReader:
    follower = bench.follower()
    await follower.assign({TopicPartition(topic, 0): offset})
    return follower


async def values(follower: PartitionReader, count: int) -> list[bytes]:
    return [record.value or b"" for record in await take(follower, count)]


async def test_each_reads_what_is_its_own(bench: LogBench) -> None:
    topics = [await bench.topic(2) for _ in range(3)]
    followers = [bench.follower() for _ in topics]
    for topic in topics:
        for number in range(2):
            await bench.write(topic, [f"{topic} {number}".encode()], partition=number)
    # All at once, as the tables of a process are read.
    await asyncio.gather(*[
        follower.assign({TopicPartition(topic, number): 0 for number in range(2)})
        for follower, topic in zip(followers, topics, strict=True)
    ])  # fmt: skip
    for follower, topic in zip(followers, topics, strict=True):
        assert sorted(await values(follower, 2)) == [f"{topic} {number}".encode() for number in range(2)]
        assert not await follower.poll(1, 0.05)
        assert follower.positions() == {TopicPartition(topic, number): 1 for number in range(2)}


async def test_a_partition_is_followed_once(bench: LogBench) -> None:
    topic = await bench.topic()
    first, second = await following(bench, topic), bench.follower()
    with pytest.raises(ValueError, match="followed by another reader"):
        await second.assign({TopicPartition(topic, 0): 0})
    alone = bench.reader()
    await alone.assign({TopicPartition(topic, 0): 0})
    await first.assign({})
    await second.assign({TopicPartition(topic, 0): 0})
    await second.close()
    await first.assign({TopicPartition(topic, 0): 0})
    await bench.write(topic, [b"value"])
    assert await values(first, 1) == await values(alone, 1) == [b"value"]


async def test_assigning_anew_begins_there(bench: LogBench) -> None:
    topic, other = await bench.topic(), await bench.topic()
    await bench.write(topic, [b"%d" % number for number in range(50)])
    follower, beside = await following(bench, topic), await following(bench, other)
    for offset in (40, 3, 45, 0, 48):
        await follower.assign({TopicPartition(topic, 0): offset})
        assert [record.offset for record in await take(follower, 50 - offset)] == [*range(offset, 50)]
    await bench.write(other, [b"value"])
    assert await values(beside, 1) == [b"value"]


async def test_one_that_takes_nothing_keeps_nobody_waiting(bench: LogBench) -> None:
    busy, other = await bench.topic(), await bench.topic()
    count = 30_000
    producer = bench.producer()
    await asyncio.gather(*[
        producer.send(ProducerRecord(busy, b"%d" % number, partition=0)) for number in range(count)
    ])  # fmt: skip
    slow, quick = await following(bench, busy), await following(bench, other)
    await asyncio.sleep(0.5)
    for number in range(5):
        await bench.write(other, [b"%d" % number])
        assert await values(quick, 1) == [b"%d" % number]
    # Whatever was held back comes once and in order.
    taken: list[Record] = []
    async with asyncio.timeout(PATIENCE):
        while len(taken) < count:
            taken += await slow.poll(1_000, 1.0)
    assert [record.offset for record in taken] == [*range(count)]


async def test_an_offset_that_is_gone_is_a_trouble_of_its_follower(bench: LogBench) -> None:
    topic, other = await bench.topic(), await bench.topic()
    partition = TopicPartition(topic, 0)
    await bench.write(topic, [b"%d" % number for number in range(10)])
    await bench.forget(partition, 4)
    beside = await following(bench, other)
    follower = await following(bench, topic, 1)
    for _ in range(2):
        with pytest.raises(OffsetOutOfRange, match=topic):
            await take(follower, 1)
    await bench.write(other, [b"a"])
    assert await values(beside, 1) == [b"a"]
    await follower.assign({partition: 4})
    assert (await take(follower, 1))[0].offset == 4
    await bench.write(other, [b"b"])
    assert await values(beside, 1) == [b"b"]


async def test_what_was_wrong_before_does_not_end_what_was_asked_for_since(bench: LogBench) -> None:
    topic, other = await bench.topic(), await bench.topic()
    partition = TopicPartition(topic, 0)
    await bench.write(topic, [b"%d" % number for number in range(10)])
    follower, beside = bench.follower(), await following(bench, other)
    for seconds in (0.0, 0.01, 0.05, 0.1, 0.2, 0.0):
        # The error may be anywhere on its way when something else is asked for.
        await follower.assign({partition: 99})
        await asyncio.sleep(seconds)
        await follower.assign({partition: 8})
        assert [record.offset for record in await take(follower, 2)] == [8, 9]
    await bench.write(other, [b"value"])
    assert await values(beside, 1) == [b"value"]


async def test_a_topic_that_goes_and_comes_is_a_trouble_of_its_follower(bench: LogBench) -> None:
    topic, other = await bench.topic(), await bench.topic()
    await bench.write(topic, [b"%d" % number for number in range(5)])
    follower, beside = await following(bench, topic), await following(bench, other)
    await take(follower, 5)
    await bench.delete(topic)
    for number in range(3):
        await bench.write(other, [b"%d" % number])
        assert await values(beside, 1) == [b"%d" % number]
        await asyncio.sleep(0.3)
    late = bench.follower()
    with pytest.raises(TopicMissing, match="late"):
        await late.assign({TopicPartition(f"{bench.prefix}late", 0): 0})
    await bench.create(f"{bench.prefix}late")
    await bench.create(topic)
    await late.assign({TopicPartition(f"{bench.prefix}late", 0): 0})
    await bench.write(f"{bench.prefix}late", [b"late"])
    assert await values(late, 1) == [b"late"]
    await bench.write(topic, [b"new"])
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await follower.assign({TopicPartition(topic, 0): 0})
                assert await values(follower, 1) == [b"new"]
                break
            except StreamsError:
                # The client learns in its own time that it is another topic.
                await asyncio.sleep(0.1)
    await bench.write(other, [b"last"])
    assert await values(beside, 1) == [b"last"]


async def test_those_that_stay_go_on_when_one_is_closed(bench: LogBench) -> None:
    topic, other = await bench.topic(), await bench.topic()
    follower, beside = await following(bench, topic), await following(bench, other)
    waiting = asyncio.create_task(follower.poll(1, 20.0))
    await asyncio.sleep(0.01)
    await follower.close()
    await follower.close()
    with pytest.raises(LeaveGroup, match="closed"):
        await waiting
    with pytest.raises(LeaveGroup, match="closed"):
        await follower.assign({TopicPartition(topic, 0): 0})
    await bench.write(other, [b"value"])
    assert await values(beside, 1) == [b"value"]
    await beside.close()
    after = await following(bench, other)
    assert await values(after, 1) == [b"value"]
