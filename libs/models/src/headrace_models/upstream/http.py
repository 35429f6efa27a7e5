"""Connections to an upstream: to the configured origin and nowhere else, and with an end to everything it sends.

A prompt may leave to the address that the operator configured, and in no other way. So no redirect is followed, the
environment (`HTTP_PROXY`, `.netrc`, ...) is not read, and a request to another origin is refused before it is sent.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import cache
from typing import Final

import httpx2
from pydantic import SecretStr

from headrace_models.upstream.complaints import Complained, complaint_of
from headrace_models.upstream.values import Unreadable

CONNECT_SECONDS: Final = 10.0
MOST_STREAM_BYTES: Final = 256 * 1024 * 1024
"""Of one response. An answer of 128,000 tokens in chunks of 400 bytes is 51 MB."""
MOST_DOCUMENT_BYTES: Final = 8 * 1024 * 1024
"""Of a list of models; the longest known, of an aggregator with some 500 models, is below 1 MB."""
_MOST_COMPLAINT_BYTES: Final = 64 * 1024


class WrongOrigin(httpx2.UnsupportedProtocol):
    """A request to another address than the configured one was about to be sent: a bug of ours or of a package."""


def open_client(base_url: str, *, key: SecretStr | None = None, proxy: str | None = None) -> httpx2.AsyncClient:
    """A client for one upstream; paths are relative to the base URL.

    Its requests have no time limit of their own except for connecting; see `call.calling`.

    Args:
        key: Sent as a bearer token, unless it is empty.
        proxy: URL of the proxy through which to reach it; None to connect directly, whatever the environment says.
    """
    url = httpx2.URL(base_url.rstrip("/") + "/")
    token = key.get_secret_value().strip() if key is not None else ""
    return httpx2.AsyncClient(
        base_url=url,
        # Compressed answers could expand a thousandfold in memory, and save nothing on a stream of tokens.
        headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {token}"} if token else {})},
        transport=_OneOrigin(url, proxy),
        follow_redirects=False,
        trust_env=False,
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
    )


@cache
def _certificates() -> ssl.SSLContext:
    """Made once: it takes 0.2 s. Of the environment, only the operator's certificates (`SSL_CERT_FILE`) count."""
    return httpx2.create_ssl_context()


class _OneOrigin(httpx2.AsyncBaseTransport):
    def __init__(self, base_url: httpx2.URL, proxy: str | None) -> None:
        self._origin = _origin(base_url)
        self._inner = httpx2.AsyncHTTPTransport(
            verify=_certificates(),
            proxy=proxy,
            trust_env=False,
            # The worker's slots limit the calls; a second limit here would make calls wait unseen.
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if _origin(request.url) != self._origin:
            raise WrongOrigin("a request to another origin than the configured one was refused", request=request)
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            await response.stream.aclose()
            raise httpx2.DecodingError("the response is compressed although asked not to be", request=request)
        limit = MOST_STREAM_BYTES if response.status_code < 300 else _MOST_COMPLAINT_BYTES
        response.stream = _Bounded(response.stream, limit, cut=response.status_code >= 300)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Bounded(httpx2.AsyncByteStream):
    """A response's body up to a limit; what exceeds it is cut off, or is an error."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int, *, cut: bool) -> None:
        self._inner = inner
        self._left = limit
        self._cut = cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            if len(piece) > self._left:
                if self._cut:
                    yield piece[: self._left]
                    return
                raise Unreadable("its response is too long")
            self._left -= len(piece)
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


async def expect_ok(response: httpx2.Response) -> None:
    """Raises Complained for any status but 200: nothing else is an answer to what we ask."""
    if response.status_code != 200:
        headers = {key.lower(): value for key, value in response.headers.items()}
        raise Complained(complaint_of(response.status_code, await read_body(response), headers, datetime.now(UTC)))


async def read_body(response: httpx2.Response, limit: int = MOST_DOCUMENT_BYTES) -> str:
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
