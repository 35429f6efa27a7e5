"""Support for the log's contract suite, which runs the same tests on Kafka and on the twin."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Never

from headrace_streams.ports import Consumer, Log, PartitionReader, Producer
from headrace_streams.records import NewTopic, ProducerRecord, Record, TopicPartition

PATIENCE = 30.0


@dataclass(slots=True)
class Listener:
    """Records a consumer's callbacks, and answers `assigned` with `starts`."""

    starts: Mapping[TopicPartition, int] = field(default_factory=dict)
    on_revoked: Callable[[Collection[TopicPartition]], Awaitable[None]] | None = None
    owned: set[TopicPartition] = field(default_factory=set)
    told: list[tuple[str, tuple[TopicPartition, ...]]] = field(default_factory=list)

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.told.append(("assigned", tuple(sorted(partitions))))
        self.owned |= set(partitions)
        return {name: offset for name, offset in self.starts.items() if name in partitions}

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        self.told.append(("revoked", tuple(sorted(partitions))))
        if self.on_revoked is not None:
            await self.on_revoked(partitions)
        self.owned -= set(partitions)

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        self.told.append(("lost", tuple(sorted(partitions))))
        self.owned -= set(partitions)

    def times_told(self, what: str) -> int:
        return sum(1 for kind, _ in self.told if kind == what)


async def _cannot(of: object) -> Never:
    raise NotImplementedError(f"this bench cannot do that to {of}")


@dataclass(slots=True)
class LogBench:
    """A log under test. Everything opened through it is closed after the test.

    Attributes:
        log: The log.
        prefix: Prefix of topics and groups, so that tests that share a cluster do not interfere.
        forget: Moves the start of a partition to an offset, as retention does.
        delete: Deletes a topic, and returns once it is gone.
        hold: Appends a record to a partition in a transaction of another producer; the function it returns commits it.
    """

    log: Log
    prefix: str
    forget: Callable[[TopicPartition, int], Awaitable[None]]
    delete: Callable[[str], Awaitable[None]] = field(default=_cannot)
    hold: Callable[[TopicPartition], Awaitable[Callable[[], Awaitable[None]]]] = field(default=_cannot)
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    topics: int = 0

    async def topic(self, partitions: int = 1) -> str:
        self.topics += 1
        name = f"{self.prefix}topic-{self.topics}"
        await self.create(name, partitions)
        return name

    async def create(self, name: str, partitions: int = 1) -> None:
        created = await self.log.admin().create_topics([NewTopic(name, partitions, 1)])
        assert list(created) == [name]

    def producer(self) -> Producer:
        producer = self.log.producer()
        self.closing.append(producer.close)
        return producer

    def consumer(self, group: str = "group", *, instance_id: str | None = None, from_start: bool = True) -> Consumer:
        consumer = self.log.consumer(self.prefix + group, instance_id=instance_id, from_start=from_start)
        self.closing.append(consumer.close)
        return consumer

    def reader(self) -> PartitionReader:
        reader = self.log.reader()
        self.closing.append(reader.close)
        return reader

    def follower(self) -> PartitionReader:
        follower = self.log.follower()
        self.closing.append(follower.close)
        return follower

    async def member(
        self, topic: str, listener: Listener, group: str = "group", *, instance_id: str | None = None
    ) -> Consumer:
        consumer = self.consumer(group, instance_id=instance_id)
        await consumer.subscribe([topic], listener)
        return consumer

    async def write(self, topic: str, values: Sequence[bytes], *, partition: int | None = 0) -> None:
        """Append values one after another, and wait for all acknowledgements."""
        producer = self.log.producer()
        await asyncio.gather(*[producer.send(ProducerRecord(topic, value, partition=partition)) for value in values])
        await producer.close()

    async def close(self) -> None:
        await asyncio.gather(*[close() for close in reversed(self.closing)])


async def take(source: Consumer | PartitionReader, count: int) -> list[Record]:
    """Read exactly this many records; fails if they do not arrive or one poll returns too many."""
    records: list[Record] = []
    async with asyncio.timeout(PATIENCE):
        while len(records) < count:
            records += await source.poll(count - len(records), 1.0)
    assert len(records) == count
    return records


async def until(condition: Callable[[], bool], *polled: Consumer) -> None:
    """Wait for a condition, polling the given consumers; fails if they deliver anything, or at the timeout."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            for consumer in polled:
                assert not await consumer.poll(10, 0.01)
            await asyncio.sleep(0.01)
