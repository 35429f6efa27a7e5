"""Hands on every record of a topic in the order of its partition, whatever Faust drops.

Faust drops records that it has fetched, and seeks back to none of them: `getmany` leaves out those of paused partitions
and stops in the middle of a batch, queues are emptied when flow control is switched on, and streams pass over what
arrives while it is off, and acknowledge it. Mending each of these places would tie us to all of Faust's inner workings.
Offsets show what is missing wherever it was lost: this class knows the next offset of each partition, reads what lies
between it and a delivered record from the log itself, and looks at the ends of the partitions for what no later record
reveals. A range without records (control records, compaction, retention) is passed over.

What Faust acknowledges says nothing about what was handled, so Faust must not commit: `positions` are what to commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from headrace_runtime.logging import get_logger
from headrace_streams.ports import Admin, PartitionReader
from headrace_streams.reading import up_to
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition

T = TypeVar("T")

_PIECE: Final = 500
"""Most records in memory at once of those that are read from the log."""
_POLL_SECONDS: Final = 0.5

_log = get_logger("headrace.costs.windows")


@dataclass(frozen=True, slots=True)
class RecordHandling(Generic[T]):
    """What becomes of a record: what `read` makes of it, which may wait, is passed to `add`, which is one step."""

    read: Callable[[Record], Awaitable[T]]
    add: Callable[[Record, T], None]
    on_missed: Callable[[], None]
    """Called for each record that was not delivered."""


@dataclass(slots=True)
class _Assigned:
    """What is known while this process has the same partitions. After that other members may have moved on."""

    number: int | None
    positions: dict[int, int] = field(default_factory=dict)
    committed: Mapping[TopicPartition, OffsetAndMetadata] | None = None
    looked: dict[int, int] = field(default_factory=dict)


class EveryRecord(Generic[T]):
    """The records of one topic, for one member of a group.

    Args:
        reader: For use by this object alone.
        membership: Number of the group's present membership; None while partitions are changing hands.
    """

    def __init__(
        self,
        topic: str,
        group: str,
        handling: RecordHandling[T],
        admin: Admin,
        reader: PartitionReader,
        membership: Callable[[], int | None],
    ) -> None:
        self._topic = topic
        self._group = group
        self._handling = handling
        self._admin = admin
        self._reader = reader
        self._number = membership
        self._membership = _Assigned(None)
        # Records are handled one after another, those read from the log before the one that revealed them.
        self._lock = asyncio.Lock()

    def positions(self) -> Mapping[int, int]:
        """Next offset by partition: all records below it are handled. Empty while partitions are changing hands."""
        return dict(self._present().positions)

    async def deliver(self, record: Record, membership: int) -> None:
        """Handle a record that was delivered in this membership, after those before it that were not.

        A record of an earlier membership is ignored: its partition may be another member's by now. Raises what the
        handling raises, TransientError, TopicMissing, LeaveGroup, and OffsetOutOfRange if the log was cut short.
        """
        async with self._lock:
            present = self._present()
            if present.number != membership:
                return
            await self._place(present, record.partition)
            if await self._fill(present, record.partition, record.offset):
                # Even if it is below the position: the topic may have been created again.
                await self._handle(present, record)

    async def look(self, partitions: Callable[[], Collection[int]]) -> None:
        """Handle what was not delivered at the end of a partition that stood still since the last call.

        `partitions` tells those that are being read now; one must be among them in two calls in a row. Raises as
        `deliver`.
        """
        async with self._lock:
            present = self._present()
            names = [TopicPartition(self._topic, number) for number in partitions()]
            if present.number is None or not names:
                present.looked = {}
                return
            ends = {name: end for name, (_, end) in (await self._reader.bounds(names)).items()}
            for name in names:
                await self._place(present, name.partition)
                stands_still = present.looked.get(name.partition) == present.positions[name.partition]
                may_fill = stands_still and name.partition in partitions()
                if may_fill and not await self._fill(present, name.partition, ends[name]):
                    return
            present.looked = {name.partition: present.positions[name.partition] for name in names}

    def _present(self) -> _Assigned:
        number = self._number()
        if self._membership.number != number:
            self._membership = _Assigned(number)
        return self._membership

    async def _place(self, present: _Assigned, partition: int) -> None:
        """Begin where the group stands: below that, everything was handled."""
        if partition in present.positions:
            return
        if present.committed is None:
            present.committed = await self._admin.committed(self._group)
        name = TopicPartition(self._topic, partition)
        first, end = (await self._reader.bounds([name]))[name]
        committed = present.committed.get(name)
        # Beyond the end if the topic was created again.
        is_in_log = committed is not None and first <= committed.next_offset <= end
        present.positions[partition] = committed.next_offset if committed is not None and is_in_log else first

    async def _fill(self, present: _Assigned, partition: int, end: int) -> bool:
        """Handle what the log holds from the position up to this offset. False as for `_handle`."""
        if present.positions[partition] >= end:
            return True
        name = TopicPartition(self._topic, partition)
        first, _ = (await self._reader.bounds([name]))[name]
        begin = max(first, present.positions[partition])
        missed = 0
        if begin < end:
            await self._reader.assign({name: begin})
            try:
                async with aclosing(up_to(self._reader, {name: end}, most=_PIECE, poll_seconds=_POLL_SECONDS)) as read:
                    async for records in read:
                        for record in records:
                            if record.offset >= end:
                                break
                            if not await self._handle(present, record):
                                return False
                            self._handling.on_missed()
                            missed += 1
            finally:
                await self._reader.assign({})
        present.positions[partition] = max(present.positions[partition], end)
        if missed:
            _log.info("read records that Faust dropped", partition=partition, begin=begin, end=end, records=missed)
        return True

    async def _handle(self, present: _Assigned, record: Record) -> bool:
        """False once the partitions have changed hands: what is added then would overwrite another member's work."""
        read = await self._handling.read(record)
        if self._present() is not present:
            return False
        self._handling.add(record, read)
        present.positions[record.partition] = max(present.positions[record.partition], record.offset + 1)
        return True
