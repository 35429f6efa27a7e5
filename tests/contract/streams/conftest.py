"""One bench, over the in-memory twin and over Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.records import TopicPartition
from headrace_testing.logs import LogBench


@pytest.fixture(params=["memory"])
async def bench(topic_prefix: str) -> AsyncIterator[LogBench]:
    built = _memory(topic_prefix)
    yield built
    await built.close()


def _memory(prefix: str) -> LogBench:
    cluster = MemoryCluster()

    async def forget(partition: TopicPartition, offset: int) -> None:
        cluster.delete_before(partition, offset)

    return LogBench(MemoryLog(cluster), prefix, forget)
