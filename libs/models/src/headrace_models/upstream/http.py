"""Requests to an upstream: to the configured origin and nowhere else, and with an end to everything it sends.

A prompt may leave to the address that the operator configured, and in no other way. So no redirect is followed, the
environment (`HTTP_PROXY`, `.netrc`, ...) is not read, and a request to another origin is refused before it is sent.
"""

from __future__ import annotations

import json as _json
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, Protocol

import httpx2
from pydantic import SecretStr

from headrace_models.upstream.complaints import Complained, complaint_of
from headrace_models.upstream.connections import (
    DirectConnections,
    IncomingResponse,
    ProxiedConnections,
    UpstreamConnections,
)
from headrace_models.upstream.values import Unreadable

CONNECT_SECONDS: Final = 10.0
MOST_STREAM_BYTES: Final = 256 * 1024 * 1024
"""Of one response. An answer of 128,000 tokens in chunks of 400 bytes is 51 MB."""
MOST_DOCUMENT_BYTES: Final = 8 * 1024 * 1024
"""Of a list of models; the longest known, of an aggregator with some 500 models, is below 1 MB."""
_MOST_COMPLAINT_BYTES: Final = 64 * 1024
_ENCODER: Final = _json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class WrongOrigin(httpx2.UnsupportedProtocol):
    """A request to another address than the configured one was about to be sent: a bug of ours or of a package."""


