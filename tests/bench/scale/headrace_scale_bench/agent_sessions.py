"""Agents that have the skill feed open, as many as wanted, which read what comes and ask for nothing else."""

from __future__ import annotations

import asyncio
import re
from typing import Final
from urllib.parse import urlsplit

import aiohttp

OPENING_AT_ONCE: Final = 64
"""Below the number of connections of one address that may be without a request (`api_starting_connections`)."""
INTERESTS: Final = 100
"""Different domains that agents follow."""
_GAUGE: Final = "headrace_skills_agents"
_NOTICED_SECONDS: Final = 120.0


class SessionRefused(Exception):
    """The feed did not open; the message has what it said instead."""


class FeedSession(asyncio.Protocol):
    """One open feed.

    Attributes:
        opened: Done when the feed has answered; fails with SessionRefused.
        transport: None until it is connected.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # uvloop's is one without deriving from it
        assert self.transport is not None
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.opened.done():
            return
        if data.startswith(b"HTTP/1.1 200"):
            self.opened.set_result(None)
        else:
            self.opened.set_exception(SessionRefused(data[:300].decode(errors="replace")))

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if not self.opened.done():
            self.opened.set_exception(SessionRefused("the connection was closed"))


class AgentSessions:
    """The sessions of a platform's agents.

    Args:
        url, ops_url: Of the skill broadcaster.
    """

    def __init__(self, url: str, ops_url: str, api_key: str) -> None:
        address = urlsplit(url)
        self._metrics = f"{ops_url}/metrics"
        self._host, self._port = address.hostname or "", address.port or 0
        self._key = api_key
        self._open: list[FeedSession] = []

    @property
    def lost(self) -> int:
        """How many of those that should be open have been closed by the service."""
        return sum(session.lost for session in self._open)

    async def hold(self, count: int) -> None:
        """Open sessions or close some, until so many are open and the service counts no more than these.

        It finds out only at the next heartbeat that an agent has gone, and what that costs is of no task.

        Raises SessionRefused, TimeoutError, OSError.
        """
        for session in self._open[count:]:
            assert session.transport is not None
            session.transport.abort()
        del self._open[count:]
        while len(self._open) < count:
            first = len(self._open)
            numbers = range(first, min(first + OPENING_AT_ONCE, count))
            self._open += await asyncio.gather(*(self._opened(number) for number in numbers))
        async with asyncio.timeout(_NOTICED_SECONDS), aiohttp.ClientSession() as client:
            while await self._counted(client) > count:  # noqa: ASYNC110 - another process
                await asyncio.sleep(1.0)

    async def _counted(self, client: aiohttp.ClientSession) -> int:
        async with client.get(self._metrics) as response:
            text = await response.text()
        found = re.search(rf"^{_GAUGE} (\S+)$", text, re.MULTILINE)
        return 0 if found is None else int(float(found[1]))

    async def _opened(self, number: int) -> FeedSession:
        head = (
            f"GET /v1/skills/feed?interest=domain-{number % INTERESTS} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Authorization: Bearer {self._key}\r\nAccept: text/event-stream\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        transport, session = await loop.create_connection(lambda: FeedSession(head.encode()), self._host, self._port)
        try:
            await session.opened
        except SessionRefused:
            transport.abort()
            raise
        return session
