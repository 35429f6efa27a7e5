"""How much may be under way at once."""

from __future__ import annotations

import asyncio


class InFlightLimiter:
    """Counts what is under way, and lets nothing new in beyond a limit. What is moved by time is counted, not held.

    Args:
        limit: Most entries between their decision and the acknowledgement of what follows from them.
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
        """Wait until something new may come in."""
        await self._room.wait()
