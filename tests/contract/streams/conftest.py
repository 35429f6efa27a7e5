"""One bench, over the in-memory twin and over Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient
from headrace_streams.kafka import KafkaLog
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.records import ProducerRecord, TopicPartition
from headrace_testing.logs import PATIENCE, LogBench

# Rebalances are noticed at a heartbeat, and missing topics after a while: both soon, for the tests' sake.
FAST = {
    "heartbeat.interval.ms": 100,
    "session.timeout.ms": 6000,
    "topic.metadata.propagation.max.ms": 1000,
    "topic.metadata.refresh.interval.ms": 500,
}


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.stack)])
async def bench(request: pytest.FixtureRequest, topic_prefix: str) -> AsyncIterator[LogBench]:
    if request.param == "memory":
        built = _memory(topic_prefix)
    else:
        built = _kafka(topic_prefix, request.getfixturevalue("kafka"))
    yield built
    await built.close()


def _memory(prefix: str) -> LogBench:
    cluster = MemoryCluster()

    async def forget(partition: TopicPartition, offset: int) -> None:
        cluster.delete_before(partition, offset)

    async def delete(topic: str) -> None:
        cluster.delete_topic(topic)

    async def hold(partition: TopicPartition) -> Callable[[], Awaitable[None]]:
        cluster.hold_stable_offset(partition, cluster.partition(partition).end)
        cluster.append(ProducerRecord(partition.topic, b"transactional", partition=partition.partition))

        async def release() -> None:
            cluster.hold_stable_offset(partition, None)

        return release

    return LogBench(MemoryLog(cluster), prefix, forget, delete, hold)


def _kafka(prefix: str, bootstrap_servers: str) -> LogBench:
    async def forget(partition: TopicPartition, offset: int) -> None:
        admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        deleting = admin.delete_records([KafkaPartition(partition.topic, partition.partition, offset)])
        for future in deleting.values():
            await asyncio.wrap_future(future)

    async def delete(topic: str) -> None:
        admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        for future in admin.delete_topics([topic]).values():
            await asyncio.wrap_future(future)
        async with asyncio.timeout(PATIENCE):
            while await log.admin().describe_topics([topic]):  # noqa: ASYNC110 - the cluster has no event for it
                await asyncio.sleep(0.05)

    async def hold(partition: TopicPartition) -> Callable[[], Awaitable[None]]:
        other = Producer({"bootstrap.servers": bootstrap_servers, "transactional.id": f"{prefix}other"})
        await asyncio.to_thread(other.init_transactions)
        other.begin_transaction()
        other.produce(partition.topic, b"transactional", partition=partition.partition)
        await asyncio.to_thread(other.flush)

        async def release() -> None:
            await asyncio.to_thread(other.commit_transaction)

        return release

    log = KafkaLog({"bootstrap.servers": bootstrap_servers, **FAST})
    return LogBench(log, prefix, forget, delete, hold)
