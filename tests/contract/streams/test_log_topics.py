"""Topics that are deleted, created again, and given more partitions."""

from __future__ import annotations

import asyncio

import pytest
from headrace_streams.errors import OffsetOutOfRange, RecordRefused, TopicMissing, TransientError
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, TopicDescription, TopicPartition
from headrace_testing.logs import PATIENCE, Listener, LogBench, take, until


@pytest.mark.parametrize("counts", [(1, 1), (2, 6), (3, 2)])
async def test_a_topic_created_again_has_another_id(bench: LogBench, counts: tuple[int, int]) -> None:
    admin = bench.log.admin()
    topic = await bench.topic(counts[0])
    before = await admin.describe_topics([topic, f"{bench.prefix}missing"])
    assert before == {topic: TopicDescription(before[topic].topic_id, counts[0])}
    assert await admin.describe_topics([topic]) == before
    await bench.delete(topic)
    assert await admin.describe_topics([topic]) == {}
    await bench.create(topic, counts[1])
    after = (await admin.describe_topics([topic]))[topic]
    assert after.partitions == counts[1]
    assert after.topic_id != before[topic].topic_id


async def test_no_topics_are_described_as_none(bench: LogBench) -> None:
    assert await bench.log.admin().describe_topics([]) == {}


async def test_topics_are_found_by_how_their_names_begin(bench: LogBench) -> None:
    topics = {await bench.topic(), await bench.topic()}
    admin = bench.log.admin()
    async with asyncio.timeout(PATIENCE):
        while not topics <= await admin.topic_names(bench.prefix):  # noqa: ASYNC110 - brokers learn of them one by one
            await asyncio.sleep(0.05)
    assert all(name.startswith(bench.prefix) for name in await admin.topic_names(bench.prefix))
    assert await admin.topic_names(f"{bench.prefix}nothing-begins-so") == frozenset()


async def test_each_topic_has_its_own_id(bench: LogBench) -> None:
    topics = [await bench.topic(), await bench.topic(2), await bench.topic()]
    found = await bench.log.admin().describe_topics(topics)
    assert len({description.topic_id for description in found.values()}) == 3


@pytest.mark.parametrize(("before", "after"), [(1, 2), (6, 8), (2, 2)])
async def test_partitions_are_added(bench: LogBench, before: int, after: int) -> None:
    admin = bench.log.admin()
    topic = await bench.topic(before)
    described = (await admin.describe_topics([topic]))[topic]
    await admin.add_partitions({topic: after})
    assert (await admin.describe_topics([topic]))[topic] == TopicDescription(described.topic_id, after)
    await admin.add_partitions({topic: after})
    assert await admin.partition_counts([topic]) == {topic: after}


async def test_partitions_are_never_removed(bench: LogBench) -> None:
    admin = bench.log.admin()
    small, topic = await bench.topic(1), await bench.topic(3)
    with pytest.raises(RecordRefused, match="3 partitions"):
        await admin.add_partitions({small: 2, topic: 2})
    assert await admin.partition_counts([small, topic]) == {small: 1, topic: 3}


async def test_a_missing_topic_gets_no_partitions(bench: LogBench) -> None:
    with pytest.raises(TopicMissing, match="missing"):
        await bench.log.admin().add_partitions({f"{bench.prefix}missing": 2})


@pytest.mark.parametrize("instance_ids", [(None,), (None, None), ("a",), ("a", "b")])
async def test_members_get_new_partitions_without_a_restart(
    bench: LogBench, instance_ids: tuple[str | None, ...]
) -> None:
    topic = await bench.topic(2)
    listeners = [Listener() for _ in instance_ids]
    members = [await bench.member(topic, li, instance_id=i) for li, i in zip(listeners, instance_ids, strict=True)]

    def owned() -> list[TopicPartition]:
        return sorted(name for listener in listeners for name in listener.owned)

    await until(lambda: len(owned()) == 2 and all(li.owned for li in listeners), *members)
    await bench.log.admin().add_partitions({topic: 5})
    await until(lambda: owned() == [TopicPartition(topic, number) for number in range(5)], *members)
    await bench.write(topic, [b"new"], partition=4)
    owner = next(m for m, li in zip(members, listeners, strict=True) if TopicPartition(topic, 4) in li.owned)
    assert (await take(owner, 1))[0].value == b"new"


async def test_a_consumer_goes_on_with_a_topic_that_was_created_again(bench: LogBench) -> None:
    topic = await bench.topic()
    consumer = await bench.member(topic, Listener())
    await bench.write(topic, [b"a", b"b", b"c"])
    await take(consumer, 3)
    await bench.delete(topic)
    await bench.create(topic)
    await bench.write(topic, [b"d"])
    assert (await take(consumer, 1))[0].value == b"d"


async def test_a_reader_is_told_that_its_topic_was_created_again(bench: LogBench) -> None:
    topic = await bench.topic()
    reader = bench.reader()
    await bench.write(topic, [b"a", b"b", b"c"])
    await reader.assign({TopicPartition(topic, 0): 0})
    await take(reader, 3)
    await bench.delete(topic)
    await bench.create(topic)
    await bench.write(topic, [b"d"])
    with pytest.raises(OffsetOutOfRange):
        await take(reader, 1)
    await reader.assign({TopicPartition(topic, 0): 0})
    assert (await take(reader, 1))[0].value == b"d"


async def test_committed_offsets_go_with_the_topic(bench: LogBench) -> None:
    topic = await bench.topic()
    listener = Listener()
    consumer = await bench.member(topic, listener)
    name = TopicPartition(topic, 0)
    await bench.write(topic, [b"a", b"b"])
    await take(consumer, 2)
    await consumer.commit({name: OffsetAndMetadata(2, "m")})
    await bench.delete(topic)
    await bench.create(topic)
    async with asyncio.timeout(PATIENCE):
        while await consumer.committed([name]):  # noqa: ASYNC110 - the cluster has no event for it
            await asyncio.sleep(0.05)


async def test_producers_find_new_partitions(bench: LogBench) -> None:
    topic = await bench.topic(1)
    producer = bench.producer()
    await producer.send(ProducerRecord(topic, b"a", partition=0))
    await bench.log.admin().add_partitions({topic: 3})
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await producer.send(ProducerRecord(topic, b"b", partition=2))
                break
            except (RecordRefused, TransientError):
                await asyncio.sleep(0.1)


async def test_an_open_transaction_is_the_end_until_it_is_committed(bench: LogBench) -> None:
    topic = await bench.topic(2)
    name = TopicPartition(topic, 1)
    await bench.write(topic, [b"a", b"b"], partition=1)
    release = await bench.hold(name)
    await bench.write(topic, [b"after"], partition=1)
    reader = bench.reader()
    assert await reader.bounds([name]) == {name: (0, 2)}
    await reader.assign({name: 0})
    assert [record.value for record in await take(reader, 2)] == [b"a", b"b"]
    assert not await reader.poll(1, 0.3)
    await release()
    assert [record.value for record in await take(reader, 2)] == [b"transactional", b"after"]
    assert (await reader.bounds([name]))[name][1] >= 4
