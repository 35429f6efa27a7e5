"""Shared code of the tests of the parallel engine on the in-memory twin."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from headrace_streams.errors import TransientError
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.offsets import decode
from headrace_streams.parallel import (
    Ending,
    EngineOptions,
    Handler,
    Observer,
    ParallelConsumer,
    RetryPolicy,
    TopicLane,
)
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, Record

TOPIC = "work"
GROUP = "workers"
FAST = RetryPolicy(max_attempts=3, first_delay_seconds=0.01, longest_delay_seconds=0.02)


class Letters:
    """Collects dead letters; fails as often as configured."""

    def __init__(self, failures: int = 0) -> None:
        self.kept: list[tuple[Record, Exception, int]] = []
        self.failures = failures

    async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise TransientError("no broker")
        self.kept.append((record, error, attempts))


class Counting(Observer):
    def __init__(self) -> None:
        self.endings: Counter[Ending] = Counter()

    def ended(self, record: Record, ending: Ending, seconds: float) -> None:
        self.endings[ending] += 1


def options(**changes: object) -> EngineOptions:
    values: dict[str, object] = {"commit_interval_seconds": 0.02, "drain_seconds": 2.0, "retries": FAST}
    return EngineOptions(**{**values, **changes})  # type: ignore[arg-type]


def fill(cluster: MemoryCluster, count: int, *, topic: str = TOPIC, keys: int = 1_000_000, tenants: int = 1) -> None:
    for number in range(count):
        headers = (("ce_tenant", f"t{number % tenants}".encode()),)
        cluster.append(ProducerRecord(topic, str(number).encode(), f"k{number % keys}".encode(), headers=headers))


def number_of(record: Record) -> int:
    return int(record.value or b"-1")


short_sessions = pytest.mark.parametrize("cluster", [0.4], indirect=True, ids=["short sessions"])
"""For tests in which a member is lost, which is detected soon. A busy machine may also lose one for no reason."""


def three_partitions(session_seconds: float) -> MemoryCluster:
    """A cluster with the topic."""
    made = MemoryCluster(session_timeout=session_seconds, rebalance_timeout=max(5.0, session_seconds))
    made.create_topic(TOPIC, 3)
    return made


async def eventually(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not true():  # noqa: ASYNC110 - polls something that has no event
                await asyncio.sleep(0.002)
    except TimeoutError:
        pytest.fail(f"not within {seconds} s: {what}")


@asynccontextmanager
async def running(
    cluster: MemoryCluster | MemoryLog,
    handler: Handler,
    *,
    lanes: tuple[TopicLane, ...] = (TopicLane(TOPIC),),
    letters: Letters | None = None,
    observer: Observer | None = None,
    skip: Handler = lambda _record: None,
    **changes: object,
) -> AsyncIterator[ParallelConsumer]:
    log = cluster if isinstance(cluster, MemoryLog) else MemoryLog(cluster)
    consumer = ParallelConsumer(
        log,
        GROUP,
        lanes,
        handler,
        dead_letters=letters or Letters(),
        skip=skip,
        options=options(**changes),
        observer=observer,
    )
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        await consumer.stop()
        await task


def committed(cluster: MemoryCluster, topic: str = TOPIC) -> dict[int, OffsetAndMetadata]:
    return {
        part.partition: reached
        for part, reached in cluster.group(GROUP).committed_offsets.items()
        if part.topic == topic
    }


def all_committed(cluster: MemoryCluster, topic: str = TOPIC) -> bool:
    logs = [cluster.records(topic, part) for part in range(cluster.partition_counts([topic])[topic])]
    ends = {part: log[-1].offset + 1 if log else 0 for part, log in enumerate(logs)}
    reached = committed(cluster, topic)
    return all(end == 0 or (part in reached and is_at(reached[part], end)) for part, end in ends.items())


def is_at(reached: OffsetAndMetadata, end: int) -> bool:
    """Whether everything below this offset was committed as finished, and nothing beyond."""
    return reached.next_offset == end and not decode(reached)
