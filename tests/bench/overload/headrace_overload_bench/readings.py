"""Memory of the platform's processes, read again and again while something else goes on."""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import psutil
from headrace_devstack.parts.sizes import Sizes
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


_HEAP: Final = re.compile(r"-Xmx([0-9]+)m")
_BESIDE_THE_HEAP: Final = 176 << 20
"""Classes, compiled code, stacks, and the indexes of logs that Kafka maps into its memory."""
_BESIDE_THE_BUFFERS: Final = 32 << 20


def ceilings(parts: Parts) -> dict[str, float]:
    """Bytes of parts whose own settings bound them, which they fill in their time: Java's heap, Postgres's buffers."""
    found: dict[str, float] = {}
    for part, pid in parts.roots.items():
        if (heap := _HEAP.search(" ".join(psutil.Process(pid).cmdline()))) is not None:
            found[part] = (int(heap[1]) << 20) + _BESIDE_THE_HEAP
        elif part == "postgres":
            found[part] = (int(Sizes().shared_buffers.removesuffix("MB")) << 20) + _BESIDE_THE_BUFFERS
    return found


def restarted(before: Mapping[str, int], now: Mapping[str, int]) -> int:
    """How many parts have another process than before."""
    return sum(before.get(part, pid) != pid for part, pid in now.items())
