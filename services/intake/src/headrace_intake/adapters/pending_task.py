"""A task that this process accepted, and the replies received for it so far."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from headrace_contracts.events import TaskReply
from headrace_contracts.task_sizes import held_bytes

from headrace_intake.adapters.believed_replies import BelievedReplies
from headrace_intake.decide.replies import NOTHING_YET, Delta, Heard, ReplyUpdate, StillWaiting, TaskFinished, hear
from headrace_intake.decide.views import TaskView, with_completion

_ENTRY_BYTES: Final = 300
"""Approximate memory of an event besides its text."""
_TASK_BYTES: Final = 1_500
"""Approximate memory of a task without replies."""


class BufferGone(Exception):
    """The events after `offset` are no longer in memory: read them from the topic."""

    def __init__(self, offset: int | None) -> None:
        super().__init__(f"events after {offset} are no longer in memory")
        self.offset = offset


@dataclass(frozen=True, slots=True)
class ReplyEvent:
    """An update, and the offset of its record; the offset is None while more updates of the same record follow."""

    told: ReplyUpdate
    offset: int | None


class PendingTask:
    """One task. Everything happens in the event loop: a reply wakes its waiters in the turn in which it is handled."""

    __slots__ = (
        "_buffer_bytes",
        "_cut_at",
        "_events",
        "_first",
        "_followers",
        "_heard",
        "_waiters",
        "accepted",
        "believed",
        "bytes",
        "end",
        "home_partition",
        "key",
        "view",
    )

    def __init__(self, view: TaskView, key: bytes, buffer_bytes: int, believed: BelievedReplies) -> None:
        self.view = view
        self.key = key
        self.believed = believed
        self.home_partition: int | None = None
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.end: asyncio.Future[TaskView] = asyncio.get_running_loop().create_future()
        self.bytes = _TASK_BYTES
        self._buffer_bytes = buffer_bytes
        self._heard: Heard = NOTHING_YET
        self._events: deque[ReplyEvent] = deque()
        self._first = 0
        self._followers = 0
        self._cut_at: int | None = None
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_followed(self) -> bool:
        """Whether a caller waits for its end or follows its updates, also one that is not waiting at the moment."""
        return self._followers > 0

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep the task in memory while a caller waits for its end."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1

    def shed(self) -> None:
        """Give back the memory of all updates but the last one; who still needs the others reads them in the topic."""
        while len(self._events) > 1:
            self._drop_first()

    def take(self, reply: TaskReply, offset: int) -> None:
        """Add a reply and wake the waiters. Raises ContentSealed."""
        self._heard, told = hear(self._heard, reply)
        if not told:
            return
        for number, each in enumerate(told, start=1):
            event = ReplyEvent(each, offset if number == len(told) else None)
            self._events.append(event)
            self.bytes += _size(each)
        while self.bytes - _TASK_BYTES > self._buffer_bytes and len(self._events) > 1:
            self._drop_first()
        last = told[-1]
        if isinstance(last, StillWaiting):
            self.view = replace(self.view, trail=last.trail)
        if isinstance(last, TaskFinished):
            self.view = with_completion(self.view, last.result)
            self.end.set_result(self.view)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _drop_first(self) -> None:
        dropped = self._events.popleft()
        self._first += 1
        self._cut_at = dropped.offset if dropped.offset is not None else self._cut_at
        self.bytes -= _size(dropped.told)

    def fail(self, error: Exception) -> None:
        """The task was not accepted: pass the error to everything that waits for acceptance."""
        if not self.accepted.done():
            self.accepted.set_exception(error)
            # Usually nothing else waits; asyncio must not complain about an exception that was never retrieved.
            self.accepted.exception()

    def ended_by(self, offset: int) -> bool:
        """Whether nothing follows after an offset."""
        last = self._events[-1] if self._events else None
        return self.end.done() and last is not None and last.offset is not None and last.offset <= offset

    async def follow(self, after: int | None) -> AsyncGenerator[ReplyEvent, None]:
        """All updates after an offset (None: from the beginning), until the end.

        Raises BufferGone when the caller is too slow or asks for an offset that is no longer in memory.
        """
        with self.followed():
            place = self._place_after(after)
            seen = after
            while True:
                if place < self._first:
                    raise BufferGone(seen)
                while place - self._first < len(self._events):
                    event = self._events[place - self._first]
                    place += 1
                    yield event
                    if event.offset is not None:
                        seen = event.offset
                    if place < self._first:
                        raise BufferGone(seen)
                if self.end.done():
                    return
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                try:
                    await waiter
                finally:
                    if waiter in self._waiters:
                        self._waiters.remove(waiter)

    def _place_after(self, offset: int | None) -> int:
        if offset is None:
            return 0
        if self._cut_at is not None and offset < self._cut_at:
            raise BufferGone(offset)
        place = self._first
        for index, event in enumerate(self._events):
            if event.offset is not None and event.offset <= offset:
                place = self._first + index + 1
        return place


def _size(told: ReplyUpdate) -> int:
    match told:
        case Delta(text, _, pieces):
            return (
                _ENTRY_BYTES
                + len(text)
                + sum(_ENTRY_BYTES + len(piece.text) + len(piece.signature) for piece in pieces)
            )
        case TaskFinished(result):
            answer = 0 if result.answer is None else len(result.answer.data)
            return _ENTRY_BYTES + answer + held_bytes(result.choices) + held_bytes(result.embeddings)
        case StillWaiting(trail):
            return _ENTRY_BYTES * (1 + len(trail))
        case _:
            return _ENTRY_BYTES
