"""A part as the supervisor sees it: how to prepare it, launch it, check its health, and stop it."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


class NotHealthyYet(Exception):
    """The part does not answer properly yet; try again."""


@dataclass(frozen=True, slots=True)
class RunAs:
    """An ordinary user to run a process as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class ProcessCommand:
    """A process to launch; its output goes to ``log``.

    ``stop_signal`` asks it to end; it is killed ``stop_seconds`` later.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    folder: Path
    run_as: RunAs | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0


async def nothing_to_prepare() -> None:
    """For parts that need no preparation."""


def nothing_to_finish() -> None:
    """For parts that leave nothing to do."""


@dataclass(frozen=True, slots=True)
class Process:
    """A part that runs as a separate process.

    ``prepare`` runs once before the first launch; ``check`` returns if the part is healthy and raises NotHealthyYet
    otherwise (any OSError counts as that too). It is launched when all parts named in ``after`` are healthy. ``ended``
    runs when it was asked to end and did so in time.
    """

    name: str
    command: ProcessCommand
    check: Callable[[], Awaitable[None]]
    prepare: Callable[[], Awaitable[None]] = nothing_to_prepare
    after: tuple[str, ...] = ()
    address: str = ""
    note: str = ""
    start_seconds: float = 120.0
    ended: Callable[[], None] = nothing_to_finish

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.command.log

    @property
    def stop_seconds(self) -> float:
        """How long it may take to stop."""
        return self.command.stop_seconds


@dataclass(frozen=True, slots=True)
class Hosted:
    """A part that runs within this process, beside others.

    ``run`` goes on until it fails or the event is set, and returns an exit code; it is cancelled ``stop_seconds`` after
    the event. Everything else is as with `Process`.
    """

    name: str
    run: Callable[[asyncio.Event], Awaitable[int]]
    check: Callable[[], Awaitable[None]]
    log: Path
    prepare: Callable[[], Awaitable[None]] = nothing_to_prepare
    after: tuple[str, ...] = ()
    address: str = ""
    note: str = ""
    start_seconds: float = 120.0
    stop_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class SetupStep:
    """A part that runs once, within this process, and then counts as healthy."""

    name: str
    run: Callable[[], Awaitable[str]]
    after: tuple[str, ...] = field(default=())


LastingPart = Process | Hosted
"""A part that goes on until it is stopped."""

StackPart = LastingPart | SetupStep
