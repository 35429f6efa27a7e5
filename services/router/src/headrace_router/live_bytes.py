"""The bytes of all tasks in flight in a process, and when no more may become live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class LiveBytes:
    """Counts what the tasks in flight of all partitions of a process take (`task_sizes`).

    At the limit it is `closed`: tasks stay in tasks.submitted, until an eighth of the limit is free again. One task may
    be larger than all of it, and a partition that is taken over brings what it has.

    Args:
        limit: In bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.closed = False
        self._on_open: list[Callable[[], None]] = []

    def on_open(self, call: Callable[[], None]) -> None:
        """Register a callback for when tasks may become live again. It is called in a turn of the loop of its own."""
        self._on_open.append(call)

    def share(self) -> LiveBytesShare:
        """What one partition has."""
        return LiveBytesShare(self)

    def _add(self, change: int) -> None:
        self.total += change
        if self.total >= self.limit:
            self.closed = True
        elif self.closed and self.total <= self.limit - self.limit // 8:
            self.closed = False
            for call in self._on_open:
                asyncio.get_running_loop().call_soon(call)


class LiveBytesShare:
    """The bytes of one partition's tasks in flight."""

    def __init__(self, of: LiveBytes) -> None:
        self._of = of
        self._held = 0
        self._left = False

    def set(self, held: int) -> None:
        """The partition has so many bytes now."""
        if not self._left:
            change, self._held = held - self._held, held
            self._of._add(change)

    def leave(self) -> None:
        """The partition is not routed here any more."""
        self.set(0)
        self._left = True
