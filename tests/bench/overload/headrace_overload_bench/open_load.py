"""The load: requests that begin on schedule whether or not earlier ones have ended, in a process of their own.

A refusal that says when to come back is put to the test: the same request is sent again at that time, at most one of
each tenant at a time, so that the tests are no load to speak of. What comes of it is told beside the refusal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from headrace_bench.children import serve
from headrace_gateway_bench.load import NotAnswered, chat_request, read_response

REFUSED: Final = (429, 503)
"""Statuses of requests that were not begun, or whose task was not."""
NO_RESPONSE: Final = 0
_LATE_SECONDS: Final = 10.0
"""How long after its deadline a request without a response is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoad:
    """One step of load.

    Attributes:
        tenants: Headers of each tenant's requests.
        arrivals: Seconds after `starts_at`, in ascending order, each with the number of a tenant and the tokens of its
            answer.
        starts_at: By `time.monotonic()`, which is the same in all processes of a machine.
        deadline_field: The field of a request that says it to the system.
        deadline_seconds: Of every request.
    """

    host: str
    port: int
    path: str
    model: str
    tenants: Sequence[Mapping[str, str]]
    arrivals: Sequence[tuple[float, int, int]]
    starts_at: float
    deadline_field: str
    deadline_seconds: float

    def request(self, tenant: int, tokens: int, name: str) -> bytes:
        """A whole request, with a prompt that has this name in it."""
        asked = {"model": self.model, "max_tokens": tokens, self.deadline_field: self.deadline_seconds}
        return chat_request(self.host, self.port, self.path, self.tenants[tenant], name, asked)


@dataclass(frozen=True, slots=True)
class AskedRequest:
    """One request and its end.

    Attributes:
        tenant: Its number.
        due, ended: When it should have begun, and when the response was whole, in seconds after the load's start.
        status: Of the response; `NO_RESPONSE` when none came.
        retry_after: What a refusal said, in seconds; None if it said nothing.
        again: Status of the same request when it was sent again at that time; None if it was not.
    """

    tenant: int
    due: float
    ended: float
    status: int
    retry_after: float | None = None
    again: int | None = None


class OpenCallers:
    """Sends the requests of one load, over connections that are kept and used again."""

    def __init__(self, load: OpenLoad) -> None:
        self._load = load
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._trying: set[int] = set()
        # Whoever was told a longer time would come back to a system at rest.
        self._longest_comeback = 2 * load.deadline_seconds
        self._run = f"{time.time_ns():x}"
        self.ended: list[AskedRequest] = []

    async def run(self) -> None:
        """All of it, until the last request has ended."""
        load = self._load
        async with asyncio.TaskGroup() as group:
            for number, (due, tenant, tokens) in enumerate(load.arrivals):
                await asyncio.sleep(load.starts_at + due - time.monotonic())
                group.create_task(self._ask(due, tenant, tokens, f"{self._run}-{number}"))
        for _, writer in self._idle:
            writer.close()

    async def _ask(self, due: float, tenant: int, tokens: int, name: str) -> None:
        status, retry_after = await self._exchange(tenant, tokens, name)
        ended = time.monotonic() - self._load.starts_at
        again: int | None = None
        if retry_after is not None and retry_after <= self._longest_comeback and tenant not in self._trying:
            self._trying.add(tenant)
            try:
                await asyncio.sleep(retry_after)
                again, _ = await self._exchange(tenant, tokens, name)
            finally:
                self._trying.discard(tenant)
        self.ended.append(AskedRequest(tenant, round(due, 4), round(ended, 4), status, retry_after, again))

    async def _exchange(self, tenant: int, tokens: int, name: str) -> tuple[int, float | None]:
        """Status, and after how many seconds to come back, where it is a refusal that says so."""
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            async with asyncio.timeout(self._load.deadline_seconds + _LATE_SECONDS):
                streams = self._kept() or await self._connected()
                streams[1].write(self._load.request(tenant, tokens, name))
                response = await read_response(streams[0])
        except (NotAnswered, OSError, EOFError, TimeoutError):
            if streams is not None:
                streams[1].close()
            return NO_RESPONSE, None
        self._idle.append(streams)
        if response.status == 200 and b'"choices"' not in response.body:
            return NO_RESPONSE, None
        told = response.fields.get(b"retry-after") if response.status in REFUSED else None
        return response.status, None if told is None else float(told)

    def _kept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection that the server has not closed meanwhile, as it may."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._load.host, self._load.port)


async def run(load: OpenLoad) -> list[AskedRequest]:
    """Everything that was asked, in the order in which it ended."""
    callers = OpenCallers(load)
    await callers.run()
    return callers.ended


def _play(request: Mapping[str, Any]) -> Mapping[str, object]:
    import uvloop

    return {"asked": [list(asdict(one).values()) for one in uvloop.run(run(OpenLoad(**request)))]}


if __name__ == "__main__":
    serve(_play)
