"""Serves an application on a port, within limits on connections, and drains it.

server = api_server(app, settings, health)
Part("api", start=server.start, drain=server.drain, stop=server.stop)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.hdrs import EXPECT

from headrace_runtime.api_limits import ConnectionLimits
from headrace_runtime.health import Health
from headrace_runtime.http import DRAINING, IN_PROGRESS
from headrace_runtime.listening import Listener
from headrace_runtime.settings import ApiSettings

LISTENER: Final = web.RequestKey("listener", Listener)
"""Which knows the request's connection; see `disconnected`."""

_LINGER_SECONDS: Final = 1.0
"""A body that was not wanted is read for so long, so that its sender sees the answer and not a broken connection."""

_Handle = Callable[[Any], Awaitable[web.StreamResponse]]


class HttpServer:
    """Serves an application; `drain` refuses new connections and lets requests in progress finish.

    Args:
        port: 0 chooses a free one.
        limits: Of its connections.
        on_full: Told why new connections wait, and None once they no longer do.
    """

    def __init__(
        self,
        app: web.Application,
        host: str,
        port: int,
        limits: ConnectionLimits | None = None,
        *,
        shutdown_seconds: float = 2.0,
        on_full: Callable[[str | None], None] = lambda reason: None,
    ) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._limits = limits if limits is not None else ConnectionLimits()
        self._on_full = on_full
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=shutdown_seconds,
            handler_cancellation=False,
            # `read_json` does it: aiohttp unpacks a body whether or not anybody wants to read it, passes on codings
            # that it does not know, and answers 500 to a body in another one.
            auto_decompress=False,
            lingering_time=_LINGER_SECONDS,
        )
        self._listener: Listener | None = None
        self._bound_port = 0

    @property
    def port(self) -> int:
        """The port it listens on, even if 0 was requested; 0 before `start`."""
        return self._bound_port

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._listener.connections if self._listener is not None else 0

    @property
    def most_connections(self) -> int:
        """Most connections at a time; 0 before `start`."""
        return self._listener.most if self._listener is not None else 0

    async def start(self) -> None:
        """Raises OSError when the address is in use or not local."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        listener = self._listener = Listener(server, self._limits, self._on_full)
        server.request_handler = _followed(server.request_handler, listener)
        await listener.start(self._host, self._port)
        self._bound_port = listener.port

    async def drain(self) -> None:
        """Returns when all requests have been answered; resumable event streams end, so that callers reconnect."""
        self._end_streams()
        if self._listener is not None:
            await self._listener.stop_accepting()
        if IN_PROGRESS in self._app:
            await self._app[IN_PROGRESS].none_open.wait()

    async def stop(self) -> None:
        self._end_streams()
        if self._listener is not None:
            await self._listener.stop()
            self._listener = None
        await self._runner.cleanup()

    def _end_streams(self) -> None:
        if DRAINING in self._app:
            self._app[DRAINING].set()


def disconnected(request: web.Request) -> asyncio.Future[None]:
    """Done once the caller has closed its connection, or it broke; never because this server stops.

    It belongs to the connection, which may carry further requests: take a callback off it with the end of this one.
    """
    return request[LISTENER].lost(request.protocol)


def api_server(app: web.Application, settings: ApiSettings, health: Health) -> HttpServer:
    """The server of a service's API, as the settings say; /readyz tells why new connections wait."""
    return HttpServer(
        app,
        settings.api_host,
        settings.api_port,
        settings.connection_limits(),
        on_full=lambda reason: health.degrade("connections", reason),
    )


def _followed(handle: _Handle, listener: Listener) -> _Handle:
    """`handle`, with the listener knowing which connections are being answered."""

    async def follow(request: Any) -> web.StreamResponse:
        protocol: asyncio.BaseProtocol = request.protocol
        listener.began(protocol)
        request[LISTENER] = listener
        try:
            # aiohttp would repeat the header in its answer, and fail if it is not text.
            if request.headers.get(EXPECT, "100-continue").lower() != "100-continue":
                return web.Response(status=417, text="The only expectation that can be met is 100-continue.\n")
            response = await handle(request)
            # Here and not in aiohttp, which comes next: a connection is at work until its answer has been sent.
            await response.prepare(request)
            await response.write_eof()
            return response
        except ConnectionError:
            # The caller has disconnected. aiohttp would log that as an error, with a traceback; it takes an answer that
            # cannot be sent as what it is.
            request.protocol.force_close()
            return web.Response()
        finally:
            listener.ended(protocol)

    return follow
