"""Wake-up times of tasks."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from typing import Final

_SLACK: Final = 1000
_LOOK_AGAIN_SECONDS: Final = 5.0
"""Longest time between two readings of the clock, which may be set forward."""


class Timers:
    """Calls back when a task is due. Only a task's newest time counts.

    A heap with lazy deletion: a replaced time stays in the heap and is dropped when it comes up, since `_times` has the
    valid one. `_tidy` bounds what has piled up. The clock may jump: set forward, timers fire that much earlier, noticed
    within seconds; set back, that much later. None is lost.

    Args:
        clock: Milliseconds since the Unix epoch.
        due: Called with the id of a task that is due.
    """

    def __init__(self, clock: Callable[[], int], due: Callable[[str], None]) -> None:
        self._clock = clock
        self._due = due
        self._heap: list[tuple[int, str]] = []
        self._times: dict[str, int] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._armed_for = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._times)

    def set(self, task_id: str, at: int | None) -> None:
        """Set a task's time, in milliseconds since the Unix epoch; None removes it."""
        if at is None:
            self._times.pop(task_id, None)
            return
        if self._times.get(task_id) == at:
            return
        self._times[task_id] = at
        heapq.heappush(self._heap, (at, task_id))
        if len(self._heap) > 2 * len(self._times) + _SLACK:
            self._tidy()
        self._arm()

    def set_all(self, times: Iterable[tuple[str, int | None]]) -> None:
        """As `set` for each, but faster for many."""
        for task_id, at in times:
            if at is None:
                self._times.pop(task_id, None)
            else:
                self._times[task_id] = at
        self._tidy()
        self._arm()

    def close(self) -> None:
        """Stop calling back."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()

    def _tidy(self) -> None:
        self._heap = [(time, task) for task, time in self._times.items()]
        heapq.heapify(self._heap)

    def _arm(self) -> None:
        if self._closed or not self._heap:
            return
        first = self._heap[0][0]
        if self._handle is not None:
            if self._armed_for <= first:
                return
            self._handle.cancel()
        self._armed_for = first
        delay = min(max(0, first - self._clock()) / 1000, _LOOK_AGAIN_SECONDS)
        self._handle = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._handle = None
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            at, task_id = heapq.heappop(self._heap)
            if self._times.get(task_id) == at:
                del self._times[task_id]
                self._due(task_id)
        self._arm()
