"""Launches and ends the processes of the parts, and ends those left over by a killed stack."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace_devstack.parts.part import ProcessCommand, RunAs

LARGEST_LOG = 20_000_000  # bytes; a larger log is rotated at the next start
_PR_SET_PDEATHSIG = 1


async def launch(command: ProcessCommand) -> asyncio.subprocess.Process:
    """Start a process in a session of its own, so that Ctrl-C reaches only the supervisor.

    On Linux it receives its stop signal when this process dies, in whatever way.
    """
    _put_aside_if_large(command.log)
    user = command.run_as
    with command.log.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *command.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            cwd=command.folder,
            env=dict(command.environment),
            start_new_session=True,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
            preexec_fn=_end_with_parent(command.stop_signal),
        )


async def run_tool(
    argv: tuple[str, ...], environment: Mapping[str, str], log: Path, run_as: RunAs | None = None
) -> int:
    """Run a program that ends by itself, with its output in a log; returns its exit code. Never outlives the call."""
    with log.open("ab") as output:
        tool = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            env=dict(environment),
            start_new_session=True,
            user=run_as.uid if run_as else None,
            group=run_as.gid if run_as else None,
            extra_groups=[] if run_as else None,
            preexec_fn=_end_with_parent(signal.SIGTERM),
        )
    try:
        return await tool.wait()
    finally:
        if tool.returncode is None:
            tool.kill()
            await tool.wait()


async def end(process: asyncio.subprocess.Process, command: ProcessCommand) -> bool:
    """Ask a process to end, and kill its whole session on timeout; True if it ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(command.stop_signal)
    try:
        await asyncio.wait_for(process.wait(), command.stop_seconds)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return False
    return True


def _end_with_parent(ask: signal.Signals) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: the child may only call it

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, ask)

    return in_child


def _put_aside_if_large(log: Path) -> None:
    try:
        if log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
    except FileNotFoundError:
        return


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """Identifies a process later: its pid alone may have been reused by then."""

    pid: int
    created: float


def mark(pid: int) -> ProcessMark | None:
    """The mark of a running process."""
    try:
        return ProcessMark(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def end_leftovers(marks: Iterable[ProcessMark], seconds: float = 15.0) -> int:
    """End processes left over by a killed supervisor; returns how many there were."""
    found = []
    for known in marks:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(known.pid)
            if abs(process.create_time() - known.created) < 0.01:
                process.terminate()
                found.append(process)
    _, stubborn = psutil.wait_procs(found, timeout=seconds)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5.0)
    return len(found)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children (shared pages count in each); 0 if it has ended."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            total += member.memory_info().rss
    return total


def own_resident_bytes() -> int:
    """Resident memory of this process alone."""
    return int(psutil.Process().memory_info().rss)
