"""Reading chosen partitions outside of any group."""

from __future__ import annotations

import asyncio
import time

import pytest
from headrace_streams.errors import LeaveGroup, OffsetOutOfRange, TopicMissing
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_testing.logs import LogBench, take

VALUES = [b"%d" % number for number in range(10)]


async def test_reading_begins_at_the_given_offsets(bench: LogBench) -> None:
    topic = await bench.topic(3)
    for partition in range(3):
        await bench.write(topic, VALUES, partition=partition)
    reader = bench.reader()
    await reader.assign({TopicPartition(topic, 0): 4, TopicPartition(topic, 2): 9})
    records = await take(reader, 7)
    assert [record.offset for record in records if record.partition == 0] == [4, 5, 6, 7, 8, 9]
    assert [record.offset for record in records if record.partition == 2] == [9]
    assert not await reader.poll(1, 0.05)


async def test_assigning_anew_replaces_what_was_assigned(bench: LogBench) -> None:
    topic = await bench.topic(2)
    for partition in range(2):
        await bench.write(topic, VALUES, partition=partition)
    reader = bench.reader()
    await reader.assign({TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 0})
    await take(reader, 3)
    await reader.assign({TopicPartition(topic, 1): 5})
    assert [(record.partition, record.offset) for record in await take(reader, 5)] == [(1, n) for n in range(5, 10)]


async def test_a_waiting_poll_wakes_when_a_record_comes(bench: LogBench) -> None:
    topic = await bench.topic()
    reader = bench.reader()
    await reader.assign({TopicPartition(topic, 0): 0})
    waiting = asyncio.create_task(reader.poll(10, 20.0))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    begin = time.monotonic()
    await bench.producer().send(ProducerRecord(topic, b"value", partition=0))
    assert [record.value for record in await waiting] == [b"value"]
    assert time.monotonic() - begin < 5.0


async def test_poll_brings_at_most_what_was_asked_for(bench: LogBench) -> None:
    topic = await bench.topic()
    await bench.write(topic, VALUES)
    reader = bench.reader()
    await reader.assign({TopicPartition(topic, 0): 0})
    sizes = [len(await reader.poll(3, 10.0)) for _ in range(4)]
    assert sum(sizes) <= 10
    assert max(sizes) <= 3


async def test_bounds_follow_appends_and_retention(bench: LogBench) -> None:
    topic = await bench.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    reader = bench.reader()
    assert await reader.bounds([first, second]) == {first: (0, 0), second: (0, 0)}
    await bench.write(topic, VALUES)
    await bench.forget(first, 4)
    assert await reader.bounds([first, second]) == {first: (4, 10), second: (0, 0)}
    assert await reader.bounds([]) == {}


@pytest.mark.parametrize("offset", [3, 11])
async def test_an_offset_outside_of_the_log_is_gone(bench: LogBench, offset: int) -> None:
    topic = await bench.topic()
    partition = TopicPartition(topic, 0)
    await bench.write(topic, VALUES)
    await bench.forget(partition, 4)
    reader = bench.reader()
    await reader.assign({partition: offset})
    with pytest.raises(OffsetOutOfRange, match=topic):
        await take(reader, 1)
    await reader.assign({partition: 4})
    assert (await take(reader, 1))[0].offset == 4


async def test_offsets_are_found_by_time(bench: LogBench) -> None:
    topic = await bench.topic()
    partition = TopicPartition(topic, 0)
    await bench.write(topic, VALUES[:3])
    await asyncio.sleep(0.02)
    between = time.time_ns() // 1_000_000
    await asyncio.sleep(0.02)
    await bench.write(topic, VALUES[3:])
    reader = bench.reader()
    assert await reader.offsets_at([partition], between) == {partition: 3}
    assert await reader.offsets_at([partition], between + 3_600_000) == {partition: 10}
    assert await reader.offsets_at([partition], 0) == {partition: 0}


async def test_partitions_are_listed_in_order(bench: LogBench) -> None:
    topic = await bench.topic(12)
    assert await bench.reader().partitions_of(topic) == [TopicPartition(topic, number) for number in range(12)]


async def test_a_missing_topic_is_said_to_be_missing(bench: LogBench) -> None:
    reader = bench.reader()
    missing = TopicPartition(f"{bench.prefix}missing", 0)
    with pytest.raises(TopicMissing, match="missing"):
        await reader.partitions_of(missing.topic)
    with pytest.raises(TopicMissing, match="missing"):
        await reader.bounds([missing])
    with pytest.raises(TopicMissing, match="missing"):
        await reader.offsets_at([missing], 0)
    with pytest.raises(TopicMissing, match="missing"):
        await reader.assign({missing: 0})


async def test_a_closed_reader_says_so(bench: LogBench) -> None:
    topic = await bench.topic()
    reader = bench.reader()
    await reader.assign({TopicPartition(topic, 0): 0})
    waiting = asyncio.create_task(reader.poll(1, 20.0))
    await asyncio.sleep(0.01)
    await reader.close()
    with pytest.raises(LeaveGroup, match="closed"):
        await waiting
    with pytest.raises(LeaveGroup, match="closed"):
        await reader.poll(1, 0.0)
