"""What librdkafka says late about offsets that nobody asks for any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from headrace_streams.errors import OffsetOutOfRange
from headrace_streams.kafka import KafkaLog
from headrace_streams.kafka.polling import DeliveredMessage, FailedPartition
from headrace_streams.kafka.reading_client import ReadingClient
from headrace_streams.kafka.records import Chunk
from headrace_streams.ports import Producer
from headrace_streams.records import NewTopic, ProducerRecord, TopicPartition

pytestmark = pytest.mark.stack

COUNT = 20


class Reading:
    """A reader that keeps what it gets."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.failures: list[Exception] = []
        self.changed = asyncio.Event()

    def begin(self, positions: Mapping[TopicPartition, int]) -> None:
        self.offsets.clear()
        self.failures.clear()
        self.changed.set()

    def deliver(self, deliveries: Sequence[DeliveredMessage]) -> None:
        for delivery in deliveries:
            if isinstance(delivery, Chunk):
                self.offsets += [record.offset for record in delivery.records]
        self.changed.set()

    def fail(self, error: Exception) -> None:
        self.failures.append(error)
        self.changed.set()

    async def until(self, offset: int) -> None:
        async with asyncio.timeout(30):
            while not self.failures and offset not in self.offsets:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def producer(kafka: str) -> AsyncIterator[Producer]:
    made = KafkaLog({"bootstrap.servers": kafka}).producer()
    yield made
    await made.close()


@pytest.fixture
async def partition(kafka: str, topic_prefix: str, producer: Producer) -> TopicPartition:
    name = TopicPartition(f"{topic_prefix}read", 0)
    await KafkaLog({"bootstrap.servers": kafka}).admin().create_topics([NewTopic(name.topic, 1, 1)])
    await asyncio.gather(*(producer.send(ProducerRecord(name.topic, b"value", partition=0)) for _ in range(COUNT)))
    return name


@pytest.fixture
async def client(kafka: str) -> ReadingClient:
    return ReadingClient({"bootstrap.servers": kafka}, logging.getLogger(__name__), shared=True)


@pytest.fixture
async def reader(client: ReadingClient, partition: TopicPartition) -> AsyncIterator[Reading]:
    reading = Reading()
    client.join(reading)
    yield reading
    await client.leave(reading)


def said_of(partition: TopicPartition, offset: int) -> list[DeliveredMessage]:
    return [FailedPartition(partition, OffsetOutOfRange("out of range"), offset)]


@pytest.mark.parametrize("before", [0, 99])
async def test_what_is_said_of_another_offset_changes_nothing(
    client: ReadingClient, reader: Reading, partition: TopicPartition, producer: Producer, before: int
) -> None:
    await client.assign(reader, {partition: 3})
    client._deliver(said_of(partition, before))
    await reader.until(COUNT - 1)
    for full in (True, False):
        client.throttle(reader, full)
        client._deliver(said_of(partition, before))
    await producer.send(ProducerRecord(partition.topic, b"value", partition=0))
    await reader.until(COUNT)
    assert reader.offsets == [*range(3, COUNT + 1)]
    assert not reader.failures


async def test_a_reader_that_takes_no_more_gets_no_more_afterwards(
    client: ReadingClient, reader: Reading, partition: TopicPartition, producer: Producer
) -> None:
    await client.assign(reader, {partition: COUNT})
    await producer.send(ProducerRecord(partition.topic, b"value", partition=0))
    await reader.until(COUNT)
    client.throttle(reader, True)
    client._deliver(said_of(partition, 99))
    await producer.send(ProducerRecord(partition.topic, b"value", partition=0))
    await asyncio.sleep(1.0)
    assert reader.offsets == [COUNT]
    client.throttle(reader, False)
    await reader.until(COUNT + 1)


async def test_what_is_said_of_the_next_offset_ends_the_reading(
    client: ReadingClient, reader: Reading, partition: TopicPartition
) -> None:
    await client.assign(reader, {partition: 3})
    await reader.until(COUNT - 1)
    client._deliver(said_of(partition, COUNT))
    assert [type(failure) for failure in reader.failures] == [OffsetOutOfRange]


async def test_offsets_that_change_faster_than_they_are_answered(
    client: ReadingClient, reader: Reading, partition: TopicPartition
) -> None:
    for number in range(60):
        await client.assign(reader, {partition: 99})
        # The answer to the fetch of 99 may be anywhere on its way.
        await asyncio.sleep(number % 20 * 0.001)
        await client.assign(reader, {partition: COUNT - 2})
        await reader.until(COUNT - 1)
        assert reader.offsets == [COUNT - 2, COUNT - 1]
        assert not reader.failures
