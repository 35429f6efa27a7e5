"""Connections to an upstream: each failure has the name that httpx2 gives it, and what came before it is delivered."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx2
import pytest
from headrace_models.upstream import connections
from headrace_models.upstream.http import UpstreamClient, because, open_client
from headrace_testing.certificates import Authority
from headrace_testing.provider_faults.upstream import CLOSE, HANG, RESET, FakeUpstream, Raw, Script, Step, Wait

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
HELLO = b"5\r\nhello\r\n"
SOON = Wait(0.05)
BROKEN = httpx2.RemoteProtocolError
CASES: dict[str, tuple[list[Step], int | None, bytes, type[Exception] | None]] = {
    "closed at once": ([CLOSE], None, b"", BROKEN),
    "reset at once": ([RESET], None, b"", httpx2.ReadError),
    "another protocol": ([Raw(b"SSH-2.0-OpenSSH\r\n\r\n"), HANG], None, b"", BROKEN),
    "switched to another protocol": (
        [Raw(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), HANG], None, b"", BROKEN,
    ),
    "a bad chunk with the head": ([Raw(CHUNKED + b"zz\r\n"), HANG], 200, b"", BROKEN),
    "a bad chunk after the head": ([Raw(CHUNKED), SOON, Raw(b"zz\r\n"), HANG], 200, b"", BROKEN),
    "a bad chunk with a good one": ([Raw(CHUNKED), SOON, Raw(HELLO + b"zz\r\n"), HANG], 200, b"hello", BROKEN),
    "all at once": ([Raw(CHUNKED + HELLO + b"zz\r\n"), HANG], 200, b"hello", BROKEN),
    "a head in halves": (
        [Raw(CHUNKED[:-1]), SOON, Raw(CHUNKED[-1:] + HELLO + b"zz\r\n"), HANG], 200, b"hello", BROKEN,
    ),
    "an interim response first": (
        [Raw(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + CHUNKED + HELLO + b"zz\r\n"), HANG], 200, b"hello", BROKEN,
    ),
    "closed between chunks": ([Raw(CHUNKED + HELLO), CLOSE], 200, b"hello", BROKEN),
    "reset between chunks": ([Raw(CHUNKED + HELLO), SOON, RESET], 200, b"hello", httpx2.ReadError),
    "closed before its length": ([Raw(SIZED + b"hello"), CLOSE], 200, b"hello", BROKEN),
    "reset before its length": ([Raw(SIZED + b"hello"), SOON, RESET], 200, b"hello", httpx2.ReadError),
    "reset without a length": ([Raw(b"HTTP/1.1 200 OK\r\n\r\nhello"), SOON, RESET], 200, b"hello", httpx2.ReadError),
    "closed without a length": ([Raw(b"HTTP/1.1 200 OK\r\n\r\nhello"), CLOSE], 200, b"hello", None),
    "more than its length": ([Raw(SIZED + b"helloworldmore"), HANG], 200, b"helloworld", None),
    "a header of 90 KB": (
        [Raw(OK + b"X: " + b"a" * 90_000 + b"\r\nContent-Length: 5\r\n\r\nhello"), HANG], 200, b"hello", None,
    ),
    "a header of 200 KB": ([Raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000), HANG], None, b"", BROKEN),
    "headers without end": ([Raw(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 50_000), HANG], None, b"", BROKEN),
    "a malformed header": ([Raw(b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"), HANG], None, b"", BROKEN),
    "a chunk without its end": ([Raw(CHUNKED + b"5\r\nhelloX\r\n"), HANG], 200, b"hello", BROKEN),
}  # fmt: skip


async def asked(client: UpstreamClient) -> tuple[int | None, bytes, type[Exception] | None]:
    """Status, body and error of one request."""
    status, body = None, b""
    try:
        async with asyncio.timeout(20), client.stream("POST", "x", json={}) as response:
            status = response.status_code
            async for piece in response.aiter_raw():
                body += piece
    except httpx2.TransportError as error:
        return status, body, type(error)
    return status, body, None


@pytest.mark.parametrize("name", CASES)
async def test_a_failure_has_its_name_and_takes_nothing_away(name: str) -> None:
    steps, *expected = CASES[name]
    async with FakeUpstream(Script(steps, None)) as upstream:
        client = open_client(upstream.url)
        assert await asked(client) == tuple(expected)
        await client.aclose()


async def test_no_connection_and_no_answer_in_time_have_their_names() -> None:
    client = open_client("http://127.0.0.1:9")
    assert (await asked(client))[2] is httpx2.ConnectError
    await client.aclose()
    async with FakeUpstream(Script([HANG], None)) as upstream:
        client = open_client(upstream.url)
        with pytest.raises(httpx2.ReadTimeout):
            async with client.stream("GET", "x", timeout=0.1):
                pass
        await client.aclose()


async def test_a_slow_reader_gets_a_long_body_whole() -> None:
    body = b"x" * 3_000_000
    async with FakeUpstream(Script([body])) as upstream:
        client = open_client(upstream.url)
        size = 0
        async with client.stream("GET", "x") as response:
            await asyncio.sleep(0.1)
            async for piece in response.aiter_raw():
                size += len(piece)
                await asyncio.sleep(0)
        assert size == len(body)
        await client.aclose()


async def test_a_long_request_is_sent_whole_and_a_connection_is_used_again() -> None:
    connected = 0

    class CountingUpstream(FakeUpstream):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connected
            connected += 1
            await super()._serve(reader, writer)

    async with CountingUpstream(Script([b"ok"], headers={"Set-Cookie": "a=b"})) as upstream:
        client = open_client(upstream.url)
        for size in (1, 3_000_000):
            async with client.stream("POST", "x", json=["y" * size]) as response:
                assert [piece async for piece in response.aiter_raw()] == [b"ok"]
        assert [len(one.body) for one in upstream.requests] == [5, 3_000_004]
        assert not any("cookie" in one.headers for one in upstream.requests)
        assert connected == 1
        await client.aclose()


async def test_a_connection_that_was_closed_while_idle_is_not_used() -> None:
    async with FakeUpstream(Script([b"ok"], headers={"Connection": "keep-alive"})) as upstream:
        client = open_client(upstream.url)
        assert (await asked(client))[2] is None
        for connection in list(upstream._connections):
            connection.cancel()
        await asyncio.sleep(0.1)
        assert await asked(client) == (200, b"ok", None)
        await client.aclose()


@pytest.mark.parametrize("how", ["cancelled", "left early"])
async def test_a_call_that_ends_early_closes_its_connection(how: str) -> None:
    dripping: list[Step] = [b"a", *(step for _ in range(6_000) for step in (Wait(0.05), b"b"))]
    async with FakeUpstream(Script(dripping)) as upstream:
        client = open_client(upstream.url)
        begun = asyncio.Event()

        async def call() -> None:
            async with client.stream("GET", "x") as response:
                async for _ in response.aiter_raw():
                    begun.set()
                    if how != "cancelled":
                        return

        running = asyncio.create_task(call())
        await begun.wait()
        running.cancel()
        await asyncio.wait([running])
        # The server sees that nobody listens; otherwise it would speak for minutes.
        await asyncio.wait_for(asyncio.gather(*upstream._connections, return_exceptions=True), 20)
        await client.aclose()


async def test_a_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(authority.certificate("server"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED + b"helloworld")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=served)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    stranger = open_client(url)
    with pytest.raises(httpx2.ConnectError) as caught:
        async with stranger.stream("GET", "x"):
            pass
    assert "certificate" in because(caught.value)
    await stranger.aclose()
    monkeypatch.setattr(connections, "certificates", lambda: ssl.create_default_context(cafile=authority.file))
    client = open_client(url)
    assert await asked(client) == (200, b"helloworld", None)
    await client.aclose()
    server.close()


async def test_a_key_with_a_line_break_is_not_sent() -> None:
    async with FakeUpstream(Script([b"ok"])) as upstream:
        client = UpstreamClient(
            httpx2.URL(upstream.url + "/"), {"Authorization": "Bearer a\r\nX: y"},
            connections.DirectConnections(httpx2.URL(upstream.url)),
        )  # fmt: skip
        assert await asked(client) == (None, b"", httpx2.LocalProtocolError)
        assert upstream.requests == []
        await client.aclose()
