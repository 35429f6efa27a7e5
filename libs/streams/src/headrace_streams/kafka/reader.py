"""Reads chosen partitions, outside any group."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from headrace_streams.errors import LeaveGroup, TopicMissing
from headrace_streams.kafka.admin import KafkaAdmin
from headrace_streams.kafka.inbox import Inbox
from headrace_streams.kafka.polling import DeliveredMessage, EndOfPartition
from headrace_streams.kafka.reading_client import ReadingClient
from headrace_streams.kafka.records import Chunk, records_of
from headrace_streams.records import Record, TopicPartition


class KafkaReader:
    """Create and use it within one event loop."""

    def __init__(self, client: ReadingClient, admin: KafkaAdmin) -> None:
        self._admin = admin
        self._client = client
        self._inbox = Inbox(self._throttle, client.inbox_bytes)
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._counts: dict[str, int] = {}
        self._failure: Exception | None = None
        self._closed = False
        client.join(self)

    async def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        await self._check(positions)
        if self._closed:
            raise LeaveGroup("this reader is closed")
        await self._client.assign(self, positions)

    async def poll(self, max_records: int, timeout: float) -> Sequence[Record]:
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            if self._closed:
                raise LeaveGroup("this reader is closed")
            self._inbox.changed.clear()
            chunks = self._inbox.take(max_records)
            for chunk in chunks:
                self._positions[chunk.partition] = chunk.records[-1].offset + 1
            if chunks or self._skip_gaps():
                return records_of(chunks)
            if self._failure is not None:
                raise self._failure
            if not await self._inbox.wait(deadline):
                return ()

    def positions(self) -> Mapping[TopicPartition, int]:
        return dict(self._positions)

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        await self._check(partitions)
        return await self._admin.bounds(partitions)

    async def offsets_at(
        self, partitions: Collection[TopicPartition], timestamp_ms: int
    ) -> Mapping[TopicPartition, int]:
        await self._check(partitions)
        return await self._admin.offsets_at(partitions, timestamp_ms)

    async def partitions_of(self, topic: str) -> Sequence[TopicPartition]:
        count = (await self._admin.check_topics([topic]))[topic]
        self._counts[topic] = count
        return [TopicPartition(topic, number) for number in range(count)]

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._inbox.changed.set()
        await self._client.leave(self)

    async def _check(self, partitions: Collection[TopicPartition]) -> None:
        for name in partitions:
            if name.partition >= self._counts.get(name.topic, 0):
                await self.partitions_of(name.topic)
            if name.partition >= self._counts[name.topic]:
                raise TopicMissing(f"{name} does not exist: {name.topic} has {self._counts[name.topic]} partitions")

    def _skip_gaps(self) -> bool:
        """Once the inbox is empty, move positions over ranges without records; returns whether any moved."""
        moved = False
        for name, end in self._ends.items():
            if end > self._positions[name]:
                self._positions[name] = end
                moved = True
        self._ends.clear()
        return moved

    def _throttle(self, full: bool) -> None:
        if not self._closed:
            self._client.throttle(self, full)

    # Called by the client:

    def begin(self, positions: Mapping[TopicPartition, int]) -> None:
        """See `AssignedReader`."""
        self._inbox.drop_all()
        self._failure = None
        self._positions = dict(positions)
        self._ends = {}

    def deliver(self, deliveries: Sequence[DeliveredMessage]) -> None:
        """See `AssignedReader`."""
        for delivery in deliveries:
            if isinstance(delivery, EndOfPartition):
                self._ends[delivery.partition] = delivery.offset
        self._inbox.put(chunk for chunk in deliveries if isinstance(chunk, Chunk))

    def fail(self, error: Exception) -> None:
        """See `AssignedReader`."""
        self._failure = error
        self._inbox.changed.set()
