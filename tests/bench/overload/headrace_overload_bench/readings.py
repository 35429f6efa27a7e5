"""Memory of the platform's processes, read again and again while something else goes on."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import psutil
from headrace_gateway_bench.processes import Parts


class MemoryReadings:
    """Bytes of each part over time, in which what several processes share counts once where the system tells.

    Args:
        parts: Names the platform's processes as they are now.
        every: Seconds between two readings.

    Attributes:
        readings: By part: seconds since this was made, and bytes.
        restarts: Processes that were started again.
    """

    def __init__(self, parts: Callable[[], Parts], every: float) -> None:
        self._parts = parts
        self._every = every
        self._began = time.monotonic()
        self._pids: dict[str, int] = {}
        self.readings: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self.restarts = 0

    @property
    def now(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._began

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Readings while the block lasts."""
        task = asyncio.create_task(self._go_on())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def most(self, since: float) -> dict[str, int]:
        """The most of each part from a time on."""
        recent = {part: [size for at, size in line if at >= since] for part, line in self.readings.items()}
        return {part: max(sizes) for part, sizes in recent.items() if sizes}

    async def _go_on(self) -> None:
        while True:
            await asyncio.to_thread(self._read)
            await asyncio.sleep(self._every)

    def _read(self) -> None:
        parts = self._parts()
        self.restarts += restarted(self._pids, parts.roots)
        self._pids = dict(parts.roots)
        try:
            memory = parts.memory()
        except psutil.NoSuchProcess:
            # It ended a moment ago, and has not been started again yet.
            return
        at = self.now
        for part, found in memory.items():
            self.readings[part].append((at, found.pss))


def restarted(before: Mapping[str, int], now: Mapping[str, int]) -> int:
    """How many parts have another process than before."""
    return sum(before.get(part, pid) != pid for part, pid in now.items())
