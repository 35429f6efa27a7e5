"""Connections to one upstream: aiohttp's, or httpx2's where a proxy is between. Either fails with the errors of httpx2.

aiohttp parses what comes in compiled code; a call costs a fraction of the processor time that it costs over httpx2
(docs/performance.md, "Calls to models"). Errors are named by httpx2, which the anthropic package needs to see.
"""

from __future__ import annotations

import io
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import Any, Final, Protocol, cast

import aiohttp
import httpx2
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

IDLE_SECONDS: Final = 30.0
"""How long a connection is kept for the next call."""
_LONGEST_HEAD_BYTES: Final = 100 * 1024
"""Of a response's status line and headers together, and so of one of them."""
_MOST_FIELDS: Final = 1_024
_COPIED_ABOVE_BYTES: Final = 1024 * 1024
"""aiohttp sends a longer body piece by piece only if it comes as a file."""
_FAILURES: Final = (aiohttp.ClientError, HttpProcessingError, OSError)
"""What aiohttp raises for something that happened to a connection. TimeoutError is an OSError."""


class IncomingResponse(Protocol):
    """A response whose head has come."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]: ...

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises httpx2.TransportError."""

    async def aclose(self) -> None:
        """Give the connection back; close it, if the response has not come to its end."""


class UpstreamConnections(Protocol):
    """Opens responses of one origin."""

    async def open(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, connect: float | None,
        read: float | None,
    ) -> IncomingResponse:  # fmt: skip
        """Send one request, once. Raises httpx2.TransportError.

        Args:
            target: Path and query, as they go out.
            connect, read: Seconds for connecting, and between two reads; None for no limit.
        """

    async def aclose(self) -> None: ...


@cache
def certificates() -> ssl.SSLContext:
    """Made once: it takes 0.2 s. Of the environment, only the operator's certificates (`SSL_CERT_FILE`) count."""
    context = httpx2.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class DirectConnections:
    """Connections of aiohttp. Idle ones are kept for 30 to 60 s; there are never more than calls at one time.

    Args:
        own_certificates: What to trust and to show instead of `certificates()`.
    """

    def __init__(self, base_url: httpx2.URL, own_certificates: ssl.SSLContext | None = None) -> None:
        self._origin = f"{base_url.scheme}://{base_url.netloc.decode('ascii')}"
        self._certificates = (own_certificates or certificates()) if base_url.scheme == "https" else None
        self._session: aiohttp.ClientSession | None = None

    async def open(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, connect: float | None,
        read: float | None,
    ) -> IncomingResponse:  # fmt: skip
        session = self._session
        if session is None:
            session = self._session = _new_session(self._certificates)
        try:
            response = await session.request(
                method,
                _url(self._origin, target),
                headers=headers,
                data=(io.BytesIO(body) if len(body) > _COPIED_ABOVE_BYTES else body) or None,
                allow_redirects=False,
                timeout=_timeout(connect, read),
            )
        except _FAILURES as error:
            raise _as_httpx2(error) from error
        except ValueError as error:
            # A header with a line break in it, which a key may have.
            raise httpx2.LocalProtocolError("the request is not valid") from error
        if response.status < 200:
            response.close()
            raise httpx2.RemoteProtocolError("the connection was switched to another protocol")
        return _DirectResponse(response)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


def _new_session(context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=_DirectConnector(context),
        # What one tenant's call brought must not go out with another's.
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        max_line_size=_LONGEST_HEAD_BYTES,
        max_field_size=_LONGEST_HEAD_BYTES,
        max_headers=_MOST_FIELDS,
    )


