"""What callers who do not behave can hold: unfinished requests, unread answers, connections, bodies, revoked keys."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import cache

import aiohttp
import pytest
from aiohttp import web
from headrace_runtime.access import KEY_RANDOM_BYTES, Scope, hash_secret, make_key
from headrace_runtime.api_limits import ConnectionLimits, RequestLimits
from headrace_runtime.authentication import authentication, require
from headrace_runtime.health import Health
from headrace_runtime.http import new_app, read_json
from headrace_runtime.http_server import HttpServer
from headrace_runtime.listening import RESERVED_FILES, open_files_allowed
from headrace_runtime.metrics import Metrics
from headrace_runtime.open_requests import OpenRequests
from headrace_runtime.ops import OpsServer
from headrace_runtime.sse import ServerEvent, event_stream
from headrace_testing.engine import eventually
from pydantic import SecretStr

_PEPPER = SecretStr("p" * 32)
_KEYS = [make_key(bytes([number]) * KEY_RANDOM_BYTES) for number in range(3)]
_BODY_LIMIT = 100_000


@dataclass(frozen=True)
class _StoredKey:
    key_id: str
    tenant: str
    secret_hash: str
    scopes: tuple[str, ...] = ("tasks",)
    requests_per_minute: int | None = None
    revoked_at: int | None = None


_TENANTS = ("acme", "acme", "globex")


class Api:
    """A served application, with small limits, whose keys can be changed."""

    def __init__(self, limits: ConnectionLimits, requests: RequestLimits) -> None:
        self.keys = {
            key.key_id: _StoredKey(key.key_id, tenant, hash_secret(_PEPPER.get_secret_value(), key.secret))
            for key, tenant in zip(_KEYS, _TENANTS, strict=True)
        }
        self.now = 1_000.0
        self.open_requests = OpenRequests(requests, lambda: self.now)
        self.full: list[str | None] = []
        self.bodies_read = 0
        self.source_closed = asyncio.Event()
        app = new_app(
            metrics=Metrics("test"),
            body_limit_bytes=_BODY_LIMIT,
            middlewares=(authentication(self.keys, _PEPPER, self.open_requests, now=lambda: self.now),),
        )
        app.router.add_post("/v1/bodies", self._body)
        app.router.add_get("/v1/events", self._events)
        app.router.add_get("/v1/wait", self._wait)
        app.router.add_get("/v1/flood", self._flood)
        self.server = HttpServer(app, "127.0.0.1", 0, limits, on_full=self.full.append)

    def change(self, number: int, **changes: object) -> None:
        key_id = _KEYS[number].key_id
        self.keys[key_id] = replace(self.keys[key_id], **changes)  # type: ignore[arg-type]
        self.open_requests.key_changed(key_id, self.keys[key_id])

    async def _body(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        self.bodies_read += 1
        return web.json_response({"values": len(await read_json(request))})

    async def _wait(self, request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.json_response({})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        return await event_stream(request, self._every_moment(), heartbeat_seconds=5, resumable=True)

    async def _every_moment(self) -> AsyncIterator[ServerEvent]:
        try:
            while True:
                yield ServerEvent("now")
                await asyncio.sleep(0.02)
        finally:
            self.source_closed.set()

    async def _flood(self, request: web.Request) -> web.StreamResponse:
        async def much() -> AsyncIterator[ServerEvent]:
            try:
                while True:
                    yield ServerEvent("x" * 65_536)
            finally:
                self.source_closed.set()

        return await event_stream(request, much(), heartbeat_seconds=5, resumable=True)


_LIMITS = ConnectionLimits(
    connections=20, starting_per_address=8, head_seconds=0.6, idle_seconds=1.5, unread_seconds=1.0
)
_REQUESTS = RequestLimits(requests_per_tenant=5, body_bytes=4 * _BODY_LIMIT)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    made = Api(_LIMITS, _REQUESTS)
    await made.server.start()
    yield made
    await made.server.stop()


class Peer:
    """A bare connection, for what no client library would send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, server: HttpServer | OpsServer) -> Peer:
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def status(self) -> int:
        """Status of the next answer; 0 when the connection is closed instead."""
        line = await asyncio.wait_for(self._reader.readline(), 30)
        return int(line.split()[1]) if line else 0

    async def closed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while await self._reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self._writer.close()


