"""An event loop in virtual time that runs simulated processes, which can be killed and frozen at any callback.

Time stands still while any callback is ready, and jumps to the next timer when none is. Nothing here depends on the
machine: the same callbacks run in the same order in every run.

Every callback runs in a context that names the process it belongs to. A killed process runs no further callback, as
after `kill -9`: no `finally`, nothing flushed. The callbacks of a frozen process are queued until it is thawed, as with
SIGSTOP: it continues with the state it had, and its timers fire late.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class SimulationStuck(Exception):
    """The simulation did not end within its limits: it loops, or waits forever."""


class Fate:
    """Whether the callbacks of one process run: `alive`, `frozen`, both, or neither."""

    __slots__ = ("alive", "frozen", "kept", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.kept: deque[asyncio.Handle] = deque()


FATE: contextvars.ContextVar[Fate | None] = contextvars.ContextVar("fate", default=None)


class _Handle(asyncio.Handle):
    __slots__ = ("fate",)
    fate: Fate | None


class _TimerHandle(asyncio.TimerHandle):
    __slots__ = ("fate",)
    fate: Fate | None


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in order, and advances time in jumps.

    Args:
        max_steps: Callbacks after which the simulation counts as stuck.
        max_seconds: Virtual time after which it does.
    """

    def __init__(self, max_steps: int = 3_000_000, max_seconds: float = 10_000.0) -> None:
        self.steps = 0
        self.failures: list[str] = []
        """Exceptions raised by callbacks."""
        self._max_steps = max_steps
        self._max_seconds = max_seconds
        self._now = 0.0
        self._ready: deque[_Handle | _TimerHandle] = deque()
        self._timers: list[tuple[float, int, _TimerHandle]] = []
        self._pushed = 0
        self._running = False
        self._closed = False
        # Tasks of killed processes never end: held here, so that garbage collection does not close them at random.
        self._tasks: list[asyncio.Task[Any]] = []
        self._outside = contextvars.copy_context()
        self._outside.run(FATE.set, None)

    # Fates

    def thaw(self, fate: Fate) -> None:
        """Thaw a process: run the callbacks that were queued meanwhile."""
        fate.frozen = False
        while fate.kept:
            self._ready.append(fate.kept.popleft())  # type: ignore[arg-type]

    def outside(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call later, on behalf of no process, so that no kill or freeze affects it."""
        return self.call_at(self._now + delay, callback, *args, context=self._outside)

    def as_process(self, fate: Fate | None, call: Callable[[], T]) -> T:
        """Call now on behalf of a process: what it starts belongs to that process."""
        context = self._outside.copy()
        context.run(FATE.set, fate)
        return context.run(call)

    # Running

    def run_until(self, done: Callable[[], bool]) -> None:
        """Run until a condition holds, checked whenever time is about to advance. Raises SimulationStuck."""
        self._running = True
        asyncio._set_running_loop(self)
        try:
            while True:
                self._run_ready()
                if done():
                    return
                self._leap()
        finally:
            asyncio._set_running_loop(None)
            self._running = False

    def run_until_complete(self, future: Any) -> Any:
        task = asyncio.ensure_future(future, loop=self)
        self.run_until(task.done)
        return task.result()

    def _run_ready(self) -> None:
        ready = self._ready
        steps = self.steps
        while ready:
            handle = ready.popleft()
            if handle._cancelled:
                continue
            fate = handle.fate
            if fate is not None:
                if not fate.alive:
                    continue
                if fate.frozen:
                    fate.kept.append(handle)
                    continue
            steps += 1
            if steps > self._max_steps:
                self.steps = steps
                raise SimulationStuck(f"{steps} steps by {self._now:.3f} s: something loops")
            handle._run()
        self.steps = steps

    def _leap(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise SimulationStuck(f"nothing is scheduled after {self._now:.3f} s, and the condition does not hold")
        when = timers[0][0]
        if when > self._max_seconds:
            raise SimulationStuck(f"the condition does not hold {self._now:.0f} s after the start")
        self._now = max(self._now, when)
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])

    # asyncio's interface

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        if context is None:
            context = contextvars.copy_context()
        handle = _Handle(callback, args, self, context)
        handle.fate = context.get(FATE)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        if context is None:
            context = contextvars.copy_context()
        handle = _TimerHandle(when, callback, args, self, context)
        handle.fate = context.get(FATE)
        self._pushed += 1
        heapq.heappush(self._timers, (when, self._pushed, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, SimulationStuck):
            raise error
        if "handle" in context:
            # An exception that was never retrieved is reported at garbage collection, and is worth only a log line.
            self.failures.append(f"{context.get('message')}: {type(error).__name__}: {error}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """asyncio reports cancelled timers here; they are skipped when their time comes."""

    def close(self) -> None:
        """Drop everything. Pending tasks are closed without a report."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.failures.clear()
        self._tasks.clear()

    def run_forever(self) -> NoReturn:
        raise NotImplementedError("a simulation ends: use run_until")

    def run_in_executor(self, *_: Any) -> NoReturn:  # type: ignore[override]
        raise NotImplementedError("threads are not simulated")
