"""Trouble of the twin's partitions that lasts: sick ones, lost records, topics of another life, open transactions."""

from __future__ import annotations

import asyncio

import pytest
from headrace_streams.errors import AppendUncertain, OffsetOutOfRange, RecordRefused, StreamsError, TransientError
from headrace_streams.memory import HANGS, Ailment, MemoryCluster, MemoryLog
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, TopicPartition
from headrace_testing.logs import Listener, take, until

TOPIC = "t"
FIRST, SECOND = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)


@pytest.fixture
def cluster() -> MemoryCluster:
    cluster = MemoryCluster()
    cluster.create_topic(TOPIC, 2)
    return cluster


def fill(cluster: MemoryCluster, partition: int, count: int) -> None:
    for number in range(count):
        cluster.append(ProducerRecord(TOPIC, b"%d" % number, partition=partition))


@pytest.mark.parametrize("error", [TransientError("down"), AppendUncertain("lost"), RecordRefused("too large")])
async def test_a_sick_partition_refuses_appends_until_it_is_healed(cluster: MemoryCluster, error: StreamsError) -> None:
    producer = MemoryLog(cluster).producer()
    cluster.sicken(FIRST, appends=Ailment(error))
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            await producer.send(ProducerRecord(TOPIC, b"x", partition=0))
    assert (await producer.send(ProducerRecord(TOPIC, b"y", partition=1))).offset == 0
    cluster.heal(FIRST)
    assert (await producer.send(ProducerRecord(TOPIC, b"z", partition=0))).offset == 0


async def test_an_append_may_take_place_and_still_fail(cluster: MemoryCluster) -> None:
    cluster.sicken(FIRST, appends=Ailment(AppendUncertain("lost"), after_seconds=0.01, performed=True))
    with pytest.raises(AppendUncertain):
        await MemoryLog(cluster).producer().send(ProducerRecord(TOPIC, b"x", partition=0))
    assert len(cluster.records(TOPIC, 0)) == 1


async def test_hanging_appends_are_answered_when_the_partition_is_healed(cluster: MemoryCluster) -> None:
    producer = MemoryLog(cluster).producer()
    cluster.sicken(SECOND, appends=HANGS)
    waiting = producer.send(ProducerRecord(TOPIC, b"x", partition=1))
    await producer.send(ProducerRecord(TOPIC, b"y", partition=0))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    cluster.heal(SECOND)
    assert (await waiting).offset == 0


async def test_hanging_reads_leave_the_other_partitions_alone(cluster: MemoryCluster) -> None:
    consumer, listener = MemoryLog(cluster).consumer("g"), Listener()
    cluster.sicken(FIRST, reads=HANGS)
    fill(cluster, 0, 2)
    fill(cluster, 1, 2)
    await consumer.subscribe([TOPIC], listener)
    assert {record.partition for record in await take(consumer, 2)} == {1}
    assert not await consumer.poll(1, 0.02)
    cluster.heal(FIRST)
    assert {record.partition for record in await take(consumer, 2)} == {0}


@pytest.mark.parametrize("error", [TransientError("down"), OffsetOutOfRange("gone")])
async def test_reads_fail(cluster: MemoryCluster, error: StreamsError) -> None:
    reader = MemoryLog(cluster).reader()
    await reader.assign({FIRST: 0})
    cluster.sicken(FIRST, reads=Ailment(error))
    with pytest.raises(type(error)):
        await reader.poll(1, 0.1)


async def test_bounds_hang_and_fail(cluster: MemoryCluster) -> None:
    reader = MemoryLog(cluster).reader()
    cluster.sicken(FIRST, bounds=HANGS)
    waiting = asyncio.create_task(reader.bounds([FIRST, SECOND]))
    assert await reader.bounds([SECOND]) == {SECOND: (0, 0)}
    assert not waiting.done()
    cluster.sicken(FIRST, bounds=Ailment(TransientError("down")))
    with pytest.raises(TransientError):
        await reader.bounds([FIRST])
    cluster.heal(FIRST)
    assert await waiting == {FIRST: (0, 0), SECOND: (0, 0)}


@pytest.mark.parametrize(("held", "end"), [(0, 0), (2, 2), (9, 5)])
async def test_nothing_behind_an_open_transaction_is_read(cluster: MemoryCluster, held: int, end: int) -> None:
    reader = MemoryLog(cluster).reader()
    fill(cluster, 0, 5)
    cluster.hold_stable_offset(FIRST, held)
    assert await reader.bounds([FIRST]) == {FIRST: (0, end)}
    await reader.assign({FIRST: 0})
    await take(reader, end)
    assert not await reader.poll(9, 0.01)
    cluster.hold_stable_offset(FIRST, None)
    await take(reader, 5 - end)


@pytest.mark.parametrize(("start", "cut", "end"), [(0, 3, 3), (0, 0, 0), (2, 4, 4), (2, 1, 2), (0, 9, 5)])
async def test_a_truncated_log_goes_on_at_its_new_end(cluster: MemoryCluster, start: int, cut: int, end: int) -> None:
    fill(cluster, 0, 5)
    cluster.delete_before(FIRST, start)
    cluster.truncate_after(FIRST, cut)
    assert await MemoryLog(cluster).reader().bounds([FIRST]) == {FIRST: (start, end)}
    assert cluster.append(ProducerRecord(TOPIC, b"x", partition=0)).offset == end


async def test_a_restored_topic_has_the_commits_of_the_old_one(cluster: MemoryCluster) -> None:
    consumer, listener = MemoryLog(cluster).consumer("g"), Listener()
    await consumer.subscribe([TOPIC], listener)
    await until(lambda: len(listener.owned) == 2)
    await consumer.commit({FIRST: OffsetAndMetadata(7)})
    before = cluster.describe_topics([TOPIC])[TOPIC]
    cluster.recreate_topic(TOPIC, forget_commits=False)
    assert await consumer.committed([FIRST]) == {FIRST: OffsetAndMetadata(7)}
    assert cluster.describe_topics([TOPIC])[TOPIC] != before
    cluster.recreate_topic(TOPIC)
    assert not await consumer.committed([FIRST])


async def test_a_deleted_topic_is_missing_and_read_as_empty(cluster: MemoryCluster) -> None:
    reader = MemoryLog(cluster).reader()
    fill(cluster, 0, 3)
    await reader.assign({FIRST: 0})
    cluster.delete_topic(TOPIC)
    assert not await reader.poll(1, 0.01)
    assert cluster.describe_topics([TOPIC]) == {}
    cluster.create_topic(TOPIC, 1)
    cluster.append(ProducerRecord(TOPIC, b"x", partition=0))
    assert [record.value for record in await take(reader, 1)] == [b"x"]
