"""Topics that are enlarged, deleted and made anew under a producer: records wait for them and are not refused for good.

Only Kafka's clients know less than their cluster; the twin has nothing of the kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from headrace_streams.errors import AppendUncertain, RecordRefused, TransientError
from headrace_streams.kafka import KafkaLog
from headrace_streams.kafka.known_topics import KnownTopics
from headrace_streams.ports import Producer
from headrace_streams.records import NewTopic, ProducerRecord, RecordMetadata

pytestmark = pytest.mark.stack

SECONDS = 30.0


class Cluster:
    """A topic and its operator."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self.topic = topic
        # A client asks by itself only every ten seconds, and gives an unknown topic this long to appear.
        self.log = KafkaLog({"bootstrap.servers": bootstrap_servers, "topic.metadata.propagation.max.ms": 500})
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})

    async def create(self, partitions: int) -> None:
        await self.log.admin().create_topics([NewTopic(self.topic, partitions, 1)])

    async def enlarge(self, partitions: int) -> None:
        for done in self._admin.create_partitions([NewPartitions(self.topic, partitions)]).values():
            await asyncio.wrap_future(done)

    async def delete(self) -> None:
        for done in self._admin.delete_topics([self.topic]).values():
            await asyncio.wrap_future(done)


@pytest.fixture
def cluster(kafka: str, topic_prefix: str) -> Cluster:
    return Cluster(kafka, f"{topic_prefix}changing")


@pytest.fixture
async def producer(cluster: Cluster) -> AsyncIterator[Producer]:
    made = cluster.log.producer()
    yield made
    await made.close()


def record(cluster: Cluster, partition: int | None) -> ProducerRecord:
    return ProducerRecord(cluster.topic, b"value", key=b"key", partition=partition)


async def persist(producer: Producer, wanted: ProducerRecord) -> tuple[RecordMetadata, list[Exception]]:
    """Send until it is appended, as all services do after the errors that allow it; and those errors."""
    met: list[Exception] = []
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await producer.send(wanted), met
            except (TransientError, AppendUncertain) as error:
                met.append(error)
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(("before", "after", "partition"), [(1, 2, 1), (2, 6, 2), (2, 6, 5), (6, 7, 6)])
async def test_a_partition_that_was_added_takes_records_at_once(
    cluster: Cluster, producer: Producer, before: int, after: int, partition: int
) -> None:
    await cluster.create(before)
    await producer.send(record(cluster, 0))
    with pytest.raises(RecordRefused):
        await producer.send(record(cluster, partition))
    await cluster.enlarge(after)
    async with asyncio.timeout(30):
        while True:
            try:
                appended, _ = await persist(producer, record(cluster, partition))
                break
            except RecordRefused:  # the broker learns of it a moment after the controller
                await asyncio.sleep(0.05)
    assert (appended.partition, appended.offset) == (partition, 0)
    others = [producer.send(record(cluster, number)) for number in range(after)]
    assert {one.partition for one in await asyncio.gather(*others)} == set(range(after))


@pytest.mark.parametrize("partition", [None, 0, 2])
async def test_a_topic_made_anew_takes_records_again(
    cluster: Cluster, producer: Producer, partition: int | None
) -> None:
    await cluster.create(3)
    await asyncio.gather(*(producer.send(record(cluster, number)) for number in range(3)))
    await cluster.delete()
    async with asyncio.timeout(SECONDS):
        while True:
            waiting = asyncio.create_task(persist(producer, record(cluster, partition)))
            done, _ = await asyncio.wait({waiting}, timeout=2.0)
            if not done:  # nothing has it, and nothing refuses it for good
                break
            await waiting  # the broker, which learns of it a moment after the controller, has still appended it
    await cluster.create(3)
    appended, met = await waiting
    assert appended.topic == cluster.topic
    assert met, "the test has waited long enough for the client to notice"


@pytest.mark.parametrize("partition", [3, 4, 999])
async def test_a_partition_that_never_was_is_refused_and_others_go_on(
    cluster: Cluster, producer: Producer, partition: int
) -> None:
    await cluster.create(3)
    before = producer.send(record(cluster, 0))
    refused = [producer.send(record(cluster, partition)) for _ in range(50)]
    after = producer.send(record(cluster, 0))
    assert ((await before).offset, (await after).offset) == (0, 1)
    outcomes = await asyncio.gather(*refused, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {RecordRefused}
    await producer.flush()


async def test_many_records_ask_once() -> None:
    asked: list[str] = []

    def ask(topic: str) -> int:
        asked.append(topic)
        return 2

    known = KnownTopics(ask)
    answers = await asyncio.gather(*(known.may_come("t", number % 3) for number in range(300)))
    assert answers == [number % 3 < 2 for number in range(300)]
    assert asked == ["t"]


@pytest.mark.parametrize(
    ("counts", "partition", "may_come"),
    [
        ([0], None, False),
        ([0], 0, False),
        ([2], 1, True),
        ([2], 2, False),
        ([3, 0], 2, True),  # deleted meanwhile
        ([3, 2], 2, True),  # made anew, with fewer
        ([3, 2], 3, False),
        ([None], 7, True),  # nobody answers
        ([3, None], 9, True),
    ],
)
async def test_what_has_been_there_may_come_back(
    monkeypatch: pytest.MonkeyPatch, counts: list[int | None], partition: int | None, may_come: bool
) -> None:
    monkeypatch.setattr("headrace_streams.kafka.known_topics._ASK_AGAIN_SECONDS", 0.0)
    left = list(counts)
    known = KnownTopics(lambda _: left.pop(0))
    for _ in counts:
        found = await known.may_come("t", partition)
        await asyncio.sleep(0.01)
    assert found is may_come


async def test_what_took_a_record_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_streams.kafka.known_topics._ASK_AGAIN_SECONDS", 0.0)
    known = KnownTopics(lambda _: 0)
    assert not await known.may_come("t", 4)
    known.seen("t", 4)
    await asyncio.sleep(0.01)
    assert await known.may_come("t", 4)
    assert not await known.may_come("t", 5)
