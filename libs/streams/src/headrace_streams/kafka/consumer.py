"""A member of a consumer group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import OFFSET_INVALID
from confluent_kafka import Consumer as LibrdkafkaConsumer
from confluent_kafka import TopicPartition as KafkaPartition

from headrace_streams.errors import LeaveGroup, PartitionsLost
from headrace_streams.kafka import errors
from headrace_streams.kafka.admin import KafkaAdmin
from headrace_streams.kafka.inbox import Inbox
from headrace_streams.kafka.polling import ConsumerThread, DeliveredMessage, from_kafka, to_kafka
from headrace_streams.kafka.properties import Properties, consumer_properties, inbox_bytes, is_incremental
from headrace_streams.kafka.records import Chunk, records_of
from headrace_streams.ports import RebalanceListener
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition

T = TypeVar("T")

_COMMITTED_SECONDS = 10.0


class KafkaConsumer:
    """Create and use it within one event loop.

    librdkafka calls its rebalance callbacks on the polling thread, which then waits for the listener to run on the
    loop. Records of revoked partitions are dropped before the listener is called.

    Args:
        changed: Set whenever `take` may have something to return or to raise; it clears nothing.
    """

    def __init__(
        self,
        properties: Properties,
        logger: logging.Logger,
        admin: KafkaAdmin,
        group: str,
        instance_id: str | None,
        from_start: bool,
        changed: asyncio.Event | None = None,
    ) -> None:
        self._admin = admin
        settings = consumer_properties(properties, group, instance_id, from_start=from_start)
        self._what = f"group {group}"
        self._incremental = is_incremental(settings)
        self._kafka = LibrdkafkaConsumer(settings, logger=logger)
        room = inbox_bytes(settings)
        self._inbox = Inbox(self._throttle, room, changed)
        self._thread = ConsumerThread(self._kafka, self._what, self._deliver, self._fail, self._leave, most_bytes=room)
        self._listener: RebalanceListener
        self._subscribed = False
        # Assigned partitions, from before the listener's `assigned` until after its `revoked` or `lost`.
        self._owned: set[TopicPartition] = set()
        # Those that librdkafka is fetching.
        self._read: set[TopicPartition] = set()
        self._failure: Exception | None = None
        self._closed = False

    async def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        if self._subscribed:
            raise ValueError(f"{self._what}: this consumer is subscribed already")
        await self._admin.check_topics(topics)
        self._listener, self._subscribed = listener, True
        await self._thread.run(lambda: self._subscribe(topics), partial(errors.asking, what=self._what))

    async def poll(self, max_records: int, timeout: float, *, max_bytes: int | None = None) -> Sequence[Record]:
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            self._inbox.changed.clear()
            records = self.take(max_records, max_bytes)
            if records or not await self._inbox.wait(deadline):
                return records

    def take(self, max_records: int, max_bytes: int | None = None, *, at_least_one: bool = True) -> Sequence[Record]:
        """What `poll` returns now, without waiting; `at_least_one`: even if that has more bytes."""
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise LeaveGroup(f"{self._what}: this consumer is closed")
        return records_of(self._inbox.take(max_records, max_bytes, at_least_one=at_least_one))

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        foreign = offsets.keys() - (self._owned if self._failure is None else set())
        if foreign:
            raise PartitionsLost(f"{self._what}: not assigned here: {', '.join(map(str, sorted(foreign)))}")
        if not offsets:
            return
        in_kafka = [to_kafka(name, moved.next_offset, moved.metadata) for name, moved in offsets.items()]
        stored = await self._thread.run(
            lambda: self._kafka.commit(offsets=in_kafka, asynchronous=False),
            partial(errors.committing, what=self._what),
        )
        for answer in stored:
            if answer.error is not None:
                raise errors.committing(answer.error, f"{self._what}, {from_kafka(answer)}")

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        asked = [to_kafka(name) for name in partitions]
        what = f"committed offsets of {self._what}"
        answers = await self._thread.run(
            lambda: self._kafka.committed(asked, _COMMITTED_SECONDS), partial(errors.asking, what=what)
        )
        found: dict[TopicPartition, OffsetAndMetadata] = {}
        for answer in answers:
            if answer.error is not None:
                raise errors.asking(answer.error, f"{what}, {from_kafka(answer)}")
            if answer.offset >= 0:
                found[from_kafka(answer)] = OffsetAndMetadata(answer.offset, answer.metadata or "")
        return found

    async def log_ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        ours = [name for name in partitions if name in self._read]
        # Paused partitions are not fetched, and only fetches report the end offset.
        flowing = [] if self._inbox.throttled else [name for name in ours if name not in self._inbox.paused]
        ends = await self._thread.run(lambda: self._cached_ends(flowing), partial(errors.asking, what=self._what))
        unknown = [name for name in ours if name not in ends]
        if unknown:
            bounds = await self._admin.bounds(unknown)
            ends.update((name, end) for name, (_, end) in bounds.items())
        return ends

    async def log_starts(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        bounds = await self._admin.bounds([name for name in partitions if name in self._read])
        return {name: start for name, (start, _) in bounds.items()}

    async def seek(self, partition: TopicPartition, offset: int, moved: Callable[[], None] = lambda: None) -> None:
        await self._thread.run(lambda: self._seek(partition, offset, moved), partial(errors.asking, what=self._what))

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        ours = self._read.intersection(partitions)
        self._inbox.pause(ours)
        self._have_read(ours, False)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        ours = self._read.intersection(partitions)
        self._inbox.resume(ours)
        if not self._inbox.throttled:
            self._have_read(ours, True)

    async def close(self) -> None:
        if self._closed:
            await self._thread.close()
            return
        self._closed = True
        self._inbox.changed.set()
        before = self._failure
        await self._thread.close()
        if self._failure is not None and self._failure is not before:
            raise self._failure

    # On the loop.

    def _deliver(self, deliveries: Sequence[DeliveredMessage]) -> None:
        self._inbox.put(chunk for chunk in deliveries if isinstance(chunk, Chunk))

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._inbox.drop_all()
        self._inbox.changed.set()

    def _throttle(self, full: bool) -> None:
        self._have_read(self._read.difference(self._inbox.paused), not full)

    def _have_read(self, partitions: Iterable[TopicPartition], flowing: bool) -> None:
        names = [to_kafka(name) for name in partitions]
        self._thread.brisk = self._inbox.throttled or bool(self._inbox.paused)
        if names:
            self._thread.post(lambda: (self._kafka.resume if flowing else self._kafka.pause)(names))

    def _moved(self, partition: TopicPartition, moved: Callable[[], None]) -> None:
        if partition in self._read:
            self._inbox.clear((partition,))
            moved()

    def _begin(self, partitions: Sequence[TopicPartition]) -> None:
        self._read.update(partitions)
        if self._inbox.throttled:
            self._have_read(partitions, False)

    async def _assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self._owned.update(partitions)
        return await self._tell(self._listener.assigned(partitions))

    async def _gone(self, partitions: Sequence[TopicPartition], lost: bool) -> None:
        self._read.difference_update(partitions)
        self._inbox.drop(partitions)
        try:
            # A consumer that failed has already left its group, whatever librdkafka calls it.
            if lost or self._failure is not None:
                await self._tell(self._listener.lost(partitions))
            else:
                await self._tell(self._listener.revoked(partitions))
        finally:
            self._owned.difference_update(partitions)

    async def _tell(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        except Exception:
            # Call the listener no more, not even at the end.
            self._owned.clear()
            raise

    # In the polling thread.

    def _subscribe(self, topics: Collection[str]) -> None:
        self._kafka.subscribe(
            sorted(topics),
            on_assign=lambda _, partitions: self._on_assign(partitions),
            on_revoke=lambda _, partitions: self._on_gone(partitions, lost=False),
            on_lost=lambda _, partitions: self._on_gone(partitions, lost=True),
        )
        self._thread.begin_to_poll()

    def _cached_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = {}
        for name in partitions:
            _, end = self._kafka.get_watermark_offsets(to_kafka(name), cached=True)
            if end >= 0:
                ends[name] = end
        return ends

    def _seek(self, partition: TopicPartition, offset: int, moved: Callable[[], None]) -> None:
        if partition in map(from_kafka, self._kafka.assignment()):
            self._thread.forget([partition])
            self._kafka.seek(to_kafka(partition, offset))
            # After what was delivered before, and before what comes now.
            self._thread.call_on_loop(self._moved, partition, moved)

    def _on_assign(self, partitions: Sequence[KafkaPartition]) -> None:
        names = sorted(map(from_kafka, partitions))
        starts = self._thread.await_on_loop(self._assigned(names)) if names else {}
        placed = [to_kafka(name, starts.get(name, OFFSET_INVALID)) for name in names]
        if self._incremental:
            self._kafka.incremental_assign(placed)
        else:
            self._kafka.assign(placed)
        # A pause outlives the assignment it was made in.
        self._kafka.resume(placed)
        self._thread.call_on_loop(self._begin, names)

    def _on_gone(self, partitions: Iterable[KafkaPartition], *, lost: bool) -> None:
        names = sorted(self._owned.intersection(map(from_kafka, partitions)))
        if names:
            self._thread.forget(names)
            self._thread.await_on_loop(self._gone(names, lost))

    def _leave(self) -> None:
        self._kafka.close()
        if self._owned:
            self._thread.await_on_loop(self._gone(sorted(self._owned), True))
