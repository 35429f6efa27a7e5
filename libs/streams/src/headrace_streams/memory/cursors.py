"""Read positions of one client, and waiting for new records."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace_streams.errors import OffsetOutOfRange
from headrace_streams.memory.ailments import Sense
from headrace_streams.memory.cluster import MemoryCluster, PartitionLog
from headrace_streams.memory.network import Network, NetworkRequest, Operation
from headrace_streams.records import Record, TopicPartition, leading


@dataclass(slots=True, eq=False)
class _Cursor:
    partition: PartitionLog
    position: int
    paused: bool = False


class Cursors:
    """Positions of the partitions being read.

    Args:
        reset_to_start: Where to go on when a position is outside the log; None raises OffsetOutOfRange instead.
    """

    def __init__(self, cluster: MemoryCluster, network: Network, client: str, reset_to_start: bool | None) -> None:
        self.changed = asyncio.Event()
        self._cluster = cluster
        self._network = network
        self._client = client
        self._reset_to_start = reset_to_start
        self._cursors: dict[TopicPartition, _Cursor] = {}

    def __contains__(self, partition: object) -> bool:
        return partition in self._cursors

    def add(self, positions: Mapping[TopicPartition, int]) -> None:
        """Start reading these partitions at these offsets. Raises TopicMissing."""
        cursors = {name: _Cursor(self._cluster.partition(name), offset) for name, offset in positions.items()}
        self.drop(cursors)
        for cursor in cursors.values():
            cursor.partition.watchers[self.changed] = None
        self._cursors.update(cursors)
        self.changed.set()

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop reading these partitions; a fetch in flight returns no records of them either."""
        for name in list(partitions):
            cursor = self._cursors.pop(name, None)
            if cursor is not None:
                cursor.partition.watchers.pop(self.changed, None)

    def drop_all(self) -> None:
        self.drop(self._cursors)

    def pause(self, partitions: Collection[TopicPartition], paused: bool) -> None:
        for name in partitions:
            if name in self._cursors:
                self._cursors[name].paused = paused
        self.changed.set()

    def seek(self, name: TopicPartition, offset: int) -> None:
        """Go on at this offset; a fetch in flight returns no records of the partition."""
        paused = self._cursors[name].paused
        self.add({name: offset})
        self._cursors[name].paused = paused

    def positions(self) -> Mapping[TopicPartition, int]:
        return {name: cursor.position for name, cursor in self._cursors.items()}

    async def wait(self, deadline: float) -> bool:
        """Wait until the deadline (loop time) for a change; returns whether there was one."""
        try:
            async with asyncio.timeout_at(deadline):
                await self.changed.wait()
        except TimeoutError:
            return False
        return True

    async def fetch(self, limit: int, max_bytes: int | None = None) -> Sequence[Record]:
        """Records at the positions, which advance; the first one whatever its size. Raises OffsetOutOfRange."""
        reading = [cursor for cursor in self._cursors.values() if not cursor.paused and not self._hangs(cursor)]
        if not reading:
            return ()
        names = tuple(cursor.partition.name for cursor in reading)
        pieces = await self._network.call(
            NetworkRequest(self._client, Operation.FETCH, names),
            lambda: [self._read(cursor, limit) for cursor in reading],
        )
        fetched: list[Record] = []
        room = max_bytes
        for cursor, (piece, end) in zip(reading, pieces, strict=True):
            name = cursor.partition.name
            if self._cursors.get(name) is not cursor or cursor.paused:
                continue
            if not piece:
                # No record is left between the position and the end.
                cursor.position = max(cursor.position, end)
            elif piece := piece[: limit - len(fetched)]:
                if room is not None:
                    piece = piece[: leading(piece, room, at_least=0 if fetched else 1)]
                    if not piece:
                        break
                    room -= sum(len(record.value or b"") for record in piece)
                fetched += piece
                cursor.position = piece[-1].offset + 1
                # A partition that was served goes to the end of the queue.
                self._cursors[name] = self._cursors.pop(name)
        return fetched

    def _hangs(self, cursor: _Cursor) -> bool:
        """Whether the partition can be read now. Raises the error of one whose reads fail."""
        ailment = self._cluster.ailments.of(Sense.READS, cursor.partition.name)
        if ailment is not None and ailment.error is not None:
            raise type(ailment.error)(*ailment.error.args)
        return ailment is not None

    def _read(self, cursor: _Cursor, limit: int) -> tuple[Sequence[Record], int]:
        """Records from the position on, and the log's end offset."""
        partition = cursor.partition
        try:
            return partition.read(cursor.position, limit), partition.stable_end
        except OffsetOutOfRange:
            if self._reset_to_start is None:
                raise
            cursor.position = partition.start if self._reset_to_start else partition.end
            return partition.read(cursor.position, limit), partition.stable_end
