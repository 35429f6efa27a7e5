"""Streams of an upstream, decoded piece by piece: server-sent events, and lines of JSON.

Every buffer has a limit, and the work is linear in what is received, however it is cut into pieces.

Source: the HTML standard, "Server-sent events", section "Parsing an event stream".
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Final, NamedTuple

from headrace_models.upstream.values import Unreadable

LONGEST_EVENT_BYTES: Final = 4 * 1024 * 1024
"""Of one line, and of one event's data: above the largest record that Kafka takes by default, with room."""


class ServerSentEvent(NamedTuple):
    """One event. Its name is `message` unless the stream says otherwise."""

    name: str
    data: str


async def lines(pieces: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The lines of a UTF-8 stream, without their ends (LF, CRLF or CR); the last one may lack an end.

    Raises Unreadable for invalid UTF-8 and for a line above LONGEST_EVENT_BYTES.
    """
    pending: list[bytes] = []
    size = 0
    async for piece in pieces:
        size += len(piece)
        pending.append(piece)
        # Joined only when a line ends: a line that comes byte by byte is not copied for each of them.
        if b"\n" in piece or b"\r" in piece:
            whole = b"".join(pending)
            ended = whole.splitlines(keepends=True)
            # A final CR may be the first half of CRLF.
            rest = ended.pop() if not ended[-1].endswith(b"\n") else b""
            for line in ended:
                yield _decoded(line.rstrip(b"\r\n"))
            pending, size = [rest] if rest else [], len(rest)
        if size > LONGEST_EVENT_BYTES:
            raise Unreadable("a line of its stream is too long")
    for line in b"".join(pending).splitlines():
        yield _decoded(line)


def _decoded(line: bytes) -> str:
    if len(line) > LONGEST_EVENT_BYTES:
        raise Unreadable("a line of its stream is too long")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise Unreadable("it is not UTF-8") from None


async def server_sent_events(pieces: AsyncIterable[bytes]) -> AsyncIterator[ServerSentEvent]:
    """The events that carry data; comments, `id`, `retry` and events without data are passed over.

    An event that the end of the stream cuts off is delivered nevertheless: whether its data is whole, its format tells.
    A body that is a JSON document instead of a stream is delivered as one event. Raises Unreadable.
    """
    name, data, size, begun = "", list[str](), 0, False
    source = lines(pieces)
    async for line in source:
        if not begun:
            line = line.removeprefix("\ufeff")
            if line.lstrip().startswith(("{", "[")):
                yield ServerSentEvent("message", await _rest(line, source))
                return
            begun = bool(line.strip())
        if not line:
            if any(data):
                yield ServerSentEvent(name or "message", "\n".join(data))
            name, data, size = "", [], 0
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            size = _within_limit(size + len(value))
            data.append(value)
        elif field == "event":
            name = value
    if any(data):
        yield ServerSentEvent(name or "message", "\n".join(data))


async def _rest(first: str, source: AsyncIterator[str]) -> str:
    found, size = [first], len(first)
    async for line in source:
        size = _within_limit(size + len(line) + 1)
        found.append(line)
    return "\n".join(found)


def _within_limit(size: int) -> int:
    if size > LONGEST_EVENT_BYTES:
        raise Unreadable("an event of its stream is too long")
    return size