class _DirectConnector(aiohttp.TCPConnector):
    """Connections that tell of every failure. aiohttp has no public place for a protocol of one's own."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(
            # The worker's slots limit the calls; a second limit here would make calls wait unseen.
            limit=0,
            keepalive_timeout=IDLE_SECONDS,
            # A node that has moved is found by the next connection.
            use_dns_cache=False,
            ssl=context if context is not None else True,
        )
        self._factory = cast("partial[ResponseHandler]", partial(_ToldProtocol, loop=self._loop))


class _ToldProtocol(ResponseHandler):
    """aiohttp's protocol, but what came before a failure is delivered, and the failure is too.

    aiohttp drops a head if the body that came with it is malformed, though it tells that the provider has begun, and
    may bill. It tells nobody of a malformed body that comes later, so that a reader waits for ever. And it takes a
    reset for the end of a body without a length.
    """

    _head_came = False
    _head_bytes = 0
    _last_bytes = b""

    def set_response_params(self, **params: Any) -> None:
        self._head_came, self._head_bytes, self._last_bytes = False, 0, b""
        super().set_response_params(**params)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        # Interim responses (103) come before the one that counts.
        self._head_came = data[0].code >= 200
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        if not data:
            # aiohttp goes on with what it has kept while the reader was slow.
            super().data_received(data)
        while data and self.exception() is None:
            if self._head_came:
                super().data_received(data)
                return
            found = (self._last_bytes + data).find(b"\r\n\r\n")
            end = found + 4 - len(self._last_bytes) if found >= 0 else len(data)
            part, data = data[:end], data[end:]
            self._last_bytes = b"" if found >= 0 else (self._last_bytes + part)[-3:]
            self._head_bytes += len(part)
            if self._head_bytes > _LONGEST_HEAD_BYTES:
                self.set_exception(HttpProcessingError(message="the head is too long"))
                # Who waits for the head is only woken by the end of the connection.
                if self.transport is not None:
                    self.transport.close()
                return
            super().data_received(part)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        _fail(self._payload, exc)
        super().set_exception(exc, *cause)

    def connection_lost(self, exc: BaseException | None) -> None:
        body = self._payload
        reset = aiohttp.ClientOSError(*exc.args) if isinstance(exc, OSError) else None
        _fail(body, reset)
        super().connection_lost(exc)
        # In place of aiohttp's own, which does not tell a reset from an end.
        _fail(body, reset)


def _fail(body: StreamReader | None, error: BaseException | None) -> None:
    """Wake up who reads the body, unless it is whole."""
    if body is not None and error is not None and not body.is_eof():
        body.set_exception(error)


@lru_cache(maxsize=256)
def _url(origin: str, target: str) -> URL:
    return URL(origin + target, encoded=True)


@lru_cache(maxsize=64)
def _timeout(connect: float | None, read: float | None) -> aiohttp.ClientTimeout:
    # `connect` includes the look-up of the name and the TLS handshake, and nothing is waited for before: see `limit`.
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_read=read)


class _DirectResponse:
    __slots__ = ("_response", "headers", "raw_headers", "status_code")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status_code = response.status
        self.headers: Mapping[str, str] = response.headers
        self.raw_headers: Sequence[tuple[bytes, bytes]] = response.raw_headers

    async def pieces(self) -> AsyncIterator[bytes]:
        content = self._response.content
        failed: Exception | None = None
        while failed is None:
            try:
                piece = await content.readany()
            except _FAILURES as error:
                failed = error
                # Came before the failure, and may be the end of a whole answer; aiohttp's public methods drop it.
                piece = content._read_nowait(-1)
            if piece:
                yield piece
            elif failed is None:
                return
        raise _as_httpx2(failed) from failed

    async def aclose(self) -> None:
        # Keeps the connection if the body has come to its end.
        self._response.close()


def _as_httpx2(error: Exception) -> httpx2.TransportError:
    """What httpx2 raises for the same. Its text does not quote: aiohttp's may contain what was received."""
    return _kind_of(error)(type(error).__name__)


def _kind_of(error: Exception) -> type[httpx2.TransportError]:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return httpx2.ConnectTimeout
        case TimeoutError():
            return httpx2.ReadTimeout
        case aiohttp.ClientConnectorError() | aiohttp.ClientConnectorCertificateError():
            return httpx2.ConnectError
        case aiohttp.InvalidURL():
            return httpx2.UnsupportedProtocol
        case aiohttp.ClientPayloadError() if not isinstance(error.__cause__, OSError):
            # The connection ended before the body did, or what came is not the body's format.
            return httpx2.RemoteProtocolError
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientResponseError() | HttpProcessingError():
            return httpx2.RemoteProtocolError
        case _:
            return httpx2.ReadError


class ProxiedConnections:
    """Connections of httpx2 through a proxy: HTTP, also with TLS to the proxy itself. Raises ValueError for others."""

    def __init__(self, base_url: httpx2.URL, proxy: str) -> None:
        self._base_url = base_url
        self._transport = httpx2.AsyncHTTPTransport(
            verify=certificates(),
            proxy=proxy,
            trust_env=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=IDLE_SECONDS),
        )

    async def open(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, connect: float | None,
        read: float | None,
    ) -> IncomingResponse:  # fmt: skip
        request = httpx2.Request(
            method,
            self._base_url.copy_with(raw_path=target.encode("ascii")),
            headers=list(headers.items()),
            content=body or None,
            extensions={"timeout": {"connect": connect, "read": read, "write": read, "pool": None}},
        )
        return _ProxiedResponse(await self._transport.handle_async_request(request))

    async def aclose(self) -> None:
        await self._transport.aclose()


class _ProxiedResponse:
    __slots__ = ("_response", "headers", "raw_headers", "status_code")

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.status_code = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.raw_headers: Sequence[tuple[bytes, bytes]] = response.headers.raw

    def pieces(self) -> AsyncIterator[bytes]:
        assert isinstance(self._response.stream, httpx2.AsyncByteStream)
        return self._response.stream.__aiter__()

    async def aclose(self) -> None:
        await self._response.aclose()