def _head(path: str, number: int | None, *, method: str = "GET", more: str = "") -> bytes:
    authorization = "" if number is None else f"Authorization: Bearer {_KEYS[number]}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{authorization}{more}\r\n".encode()


async def _until(condition: Callable[[], bool]) -> bool:
    await eventually(condition, "the condition", 30)
    return True


@pytest.mark.parametrize(
    "beginning",
    [b"", b"G", b"GET /v1/wait HTTP/1.1\r\nHost: x\r\n", b"POST /v1/bodies HTTP/1.1\r\nX-A: ", b"\r\n\r\n"],
    ids=["nothing", "a letter", "an open head", "an open header", "empty lines"],
)
async def test_a_request_head_that_does_not_end_is_closed(api: Api, beginning: bytes) -> None:
    peer = await Peer.to(api.server)
    peer.send(beginning)
    assert await peer.closed_within(2.5)
    assert api.server.connections == 0


async def test_bytes_that_drip_in_do_not_keep_a_head_open(api: Api) -> None:
    peer = await Peer.to(api.server)
    closed = asyncio.create_task(peer.closed_within(2.5))
    for letter in _head("/v1/wait", 0)[:-2]:
        peer.send(bytes([letter]))
        await asyncio.sleep(0.05)
        if closed.done():
            break
    assert await closed


async def test_the_second_request_of_a_connection_has_to_come_in_time_too(api: Api) -> None:
    peer = await Peer.to(api.server)
    peer.send(_head("/v1/nothing", 0))
    assert await peer.status() == 404
    peer.send(b"GET /v1/w")
    assert await peer.closed_within(2.0)


async def test_an_idle_connection_is_kept_for_a_while_and_then_closed(api: Api) -> None:
    peer = await Peer.to(api.server)
    peer.send(_head("/v1/nothing", 0))
    assert await peer.status() == 404
    assert not await peer.closed_within(0.9)
    assert await peer.closed_within(2.0)


async def test_many_unfinished_requests_of_an_address_close_its_oldest(api: Api) -> None:
    peers = [await Peer.to(api.server) for _ in range(12)]
    assert await _until(lambda: api.server.connections == 8)
    assert [await peer.closed_within(0.05) for peer in peers] == [True] * 4 + [False] * 8


async def test_answers_that_are_not_read_end_with_the_connection(api: Api) -> None:
    peer = socket.create_connection(("127.0.0.1", api.server.port))
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(peer, _head("/v1/flood", 0))
    async with asyncio.timeout(30):
        await api.source_closed.wait()
    assert await _until(lambda: api.server.connections == 0)
    peer.close()


async def test_idle_connections_make_room_when_all_are_taken(api: Api) -> None:
    idle = []
    for _ in range(20):
        idle.append(await Peer.to(api.server))
        idle[-1].send(_head("/v1/nothing", 0))
        assert await idle[-1].status() == 404
    await asyncio.sleep(1.05)
    late = await Peer.to(api.server)
    late.send(_head("/v1/nothing", 0))
    assert await late.status() == 404
    assert await idle[0].closed_within(0.5)


async def test_new_connections_wait_while_all_are_at_work() -> None:
    api = Api(_LIMITS, replace(_REQUESTS, requests_per_tenant=30))
    await api.server.start()
    at_work = []
    for _ in range(20):
        peer = await Peer.to(api.server)
        peer.send(_head("/v1/events", 0))
        assert await peer.status() == 200
        at_work.append(peer)
    late = await Peer.to(api.server)
    late.send(_head("/v1/nothing", 0))
    assert await _until(lambda: bool(api.full))
    assert api.full == ["all 20 connections are in use: new ones wait"]
    at_work[3].close()
    at_work[7].close()
    assert await late.status() == 404
    assert await _until(lambda: api.full[-1] is None)
    await api.server.stop()


