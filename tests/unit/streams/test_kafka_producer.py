"""The producer gives up before librdkafka does, so that nothing is sent a second time under new sequence numbers."""

import asyncio
import ctypes
import logging
import time
from pathlib import Path

import confluent_kafka
import pytest
from headrace_streams.errors import AppendUncertain, TransientError
from headrace_streams.kafka.producer import KafkaProducer
from headrace_streams.records import ProducerRecord, RecordMetadata

LOGGER = logging.getLogger("test")
TOPIC = "events"


def properties(answer_ms: int, limit_ms: int) -> dict[str, str]:
    """librdkafka's own mock brokers, which answer late."""
    return {
        "test.mock.num.brokers": "1",
        "test.mock.broker.rtt": str(answer_ms),
        "delivery.timeout.ms": str(limit_ms),
        "allow.auto.create.topics": "true",
    }


def record() -> ProducerRecord:
    return ProducerRecord(topic=TOPIC, value=b"value", key=b"key", partition=0, headers=())


async def test_what_is_not_acknowledged_in_time_is_given_up_and_the_producer_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    producer = KafkaProducer(properties(answer_ms=20_000, limit_ms=2_000), LOGGER)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        with pytest.raises((AppendUncertain, TransientError)) as told:
            await producer.send(record())
        assert "purge" in str(told.value).lower()  # by us, not timed out by librdkafka
        assert time.monotonic() - began >= 1.5
        assert any("got no acknowledgement for" in line for line in caplog.messages)
        await producer.flush()
    await producer.close()


async def test_what_is_acknowledged_in_time_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    producer = KafkaProducer(properties(answer_ms=10, limit_ms=60_000), LOGGER)
    with caplog.at_level(logging.WARNING):
        results = [await producer.send(record()) for _ in range(20)]
        await producer.close()
    assert [isinstance(result, RecordMetadata) for result in results] == [True] * 20
    assert not any("is being replaced" in line for line in caplog.messages)


class MockCluster:
    """The brokers inside a librdkafka producer, by librdkafka's own functions for tests."""

    def __init__(self, producer: KafkaProducer) -> None:
        (library,) = (Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka-*")
        self._librdkafka = ctypes.CDLL(str(library))
        # The wrapping object begins with its handle.
        handle = ctypes.c_void_p.from_address(id(producer._producer) + object.__basicsize__)
        self._librdkafka.rd_kafka_handle_mock_cluster.restype = ctypes.c_void_p
        self._cluster = ctypes.c_void_p(self._librdkafka.rd_kafka_handle_mock_cluster(handle))

    def create(self, partitions: int) -> None:
        assert self._librdkafka.rd_kafka_mock_topic_create(self._cluster, TOPIC.encode(), partitions, 1) == 0

    def take_leader(self, partition: int) -> None:
        setting = self._librdkafka.rd_kafka_mock_partition_set_leader(self._cluster, TOPIC.encode(), partition, -1)
        assert setting == 0


@pytest.mark.parametrize(("partitions", "stuck"), [(2, {1}), (3, {0}), (4, {1, 3})])
async def test_a_partition_without_a_leader_costs_the_others_nothing(
    partitions: int, stuck: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    producer = KafkaProducer(properties(answer_ms=60, limit_ms=4_000), LOGGER)
    cluster = MockCluster(producer)
    cluster.create(partitions)
    for partition in stuck:
        cluster.take_leader(partition)
    sent: dict[int, list[asyncio.Future[RecordMetadata]]] = {partition: [] for partition in range(partitions)}
    replaced = False
    with caplog.at_level(logging.WARNING):
        while not replaced:  # at a steady rate, so that records of all partitions are in flight at any time
            for partition, futures in sent.items():
                futures.append(producer.send(ProducerRecord(topic=TOPIC, value=b"value", partition=partition)))
            await asyncio.sleep(0.01)
            replaced = any("is being replaced" in line for line in caplog.messages)
        outcomes = {
            # The new producer has brokers of its own, which lead everything.
            partition: await asyncio.gather(*(futures[:50] if partition in stuck else futures), return_exceptions=True)
            for partition, futures in sent.items()
        }
    for partition, results in outcomes.items():
        kinds = {type(result) for result in results}
        assert kinds == ({AppendUncertain} if partition in stuck else {RecordMetadata}), partition
    await producer.close()
    await asyncio.gather(*(future for futures in sent.values() for future in futures), return_exceptions=True)
