"""Buffers what a polling thread has fetched, until the caller polls. Lives on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from headrace_streams.kafka.records import Chunk
from headrace_streams.records import TopicPartition, leading

_FULL_RECORDS, _EMPTY_RECORDS = 16_000, 4_000


class Inbox:
    """Records by partition, served round-robin.

    Args:
        throttle: Called with True when too much is buffered and fetching should stop, with False when it may go on.
        full_bytes: More bytes of values than these are too much, as are more records than 16,000; a quarter is little
            enough to go on.
        changed: Set when there may be something to take; several inboxes may share it.
    """

    def __init__(self, throttle: Callable[[bool], None], full_bytes: int, changed: asyncio.Event | None = None) -> None:
        self.changed = changed or asyncio.Event()
        self._throttle = throttle
        self._full_bytes = full_bytes
        self._empty_bytes = full_bytes // 4
        self._throttled = False
        self._queues: dict[TopicPartition, deque[Chunk]] = {}
        # A dict, for its order.
        self._paused: dict[TopicPartition, None] = {}
        # Counts only partitions that are not paused.
        self._records = 0
        self._bytes = 0

    @property
    def paused(self) -> Collection[TopicPartition]:
        return self._paused.keys()

    @property
    def throttled(self) -> bool:
        return self._throttled

    def put(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self._queues.setdefault(chunk.partition, deque()).append(chunk)
            if chunk.partition not in self._paused:
                self._count((chunk,), 1)
        self._balance()
        self.changed.set()

    def take(self, limit: int, max_bytes: int | None = None, *, at_least_one: bool = True) -> Sequence[Chunk]:
        """At most this many records of the partitions that are not paused; those of one partition are adjacent.

        With `max_bytes`, their values have at most so many bytes together, or it is one record, if `at_least_one`.
        """
        taken: list[Chunk] = []
        room = limit
        left = max_bytes
        for name in [name for name, queue in self._queues.items() if queue and name not in self._paused]:
            if not room:
                break
            # A partition that was served goes to the end of the queue.
            queue = self._queues[name] = self._queues.pop(name)
            while queue and room:
                count = len(queue[0].records)
                if left is not None and queue[0].size > left:
                    count = leading(queue[0].records, left, at_least=0 if taken or not at_least_one else 1)
                count = min(count, room)
                if not count:
                    room = 0
                    break
                chunk = queue.popleft() if count == len(queue[0].records) else queue[0].split(count)
                room -= count
                if left is not None:
                    left -= chunk.size
                taken.append(chunk)
        self._count(taken, -1)
        self._balance()
        return taken

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Hold back these partitions; they no longer count as buffered, or the others could not go on."""
        for name in partitions:
            if name not in self._paused:
                self._paused[name] = None
                self._count(self._queues.get(name, ()), -1)
        self._balance()

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        for name in partitions:
            if name in self._paused:
                del self._paused[name]
                self._count(self._queues.get(name, ()), 1)
        self._balance()
        self.changed.set()

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop the records of these partitions, and whether they were paused."""
        for name in list(partitions):
            queue = self._queues.pop(name, ())
            if name not in self._paused:
                self._count(queue, -1)
            self._paused.pop(name, None)
        self._balance()

    def clear(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop the records of these partitions; those that are paused stay paused."""
        for name in partitions:
            queue = self._queues.pop(name, ())
            if name not in self._paused:
                self._count(queue, -1)
        self._balance()

    def drop_all(self) -> None:
        self.drop(self._queues.keys() | self._paused.keys())

    async def wait(self, deadline: float) -> bool:
        """Wait until the deadline (loop time) for a change; returns whether there was one."""
        try:
            async with asyncio.timeout_at(deadline):
                await self.changed.wait()
        except TimeoutError:
            return False
        return True

    def _count(self, chunks: Iterable[Chunk], sign: int) -> None:
        for chunk in chunks:
            self._records += sign * len(chunk.records)
            self._bytes += sign * chunk.size

    def _balance(self) -> None:
        if not self._throttled and (self._records > _FULL_RECORDS or self._bytes > self._full_bytes):
            self._throttled = True
            self._throttle(True)
        elif self._throttled and self._records < _EMPTY_RECORDS and self._bytes < self._empty_bytes:
            self._throttled = False
            self._throttle(False)
