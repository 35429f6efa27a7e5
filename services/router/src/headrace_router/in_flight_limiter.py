"""Limits the number of entries in flight."""

from __future__ import annotations

import asyncio


class InFlightLimiter:
    """Counts entries in flight in all partitions of a process. Input waits while it is full; re-evaluated tasks are
    counted but never blocked, because they hold no input back.

    Args:
        limit: Maximum number of entries between their append and the acknowledgement of their commands.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._room = asyncio.Event()
        self._room.set()

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
