"""Consumes typed events: `async for delivered in consume("tasks.completed", TaskCompleted, group="billing")`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar, overload

from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.headers import header
from headrace_contracts.topics import Event, TopicSpec
from headrace_streams.errors import PartitionsLost, TransientError
from headrace_streams.partitioning import partition_of
from headrace_streams.ports import Consumer, PartitionReader, RebalanceListener
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition

from headrace.connecting import Cluster, spec_named

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Newest:
    """Start at most this many records before the end of each partition."""

    records: int


Start = Literal["start", "end"] | datetime | Newest
OnUnreadable = Callable[[Record, UnreadableValue], Awaitable[None] | None]

_BATCH: Final = 500
_WAIT_SECONDS: Final = 0.5
_COMMIT_SECONDS: Final = 1.0
_SILENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Delivered(Generic[E]):
    """A consumed event.

    Attributes:
        event: The event.
        record: The record that contained it: topic, partition, offset, timestamp, key, headers.
    """

    event: E
    record: Record

    @property
    def event_id(self) -> str | None:
        """ce_id: the same for a repeat of the same event."""
        return header(self.record.headers, "ce_id")

    @property
    def tenant(self) -> str | None:
        """ce_tenant: the tenant of the event."""
        return header(self.record.headers, "ce_tenant")

    @property
    def traceparent(self) -> str | None:
        """W3C trace context."""
        return header(self.record.headers, "traceparent")


@overload
def consume(
    topic: str,
    record: type[E],
    *,
    group: str | None = ...,
    start: Start = ...,
    follow: bool = ...,
    keys: Collection[bytes] | None = ...,
    on_unreadable: OnUnreadable | None = ...,
    cluster: Cluster | None = ...,
) -> Consumption[E]: ...
@overload
def consume(
    topic: str,
    *,
    group: str | None = ...,
    start: Start = ...,
    follow: bool = ...,
    keys: Collection[bytes] | None = ...,
    on_unreadable: OnUnreadable | None = ...,
    cluster: Cluster | None = ...,
) -> Consumption[Any]: ...
def consume(
    topic: str,
    record: type[Any] | None = None,
    *,
    group: str | None = None,
    start: Start = "end",
    follow: bool = True,
    keys: Collection[bytes] | None = None,
    on_unreadable: OnUnreadable | None = None,
    cluster: Cluster | None = None,
) -> Consumption[Any]:
    """Consume the events of a topic.

    Without a group, this reader sees every record of all partitions, and no offsets are committed. The members of a
    group share the partitions, and a record's offset is committed when the loop asks for the next record: at least
    once, also across crashes. Close it when done (`async with`), so that the group need not wait for a timeout.

    Args:
        topic: Its name, with or without the prefix.
        record: Event class of the topic, for type checkers; checked.
        group: Consumer group.
        start: Where to begin; for a group only if it has not committed any offset yet: "start" (oldest), "end" (from
            now on), a time, or the newest few (the latter two not with a group).
        follow: Whether to continue at the end; False stops at the end as it was at the beginning (not with a group).
        keys: Only records with these keys, of a topic partitioned by its keys (skills.feed): no other partition is
            read (not with a group).
        on_unreadable: Called with a record that cannot be decoded, and the error; also for tombstones of compacted
            topics. The iteration then continues. Without it the error is raised.
        cluster: The cluster; by default what `locate` finds.

    Raises ValueError for incompatible arguments, TopicUnknown, Misconfigured. The iteration raises
    UnreadableValue (unless on_unreadable is given), OffsetOutOfRange, TopicMissing, LeaveGroup, RegistryUnavailable.
    """
    if group is not None and (not isinstance(start, str) or not follow or keys is not None):
        raise ValueError("a group starts at 'start' or 'end', and follows; anything else goes without a group")
    if isinstance(start, datetime) and start.tzinfo is None:
        raise ValueError("start needs a time zone, such as datetime.now(UTC)")
    own = cluster is None
    cluster = cluster or Cluster.at()
    spec = spec_named(topic, cluster.codec.topic_prefix)
    if record is not None and spec.record is not record:
        raise ValueError(f"{spec.name} holds {spec.record.__name__}, not {record.__name__}")
    source: _Source = (
        _Everything(cluster, spec, start, follow, keys)
        if group is None
        else _Share(cluster, spec, group, start == "start")
    )
    return Consumption(cluster, spec, source, on_unreadable, close_cluster=own)


class Consumption(Generic[E]):
    """An open consumption; iterate over it once."""

    def __init__(
        self,
        cluster: Cluster,
        spec: TopicSpec,
        source: _Source,
        on_unreadable: OnUnreadable | None,
        *,
        close_cluster: bool,
    ) -> None:
        self._cluster = cluster
        self._record: type[Any] = spec.record
        self._source = source
        self._on_unreadable = on_unreadable
        self._close_cluster = close_cluster
        self._iterator: AsyncGenerator[Delivered[E], None] | None = None
        self._closed = False

    async def start(self) -> Self:
        """Connect now, so that all records written from here on are seen; otherwise iterating connects."""
        await self._source.start()
        return self

    def __aiter__(self) -> AsyncIterator[Delivered[E]]:
        if self._iterator is not None:
            raise RuntimeError("a consumption can be iterated over once")
        self._iterator = self._deliver()
        return self._iterator

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Commit the offsets of finished records, and leave."""
        if self._iterator is not None:
            await self._iterator.aclose()
        await self._end()

    async def _end(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._source.close()
        if self._close_cluster:
            await self._cluster.close()

    async def _deliver(self) -> AsyncGenerator[Delivered[E], None]:
        codec, source = self._cluster.codec, self._source
        try:
            await source.start()
            while (batch := await source.poll()) is not None:
                for record in batch:
                    if not source.owns(record):
                        continue
                    origin = Origin(record.topic, record.partition, record.offset)
                    try:
                        event = await codec.read(self._record, record.value, origin)
                    except UnreadableValue as error:
                        if self._on_unreadable is None:
                            raise
                        told = self._on_unreadable(record, error)
                        if told is not None:
                            await told
                    else:
                        yield Delivered(event, record)
                    await source.finished(record)
        finally:
            await self._end()


class _Source:
    """Source of records, with its positions."""

    async def start(self) -> None:
        raise NotImplementedError

    async def poll(self) -> Sequence[Record] | None:
        """The next records, possibly none; None at the end."""
        raise NotImplementedError

    def owns(self, record: Record) -> bool:
        """Whether to deliver a polled record: its key may not be requested, or its partition may be lost by now."""
        raise NotImplementedError

    async def finished(self, record: Record) -> None:
        """The loop is done with a record."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class _Everything(_Source):
    """All partitions, outside any group."""

    def __init__(
        self, cluster: Cluster, spec: TopicSpec, start: Start, follow: bool, keys: Collection[bytes] | None
    ) -> None:
        self._cluster = cluster
        self._topic = cluster.topic(spec)
        self._start = start
        self._follow = follow
        self._keys = None if keys is None else frozenset(keys)
        self._reader: PartitionReader | None = None
        self._left: dict[TopicPartition, int] = {}
        self._heard_at = 0.0

    async def start(self) -> None:
        if self._reader is not None:
            return
        reader = self._reader = self._cluster.log.reader()
        partitions = await reader.partitions_of(self._topic)
        if self._keys is not None:
            holding = {partition_of(key, len(partitions)) for key in self._keys}
            partitions = [part for part in partitions if part.partition in holding]
        bounds = await reader.bounds(partitions)
        if isinstance(self._start, datetime):
            positions = dict(await reader.offsets_at(partitions, int(self._start.timestamp() * 1000)))
        elif isinstance(self._start, Newest):
            positions = {part: max(first, end - self._start.records) for part, (first, end) in bounds.items()}
        else:
            positions = {part: first if self._start == "start" else end for part, (first, end) in bounds.items()}
        if not self._follow:
            self._left = {part: end for part, (_, end) in bounds.items() if positions[part] < end}
            positions = {part: positions[part] for part in self._left}
        if positions:
            await reader.assign(positions)
        self._heard_at = time.monotonic()

    async def poll(self) -> Sequence[Record] | None:
        assert self._reader is not None
        if self._follow:
            return await self._reader.poll(_BATCH, _WAIT_SECONDS)
        if not self._left:
            return None
        batch = await self._reader.poll(_BATCH, _WAIT_SECONDS)
        now = time.monotonic()
        if batch:
            self._heard_at = now
        elif now - self._heard_at > _SILENCE_SECONDS:
            # Compaction has removed the last records before the end: nothing more will come.
            self._left.clear()
        kept: list[Record] = []
        for record in batch:
            end = self._left.get(record.topic_partition)
            if end is None:
                continue
            if record.offset < end:
                kept.append(record)
            if record.offset + 1 >= end:
                del self._left[record.topic_partition]
        return kept

    def owns(self, record: Record) -> bool:
        return self._keys is None or record.key in self._keys

    async def finished(self, record: Record) -> None:
        return

    async def close(self) -> None:
        if self._reader is not None:
            await self._reader.close()


class _Share(_Source, RebalanceListener):
    """The partitions assigned to this member of a group."""

    def __init__(self, cluster: Cluster, spec: TopicSpec, group: str, from_start: bool) -> None:
        self._cluster = cluster
        self._topic = cluster.topic(spec)
        self._group = group
        self._from_start = from_start
        self._consumer: Consumer | None = None
        self._finished: dict[TopicPartition, int] = {}
        self._owned: set[TopicPartition] = set()
        self._gone: set[TopicPartition] = set()
        self._committed_at = time.monotonic()

    async def start(self) -> None:
        if self._consumer is None:
            self._consumer = self._cluster.log.consumer(self._group, from_start=self._from_start)
            await self._consumer.subscribe([self._topic], self)

    async def poll(self) -> Sequence[Record] | None:
        assert self._consumer is not None
        await self._commit_when_due()
        batch = await self._consumer.poll(_BATCH, _WAIT_SECONDS)
        # Partitions lost before this moment are not in the batch; those lost while it is processed are dropped from it.
        self._gone.clear()
        return batch

    def owns(self, record: Record) -> bool:
        return record.topic_partition not in self._gone

    async def finished(self, record: Record) -> None:
        if self.owns(record):
            self._finished[record.topic_partition] = record.offset + 1
            await self._commit_when_due()

    async def close(self) -> None:
        if self._consumer is not None:
            await self._consumer.close()

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        self._owned.update(partitions)
        return {}

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        self._leave(partitions)
        await self._commit([part for part in partitions if part in self._finished])

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        self._leave(partitions)
        for part in partitions:
            self._finished.pop(part, None)

    def _leave(self, partitions: Collection[TopicPartition]) -> None:
        self._gone.update(partitions)
        self._owned.difference_update(partitions)

    async def _commit_when_due(self) -> None:
        if self._finished and time.monotonic() - self._committed_at >= _COMMIT_SECONDS:
            await self._commit(list(self._finished))

    async def _commit(self, partitions: Collection[TopicPartition]) -> None:
        assert self._consumer is not None
        progress = {part: OffsetAndMetadata(self._finished.pop(part)) for part in partitions}
        if not progress:
            return
        try:
            await self._consumer.commit(progress)
        except (TransientError, PartitionsLost):
            # Retried with the next commit where the partition is still ours and no later record was finished meanwhile.
            # The new owner of another partition delivers its records again, which "at least once" allows.
            for part, kept in progress.items():
                if part in self._owned:
                    self._finished.setdefault(part, kept.next_offset)
        self._committed_at = time.monotonic()
