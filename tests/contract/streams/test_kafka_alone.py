"""What only real Kafka can show: the other group protocols, fatal errors, a cluster that is not there, latency."""

from __future__ import annotations

import asyncio
import ctypes
import statistics
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import confluent_kafka
import pytest
from headrace_streams.errors import AppendUncertain, StreamsError, TransientError
from headrace_streams.kafka import KafkaLog, admin
from headrace_streams.kafka.producer import KafkaProducer
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, RecordMetadata, TopicPartition
from headrace_testing.logs import Listener, LogBench, take, until

pytestmark = pytest.mark.stack


async def _forget(partition: TopicPartition, offset: int) -> None:
    raise NotImplementedError("no test here needs it")


@pytest.fixture(params=["cooperative-sticky", "consumer"])
async def incremental(request: pytest.FixtureRequest, kafka: str, topic_prefix: str) -> AsyncIterator[LogBench]:
    """A group that hands over some partitions while its members keep the others."""
    chosen = {"group.protocol": "consumer"} if request.param == "consumer" else {
        "partition.assignment.strategy": request.param, "heartbeat.interval.ms": 100, "session.timeout.ms": 6000,
    }  # fmt: skip
    bench = LogBench(KafkaLog({"bootstrap.servers": kafka, **chosen}), topic_prefix, _forget)
    yield bench
    await bench.close()


async def test_members_keep_what_is_not_handed_over(incremental: LogBench) -> None:
    topic = await incremental.topic(4)
    everything = {TopicPartition(topic, number) for number in range(4)}
    one, two = Listener(), Listener()
    first = await incremental.member(topic, one)
    await until(lambda: one.owned == everything, first)
    for number in range(4):
        await incremental.write(topic, [b"a"], partition=number)
    assert {record.topic_partition for record in await take(first, 4)} == everything

    async def commit(partitions: Collection[TopicPartition]) -> None:
        await first.commit({name: OffsetAndMetadata(1, "handed over") for name in partitions})

    one.on_revoked = commit
    second = await incremental.member(topic, two)
    await until(lambda: len(one.owned) == len(two.owned) == 2, first, second)
    assert one.owned | two.owned == everything
    revoked = [set(names) for what, names in one.told if what == "revoked"]
    assert set().union(*revoked) == two.owned
    for number in range(4):
        await incremental.write(topic, [b"b"], partition=number)
    taken = await take(first, 2) + await take(second, 2)
    assert {(record.topic_partition, record.offset) for record in taken} == {(name, 1) for name in everything}
    assert await second.committed(everything) == {name: OffsetAndMetadata(1, "handed over") for name in two.owned}


async def test_a_producer_survives_a_fatal_error(kafka: str, topic_prefix: str) -> None:
    bench = LogBench(KafkaLog({"bootstrap.servers": kafka}), topic_prefix, _forget)
    topic = await bench.topic()
    producer = bench.producer()
    assert isinstance(producer, KafkaProducer)
    await producer.send(ProducerRecord(topic, b"before", partition=0))
    broken = producer._current.producer
    on_their_way = [producer.send(ProducerRecord(topic, bytes(1000), partition=0)) for _ in range(200)]
    _fail_for_good(producer)
    after: list[RecordMetadata | BaseException] = []
    async with asyncio.timeout(20):
        # No caller is left waiting.
        outcomes = await asyncio.gather(*on_their_way, return_exceptions=True)
        while not after or isinstance(after[-1], TransientError | AppendUncertain):
            await asyncio.sleep(0.02)
            after += await asyncio.gather(
                producer.send(ProducerRecord(topic, b"after", partition=0)), return_exceptions=True
            )
    assert all(isinstance(outcome, RecordMetadata | AppendUncertain | TransientError) for outcome in outcomes)
    assert isinstance(after[-1], RecordMetadata)
    assert producer._current.producer is not broken
    await bench.close()


def _fail_for_good(producer: KafkaProducer) -> None:
    """Have librdkafka's producer fail with its own test function; the wrapping object begins with its handle."""
    (library,) = (Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka-*")
    handle = ctypes.c_void_p.from_address(id(producer._current.producer) + object.__basicsize__)
    assert ctypes.CDLL(str(library)).rd_kafka_test_fatal_error(handle, 47, b"for the test") == 0


async def test_a_cluster_that_is_not_there_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_SECONDS", 0.3)
    log = KafkaLog({"bootstrap.servers": "127.0.0.1:1", "delivery.timeout.ms": 500, "log_level": 0})
    reader, consumer, producer = log.reader(), log.consumer("g"), log.producer()
    with pytest.raises(TransientError):
        await log.admin().partition_counts(["t"])
    with pytest.raises(TransientError):
        await reader.partitions_of("t")
    with pytest.raises(TransientError):
        await consumer.subscribe(["t"], Listener())
    with pytest.raises(StreamsError) as caught:
        await producer.send(ProducerRecord("t", b"x"))
    assert isinstance(caught.value, TransientError | AppendUncertain)
    await asyncio.gather(reader.close(), consumer.close(), producer.close())


async def test_a_hop_takes_about_a_millisecond(kafka: str, topic_prefix: str) -> None:
    bench = LogBench(KafkaLog({"bootstrap.servers": kafka}), topic_prefix, _forget)
    topic = await bench.topic()
    producer, consumer = bench.producer(), await bench.member(topic, Listener())
    await producer.send(ProducerRecord(topic, b"first", partition=0))
    await take(consumer, 1)
    hops = []
    for _ in range(100):
        begin = time.perf_counter()
        producer.send(ProducerRecord(topic, bytes(400), partition=0))
        await take(consumer, 1)
        hops.append(time.perf_counter() - begin)
    await bench.close()
    # Far above the time on a quiet machine (1 ms), far below any timer or poll interval, which would delay every hop.
    # A busy machine delays some of them.
    assert statistics.quantiles(hops, n=10)[0] < 0.01
