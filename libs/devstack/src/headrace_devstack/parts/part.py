"""What the supervisor knows of a part: how to prepare it, launch it, tell that it is healthy, and stop it."""

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


class NotHealthyYet(Exception):
    """The part does not answer as it should; ask again."""


@dataclass(frozen=True, slots=True)
class RunAs:
    """An ordinary user to run a process as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class ProcessCommand:
    """A process to launch; its output goes to ``log``.

    ``stop_signal`` asks it to end, ``stop_seconds`` later it is killed.
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
    """A part that is a process of its own.

    ``prepare`` runs once before the first launch; ``check`` returns when the part is healthy and raises NotHealthyYet
    when it is not (any OSError counts as that too). It starts when all parts named in ``after`` are healthy.
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
    """A part that is done once, in this process, and then counts as healthy."""

    name: str
    run: Callable[[], Awaitable[str]]
    after: tuple[str, ...] = field(default=())


StackPart = Process | SetupStep
