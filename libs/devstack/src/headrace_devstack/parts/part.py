"""A part as the supervisor sees it: how to prepare it, launch it, check its health, and stop it."""

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


@dataclass(frozen=True, slots=True)
class Process:
    """A part that runs as a separate process.

    ``prepare`` runs once before the first launch; ``check`` returns if the part is healthy and raises NotHealthyYet
    otherwise (any OSError counts as that too). It is launched when all parts named in ``after`` are healthy.
    """

    name: str
    command: ProcessCommand
    check: Callable[[], Awaitable[None]]
    prepare: Callable[[], Awaitable[None]] = nothing_to_prepare
    after: tuple[str, ...] = ()
    address: str = ""
    note: str = ""
    start_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class SetupStep:
    """A part that runs once, within this process, and then counts as healthy."""

    name: str
    run: Callable[[], Awaitable[str]]
    after: tuple[str, ...] = field(default=())


StackPart = Process | SetupStep
