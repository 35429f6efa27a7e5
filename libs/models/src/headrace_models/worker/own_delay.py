"""How much too late a worker's own event loop runs what is due.

To a call that waits in this process for its turn, the endpoint seems to be slow: a thousand answers that come together
take a second of processor time to read, and a process that shares its processor is not run at all for a while. What is
learned of an endpoint must not count that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_LOOK_SECONDS: Final = 0.25


class OwnDelay:
    """Looks at the clock now and then while there are calls, and adds up by how much each look came too late.

    Args:
        is_needed: Whether there are calls.
    """

    __slots__ = ("_due", "_is_needed", "_total")

    def __init__(self, is_needed: Callable[[], bool]) -> None:
        self._is_needed = is_needed
        self._total = 0.0
        self._due: float | None = None

    def watch(self) -> None:
        """There is a call from now on. Needs a running event loop."""
        if self._due is None:
            self._look_later()

    def seconds(self, now: float) -> float:
        """All delays until now, by the loop's clock; what came between two moments is their difference."""
        return self._total + (0.0 if self._due is None else max(0.0, now - self._due))

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + _LOOK_SECONDS
        loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._total, self._due = self.seconds(asyncio.get_running_loop().time()), None
        if self._is_needed():
            self._look_later()