async def test_connections_leave_files_for_everything_else() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = open_files_allowed()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == allowed >= before[0]
    server = HttpServer(web.Application(), "127.0.0.1", 0, ConnectionLimits(connections=allowed))
    await server.start()
    assert server.most_connections == allowed - RESERVED_FILES
    await server.stop()


@cache
def _bomb() -> bytes:
    return gzip.compress(b"0" * 50_000_000, 9)[:_BODY_LIMIT]


@pytest.mark.parametrize("number", [None, 0], ids=["without a key", "with a key"])
@pytest.mark.parametrize("path", ["/v1/bodies", "/v1/nothing", "/v1/wait"])
async def test_a_body_is_not_inflated_unless_it_is_wanted(api: Api, number: int | None, path: str) -> None:
    bomb = _bomb()
    method = "POST" if path == "/v1/bodies" else "PUT"
    peer = await Peer.to(api.server)
    more = f"Content-Encoding: gzip\r\nContent-Type: application/json\r\nContent-Length: {len(bomb)}\r\n"
    peer.send(_head(path, number, method=method, more=more) + bomb)
    status = await peer.status()
    assert status == (401 if number is None else {"/v1/bodies": 413}.get(path, 405 if path == "/v1/wait" else 404))
    assert api.bodies_read == (1 if (number, path) == (0, "/v1/bodies") else 0)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nothing"])
async def test_the_ops_server_reads_no_body(path: str) -> None:
    server = OpsServer(
        host="127.0.0.1", port=0, service="s", version="1", instance="i", health=Health(), metrics=Metrics("test")
    )
    await server.start()
    bomb = _bomb()
    peer = await Peer.to(server)
    more = f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n"
    loop = asyncio.get_running_loop()
    peer.send(_head(path, None, method="POST", more=more) + bomb)
    assert await peer.status() in (404, 405)
    began, latest = loop.time(), 0.0
    for _ in range(20):
        before = loop.time()
        await asyncio.sleep(0.01)
        latest = max(latest, loop.time() - before)
    assert latest < 0.5, f"the loop stood still for {latest:.2f} s of {loop.time() - began:.2f} s"
    await server.stop()


async def test_the_rest_of_an_unwanted_body_is_not_waited_for(api: Api) -> None:
    peer = await Peer.to(api.server)
    peer.send(_head("/v1/bodies", None, method="POST", more="Content-Length: 90000\r\n") + b"[")
    assert await peer.status() == 401
    assert await peer.closed_within(3.0)


@pytest.mark.parametrize(
    "expectation", ["200-ok", "\u00ff".encode("latin-1").decode("latin-1"), "x" * 4000], ids=["other", "bytes", "long"]
)
async def test_other_expectations_are_refused(api: Api, expectation: str) -> None:
    peer = await Peer.to(api.server)
    head = _head("/v1/wait", 0, more="Expect: @\r\n").replace(b"@", expectation.encode("latin-1"))
    peer.send(head)
    assert await peer.status() == 417


@pytest.mark.parametrize("path", ["/v1/events", "/v1/wait", "/v1/flood"])
@pytest.mark.parametrize(
    "change",
    [{"revoked_at": 1_000_000}, {"scopes": ()}, {"tenant": "globex"}],
    ids=["revoked", "fewer scopes", "another tenant"],
)
async def test_what_a_key_no_longer_allows_ends_at_once(api: Api, path: str, change: dict[str, object]) -> None:
    mine, other = await Peer.to(api.server), await Peer.to(api.server)
    mine.send(_head(path, 0))
    other.send(_head("/v1/events", 1))
    if path == "/v1/wait":
        assert await _until(lambda: api.open_requests.of_tenant("acme") == 2)
    else:
        assert await mine.status() == 200
    assert await other.status() == 200
    api.change(0, **change)
    if path == "/v1/wait":
        assert await mine.status() == 401
    else:
        assert await mine.closed_within(1.0)
        async with asyncio.timeout(1):
            await api.source_closed.wait()
    assert not await other.closed_within(0.2)
    assert api.open_requests.of_tenant("acme") == 1