class AnyResponse(Protocol):
    """What is read of a response, ours or one of httpx2."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def aiter_raw(self) -> AsyncIterator[bytes]: ...


class UpstreamResponse:
    """A response within its limits."""

    __slots__ = ("_cut", "_incoming", "_limit", "headers", "raw_headers", "status_code")

    def __init__(self, incoming: IncomingResponse) -> None:
        self._incoming = incoming
        self.status_code = incoming.status_code
        self.headers = incoming.headers
        self.raw_headers = incoming.raw_headers
        self._cut = self.status_code >= 300
        self._limit = _MOST_COMPLAINT_BYTES if self._cut else MOST_STREAM_BYTES

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """The body, once, up to a limit; what exceeds it is cut off from a complaint, and else raises Unreadable."""
        left = self._limit
        async for piece in self._incoming.pieces():
            if len(piece) > left:
                if self._cut:
                    yield piece[:left]
                    return
                raise Unreadable("its response is too long")
            left -= len(piece)
            yield piece

    async def aclose(self) -> None:
        await self._incoming.aclose()


class UpstreamClient:
    """Requests to one upstream, by paths relative to its base URL; see `open_client`."""

    def __init__(self, base_url: httpx2.URL, headers: Mapping[str, str], connections: UpstreamConnections) -> None:
        self.host: Final = base_url.host
        self._path = base_url.raw_path.decode("ascii")
        self._headers = headers
        self._headers_of_json = {**headers, "Content-Type": "application/json"}
        self._connections = connections

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[UpstreamResponse]:
        """Send one request and read its response in the block; leaving the block early closes the connection.

        Args:
            content: A body that is no JSON document, or is one already; `headers` say which.
            headers: Beside those of every request.
            timeout: Seconds for connecting, and between two reads; by default CONNECT_SECONDS, and no limit.

        Raises httpx2.TransportError, also while the response is read.
        """
        usual = self._headers if json is None else self._headers_of_json
        response = await _open(
            self._connections,
            method,
            self._path + path,
            {**usual, **headers} if headers else usual,
            (content or b"") if json is None else _ENCODER.encode(json).encode(),
            connect=CONNECT_SECONDS if timeout is None else timeout,
            read=timeout,
        )
        try:
            yield response
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        await self._connections.aclose()


def open_client(
    base_url: str,
    *,
    key: SecretStr | None = None,
    proxy: str | None = None,
    certificates: ssl.SSLContext | None = None,
) -> UpstreamClient:
    """A client for one upstream; it opens no connection yet.

    Its requests have no time limit of their own except for connecting; see `call.calling`. A path cannot lead to
    another origin: it is only ever appended to the base URL's.

    Args:
        key: Sent as a bearer token, unless it is empty. A user name in the base URL takes its place.
        proxy: URL of the proxy through which to reach it; None to connect directly, whatever the environment says.
        certificates: What to trust and to show on direct connections with TLS, instead of the system's.
    """
    url = _base(base_url)
    token = key.get_secret_value().strip() if key is not None else ""
    headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "headrace"}
    if url.userinfo:
        pair = f"{url.username}:{url.password}".encode()
        headers["Authorization"] = "Basic " + b64encode(pair).decode()
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    return UpstreamClient(url, headers, _connections(url, proxy, certificates))


def open_httpx_client(base_url: str, *, proxy: str | None = None) -> httpx2.AsyncClient:
    """The same for packages that send their requests through a client of httpx2; `proxy` as for `open_client`."""
    url = _base(base_url)
    return httpx2.AsyncClient(
        base_url=url,
        headers={"Accept-Encoding": "identity"},
        transport=_OneOrigin(url, _connections(url, proxy)),
        follow_redirects=False,
        trust_env=False,
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
    )


def _base(base_url: str) -> httpx2.URL:
    return httpx2.URL(base_url.rstrip("/") + "/")


def _connections(url: httpx2.URL, proxy: str | None, certificates: ssl.SSLContext | None = None) -> UpstreamConnections:
    return DirectConnections(url, certificates) if proxy is None else ProxiedConnections(url, proxy)


class _OneOrigin(httpx2.AsyncBaseTransport):
    def __init__(self, base_url: httpx2.URL, connections: UpstreamConnections) -> None:
        self._origin = _origin(base_url)
        self._connections = connections

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if _origin(request.url) != self._origin:
            raise WrongOrigin("a request to another origin than the configured one was refused", request=request)
        limits = request.extensions.get("timeout", {})
        response = await _open(
            self._connections,
            request.method,
            request.url.raw_path.decode("ascii"),
            {key.decode("ascii"): value.decode("latin-1") for key, value in request.headers.raw},
            await request.aread(),
            connect=limits.get("connect"),
            read=limits.get("read"),
        )
        return httpx2.Response(
            response.status_code, headers=list(response.raw_headers), stream=_BoundedBody(response), request=request
        )

    async def aclose(self) -> None:
        await self._connections.aclose()


class _BoundedBody(httpx2.AsyncByteStream):
    def __init__(self, response: UpstreamResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.aiter_raw()

    async def aclose(self) -> None:
        await self._response.aclose()


async def _open(
    connections: UpstreamConnections, method: str, target: str, headers: Mapping[str, str], body: bytes, *,
    connect: float | None, read: float | None,
) -> UpstreamResponse:  # fmt: skip
    incoming = await connections.open(method, target, headers, body, connect=connect, read=read)
    # Compressed answers could expand a thousandfold in memory, and save nothing on a stream of tokens.
    for key, value in incoming.raw_headers:
        if key.lower() == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            await incoming.aclose()
            raise httpx2.DecodingError("the response is compressed although asked not to be")
    return UpstreamResponse(incoming)


async def expect_ok(response: AnyResponse) -> None:
    """Raises Complained for any status but 200: nothing else is an answer to what we ask."""
    if response.status_code != 200:
        headers = {key.lower(): value for key, value in response.headers.items()}
        raise Complained(complaint_of(response.status_code, await read_body(response), headers, datetime.now(UTC)))


async def read_body(response: AnyResponse, limit: int = MOST_DOCUMENT_BYTES) -> str:
    """The whole body as text; bytes that are not UTF-8 become U+FFFD. Raises Unreadable above the limit."""
    pieces, size = [], 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > limit:
            raise Unreadable("its response is too long")
        pieces.append(piece)
    return b"".join(pieces).decode("utf-8", "replace")


def because(error: BaseException) -> str:
    """Why a connection failed, in words that are safe to log."""
    seen: set[int] = set()
    cause: BaseException | None = error
    # A chain of errors may be a circle: a package's error caused by the one that is raised again in its place.
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, ssl.SSLError):
            return "its TLS certificate or protocol is not accepted"
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
