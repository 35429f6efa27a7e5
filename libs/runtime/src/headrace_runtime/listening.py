"""Accepts the connections of an HTTP server, and bounds what each of them can hold.

Whoever can reach the port can open connections, and needs no key for it. So a connection that has not sent a whole
request head in time is closed, one that its peer does not read is closed by the kernel, an address may have few that
have sent none yet, and when all places are taken, those that do nothing make room or the next ones wait outside.

A connection is in one of three states::

    STARTING   accepted, or the first bytes of its next request have come      closed after `head_seconds`
    ANSWERING  a request is being answered (however long that takes)           closed by the kernel if it is not read
    IDLE       its last request was answered                                   closed after `idle_seconds`
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import Callable
from enum import Enum
from typing import Final, cast

from headrace_runtime.api_limits import ConnectionLimits
from headrace_runtime.logging import get_logger

_BACKLOG: Final = 1_024
_SEND_BUFFER_BYTES: Final = 32_768
"""The kernel doubles it for its own use. Left alone it would hold megabytes for each peer that does not read."""
_RECEIVE_BUFFER_BYTES: Final = 65_536
_SWEEP_SECONDS: Final = 0.5
_REST_SECONDS: Final = 0.1
_SETTLED_SECONDS: Final = 1.0
"""A connection that is younger than this may be about to send its request: it is not closed to make room."""
RESERVED_FILES: Final = 256
"""Open files that are kept for everything but callers: Kafka, Postgres, the registry, logs."""
_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = get_logger("headrace.runtime.listening")


class _State(Enum):
    STARTING = "starting"
    ANSWERING = "answering"
    IDLE = "idle"


class _Connection(asyncio.Protocol):
    """Passes everything on to the HTTP protocol of one connection, and tells the listener what it notices."""

    __slots__ = ("_http", "_listener", "address", "lost", "since", "state", "transport")

    def __init__(self, http: asyncio.Protocol, listener: Listener, address: str) -> None:
        self._http = http
        self._listener = listener
        self.address = address
        self.state = _State.STARTING
        self.since = 0.0
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] | None = None

    @property
    def http(self) -> asyncio.Protocol:
        return self._http

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without deriving from it
        self._listener._opened(self)
        self._http.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener._closed(self)
        self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.state is _State.IDLE:
            self._listener._change(self, _State.STARTING)
        self._http.data_received(data)

    def eof_received(self) -> bool | None:
        return self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Listener:
    """The listening sockets of one server and their connections.

    Args:
        protocol: Makes the HTTP protocol of a new connection.
        on_full: Told why new connections wait, and None once they no longer do.
    """

    def __init__(
        self,
        protocol: Callable[[], asyncio.Protocol],
        limits: ConnectionLimits,
        on_full: Callable[[str | None], None] = lambda reason: None,
    ) -> None:
        self._protocol = protocol
        self._limits = limits
        self._on_full = on_full
        self._most = limits.connections
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._sweeping: asyncio.Task[None] | None = None
        # By state, longest in it first: each state has one time limit, so only the first ones can be due.
        self._by_state: dict[_State, dict[_Connection, None]] = {state: {} for state in _State}
        self._by_protocol: dict[asyncio.BaseProtocol, _Connection] = {}
        # By address, longest in it first.
        self._starting: dict[str, dict[_Connection, None]] = {}
        self._left = asyncio.Event()
        self._full: str | None = None
        self._stopped = False

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._by_protocol)

    @property
    def most(self) -> int:
        """Most connections at a time: of the settings, or fewer if the process may not open so many files."""
        return self._most

    @property
    def port(self) -> int:
        """The port it listens on; 0 before `start`."""
        return int(self._sockets[0].getsockname()[1]) if self._sockets else 0

    async def start(self, host: str, port: int) -> None:
        """Raises OSError when the address is in use or not local."""
        allowed = open_files_allowed()
        self._most = max(1, min(self._limits.connections, allowed - RESERVED_FILES))
        if self._most < self._limits.connections:
            _log.warning(
                "fewer connections than the setting allows, since the process may open few files",
                connections=self._most,
                open_files=allowed,
            )
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, kind, protocol, _, address in dict.fromkeys(found):
                self._sockets.append(_listening(family, kind, protocol, address))
        except OSError:
            self._close_sockets()
            raise
        self._accepting = [loop.create_task(self._accept(each), name="accept") for each in self._sockets]
        self._sweeping = loop.create_task(self._sweep(), name="connections")

    async def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._accepting = []
        self._close_sockets()

    async def stop(self) -> None:
        """Close the listening sockets, and no longer watch the connections."""
        self._stopped = True
        await self.stop_accepting()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
            self._sweeping = None

    def began(self, protocol: asyncio.BaseProtocol) -> None:
        """The head of a request has come, and it is being answered."""
        connection = self._by_protocol.get(protocol)
        if connection is not None:
            self._change(connection, _State.ANSWERING)

    def ended(self, protocol: asyncio.BaseProtocol) -> None:
        """A request has been answered."""
        connection = self._by_protocol.get(protocol)
        if connection is not None:
            self._change(connection, _State.IDLE)

    def lost(self, protocol: asyncio.BaseProtocol) -> asyncio.Future[None]:
        """Done once the peer has closed its connection, or it broke. Never done when the server stops: what it closes
        then, nobody has hung up."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        connection = self._by_protocol.get(protocol)
        if connection is None:
            if not self._stopped:
                future.set_result(None)
            return future
        connection.lost = connection.lost or future
        return connection.lost

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._room()
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                # The peer may be gone already (ECONNABORTED): nobody's trouble. Without files there is no point in
                # asking again at once.
                if error.errno in _NO_FILES:
                    self._note_full(f"no connection can be accepted: {error.strerror}")
                    await asyncio.sleep(_REST_SECONDS)
                continue
            await self._take(accepted, str(address[0]) if address else "")

    async def _take(self, accepted: socket.socket, address: str) -> None:
        # TCP_USER_TIMEOUT also ends connections whose peer keeps its receive window closed (tcp(7)).
        timeout = getattr(socket, "TCP_USER_TIMEOUT", None)
        try:
            if timeout is not None:
                accepted.setsockopt(socket.IPPROTO_TCP, timeout, int(self._limits.unread_seconds * 1000))
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Connection(self._protocol(), self, address), accepted
            )
        except OSError:
            accepted.close()

    async def _room(self) -> None:
        while self.connections >= self._most:
            if self._close_one():
                # It leaves with the next turn of the loop.
                await asyncio.sleep(0)
                continue
            self._note_full(f"all {self._most} connections are in use: new ones wait")
            self._left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), _REST_SECONDS)

    def _close_one(self) -> bool:
        """Close the connection that has done nothing for longest; False if all are at work or new."""
        now = asyncio.get_running_loop().time()
        for state in (_State.IDLE, _State.STARTING):
            connection = next(iter(self._by_state[state]), None)
            if connection is not None and now - connection.since >= _SETTLED_SECONDS:
                self._close(connection)
                return True
        return False

    def _opened(self, connection: _Connection) -> None:
        self._by_protocol[connection.http] = connection
        connection.since = asyncio.get_running_loop().time()
        self._enter(connection)

    def _closed(self, connection: _Connection) -> None:
        if self._by_protocol.pop(connection.http, None) is not None:
            self._leave(connection)
        if connection.lost is not None and not connection.lost.done() and not self._stopped:
            connection.lost.set_result(None)
        self._left.set()

    def _change(self, connection: _Connection, state: _State) -> None:
        self._leave(connection)
        connection.state = state
        connection.since = asyncio.get_running_loop().time()
        self._enter(connection)

    def _enter(self, connection: _Connection) -> None:
        self._by_state[connection.state][connection] = None
        if connection.state is _State.STARTING:
            of_address = self._starting.setdefault(connection.address, {})
            of_address[connection] = None
            if len(of_address) > self._limits.starting_per_address:
                # Whoever opens so many harms only those who share the address, and of these the one waiting longest.
                self._close(next(iter(of_address)))

    def _leave(self, connection: _Connection) -> None:
        self._by_state[connection.state].pop(connection, None)
        if connection.state is _State.STARTING and (of_address := self._starting.get(connection.address)) is not None:
            of_address.pop(connection, None)
            if not of_address:
                del self._starting[connection.address]

    def _close(self, connection: _Connection) -> None:
        if self._by_protocol.pop(connection.http, None) is not None:
            self._leave(connection)
        connection.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._close_due(_State.STARTING, self._limits.head_seconds)
            self._close_due(_State.IDLE, self._limits.idle_seconds)
            # Here and not with the next connection: a server at its limit would say so anew for each of them.
            if self.connections < self._most:
                self._note_full(None)

    def _close_due(self, state: _State, seconds: float) -> None:
        before = asyncio.get_running_loop().time() - seconds
        while (connection := next(iter(self._by_state[state]), None)) is not None and connection.since <= before:
            self._close(connection)

    def _note_full(self, reason: str | None) -> None:
        if reason == self._full:
            return
        self._full = reason
        if reason is not None:
            _log.warning("new connections wait", reason=reason)
        else:
            _log.info("new connections are accepted again")
        self._on_full(reason)

    def _close_sockets(self) -> None:
        for each in self._sockets:
            each.close()
        self._sockets = []


def open_files_allowed() -> int:
    """How many files this process may have open: its soft limit, raised to the hard one where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 1_048_576)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            _log.warning("the limit of open files cannot be raised", limit=soft, reason=str(error))
        else:
            return wanted
    return soft if soft != resource.RLIM_INFINITY else wanted


def _listening(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted connections inherit them, and the kernel then no longer lets their buffers grow.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
