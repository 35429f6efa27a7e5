"""Which records of a projection come next, by partition, and how its stored positions move."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from headrace_streams.log_identity import Continue, DataLost, StoredPosition, Truncated
from headrace_streams.records import Record, TopicPartition
from headrace_streams.watching import LogWatch, Looked

_STANDS_STILL_SECONDS: Final = 45.0
"""So long without a record, although there are some: more than one comparison after the other."""

Moves = Mapping[TopicPartition, tuple[StoredPosition | None, StoredPosition]]
"""For each partition, the position that the store must hold (None: none yet) and the new one."""


class AppliedPositions:
    """Positions of the partitions assigned to one projection.

    Args:
        watch: Compares them with their logs.
    """

    def __init__(self, watch: LogWatch) -> None:
        self._watch = watch
        # What the store holds.
        self._stored: dict[TopicPartition, StoredPosition | None] = {}
        # What comes next, and of which log it is.
        self._next: dict[TopicPartition, int] = {}
        self._ids: dict[TopicPartition, str | None] = {}
        # Of partitions that delivered another offset than the next one: what should have come, and the lowest that did.
        self._doubted: dict[TopicPartition, tuple[int, int]] = {}
        self.doubtful = asyncio.Event()
        # Where each partition stood when it was last seen to move, and when that was, in the loop's time.
        self._moved: dict[TopicPartition, tuple[int, float]] = {}
        self.standing: Mapping[TopicPartition, str] = {}
        """Partitions that have records and have not moved for a while, or do not answer; by the last comparison."""

    async def begin(
        self, partitions: Collection[TopicPartition], stored: Mapping[TopicPartition, StoredPosition]
    ) -> Mapping[TopicPartition, int]:
        """Add assigned partitions; returns where to start."""
        looked = await self._watch.look({name.topic for name in partitions}, stored)
        for name in partitions:
            position = stored.get(name)
            self._stored[name] = position
            self._ids[name] = looked.topic_ids.get(name.topic)
            if position is None:
                # Or later, if the log begins later: the client then goes on at the first record.
                self._next[name] = 0
                continue
            verdict = looked.verdicts.get(name)
            if verdict is None:
                # Compared as soon as the partition answers; until then its position is one of the stored log.
                self._ids[name] = position.topic_id
                self._next[name] = position.next_offset
                continue
            self._next[name] = verdict.start_at
            if not isinstance(verdict, Continue):
                self._watch.tell(name, position, verdict)
        return {name: self._next[name] for name in partitions}

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Remove partitions that are no longer assigned."""
        for name in partitions:
            for each in (self._stored, self._next, self._ids, self._doubted, self._moved):
                each.pop(name, None)

    def takes(self, record: Record) -> bool:
        """Whether a record that was delivered is to be applied: it comes next, or after a gap.

        One from before is not: the log may be another one than before, and it will be delivered again.
        """
        name = record.topic_partition
        expected = self._next.get(name)
        if expected is None:
            return False
        if record.offset != expected and (expected or self._stored[name] is not None):
            should, lowest = self._doubted.get(name, (expected, record.offset))
            self._doubted[name] = (should, min(lowest, record.offset))
            self.doubtful.set()
        if record.offset < expected:
            return False
        self._next[name] = record.offset + 1
        return True

    def moves_of(self, records: Iterable[Record]) -> Moves:
        """How the positions move when these records are applied."""
        ends = {record.topic_partition: record.offset + 1 for record in records}
        return {name: (self._stored[name], StoredPosition(end, self._ids[name])) for name, end in ends.items()}

    def moved(self, moves: Moves) -> None:
        """The store holds the new positions."""
        for name, (_, position) in moves.items():
            self._stored[name] = position

    async def compare(self) -> Mapping[TopicPartition, tuple[int, str]]:
        """The partitions that have to go on elsewhere: at which offset, and of which log."""
        positions = {
            name: StoredPosition(self._doubted.get(name, (following, 0))[0], self._ids[name])
            for name, following in self._next.items()
        }
        looked = await self._watch.look({name.topic for name in positions}, positions)
        self.standing = self._standing(positions, looked)
        elsewhere: dict[TopicPartition, tuple[int, str]] = {}
        for name, verdict in looked.verdicts.items():
            if name not in self._next:
                continue
            log = looked.topic_ids[name.topic]
            should, lowest = self._doubted.pop(name, (0, 0))
            if isinstance(verdict, Continue):
                if lowest >= should:
                    self._ids[name] = log
                    continue
                # Delivered from before, of the same log: it was cut short, and has grown beyond the position since.
                verdict = Truncated(lowest)
            self._watch.tell(name, positions[name], verdict)
            if isinstance(verdict, DataLost):
                # The client has gone on at the first record by itself, or will.
                self._next[name] = max(self._next[name], verdict.start_at)
            else:
                elsewhere[name] = (verdict.start_at, log)
        return elsewhere

    def _standing(
        self, positions: Mapping[TopicPartition, StoredPosition], looked: Looked
    ) -> dict[TopicPartition, str]:
        now = asyncio.get_running_loop().time()
        found: dict[TopicPartition, str] = {}
        for name, position in positions.items():
            at, since = self._moved.get(name, (-1, now))
            first, end = looked.bounds.get(name, (None, None))
            if at != position.next_offset or (end is not None and position.next_offset >= end):
                self._moved[name] = (position.next_offset, now)
            elif now - since >= _STANDS_STILL_SECONDS:
                what = "does not answer" if end is None else f"stands at {max(at, first or 0)} of {end}"
                found[name] = f"{name} {what} for {now - since:.0f} s"
        return found

    def stored(self, name: TopicPartition) -> tuple[int, str | None]:
        """Where the store wants an assigned partition to go on, and in which log."""
        position = self._stored[name]
        if position is None or position.topic_id != self._ids[name]:
            return 0, self._ids[name]
        return position.next_offset, self._ids[name]

    def go_on_at(self, name: TopicPartition, start: int, log: str | None) -> None:
        """The partition delivers from another offset now."""
        if name in self._next:
            self._next[name], self._ids[name] = start, log
            self._doubted.pop(name, None)
