"""One run of a part, as the supervisor sees it: a process, or work within this one."""

import asyncio
from typing import Protocol

from headrace_devstack.parts.part import Hosted, LastingPart, Process
from headrace_devstack.processes import end, launch


class PartRun(Protocol):
    """A part that has been launched."""

    @property
    def pid(self) -> int | None:
        """The process to measure and to end if this one is killed; None if that is this process itself."""

    @property
    def returncode(self) -> int | None:
        """None while it runs."""

    async def wait(self) -> int:
        """The exit code, once it has ended."""

    async def end(self) -> bool:
        """Ask it to end, and make it end when its time is over; True if it ended by itself."""


class ProcessRun:
    """A process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, part: Process) -> None:
        self._process = process
        self._part = part
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def end(self) -> bool:
        by_itself = await end(self._process, self._part.command)
        if by_itself:
            self._part.ended()
        return by_itself


class HostedRun:
    """Work within this process."""

    pid = None

    def __init__(self, part: Hosted) -> None:
        self._stop = asyncio.Event()
        self._seconds = part.stop_seconds
        self._task = asyncio.ensure_future(part.run(self._stop))

    @property
    def returncode(self) -> int | None:
        return self._task.result() if self._task.done() and not self._task.cancelled() else None

    async def wait(self) -> int:
        # Not awaited itself: whoever waits may be cancelled, and the work goes on.
        await asyncio.wait([self._task])
        return self._task.result()

    async def end(self) -> bool:
        self._stop.set()
        _, left = await asyncio.wait([self._task], timeout=self._seconds)
        for task in left:
            task.cancel()
        return not left


async def launched(part: LastingPart) -> PartRun:
    """Launch a part. Raises OSError if that is not possible now."""
    if isinstance(part, Hosted):
        return HostedRun(part)
    return ProcessRun(await launch(part.command), part)
