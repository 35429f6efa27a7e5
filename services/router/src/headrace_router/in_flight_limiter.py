"""Limits the number of entries in flight."""

from __future__ import annotations

import asyncio


class InFlightLimiter:
    """Counts entries in flight in all partitions of a process. Each partition has an equal share of the limit, so that
    one whose journal does not answer leaves the others theirs.

    Args:
        limit: Maximum number of entries between their append and the publication of their terminal states.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._room = asyncio.Event()
        self._room.set()
        self._partitions = 1

    @property
    def share(self) -> int:
        """Most entries in flight of one partition."""
        return max(1, self._limit // self._partitions)

    def shared_by(self, partitions: int) -> None:
        """Set the number of partitions that share the limit."""
        self._partitions = max(1, partitions)

    @property
    def full(self) -> bool:
        return self._inside >= self._limit

    def enter(self) -> None:
        self._inside += 1
        if self.full:
            self._room.clear()

    def leave(self, count: int = 1) -> None:
        self._inside -= count
        if not self.full:
            self._room.set()

    async def room(self) -> None:
        """Wait until it is not full."""
        await self._room.wait()
