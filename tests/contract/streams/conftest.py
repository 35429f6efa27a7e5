"""One bench, over the in-memory twin and over Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient
from headrace_streams.kafka import KafkaLog
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.records import TopicPartition
from headrace_testing.logs import LogBench

# Rebalances are noticed at a heartbeat, and missing topics after a while: both soon, for the tests' sake.
FAST = {"heartbeat.interval.ms": 100, "session.timeout.ms": 6000, "topic.metadata.propagation.max.ms": 1000}


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

    return LogBench(MemoryLog(cluster), prefix, forget)


def _kafka(prefix: str, bootstrap_servers: str) -> LogBench:
    async def forget(partition: TopicPartition, offset: int) -> None:
        admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        deleting = admin.delete_records([KafkaPartition(partition.topic, partition.partition, offset)])
        for future in deleting.values():
            await asyncio.wrap_future(future)

    return LogBench(KafkaLog({"bootstrap.servers": bootstrap_servers, **FAST}), prefix, forget)
