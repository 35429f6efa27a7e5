"""Lets what has become ready together pass a few at a time.

Calls that end together would all be read, then all be reported, and only then would the first of the next calls begin:
an event loop runs what is ready in turn, one step of each. So a thousand calls that take equally long stay together for
ever, and their endpoint is idle while the worker is busy with them, each time. When they pass a few at a time, the next
calls begin one after the other meanwhile, and have drifted apart by the time they end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

_EACH_TURN: Final = 4
"""Less than what is worth a look at the sockets costs more than it helps; more holds up what is next."""


class Pacing:
    """Lets so many callers pass in each turn of the event loop, in the order in which they came.

    As long as no more come than that, nobody waits. For one event loop.
    """

    __slots__ = ("_each", "_is_due", "_left", "_waiting")

    def __init__(self, each: int = _EACH_TURN) -> None:
        self._each = each
        self._left = each
        self._is_due = False
        """Whether a next turn is to come, in which as many again may pass."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Wait until it is the caller's turn. One that is cancelled meanwhile holds up nobody."""
        loop = asyncio.get_running_loop()
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._next_turn, loop)
        if self._left > 0:
            self._left -= 1
            return
        passes = loop.create_future()
        self._waiting.append(passes)
        await passes

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        left = self._each
        while self._waiting and left > 0:
            passes = self._waiting.popleft()
            if not passes.done():
                passes.set_result(None)
                left -= 1
        self._left = left
        self._is_due = left < self._each
        if self._is_due:
            loop.call_soon(self._next_turn, loop)
