"""What a polling thread has brought, until somebody asks for it. Lives on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from headrace_streams.records import Record, TopicPartition

_FULL_RECORDS, _EMPTY_RECORDS = 4_000, 1_000
_FULL_BYTES, _EMPTY_BYTES = 32 * 1024 * 1024, 8 * 1024 * 1024


def _size(record: Record) -> int:
    return len(record.value or b"") + len(record.key or b"")


class Inbox:
    """Records by partition, served in turn.

    Args:
        throttle: Called with True when so much has piled up that fetching should stop, with False when it may go on.
    """

    def __init__(self, throttle: Callable[[bool], None]) -> None:
        self.changed = asyncio.Event()
        self._throttle = throttle
        self._throttled = False
        self._queues: dict[TopicPartition, deque[Record]] = {}
        self._paused: set[TopicPartition] = set()
        # Of the partitions that are not paused.
        self._records = 0
        self._bytes = 0

    @property
    def paused(self) -> Collection[TopicPartition]:
        return self._paused

    @property
    def throttled(self) -> bool:
        return self._throttled

    def put(self, records: Iterable[Record]) -> None:
        for record in records:
            name = record.topic_partition
            self._queues.setdefault(name, deque()).append(record)
            if name not in self._paused:
                self._count([record], 1)
        self._balance()
        self.changed.set()

    def take(self, limit: int) -> Sequence[Record]:
        """At most so many records of the partitions that are not paused."""
        taken: list[Record] = []
        for name in [name for name, queue in self._queues.items() if queue and name not in self._paused]:
            if len(taken) == limit:
                break
            # Whoever is served goes to the end of the line.
            queue = self._queues[name] = self._queues.pop(name)
            taken += [queue.popleft() for _ in range(min(limit - len(taken), len(queue)))]
        self._count(taken, -1)
        self._balance()
        return taken

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Keep what is here of these partitions; it no longer counts as piled up, or others could not go on."""
        for name in set(partitions) - self._paused:
            self._paused.add(name)
            self._count(self._queues.get(name, ()), -1)
        self._balance()

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        for name in self._paused.intersection(partitions):
            self._paused.discard(name)
            self._count(self._queues.get(name, ()), 1)
        self._balance()
        self.changed.set()

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget these partitions, their records and whether they were paused."""
        for name in list(partitions):
            queue = self._queues.pop(name, ())
            if name not in self._paused:
                self._count(queue, -1)
            self._paused.discard(name)
        self._balance()

    def drop_all(self) -> None:
        self.drop(self._queues.keys() | self._paused)

    async def wait(self, deadline: float) -> bool:
        """Whether anything changed before that time of the loop."""
        try:
            async with asyncio.timeout_at(deadline):
                await self.changed.wait()
        except TimeoutError:
            return False
        return True

    def _count(self, records: Iterable[Record], sign: int) -> None:
        for record in records:
            self._records += sign
            self._bytes += sign * _size(record)

    def _balance(self) -> None:
        if not self._throttled and (self._records > _FULL_RECORDS or self._bytes > _FULL_BYTES):
            self._throttled = True
            self._throttle(True)
        elif self._throttled and self._records < _EMPTY_RECORDS and self._bytes < _EMPTY_BYTES:
            self._throttled = False
            self._throttle(False)
