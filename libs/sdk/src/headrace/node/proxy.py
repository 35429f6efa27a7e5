"""A proxy in front of Ollama: lets through what workers use, from whom it knows, and never more than the node bears."""

from __future__ import annotations

import asyncio
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final

import aiohttp
from aiohttp import web
from headrace_contracts.events import Lane
from headrace_contracts.headers import LANE_OF_CALL

from headrace.node.call_queue import CallQueue, QueueFull

QUEUE_PATH: Final = "/api/headrace/queue"
QUEUE_HEADER: Final = "Headrace-Queue"

_CALLS: Final = ("/api/chat", "/api/generate", "/api/embed")
_LOOKS: Final = (("GET", "/api/tags"), ("GET", "/api/ps"), ("GET", "/api/version"), ("POST", "/api/show"))
_PULL: Final = "/api/pull"
_LOOKS_AT_ONCE: Final = 16
_LOOK_SECONDS: Final = 30.0
_LOOK_BODY_BYTES: Final = 64 * 1024
_HELD_BODIES: Final = 4
"""Bodies of the largest size that are held at once, those of waiting calls included."""
_TAIL_BYTES: Final = 64 * 1024
_CONNECT_SECONDS: Final = 5.0
_TIDY_SECONDS: Final = 5.0
_SHUTDOWN_SECONDS: Final = 2.0
_LONGEST_HEAD_BYTES: Final = 16 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """How the proxy works.

    Attributes:
        ollama: Base URL of what it stands in front of.
        token: What callers must send as a bearer token; None for nothing.
        tls: For TLS, also mutual; None for none.
        allow_pull: Whether callers may have models downloaded.
        body_limit_bytes: Of one request.
        call_seconds: Longest time for a call of a model.
        body_seconds, write_seconds: Longest time for a caller to send its request, and to take a piece of the answer.
        idle_seconds: How long a connection may go without a request.
        connections: Most of them at once.
    """

    ollama: str
    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    tls: ssl.SSLContext | None = None
    allow_pull: bool = False
    body_limit_bytes: int = 32 * 1024 * 1024
    call_seconds: float = 1800.0
    body_seconds: float = 30.0
    write_seconds: float = 60.0
    idle_seconds: float = 75.0
    connections: int = 256


