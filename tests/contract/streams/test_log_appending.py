"""Producing: order, keys, what is refused."""

from __future__ import annotations

import asyncio

import pytest
from headrace_streams.errors import RecordRefused
from headrace_streams.records import NewTopic, ProducerRecord, TopicPartition
from headrace_testing.logs import LogBench, take

# The hashes stand in the tests of Kafka's Java client (UtilsTest.testMurmur2).
JAVA_HASHES = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


async def test_records_of_a_partition_are_appended_in_the_order_they_were_sent(bench: LogBench) -> None:
    topic = await bench.topic(2)
    producer = bench.producer()
    sent = [producer.send(ProducerRecord(topic, b"%d" % number, partition=number % 2)) for number in range(500)]
    appended = await asyncio.gather(*sent)
    for partition in (0, 1):
        own = [place for number, place in enumerate(appended) if number % 2 == partition]
        assert [place.offset for place in own] == list(range(250))
    reader = bench.reader()
    await reader.assign({TopicPartition(topic, 1): 0})
    assert [record.value for record in await take(reader, 250)] == [b"%d" % number for number in range(1, 500, 2)]


async def test_a_key_decides_the_partition_as_in_java(bench: LogBench) -> None:
    topic = await bench.topic(12)
    producer = bench.producer()
    for key, java_hash in JAVA_HASHES.items():
        appended = await producer.send(ProducerRecord(topic, b"value", key=key))
        assert appended.partition == (java_hash & 0x7FFFFFFF) % 12


async def test_an_explicit_partition_wins_over_the_key(bench: LogBench) -> None:
    topic = await bench.topic(12)
    appended = await bench.producer().send(ProducerRecord(topic, b"value", key=b"foobar", partition=3))
    assert (appended.topic, appended.partition, appended.offset) == (topic, 3, 0)


async def test_what_is_written_is_read_byte_for_byte(bench: LogBench) -> None:
    topic = await bench.topic()
    producer = bench.producer()
    written = [
        ProducerRecord(topic, b"value", b"key", 0, (("a", b"1"), ("a", b"2"), ("empty", b""), ("null", None))),
        ProducerRecord(topic, None, b"tombstone", 0),
        ProducerRecord(topic, b"no key", None, 0),
        ProducerRecord(topic, b"", b"", 0),
        ProducerRecord(topic, bytes(range(256)), bytes(range(256)), 0),
    ]
    await asyncio.gather(*[producer.send(record) for record in written])
    reader = bench.reader()
    await reader.assign({TopicPartition(topic, 0): 0})
    read = await take(reader, len(written))
    assert [(r.value, r.key, r.headers) for r in read] == [(w.value, w.key, w.headers) for w in written]
    assert [(r.topic, r.partition, r.offset) for r in read] == [(topic, 0, offset) for offset in range(len(written))]
    assert all(record.timestamp_ms > 1_600_000_000_000 for record in read)


async def test_flush_waits_for_everything_queued(bench: LogBench) -> None:
    topic = await bench.topic()
    producer = bench.producer()
    sent = [producer.send(ProducerRecord(topic, b"x" * 1000, partition=0)) for _ in range(1000)]
    assert not all(future.done() for future in sent)
    await producer.flush()
    assert all(future.done() for future in sent)
    assert {future.result().offset for future in sent} == set(range(1000))


async def test_a_record_beyond_the_limit_is_refused_and_others_go_on(bench: LogBench) -> None:
    topic = await bench.topic()
    producer = bench.producer()
    before = producer.send(ProducerRecord(topic, b"before", partition=0))
    with pytest.raises(RecordRefused, match=topic):
        await producer.send(ProducerRecord(topic, bytes(5 * 1024 * 1024), partition=0))
    after = producer.send(ProducerRecord(topic, b"after", partition=0))
    assert ((await before).offset, (await after).offset) == (0, 1)


async def test_a_record_of_one_mebibyte_passes(bench: LogBench) -> None:
    topic = await bench.topic()
    value = bytes(1024 * 1024)
    assert (await bench.producer().send(ProducerRecord(topic, value, partition=0))).offset == 0
    reader = bench.reader()
    await reader.assign({TopicPartition(topic, 0): 0})
    assert (await take(reader, 1))[0].value == value


async def test_a_topic_that_does_not_exist_refuses_records(bench: LogBench) -> None:
    with pytest.raises(RecordRefused, match="missing"):
        await bench.producer().send(ProducerRecord(f"{bench.prefix}missing", b"value"))


async def test_a_partition_that_does_not_exist_refuses_records(bench: LogBench) -> None:
    topic = await bench.topic(2)
    with pytest.raises(RecordRefused, match=topic):
        await bench.producer().send(ProducerRecord(topic, b"value", partition=2))


async def test_a_closed_producer_refuses_records(bench: LogBench) -> None:
    topic = await bench.topic()
    producer = bench.producer()
    waiting = producer.send(ProducerRecord(topic, b"value", partition=0))
    await producer.close()
    assert waiting.result().offset == 0
    with pytest.raises(RecordRefused, match="closed"):
        await producer.send(ProducerRecord(topic, b"value", partition=0))


async def test_topics_are_created_once(bench: LogBench) -> None:
    admin = bench.log.admin()
    names = [f"{bench.prefix}a", f"{bench.prefix}b", f"{bench.prefix}c"]
    assert sorted(await admin.create_topics([NewTopic(name, 2, 1) for name in names[:2]])) == names[:2]
    again = [NewTopic(name, 3, 1, (("retention.ms", "1000"),)) for name in names]
    assert list(await admin.create_topics(again)) == names[2:]
    counts = await admin.partition_counts([*names, f"{bench.prefix}missing"])
    assert counts == {names[0]: 2, names[1]: 2, names[2]: 3}


async def test_a_topic_without_partitions_is_refused(bench: LogBench) -> None:
    with pytest.raises(RecordRefused, match="impossible"):
        await bench.log.admin().create_topics([NewTopic(f"{bench.prefix}impossible", 0, 1)])
