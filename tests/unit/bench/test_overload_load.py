"""The requests of `make bench-overload`: on schedule, and again when a refusal has said when."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from headrace_overload_bench.open_load import NO_RESPONSE, AskedRequest, OpenLoad, run

_ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"choices": 1}'
_LATER = b"HTTP/1.1 429 Busy\r\nRetry-After: 0.5\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def intake(reply: Callable[[bytes, int], bytes], together: int = 1) -> AsyncIterator[int]:
    """One that replies by tenant and number of its request, to none before so many were there; no reply closes the
    connection."""
    asked: Counter[bytes] = Counter()
    all_there = asyncio.Event()

    async def opened(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                asking = json.loads(await reader.readexactly(int(fields[b"Content-Length"])))
                assert (asking["deadline"], asking["max_tokens"]) == (30.0, 3)
                tenant = fields[b"Authorization"]
                asked[tenant] += 1
                if asked.total() >= together:
                    all_there.set()
                await all_there.wait()
                if not (said := reply(tenant, asked[tenant])):
                    break
                writer.write(said)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(opened, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def load(port: int, arrivals: list[tuple[float, int]]) -> OpenLoad:
    return OpenLoad(
        host="127.0.0.1",
        port=port,
        path="/v1/chat/completions",
        model="m",
        tenants=[{"Authorization": "first"}, {"Authorization": "second"}],
        arrivals=[(at, tenant, 3) for at, tenant in arrivals],
        starts_at=time.monotonic(),
        deadline_field="deadline",
        deadline_seconds=30.0,
    )


def by_due(asked: list[AskedRequest]) -> list[AskedRequest]:
    return sorted(asked, key=lambda one: one.due)


async def test_requests_begin_whether_or_not_earlier_ones_have_ended() -> None:
    # Nobody is answered before all have asked.
    async with asyncio.timeout(30), intake(lambda *_: _ANSWER, together=3) as port:
        asked = by_due(await run(load(port, [(0.0, 0), (0.01, 0), (0.02, 1)])))

    assert [(one.tenant, one.status) for one in asked] == [(0, 200), (0, 200), (1, 200)]
    # Counted from when they should have begun; timers are a little early, too.
    assert asked[0].ended - asked[0].due >= 0.015


async def test_a_refusal_is_put_to_the_test_one_of_each_tenant_at_a_time() -> None:
    def reply(tenant: bytes, number: int) -> bytes:
        # The first one comes back after its three fellows; the second tenant is refused again.
        return _LATER if tenant == b"second" or number <= 3 else _ANSWER

    async with intake(reply) as port:
        asked = by_due(await run(load(port, [(0.0, 0), (0.01, 0), (0.02, 0), (0.005, 1)])))

    assert [(one.tenant, one.status, one.retry_after, one.again) for one in asked] == [
        (0, 429, 0.5, 200), (1, 429, 0.5, 429), (0, 429, 0.5, None), (0, 429, 0.5, None),
    ]  # fmt: skip
    # The refusal itself is what ended the request.
    assert asked[0].ended <= asked[-1].ended


async def test_a_closed_connection_is_no_response_and_no_end_of_the_load() -> None:
    def reply(tenant: bytes, number: int) -> bytes:
        return _ANSWER if number == 2 else b""

    async with intake(reply) as port:
        asked = by_due(await run(load(port, [(0.0, 0), (0.1, 0)])))

    assert [one.status for one in asked] == [NO_RESPONSE, 200]


async def test_an_answer_without_its_text_is_none() -> None:
    async with intake(lambda *_: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as port:
        (one,) = await run(load(port, [(0.0, 0)]))

    assert one.status == NO_RESPONSE
