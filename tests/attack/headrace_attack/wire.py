"""HTTP as an attacker writes it: any bytes, on connections that are kept while they are answered."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

_LARGEST_ANSWER: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: 0 when the connection was closed without an answer.
        head: Status line and headers.
        body: As far as it was read.
        seconds: From sending the request to the end of what was read.
        timed_out: Whether there was no (whole) answer in time.
    """

    status: int
    head: bytes = b""
    body: bytes = b""
    seconds: float = 0.0
    timed_out: bool = False

    @property
    def everything(self) -> bytes:
        return self.head + self.body


class Wire:
    """One connection to a server, opened again when it has been closed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def send(self, request: bytes, *, seconds: float = 10.0, whole: bool = True) -> Answer:
        """Send bytes and read the answer; only its head and what comes with it if not `whole`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(seconds):
                answer = await self._exchange(request, whole=whole)
        except TimeoutError:
            self.close()
            return Answer(0, seconds=loop.time() - began, timed_out=True)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            self.close()
            return Answer(0, seconds=loop.time() - began)
        status, head, body, keep = answer
        if not keep:
            self.close()
        return Answer(status, head, body, loop.time() - began)

    async def _exchange(self, request: bytes, *, whole: bool) -> tuple[int, bytes, bytes, bool]:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=_LARGEST_ANSWER)
        reader = self._reader
        self._writer.write(request)
        # A server that answers early reads no further; the answer is what counts.
        with contextlib.suppress(OSError):
            await self._writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        headers = head.lower()
        keep = b"\r\nconnection: close" not in headers and head.startswith(b"HTTP/1.1")
        if not whole:
            return status, head, b"", False
        if status in (204, 304):
            return status, head, b"", keep
        if b"\r\ncontent-length:" in headers:
            length = int(headers.split(b"\r\ncontent-length:", 1)[1].split(b"\r\n", 1)[0])
            return status, head, await reader.readexactly(min(length, _LARGEST_ANSWER)), keep
        return status, head, await reader.read(_LARGEST_ANSWER), False


def request(
    method: str,
    path: str,
    *,
    key: str | None = None,
    body: bytes | None = None,
    headers: tuple[tuple[str, str | bytes], ...] = (),
) -> bytes:
    """The bytes of a request; header values may be bytes."""
    lines = [f"{method} {path} HTTP/1.1".encode("utf-8", "surrogateescape"), b"Host: attacked"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}".encode())
    if body is not None:
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    for name, value in headers:
        lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
    return b"\r\n".join([*lines, b"", b""]) + (body or b"")
