"""Limits the number of entries in flight, so that a partition in trouble leaves room for the others."""

from __future__ import annotations

import asyncio


class InFlightLimiter:
    """Counts entries in flight in all partitions of a process.

    Each partition has a share, which is full when it holds as many entries as are free for all: the dynamic threshold
    of shared-memory switches (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches",
    1998, with alpha = 1). One busy partition may use half of the limit, and n partitions whose appends hang leave
    1/(n+1) of it to the rest.

    Args:
        limit: Maximum number of entries between their append and the acknowledgement of their commands.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._left: asyncio.Future[None] | None = None

    @property
    def free(self) -> int:
        return self._limit - self._inside

    def share(self) -> InFlightShare:
        """The share of one partition."""
        return InFlightShare(self)

    def _enter(self) -> None:
        self._inside += 1

    def _leave(self, count: int) -> None:
        self._inside -= count
        if self._left is not None:
            self._left.set_result(None)
            self._left = None

    async def _until_one_leaves(self) -> None:
        if self._left is None:
            self._left = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._left)


class InFlightShare:
    """The entries of one partition. Input waits while it is full; re-evaluated tasks are counted but never blocked,
    because they hold no input back."""

    def __init__(self, limiter: InFlightLimiter) -> None:
        self._limiter = limiter
        self._inside = 0

    @property
    def full(self) -> bool:
        return self._inside >= self._limiter.free

    def enter(self) -> None:
        self._inside += 1
        self._limiter._enter()

    def leave(self, count: int = 1) -> None:
        self._inside -= count
        self._limiter._leave(count)

    async def room(self) -> None:
        """Wait until it is not full."""
        while self.full:
            await self._limiter._until_one_leaves()
