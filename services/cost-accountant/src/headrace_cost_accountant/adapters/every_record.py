"""Hands on every record of a topic in the order of its partition, in pieces, to one member of a group.

The log is read by a client of its own, so it does not matter what the group's own consumer fetches, drops or
acknowledges. A membership begins where the group has committed; within it, the reader's positions tell what comes next.
A range without records (control records, compaction, retention) is passed over. `positions` are what to commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Final, Generic, TypeVar

from headrace_streams.errors import OffsetOutOfRange
from headrace_streams.ports import Admin, PartitionReader
from headrace_streams.records import Record, TopicPartition

T = TypeVar("T")

_PIECE: Final = 500
"""Most records that are handled in one step, in which the event loop does nothing else."""
_LONGEST_SECONDS: Final = 0.5
"""After this time `read` returns although there is more, so that what was handled is published and committed."""


@dataclass(frozen=True, slots=True)
class RecordHandling(Generic[T]):
    """What becomes of records: what `read` makes of each, which may wait, is passed to `add`, which is one step."""

    read: Callable[[Record], Awaitable[T]]
    add: Callable[[int, Sequence[tuple[Record, T]]], None]
    """Called with consecutive records of one partition, whose number is the first argument."""
    begin: Callable[[], None]
    """Called before records of another membership, and before those that failed come again."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a member of the group has.

    Attributes:
        number: Counts the times that partitions changed hands.
        partitions: Called to find out which are this member's.
    """

    number: Callable[[], int | None]
    """None while partitions are changing hands."""
    partitions: Callable[[], Collection[int]]


class EveryRecord(Generic[T]):
    """The records of one topic, for one member of a group. One task calls `read`.

    Args:
        reader: For use by this object alone.
    """

    def __init__(
        self,
        topic: str,
        group: str,
        handling: RecordHandling[T],
        admin: Admin,
        reader: PartitionReader,
        membership: Membership,
    ) -> None:
        self._topic = topic
        self._group = group
        self._handling = handling
        self._admin = admin
        self._reader = reader
        self._membership = membership
        # Of the membership with this number; after that other members may have moved on.
        self._number: int | None = None
        self._positions: dict[int, int] = {}

    def positions(self) -> dict[int, int]:
        """Next offset by partition: all records below it are handled. Empty while partitions are changing hands."""
        return dict(self._positions) if self._is_present() else {}

    async def read(self) -> None:
        """Handle what there is, and return when there is nothing more for the moment, or after a while.

        Raises what the handling raises, TransientError, TopicMissing, LeaveGroup, and OffsetOutOfRange if the log was
        cut short. Records that were not handled come again at the next call.
        """
        try:
            if not self._is_present():
                await self._begin()
            if self._number is not None:
                await self._read()
        except BaseException:
            self._number = None
            raise

    def _is_present(self) -> bool:
        return self._number is not None and self._number == self._membership.number()

    async def _begin(self) -> None:
        """Begin where the group stands: below that, everything was handled."""
        self._number, self._positions = None, {}
        self._handling.begin()
        number = self._membership.number()
        if number is None:
            await self._reader.assign({})
            return
        names = [TopicPartition(self._topic, partition) for partition in self._membership.partitions()]
        committed, bounds = await self._admin.committed(self._group), await self._reader.bounds(names)
        positions = {}
        for name, (first, end) in bounds.items():
            stands = committed.get(name)
            # Beyond the end if the topic was created again.
            is_in_log = stands is not None and first <= stands.next_offset <= end
            positions[name] = stands.next_offset if stands is not None and is_in_log else first
        await self._reader.assign(positions)
        if number == self._membership.number():
            self._number = number
            self._positions = {name.partition: offset for name, offset in positions.items()}

    async def _read(self) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + _LONGEST_SECONDS
        while True:
            try:
                records = await self._reader.poll(_PIECE, 0)
            except OffsetOutOfRange:
                await self._pass_over()
                return
            for partition, piece in groupby(records, attrgetter("partition")):
                read = [(record, await self._handling.read(record)) for record in piece]
                if not self._is_present():
                    # What is added now would overwrite another member's work.
                    return
                self._handling.add(partition, read)
                self._positions[partition] = read[-1][0].offset + 1
            # All that was delivered is handled.
            self._positions = {name.partition: offset for name, offset in self._reader.positions().items()}
            if not records or clock() >= until:
                return
            # Nothing above need have waited for anything.
            await asyncio.sleep(0)

    async def _pass_over(self) -> None:
        """Go on where the log begins now. Raises OffsetOutOfRange if it ends before a position."""
        bounds = await self._reader.bounds([TopicPartition(self._topic, partition) for partition in self._positions])
        for name, (first, end) in bounds.items():
            if self._positions[name.partition] > end:
                raise OffsetOutOfRange(
                    f"{name} had {self._positions[name.partition]} records and now ends at {end}: it was cut short"
                )
            self._positions[name.partition] = max(first, self._positions[name.partition])
        await self._reader.assign({TopicPartition(self._topic, each): at for each, at in self._positions.items()})