class OllamaProxy:
    """The proxy; `start` it, and `stop` it.

    A request is read whole before it takes a slot, so that no slow caller holds one; an answer goes out as it comes,
    and a caller that does not take it is dropped. When a caller goes, its call of Ollama ends.
    """

    def __init__(self, options: ProxyOptions, queue: CallQueue) -> None:
        self._options = options
        self._queue = queue
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._looks = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self._pulls = asyncio.Semaphore(1)
        self._held_bytes = 0
        self._busy: dict[asyncio.BaseTransport, int] = {}

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, use_dns_cache=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )
        app = web.Application(middlewares=[self._guard])
        for path in _CALLS:
            app.router.add_post(path, self._call)
        for method, path in _LOOKS:
            app.router.add_route(method, path, self._look)
        if self._options.allow_pull:
            app.router.add_post(_PULL, self._pull)
        app.router.add_get(QUEUE_PATH, self._show_queue)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            # A caller that disconnects cancels its handler, and so the call of Ollama.
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            keepalive_timeout=self._options.idle_seconds,
            max_line_size=_LONGEST_HEAD_BYTES,
            max_field_size=_LONGEST_HEAD_BYTES,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._options.host, self._options.port, ssl_context=self._options.tls)
        await site.start()
        self._tidying = asyncio.create_task(self._keep_tidy(), name="idle connections")

    async def stop(self) -> None:
        """Close it, and end what still runs."""
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the caller is gone")
        self._busy[transport] = self._busy.get(transport, 0) + 1
        try:
            if not self._knows(request):
                return _refused(401, "this node asks for a bearer token", {"WWW-Authenticate": "Bearer"})
            # Workers send none: this is a page in somebody's browser, which Ollama would have refused.
            if "Origin" in request.headers:
                return _refused(403, "this node does not answer web pages")
            return await handler(request)
        except web.HTTPException as error:
            return _refused(error.status, error.reason)
        finally:
            self._busy[transport] -= 1
            if not self._busy[transport]:
                del self._busy[transport]

    def _knows(self, request: web.Request) -> bool:
        token = self._options.token
        if token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())

    async def _show_queue(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(asdict(self._queue.state))

    async def _call(self, request: web.Request) -> web.StreamResponse:
        is_batch = request.headers.get(LANE_OF_CALL, "").strip().lower() == Lane.BATCH.value
        async with self._body_of(request, self._options.body_limit_bytes) as body:
            try:
                async with self._queue.slot(batch=is_batch):
                    return await self._relay(request, body, self._options.call_seconds)
            except QueueFull as full:
                return _refused(503, f"the node is busy: {full}", {
                    "Retry-After": str(full.retry_after_seconds), QUEUE_HEADER: self._queue_header(),
                })  # fmt: skip

    async def _look(self, request: web.Request) -> web.StreamResponse:
        async with self._looks, self._body_of(request, _LOOK_BODY_BYTES) as body:
            return await self._relay(request, body, _LOOK_SECONDS)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        if self._pulls.locked():
            return _refused(503, "another model is being downloaded", {"Retry-After": "60"})
        async with self._pulls, self._body_of(request, _LOOK_BODY_BYTES) as body:
            return await self._relay(request, body, None)

    @asynccontextmanager
    async def _body_of(self, request: web.Request, limit: int) -> AsyncIterator[bytes]:
        """The body, which counts against what is held for the length of the block. Raises web.HTTPException."""
        stated = request.content_length
        if stated is not None and stated > limit:
            raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=stated)
        reserved = limit if stated is None and request.can_read_body else stated or 0
        if self._held_bytes + reserved > _HELD_BODIES * self._options.body_limit_bytes:
            raise web.HTTPServiceUnavailable(reason="the requests that wait here are too large for one more")
        self._held_bytes += reserved
        try:
            yield await self._read(request, limit)
        finally:
            self._held_bytes -= reserved

    async def _read(self, request: web.Request, limit: int) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._options.body_seconds):
                async for piece in request.content.iter_any():
                    body += piece
                    if len(body) > limit:
                        raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=len(body))
        except TimeoutError:
            raise web.HTTPRequestTimeout(reason="the request came too slowly") from None
        return bytes(body)

    async def _relay(self, request: web.Request, body: bytes, within_seconds: float | None) -> web.StreamResponse:
        """Pass a request on, and its answer back as it comes."""
        assert self._session is not None
        response: web.StreamResponse | None = None
        tail = bytearray()
        try:
            async with (
                asyncio.timeout(within_seconds),
                self._session.request(
                    request.method,
                    # Never what the caller wrote: the path of the route, and no query.
                    self._options.ollama.rstrip("/") + _path_of(request),
                    data=body or None,
                    headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS),
                ) as upstream,
            ):
                if 300 <= upstream.status < 400:
                    return _refused(502, "what should be Ollama redirects elsewhere")
                response = web.StreamResponse(status=upstream.status, headers=self._kept(upstream))
                await response.prepare(request)
                async for piece in upstream.content.iter_any():
                    async with asyncio.timeout(self._options.write_seconds):
                        await response.write(piece)
                    tail += piece
                    del tail[:-_TAIL_BYTES]
                await response.write_eof()
        except (aiohttp.ClientError, OSError) as error:
            # TimeoutError is an OSError: the call took too long, or the caller does not take its answer.
            if response is None or not response.prepared:
                status = 504 if isinstance(error, TimeoutError) else 502
                return _refused(status, f"Ollama does not answer ({type(error).__name__})")
            # An answer without its end must not look like a whole one.
            if request.transport is not None:
                request.transport.abort()
            return response
        if (speed := tokens_per_second(bytes(tail))) is not None:
            self._queue.observe(speed)
        return response

    def _kept(self, upstream: aiohttp.ClientResponse) -> Mapping[str, str]:
        names = ("Content-Type", "Content-Length", "Retry-After", "X-Headrace-Simulated")
        kept = {name: value for name in names if (value := upstream.headers.get(name)) is not None}
        return {**kept, QUEUE_HEADER: self._queue_header()}

    def _queue_header(self) -> str:
        state = self._queue.state
        return f"running={state.running}, waiting={state.waiting}, slots={state.slots}"

    async def _keep_tidy(self) -> None:
        """Close connections that bring no request: each costs memory and a file, and anybody can open them."""
        assert self._runner is not None
        quiet_since: dict[asyncio.BaseTransport, float] = {}
        while True:
            await asyncio.sleep(min(_TIDY_SECONDS, self._options.idle_seconds / 2))
            now = asyncio.get_running_loop().time()
            server = self._runner.server
            transports = [one.transport for one in (server.connections if server is not None else ())]
            here = [transport for transport in transports if transport is not None]
            quiet = [transport for transport in here if transport not in self._busy]
            quiet_since = {transport: quiet_since.get(transport, now) for transport in quiet}
            oldest_first = sorted(quiet, key=lambda transport: quiet_since[transport])
            too_many = len(here) - self._options.connections
            for place, transport in enumerate(oldest_first):
                if place < too_many or now - quiet_since[transport] >= self._options.idle_seconds:
                    transport.abort()


def tokens_per_second(end_of_answer: bytes) -> float | None:
    """The speed that Ollama states in the last line of an answer; None if it states none."""
    line = end_of_answer.rstrip().rpartition(b"\n")[2]
    try:
        said = json.loads(line)
    except ValueError:
        return None
    if not isinstance(said, dict) or said.get("done") is not True:
        return None
    tokens, nanoseconds = said.get("eval_count"), said.get("eval_duration")
    if not isinstance(tokens, int) or not isinstance(nanoseconds, int) or tokens <= 0 or nanoseconds <= 0:
        return None
    return tokens / (nanoseconds / 1e9)


def _path_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    assert resource is not None
    return resource.canonical


def _refused(status: int, why: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """A refusal as Ollama writes its own."""
    return web.json_response({"error": why}, status=status, headers=headers)
