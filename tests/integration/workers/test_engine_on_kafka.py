"""The parallel consumer on real Kafka: rebalances of every protocol, and progress that survives them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from headrace_streams.kafka import KafkaLog
from headrace_streams.parallel import EngineOptions, Handler, Lane, ParallelConsumer
from headrace_streams.records import NewTopic, Outgoing, Record

pytestmark = pytest.mark.stack

CLASSIC: dict[str, str | int] = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 200}
PROTOCOLS: dict[str, dict[str, str | int]] = {
    "range": {**CLASSIC, "partition.assignment.strategy": "range"},
    "cooperative": {**CLASSIC, "partition.assignment.strategy": "cooperative-sticky"},
    "consumer": {"group.protocol": "consumer"},
}
PARTITIONS = 6


class NoLetters:
    async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
        raise AssertionError(f"{record.topic}@{record.offset} was given up: {error}")


@pytest.fixture
async def topic(kafka: str, topic_prefix: str) -> str:
    name = f"{topic_prefix}work"
    await KafkaLog({"bootstrap.servers": kafka}).admin().create_topics([NewTopic(name, PARTITIONS, 1)])
    return name


async def fill(kafka: str, topic: str, count: int, keys: int) -> None:
    producer = KafkaLog({"bootstrap.servers": kafka}).producer()
    sent = [
        producer.send(Outgoing(topic, str(number).encode(), key=f"k{number % keys}".encode()))
        for number in range(count)
    ]
    await asyncio.gather(*sent)
    await producer.close()


@asynccontextmanager
async def consuming(
    kafka: str, topic: str, handler: Handler, properties: dict[str, str | int], instance_id: str | None = None
) -> AsyncIterator[ParallelConsumer]:
    consumer = ParallelConsumer(
        KafkaLog({"bootstrap.servers": kafka, **properties}),
        f"{topic}-group",
        [Lane(topic)],
        handler,
        dead_letters=NoLetters(),
        options=EngineOptions(max_in_flight=20, commit_interval_seconds=0.1, drain_seconds=3.0),
        instance_id=instance_id,
    )
    running = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        await consumer.stop()
        await running


async def eventually(true: Callable[[], bool], what: str, seconds: float = 40.0) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not true():  # noqa: ASYNC110 - looks at what has no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {seconds} s: {what}")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_members_that_come_and_go_lose_and_repeat_nothing(kafka: str, topic: str, protocol: str) -> None:
    count, keys = 3000, 60
    await fill(kafka, topic, count, keys)
    seen: Counter[int] = Counter()
    by_key: dict[bytes | None, list[int]] = defaultdict(list)
    by_member: Counter[str] = Counter()

    def handler(name: str) -> Handler:
        async def handle(record: Record) -> None:
            # Slowly until both work: the consumer protocol takes some seconds to move partitions.
            await asyncio.sleep(0.02 if by_member["second"] else 0.2)
            number = int(record.value or b"-1")
            seen[number] += 1
            by_key[record.key].append(number)
            by_member[name] += 1

        return handle

    properties = PROTOCOLS[protocol]
    async with consuming(kafka, topic, handler("first"), properties):
        await eventually(lambda: by_member["first"] > 100, "the first one works")
        async with consuming(kafka, topic, handler("second"), properties):
            await eventually(lambda: by_member["second"] > 100, "the second one works")
        await eventually(lambda: len(seen) == count, "all is done")
    assert seen == Counter(range(count))
    assert all(numbers == sorted(numbers) for numbers in by_key.values()), "a key was overtaken"


async def test_what_finished_beyond_a_hung_record_is_not_repeated_by_the_next_owner(kafka: str, topic: str) -> None:
    await fill(kafka, topic, 300, keys=300)
    seen: Counter[int] = Counter()

    async def hang_on_some(record: Record) -> None:
        seen[int(record.value or b"-1")] += 1
        if record.offset == 3:
            await asyncio.sleep(60)

    async def handle(record: Record) -> None:
        seen[int(record.value or b"-1")] += 1

    async with consuming(kafka, topic, hang_on_some, PROTOCOLS["range"]):
        await eventually(lambda: len(seen) == 300, "all are begun")
    async with consuming(kafka, topic, handle, PROTOCOLS["range"]) as consumer:
        await eventually(lambda: sum(seen.values()) == 300 + PARTITIONS, "the hung ones are done again")
        await asyncio.sleep(0.3)
        assert consumer.state().waiting == {topic: 0}
    assert sum(seen.values()) == 300 + PARTITIONS


async def test_a_static_member_that_restarts_goes_on_where_it_was(kafka: str, topic: str) -> None:
    await fill(kafka, topic, 600, keys=60)
    seen: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        await asyncio.sleep(0.01)
        seen[int(record.value or b"-1")] += 1

    async with consuming(kafka, topic, handle, PROTOCOLS["range"], "pod-1"):
        await eventually(lambda: len(seen) > 50, "it works")
    assert len(seen) < 600
    async with consuming(kafka, topic, handle, PROTOCOLS["range"], "pod-1"):
        await eventually(lambda: len(seen) == 600, "it goes on")
    assert seen == Counter(range(600))
