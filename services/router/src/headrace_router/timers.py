"""When tasks want to be looked at again."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from typing import Final

_SLACK: Final = 1000
_LOOK_AGAIN_SECONDS: Final = 5.0
"""Longest time between two looks at the clock: it may be set forward."""


class Timers:
    """Calls back when a task's time has come. A task's newest time counts; older ones are dropped on the way.

    The clock may jump. Set forward, it makes times come that much earlier, and they are noticed within seconds; set
    back, it makes them come that much later. None is forgotten.

    Args:
        clock: Milliseconds since the epoch.
        due: Called with the id of a task whose time has come.
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
        """Call back at this time instead of any other; never, for None."""
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
        """As `set` for each, faster for many."""
        for task_id, at in times:
            if at is None:
                self._times.pop(task_id, None)
            else:
                self._times[task_id] = at
        self._tidy()
        self._arm()

    def close(self) -> None:
        """Call back no more."""
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
