"""A Postgres server that belongs to one test, which may kill and restart it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import psutil
from headrace_devstack.layout import open_data_folder
from headrace_devstack.parts.part import NotHealthyYet, Process
from headrace_devstack.parts.postgres import database_url, postgres_part
from headrace_devstack.ports import PortPlan, choose_base
from headrace_devstack.processes import end, launch

from headrace_testing.up import open_folder

_PASSWORD = "of-the-tests"
_START_SECONDS = 60.0


class OwnPostgres:
    """One server; `url` is the address of its database.

    Args:
        part: How to start it.
    """

    def __init__(self, part: Process, url: str) -> None:
        self._part = part
        self.url = url
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id of the server's first process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Returns once it accepts connections."""
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
        await self._process.wait()
        self._process = None

    async def stop(self) -> None:
        """A regular shutdown: sessions are ended."""
        if self._process is not None:
            await end(self._process, self._part.command)
            self._process = None


@asynccontextmanager
async def own_postgres(**settings: str) -> AsyncIterator[OwnPostgres]:
    """A running server with these settings, removed afterwards."""
    with open_folder("postgres") as folder, open_data_folder(folder / "data") as data:
        ports = PortPlan(choose_base())
        part = postgres_part(data, ports, _PASSWORD)
        await part.prepare()
        options = tuple(f"--{name.replace('_', '-')}={value}" for name, value in settings.items())
        part = replace(part, command=replace(part.command, argv=(*part.command.argv, *options)))
        server = OwnPostgres(part, database_url(ports, _PASSWORD))
        try:
            await server.start()
            yield server
        finally:
            await server.stop()
