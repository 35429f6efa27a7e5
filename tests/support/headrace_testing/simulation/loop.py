"""An event loop with virtual time that runs simulated processes, which can be killed and frozen at any callback.

Time stands still while anything is ready, and jumps to the next timer when nothing is. Nothing here depends on the
machine: the same callbacks run in the same order in every run.

Every callback runs in a context that names the process it belongs to. A killed process runs no further callback, as
after `kill -9`: no `finally`, nothing flushed. What a frozen one would have run is kept until it is thawed, as with
SIGSTOP: it then goes on with what it knew before, and its timers fire late.
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
    """The simulation did not end within its limits: something spins, or waits for ever."""


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
    """Runs callbacks in order, and time by leaps.

    Args:
        max_steps: Callbacks after which the simulation counts as stuck.
        max_seconds: Virtual time after which it does.
    """

    def __init__(self, max_steps: int = 3_000_000, max_seconds: float = 10_000.0) -> None:
        self.steps = 0
        self.failures: list[str] = []
        """What callbacks raised."""
        self._max_steps = max_steps
        self._max_seconds = max_seconds
        self._now = 0.0
        self._ready: deque[_Handle | _TimerHandle] = deque()
        self._timers: list[tuple[float, int, _TimerHandle]] = []
        self._pushed = 0
        self._running = False
        self._closed = False
        # Tasks of killed processes never end: kept, so that no garbage collection closes them at its own time.
        self._tasks: list[asyncio.Task[Any]] = []
        self._outside = contextvars.copy_context()
        self._outside.run(FATE.set, None)

    # Fates

    def thaw(self, fate: Fate) -> None:
        """Let a frozen process go on with what it would have run meanwhile."""
        fate.frozen = False
        while fate.kept:
            self._ready.append(fate.kept.popleft())  # type: ignore[arg-type]

    def outside(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call later, on behalf of no process: nobody's death or sleep stops it."""
        return self.call_at(self._now + delay, callback, *args, context=self._outside)

    def as_process(self, fate: Fate | None, call: Callable[[], T]) -> T:
        """Call now, on behalf of a process: what it starts belongs to that process."""
        context = self._outside.copy()
        context.run(FATE.set, fate)
        return context.run(call)

    # Running

    def run_until(self, done: Callable[[], bool]) -> None:
        """Run until something holds, looked at whenever time is about to move. Raises SimulationStuck."""
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
                raise SimulationStuck(f"{steps} steps by {self._now:.3f} s: something goes round in circles")
            handle._run()
        self.steps = steps

    def _leap(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise SimulationStuck(f"nothing is left to happen at {self._now:.3f} s, and what should hold does not")
        when = timers[0][0]
        if when > self._max_seconds:
            raise SimulationStuck(f"what should hold does not, {self._now:.0f} s after the start")
        self._now = max(self._now, when)
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])

    # asyncio's side

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
            # What a future brings that nobody asks is told at its collection, and is no more than a log line.
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
        """asyncio tells of cancelled timers; they are passed over when their time comes."""

    def close(self) -> None:
        """Forget everything. What still waits is ended without a word."""
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
