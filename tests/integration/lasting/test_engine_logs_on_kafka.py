"""The engine on topics of a real Kafka that are extended, or created again, under load."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from confluent_kafka.admin import AdminClient
from headrace_streams.kafka import KafkaLog
from headrace_streams.log_identity import Broken, Discontinuity
from headrace_streams.parallel import Observer, ParallelConsumer, TopicLane
from headrace_streams.records import NewTopic, ProducerRecord, Record, TopicPartition
from headrace_testing.engine import Letters, eventually, options

pytestmark = pytest.mark.stack

FAST = {
    "heartbeat.interval.ms": 100,
    "session.timeout.ms": 6000,
    "topic.metadata.refresh.interval.ms": 500,
    "topic.metadata.propagation.max.ms": 1000,
}


class Seen(Observer):
    def __init__(self) -> None:
        self.values: Counter[bytes] = Counter()
        self.kinds: set[Discontinuity] = set()

    async def handle(self, record: Record) -> None:
        await asyncio.sleep(0.001)
        self.values[record.value or b""] += 1

    def discontinued(self, partition: TopicPartition, verdict: Broken) -> None:
        self.kinds.add(verdict.kind)


class Bench:
    def __init__(self, servers: str, prefix: str) -> None:
        self.log = KafkaLog({"bootstrap.servers": servers, **FAST})
        self.topic = f"{prefix}work"
        self.seen = Seen()
        self._servers = servers
        self._group = f"{prefix}workers"

    def start(self, instance_id: str | None) -> tuple[ParallelConsumer, asyncio.Task[None]]:
        engine = ParallelConsumer(
            self.log, self._group, [TopicLane(self.topic)], self.seen.handle, dead_letters=Letters(),
            options=options(watch_interval_seconds=0.5), observer=self.seen, instance_id=instance_id,
        )  # fmt: skip
        return engine, asyncio.create_task(engine.run())

    async def write(self, name: str, partitions: int, count: int = 20) -> set[bytes]:
        producer = self.log.producer()
        values = {f"{name}-{number}-{part}".encode(): part for number in range(count) for part in range(partitions)}
        records = [ProducerRecord(self.topic, value, value, part) for value, part in values.items()]
        await asyncio.gather(*[producer.send(record) for record in records])
        await producer.close()
        return set(values)

    async def delete(self) -> None:
        admin = AdminClient({"bootstrap.servers": self._servers})
        for future in admin.delete_topics([self.topic]).values():
            await asyncio.wrap_future(future)
        async with asyncio.timeout(20.0):
            while await self.log.admin().describe_topics([self.topic]):  # noqa: ASYNC110 - the cluster has no event
                await asyncio.sleep(0.05)

    async def until_handled(self, values: set[bytes]) -> None:
        await eventually(lambda: values <= self.seen.values.keys(), "all are handled", 40.0)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("to", [4, 7])
async def test_added_partitions_are_read_under_load(kafka: str, topic_prefix: str, static: bool, to: int) -> None:
    bench = Bench(kafka, topic_prefix)
    await bench.log.admin().create_topics([NewTopic(bench.topic, 3, 1)])
    engines = [bench.start(f"{topic_prefix}{number}" if static else None) for number in range(2)]
    written: set[bytes] = set()
    for number in range(6):
        if number == 2:
            await bench.log.admin().add_partitions({bench.topic: to})
        written |= await bench.write(f"w{number}", 3 if number < 2 else to)
        await asyncio.sleep(0.2)
    await bench.until_handled(written)
    for engine, task in engines:
        await engine.stop()
        await task
    assert not bench.seen.kinds
    # No partition that was there before lost or repeated anything: rebalances drain.
    assert set(bench.seen.values.values()) == {1}


@pytest.mark.parametrize("left", [False, True], ids=["held", "left"])
@pytest.mark.parametrize("after", [5, 60])
async def test_a_topic_created_again_is_read_from_its_start(
    kafka: str, topic_prefix: str, after: int, left: bool
) -> None:
    """Shorter than what was read, and longer; before the client knows that the topic is gone, and after the group has
    left it and Kafka has deleted its positions."""
    bench = Bench(kafka, topic_prefix)
    await bench.log.admin().create_topics([NewTopic(bench.topic, 2, 1)])
    engine, task = bench.start(None)
    await bench.until_handled(await bench.write("old", 2))
    await bench.delete()
    if left:
        await eventually(lambda: not engine.state().assigned, "the group has left the topic")
    await bench.log.admin().create_topics([NewTopic(bench.topic, 2, 1)])
    await bench.until_handled(await bench.write("new", 2, after))
    await eventually(lambda: bench.seen.kinds == {Discontinuity.RECREATED}, "noticed")
    await bench.until_handled(await bench.write("newer", 2))
    await engine.stop()
    await task
