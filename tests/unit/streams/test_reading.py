"""Reading a log up to its end, also when the log becomes another one meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from headrace_streams import reading
from headrace_streams.errors import OffsetOutOfRange
from headrace_streams.memory import HANGS, MemoryCluster, MemoryLog
from headrace_streams.reading import up_to
from headrace_streams.records import ProducerRecord, TopicPartition

TOPIC = "t"
FIRST, SECOND = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> MemoryCluster:
    monkeypatch.setattr(reading, "_STANDS_STILL_SECONDS", 0.05)
    cluster = MemoryCluster()
    cluster.create_topic(TOPIC, 2)
    fill(cluster, 0, 5)
    fill(cluster, 1, 2)
    return cluster


def fill(cluster: MemoryCluster, partition: int, count: int) -> None:
    for number in range(count):
        cluster.append(ProducerRecord(TOPIC, b"%d" % number, partition=partition))


async def _read(cluster: MemoryCluster, ends: dict[TopicPartition, int]) -> int:
    reader = MemoryLog(cluster).reader()
    try:
        await reader.assign(dict.fromkeys(ends, 0))
        async with asyncio.timeout(30):
            return sum([len(batch) async for batch in up_to(reader, ends, most=2, poll_seconds=0.01)])
    finally:
        await reader.close()


@pytest.mark.parametrize("ends", [{FIRST: 5}, {FIRST: 5, SECOND: 2}, {SECOND: 0}, {}], ids=["one", "two", "none", "no"])
async def test_a_log_is_read_to_its_end(cluster: MemoryCluster, ends: dict[TopicPartition, int]) -> None:
    assert await _read(cluster, ends) >= sum(ends.values())


@pytest.mark.parametrize("left", [0, 1, 4])
async def test_a_topic_that_was_created_again_is_not_waited_for(cluster: MemoryCluster, left: int) -> None:
    cluster.recreate_topic(TOPIC)
    fill(cluster, 0, left)
    with pytest.raises(OffsetOutOfRange, match=f"ended at 5 and now ends at {left}"):
        await _read(cluster, {FIRST: 5})


async def test_a_truncated_log_is_not_waited_for(cluster: MemoryCluster) -> None:
    cluster.truncate_after(FIRST, 3)
    with pytest.raises(OffsetOutOfRange):
        await _read(cluster, {FIRST: 5, SECOND: 2})


async def test_a_partition_that_cannot_be_read_is_waited_for(cluster: MemoryCluster) -> None:
    cluster.sicken(FIRST, reads=HANGS)
    asyncio.get_running_loop().call_later(0.3, cluster.heal, FIRST)
    assert await _read(cluster, {FIRST: 5, SECOND: 2}) == 7
