"""A Postgres server that belongs to one test, which may kill and restart it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import psutil
from headrace_devstack.layout import open_data_folder
from headrace_devstack.parts.part import NotHealthyYet, Process
from headrace_devstack.parts.postgres import database_url, postgres_part
from headrace_devstack.ports import PortPlan, choose_base
from headrace_devstack.processes import end, launch

from headrace_testing.up import open_folder

T = TypeVar("T")

_PASSWORD = "of-the-tests"
_START_SECONDS = 60.0


class _Elsewhere:
    """Runs coroutines on asyncio's own loop, in a thread: uvloop, on which services are tested, cannot start processes
    as another user. The server ends with the thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="own-postgres", daemon=True)
        self._thread.start()

    async def run(self, work: Awaitable[T]) -> T:
        async def waiting() -> T:
            return await work

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(waiting(), self._loop))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class OwnPostgres:
    """One server; `url` is the address of its database.

    Args:
        part: How to start it.
    """

    def __init__(self, part: Process, url: str, elsewhere: _Elsewhere) -> None:
        self._part = part
        self._elsewhere = elsewhere
        self.url = url
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id of the server's first process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Returns once it accepts connections."""
        await self._elsewhere.run(self._start())

    async def _start(self) -> None:
        self._process = await launch(self._part.command)
        async with asyncio.timeout(_START_SECONDS):
            while True:
                try:
                    await self._part.check()
                except (NotHealthyYet, OSError):
                    await asyncio.sleep(0.1)
                else:
                    return

    async def kill(self) -> None:
        """kill -9 of the server and all its child processes at the same time."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        family = [*psutil.Process(self._process.pid).children(recursive=True)]
        os.killpg(self._process.pid, signal.SIGKILL)
        for member in family:
            if member.is_running():
                member.kill()
        await self._elsewhere.run(self._process.wait())
        self._process = None

    async def stop(self) -> None:
        """A regular shutdown: sessions are ended."""
        if self._process is not None:
            await self._elsewhere.run(end(self._process, self._part.command))
            self._process = None


@asynccontextmanager
async def own_postgres(**settings: str) -> AsyncIterator[OwnPostgres]:
    """A running server with these settings, removed afterwards."""
    with (
        open_folder("postgres") as folder,
        open_data_folder(folder / "data") as data,
        contextlib.closing(_Elsewhere()) as elsewhere,
    ):
        ports = PortPlan(choose_base())
        part = postgres_part(data, ports, _PASSWORD)
        await elsewhere.run(part.prepare())
        options = tuple(f"--{name.replace('_', '-')}={value}" for name, value in settings.items())
        part = replace(part, command=replace(part.command, argv=(*part.command.argv, *options)))
        server = OwnPostgres(part, database_url(ports, _PASSWORD), elsewhere)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()