async def test_a_removed_key_ends_its_requests(api: Api) -> None:
    peer = await Peer.to(api.server)
    peer.send(_head("/v1/events", 0))
    assert await peer.status() == 200
    api.open_requests.key_changed(_KEYS[0].key_id, None)
    assert await peer.closed_within(1.0)


async def test_a_revocation_of_the_near_future_holds_when_it_is_due(api: Api) -> None:
    peer = await Peer.to(api.server)
    peer.send(_head("/v1/events", 0))
    assert await peer.status() == 200
    api.change(0, revoked_at=1_000_300)
    assert not await peer.closed_within(0.15)
    api.now = 1_000.3
    assert await peer.closed_within(1.0)


async def test_other_changes_of_a_key_end_nothing(api: Api) -> None:
    peer = await Peer.to(api.server)
    peer.send(_head("/v1/events", 0))
    assert await peer.status() == 200
    api.change(0, requests_per_minute=7, scopes=("tasks", "costs"))
    assert not await peer.closed_within(0.2)


async def test_a_tenant_has_so_many_open_requests_and_leaves_the_rest_to_others(api: Api) -> None:
    peers = [await Peer.to(api.server) for _ in range(6)]
    for peer in peers[:5]:
        peer.send(_head("/v1/events", 0))
        assert await peer.status() == 200
    peers[5].send(_head("/v1/events", 1))
    assert await peers[5].status() == 429
    stranger = await Peer.to(api.server)
    stranger.send(_head("/v1/events", 2))
    assert await stranger.status() == 200
    peers[0].close()
    assert await _until(lambda: api.open_requests.of_tenant("acme") == 4)
    again = await Peer.to(api.server)
    again.send(_head("/v1/events", 1))
    assert await again.status() == 200


async def test_the_bodies_of_a_tenant_have_a_share_of_the_memory(api: Api) -> None:
    announced = f"Content-Type: application/json\r\nContent-Length: {_BODY_LIMIT}\r\n"
    slow = [await Peer.to(api.server) for _ in range(2)]
    for peer in slow:
        peer.send(_head("/v1/bodies", 0, method="POST", more=announced) + b"[")
    assert await _until(lambda: api.open_requests.body_bytes == 2 * _BODY_LIMIT)
    third, stranger = await Peer.to(api.server), await Peer.to(api.server)
    third.send(_head("/v1/bodies", 0, method="POST", more=announced) + b"[")
    assert await third.status() == 429
    stranger.send(_head("/v1/bodies", 2, method="POST", more="Content-Type: application/json\r\nContent-Length: 2\r\n"))
    stranger.send(b"[]")
    assert await stranger.status() == 200
    for peer in slow:
        peer.close()
    assert await _until(lambda: api.open_requests.body_bytes == 0)


async def test_large_bodies_of_one_tenant_do_not_hold_up_another(api: Api) -> None:
    large = json.dumps([{"n": number} for number in range(9_000)]).encode()[:_BODY_LIMIT]
    large = large[: large.rindex(b",")] + b"]"
    url = f"http://127.0.0.1:{api.server.port}/v1/bodies"

    async def post(session: aiohttp.ClientSession, number: int, body: bytes) -> int:
        headers = {"Authorization": f"Bearer {_KEYS[number]}", "Content-Type": "application/json"}
        async with session.post(url, data=body, headers=headers) as response:
            return response.status

    async with aiohttp.ClientSession() as session:
        sent = [asyncio.create_task(post(session, 0, large)) for _ in range(3)]
        await asyncio.sleep(0)
        assert await post(session, 2, b"[1]") == 200
        assert [await each for each in sent].count(200) >= 2


async def test_a_connection_that_is_reset_while_it_is_accepted_harms_nobody(api: Api) -> None:
    for _ in range(30):
        gone = socket.create_connection(("127.0.0.1", api.server.port))
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    peer = await Peer.to(api.server)
    peer.send(_head("/v1/nothing", 0))
    assert await peer.status() == 404
