"""The queue that Ollama does not show: a few calls run, some wait, interactive before batch; others are told when."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

_IN_A_ROW: Final = 8
"""Interactive calls that start while a batch call waits, before that one does."""
_WEIGHT_OF_NEWEST: Final = 0.2
_UNKNOWN_SECONDS: Final = 2.0
_LONGEST_RETRY_SECONDS: Final = 120


class QueueFull(Exception):
    """Refuse the call; `retry_after_seconds` is when there should be room."""

    def __init__(self, retry_after_seconds: int, reason: str) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class QueueState:
    """The queue at one moment.

    Attributes:
        slots: Calls that may run at once.
        room: Calls that may wait.
        tokens_per_second: Of one call, as lately observed; None if unknown.
        accepting: Whether new calls are taken.
    """

    slots: int
    running: int
    waiting: int
    room: int
    tokens_per_second: float | None
    accepting: bool


class CallQueue:
    """Lets at most `slots` calls run and `room` wait.

    An interactive call that finds the queue full takes the place of the batch call that came last, which is refused.
    """

    def __init__(self, slots: int, room: int) -> None:
        self._slots = slots
        self._room = room
        self._running = 0
        self._interactive: deque[asyncio.Future[None]] = deque()
        self._batch: deque[asyncio.Future[None]] = deque()
        self._in_a_row = 0
        self._usual_seconds = _UNKNOWN_SECONDS
        self._tokens_per_second: float | None = None
        self._closed: str | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def state(self) -> QueueState:
        """What to tell of it."""
        waiting = len(self._interactive) + len(self._batch)
        tokens = self._tokens_per_second
        return QueueState(self._slots, self._running, waiting, self._room, tokens, self._closed is None)

    def observe(self, tokens_per_second: float) -> None:
        """A call has written its answer at this speed."""
        self._tokens_per_second = _average(self._tokens_per_second, tokens_per_second)

    def close(self, reason: str) -> None:
        """Take no new calls; those that wait are refused, those that run go on."""
        self._closed = reason
        for waiting in (self._interactive, self._batch):
            while waiting:
                _refuse(waiting.pop(), self._refusal(reason))

    async def idle(self) -> None:
        """Returns when no call runs."""
        await self._idle.wait()

    @asynccontextmanager
    async def slot(self, *, batch: bool) -> AsyncIterator[None]:
        """Wait for a slot, and hold it in the block. Raises QueueFull."""
        await self._enter(batch=batch)
        began = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._usual_seconds = _average(self._usual_seconds, asyncio.get_running_loop().time() - began)
            self._leave()

    async def _enter(self, *, batch: bool) -> None:
        if self._closed is not None:
            raise self._refusal(self._closed)
        waiting = len(self._interactive) + len(self._batch)
        if self._running < self._slots and not waiting:
            self._start()
            return
        if waiting >= self._room:
            refusal = self._refusal(f"{self._running} calls run and {waiting} wait")
            if batch or not self._batch:
                raise refusal
            _refuse(self._batch.pop(), refusal)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._batch if batch else self._interactive
        line.append(mine)
        try:
            await mine
        except BaseException:
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._leave()  # it was given the slot, and is gone
            elif mine in line:
                line.remove(mine)
            raise

    def _start(self) -> None:
        self._running += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._running -= 1
        while self._running < self._slots and (chosen := self._next()) is not None:
            self._start()
            chosen.set_result(None)
        if self._running == 0:
            self._idle.set()

    def _next(self) -> asyncio.Future[None] | None:
        for line in (self._interactive, self._batch):
            while line and line[0].done():
                line.popleft()  # its caller is gone
        if self._batch and (not self._interactive or self._in_a_row >= _IN_A_ROW):
            self._in_a_row = 0
            return self._batch.popleft()
        if not self._interactive:
            return None
        self._in_a_row = self._in_a_row + 1 if self._batch else 0
        return self._interactive.popleft()

    def _refusal(self, reason: str) -> QueueFull:
        waiting = len(self._interactive) + len(self._batch)
        seconds = math.ceil(self._usual_seconds * (waiting + 1) / self._slots)
        return QueueFull(min(max(seconds, 1), _LONGEST_RETRY_SECONDS), reason)


def _refuse(waiting: asyncio.Future[None], refusal: QueueFull) -> None:
    if not waiting.done():
        waiting.set_exception(refusal)


def _average(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT_OF_NEWEST * (newest - before)
