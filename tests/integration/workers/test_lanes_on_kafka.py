"""Workers of one group have partitions of both lanes each, however they join and leave."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from headrace_runtime.worker_settings import WorkerSettings
from headrace_streams.kafka import KafkaLog
from headrace_streams.parallel import EngineOptions, ParallelConsumer, TopicLane
from headrace_streams.records import NewTopic, ProducerRecord, Record
from headrace_testing.dead_letters import NoDeadLetters

pytestmark = pytest.mark.stack

PARTITIONS = 6
LANES = ("interactive", "batch")


async def test_each_worker_has_as_many_partitions_of_each_lane(kafka: str, topic_prefix: str) -> None:
    topics = [f"{topic_prefix}work.local.{lane}" for lane in LANES]
    settings = WorkerSettings(bootstrap_servers=kafka, kafka_properties={"heartbeat.interval.ms": "200"})
    log = KafkaLog(settings.kafka_config())
    await log.admin().create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics])
    seen: Counter[str] = Counter()

    async def handle(record: Record) -> None:
        seen[record.topic] += 1

    @asynccontextmanager
    async def worker() -> AsyncIterator[ParallelConsumer]:
        consumer = ParallelConsumer(
            log, f"{topic_prefix}local-worker", [TopicLane(topic) for topic in topics], handle,
            dead_letters=NoDeadLetters(), options=EngineOptions(drain_seconds=1.0),
        )  # fmt: skip
        running = asyncio.create_task(consumer.run())
        try:
            yield consumer
        finally:
            await consumer.stop()
            await running

    async def spread(workers: Sequence[ParallelConsumer]) -> None:
        each = dict.fromkeys(topics, PARTITIONS // len(workers))
        try:
            async with asyncio.timeout(30):
                while any(_lanes(one) != each for one in workers):  # noqa: ASYNC110 - looks at what has no event
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"the lanes are spread as {[dict(_lanes(one)) for one in workers]}")

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(worker())
        await spread([first])
        second = await stack.enter_async_context(worker())
        await spread([first, second])
        async with worker() as third:
            await spread([first, second, third])
        await spread([first, second])
        producer = log.producer()
        await asyncio.gather(
            *(
                producer.send(ProducerRecord(topic, b"x", partition=partition))
                for topic in topics
                for partition in range(PARTITIONS)
            )
        )
        await producer.close()
        async with asyncio.timeout(20):
            while seen != dict.fromkeys(topics, PARTITIONS):  # noqa: ASYNC110 - looks at what has no event
                await asyncio.sleep(0.05)


def _lanes(worker: ParallelConsumer) -> Counter[str]:
    return Counter(partition.topic for partition in worker.state().assigned)
