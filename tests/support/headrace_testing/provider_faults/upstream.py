"""An HTTP server on loopback that plays a script byte for byte, whatever it is asked."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Wait:
    """Silence, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes outside of the body's chunks, for responses that are not HTTP."""

    data: bytes = field(repr=False)


HANG: Final = Wait(3600.0)
CLOSE: Final = "close"
"""Close the connection in order, where the script stands."""
_TLS_HANDSHAKE: Final = b"\x16"
RESET: Final = "reset"
"""Reset the connection (RST), where the script stands."""

Step = bytes | Wait | Raw | str


@dataclass(frozen=True, slots=True)
class Script:
    """One response: its head, then its body's steps, each of bytes a chunk of its own. `head` None sends none."""

    steps: Sequence[Step]
    status: int | None = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """What was received."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class FakeUpstream:
    """Plays `scripts` one after the other, and the last one again and again; an async context manager."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.requests: list[Request] = []
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> FakeUpstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (request := await _read(reader)) is not None:
                self.requests.append(request)
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                if not await _play(script, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # The client has had enough, or the test has ended: either ends this connection, and only this one.
            return
        finally:
            self._connections.discard(task)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        first_byte = await reader.readexactly(1)
        if first_byte == _TLS_HANDSHAKE:
            # As a server that speaks plain HTTP on this port: it closes at once.
            return None
        head = first_byte + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


async def _play(script: Script, writer: asyncio.StreamWriter) -> bool:
    """Returns whether the connection can take another request."""
    if script.status is not None:
        headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", **script.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {script.status} Said\r\n{lines}\r\n".encode())
    for step in script.steps:
        match step:
            case Wait(seconds):
                await writer.drain()
                await asyncio.sleep(seconds)
            case Raw(data):
                writer.write(data)
                await writer.drain()
            case bytes():
                if step:
                    writer.write(b"%x\r\n%s\r\n" % (len(step), step))
                    await writer.drain()
            case "close":
                await writer.drain()
                return False
            case "reset":
                await writer.drain()
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
    if script.status is not None:
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    return script.status is not None
