"""Life cycle of a service process: start in order, run until stopped or failed, drain, stop in reverse order.

A service's `__main__.py`::

    from headrace_intake.settings import IntakeSettings
    from headrace_intake.wiring import build
    from headrace_runtime.main import main

    raise SystemExit(main(IntakeSettings, build))

`build(settings)` runs inside the event loop, constructs everything, connects to nothing, and returns a `Service`.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from headrace_runtime.health import Health
from headrace_runtime.logging import get_logger
from headrace_runtime.metrics import Metrics

EXIT_CLEAN: Final = 0
EXIT_FAILED: Final = 1
EXIT_BAD_SETTINGS: Final = 2

_STOP_SECONDS: Final = 10.0
"""Longest time a part may take to stop; a part that hangs is then abandoned, so that the process ends."""
_CHECK: Final = "lifecycle"

_log = get_logger("headrace.runtime.lifecycle")

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Part:
    """A component with its own life cycle: a producer, a table, a consumer's loop, an HTTP server.

    `start` returns when later parts may rely on it. `run` goes on until it is cancelled; if it raises, or returns
    before the drain, the whole service stops with exit code 1. `drain` accepts no new work and returns when work in
    flight is done; it is cancelled when the drain time is over. `stop` releases everything and is called whenever
    `start` was called. `waits` says what `start` waits for, for /readyz; None if it is not held up.
    """

    name: str
    start: Step | None = None
    run: Step | None = None
    drain: Step | None = None
    stop: Step | None = None
    waits: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Service:
    """What `build` returns. Parts start in order, and drain and stop in reverse: list dependencies first."""

    parts: Sequence[Part]
    metrics: Metrics
    health: Health = field(default_factory=Health)


class PartEnded(Exception):
    """A part's `run` returned without being cancelled, which is a bug in the part."""


def _starting(part: Part) -> str:
    reason = part.waits()
    return f"starting {part.name}: {reason}" if reason else f"starting {part.name}"


class _Life:
    """One run of the parts; `fatal` is the first error that ended it."""

    def __init__(self, service: Service, drain_seconds: float) -> None:
        self._service = service
        self._drain_seconds = drain_seconds
        self._started: list[Part] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self._ended = asyncio.Event()
        self._leaving = False
        self.fatal: Exception | None = None

    async def start(self) -> None:
        for part in self._service.parts:
            self._service.health.add(_CHECK, partial(_starting, part))
            self._started.append(part)
            if part.start is not None:
                await part.start()
            if part.run is not None:
                self._running[part.name] = asyncio.create_task(self._guard(part.name, part.run), name=part.name)
        self._service.health.set(_CHECK, None)

    async def wait_for_end(self) -> None:
        """Wait until a running part fails."""
        await self._ended.wait()

    async def _guard(self, name: str, run: Step) -> None:
        try:
            await run()
        except asyncio.CancelledError:
            if not self._leaving:
                self._fail(name, PartEnded(f"{name} was cancelled although the service was not stopping"))
            raise
        except Exception as error:  # noqa: BLE001 - any error ends the service and is logged
            self._fail(name, error)
        else:
            if not self._leaving:
                self._fail(name, PartEnded(f"{name} ended although the service was not stopping"))

    def _fail(self, name: str, error: Exception) -> None:
        _log.error("part failed, stopping the service", part=name, exc_info=error)
        self.fatal = self.fatal or error
        self._ended.set()

    async def drain(self) -> None:
        self._leaving = True
        self._service.health.set(_CHECK, "draining: the service is stopping")
        deadline = time.monotonic() + self._drain_seconds
        for part in reversed(self._started):
            if part.drain is None:
                continue
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await part.drain()
            except TimeoutError:
                _log.warning("drain timed out, work in flight will be repeated", part=part.name)
            except Exception as error:  # noqa: BLE001 - one part's failure must not prevent the others from stopping
                self._fail(part.name, error)

    async def stop(self) -> None:
        self._leaving = True
        for part in reversed(self._started):
            task = self._running.pop(part.name, None)
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    if task is not None:
                        task.cancel()
                        await asyncio.gather(task, return_exceptions=True)
                    if part.stop is not None:
                        await part.stop()
            except TimeoutError:
                _log.error("part did not stop in time and is abandoned", part=part.name, seconds=_STOP_SECONDS)
                self.fatal = self.fatal or TimeoutError(f"{part.name} did not stop")
            except Exception as error:  # noqa: BLE001 - one part's failure must not prevent the others from stopping
                self._fail(part.name, error)
        self._started.clear()


async def run(service: Service, *, drain_seconds: float, stop_requested: asyncio.Event | None = None) -> int:
    """Run the service from start to stop; returns the exit code.

    Stops on SIGTERM, SIGINT, or when a part fails; a second signal ends the drain. With `stop_requested`, it stops when
    that is set, and leaves signals to the owner of the process.
    """
    stopping = stop_requested if stop_requested is not None else asyncio.Event()
    hurry = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(name: str) -> None:
        _log.info("stop requested", signal=name)
        (hurry if stopping.is_set() else stopping).set()

    signals = (signal.SIGTERM, signal.SIGINT) if stop_requested is None else ()
    for number in signals:
        loop.add_signal_handler(number, on_signal, number.name)
    life = _Life(service, drain_seconds)
    began = time.monotonic()
    try:
        started = await _first(life.start(), stopping.wait(), life.wait_for_end()) == 0
        if started:
            _log.info("ready", seconds=round(time.monotonic() - began, 3))
            await _first(life.wait_for_end(), stopping.wait())
            await _first(life.drain(), hurry.wait())
    except Exception as error:  # noqa: BLE001 - logged, and reported by the exit code
        _log.exception("start failed")
        life.fatal = error
    finally:
        await life.stop()
        for number in signals:
            loop.remove_signal_handler(number)
    _log.info("stopped", clean=life.fatal is None)
    return EXIT_CLEAN if life.fatal is None else EXIT_FAILED


async def _first(*choices: Awaitable[object]) -> int:
    """Index of the one that is done first; the others are cancelled. Raises what it raised."""
    tasks = [asyncio.ensure_future(choice) for choice in choices]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    winner = next(index for index, task in enumerate(tasks) if task.done() and not task.cancelled())
    tasks[winner].result()
    return winner
