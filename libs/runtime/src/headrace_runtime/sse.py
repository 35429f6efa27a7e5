"""Server-sent events: ids for resuming, heartbeats, and an end when the caller disconnects or the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from aiohttp import web

from headrace_runtime.http import ANSWERED, DRAINING
from headrace_runtime.problems import Problem

_HEARTBEAT: Final = b": heartbeat\n\n"
_LONGEST_EVENT_ID: Final = 512

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event on the wire. A caller sends `id` back as Last-Event-ID to resume after it."""

    data: str
    event: str | None = None
    id: str | None = None
    retry_ms: int | None = None

    def encode(self) -> bytes:
        """The event's bytes.

        Raises ValueError when the name or the id contains a line break, which would inject another field.
        """
        lines: list[str] = []
        for name, value in (("event", self.event), ("id", self.id)):
            if value is not None:
                if "\n" in value or "\r" in value or "\0" in value:
                    raise ValueError(f"the {name} of a server-sent event cannot hold a line break")
                lines.append(f"{name}: {value}")
        if self.retry_ms is not None:
            lines.append(f"retry: {self.retry_ms}")
        # The specification's three line ends; str.splitlines would also split at others inside JSON text.
        text = self.data.replace("\r\n", "\n").replace("\r", "\n")
        lines.extend(f"data: {line}" for line in text.split("\n"))
        return ("\n".join(lines) + "\n\n").encode()


def last_event_id(request: web.Request) -> str | None:
    """Where the caller wants to resume: the Last-Event-ID header, or the query parameter `last_event_id`.

    Raises Problem 400 for one that cannot be an id of ours.
    """
    given = request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or None
    if given is not None and (len(given) > _LONGEST_EVENT_ID or not given.isprintable()):
        raise Problem(400, "bad-last-event-id", "Last-Event-ID is not an id of this stream.")
    return given


async def event_stream(
    request: web.Request,
    events: AsyncIterator[ServerEvent],
    *,
    heartbeat_seconds: float,
    resumable: bool,
    headers: Mapping[str, str] | None = None,
    heartbeat: ServerEvent | None = None,
) -> web.StreamResponse:
    """Send `events` until they end, the caller disconnects, or (if `resumable`) the server drains.

    `events` is closed in every case. After each `heartbeat_seconds` of silence `heartbeat` is sent, or a comment. A
    stream that is not `resumable` (a chat answer) is completed during a drain, as far as the drain time allows. If
    `events` raises, the response breaks off, which clients see as a broken connection; so sources turn errors into
    events.
    """
    return await body_stream(
        request,
        events,
        ServerEvent.encode,
        content_type="text/event-stream; charset=utf-8",
        heartbeat=lambda: _HEARTBEAT if heartbeat is None else heartbeat.encode(),
        heartbeat_seconds=heartbeat_seconds,
        resumable=resumable,
        headers=headers,
    )


async def body_stream(
    request: web.Request,
    events: AsyncIterator[T],
    encode: Callable[[T], bytes],
    *,
    content_type: str,
    heartbeat: Callable[[], bytes],
    heartbeat_seconds: float,
    resumable: bool = False,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """The same for a stream of another format: `encode` writes an event, and `heartbeat` what means nothing."""
    response = web.StreamResponse(
        headers={
            "Content-Type": content_type,
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            **(headers or {}),
        }
    )
    draining = asyncio.create_task(request.app[DRAINING].wait()) if resumable else None
    upcoming: asyncio.Task[T] | None = None
    try:
        await response.prepare(request)
        while True:
            if upcoming is None:
                upcoming = asyncio.create_task(_next(events))
            waited_for = {upcoming, draining} if draining is not None else {upcoming}
            done, _ = await asyncio.wait(waited_for, timeout=heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED)
            if upcoming in done:
                finished, upcoming = upcoming, None
                await response.write(encode(finished.result()))
            elif draining is not None and draining in done:
                break
            else:
                await response.write(heartbeat())
        request[ANSWERED] = True
        await response.write_eof()
    except StopAsyncIteration:
        request[ANSWERED] = True
        # Clients hang up at the last event (OpenAI's at `[DONE]`), before the end of the body: they have everything, so
        # the request must not count as one whose caller left without an answer.
        with suppress(ConnectionError):
            await response.write_eof()
    except ConnectionError:
        pass  # the caller disconnected; only the source is left to be closed, below
    finally:
        pending = [task for task in (upcoming, draining) if task is not None]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
    return response


async def _next(events: AsyncIterator[T]) -> T:
    return await anext(events)
