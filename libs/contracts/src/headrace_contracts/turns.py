"""Who may ask next: a limited number at a time and a second, in turn among those who cause the questions."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Turns:
    """A token bucket whose tokens go to the sources that wait in turn, so that none waits for the many of another.

    Args:
        per_second: Turns a second in the long run.
        burst: Turns at once after a quiet time.
        at_once: Turns that may be taken at the same time.
    """

    def __init__(self, per_second: float, burst: int, at_once: int) -> None:
        self._per_second = per_second
        self._burst = burst
        self._at_once = at_once
        self._tokens = float(burst)
        self._counted_at: float | None = None
        self._running = 0
        self._queues: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def turn(self, source: Hashable) -> AsyncIterator[None]:
        """Wait for a turn on behalf of a source, and have it while the context lasts."""
        await self._wait(source)
        try:
            yield
        finally:
            self._running -= 1
            self._grant()

    def charge(self, tokens: float) -> None:
        """Let a turn that was dear count as so many more."""
        self._tokens -= tokens

    async def _wait(self, source: Hashable) -> None:
        if not self._queues and self._may_start():
            self._start()
            return
        granted = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(source, deque())
        queue.append(granted)
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():
                self._running -= 1
            elif granted in queue:
                queue.remove(granted)
            self._grant()
            raise

    def _may_start(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._counted_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._counted_at) * self._per_second)
        self._counted_at = now
        return self._tokens >= 1 and self._running < self._at_once

    def _start(self) -> None:
        self._tokens -= 1
        self._running += 1

    def _grant(self) -> None:
        """Give turns to those who wait, the source that has waited longest first."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queues:
            source, queue = next(iter(self._queues.items()))
            if not queue:
                del self._queues[source]
                continue
            if not self._may_start():
                break
            granted = queue.popleft()
            if granted.done():
                continue  # who waited has just given up
            granted.set_result(None)
            self._start()
            self._queues.move_to_end(source)
        if self._queues and self._running < self._at_once:
            pause = max(0.0, 1 - self._tokens) / self._per_second
            self._timer = asyncio.get_running_loop().call_later(pause, self._grant)
