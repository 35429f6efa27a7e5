"""From the replies of a task to the events of a streamed response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from headrace_runtime.logging import get_logger
from headrace_runtime.sse import ServerEvent
from headrace_streams.errors import StreamsError

from headrace_intake.adapters.encoding import dumps
from headrace_intake.decide.chat_answers import broken_off, pieces_of, too_late
from headrace_intake.decide.replies import Delta
from headrace_intake.decide.responses.stream import Event, ResponseEvents
from headrace_intake.following import Said, Stream, TaskEnd

_log = get_logger("headrace.intake.responses")


async def events_of(
    events: ResponseEvents, task_id: str, first: asyncio.Future[Said] | None, stream: Stream, wait_seconds: float
) -> AsyncGenerator[Event, None]:
    """All events of a response: what its task says becomes what OpenAI's clients expect.

    Args:
        first: The first update of the stream, if it is being waited for already.
        wait_seconds: Longest wait for the end.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_seconds
    broken = False
    for event in events.opening():
        yield event
    upcoming = first
    while True:
        try:
            async with asyncio.timeout_at(until):
                said = await (anext(stream) if upcoming is None else upcoming)
        except (TimeoutError, StopAsyncIteration):
            yield events.failure(too_late(task_id))
            return
        except StreamsError as error:
            _log.warning("an answer stream was cut off", reason=str(error))
            yield events.failure(broken_off(task_id))
            return
        upcoming = None
        for event in _of_update(events, said, broken):
            yield event
        match said.what:
            case TaskEnd():
                return
            case Delta():
                pass
            case _:
                broken = bool(events.sent)


def _of_update(events: ResponseEvents, said: Said, broken: bool) -> Sequence[Event]:
    match said.what:
        case Delta() as delta if not broken:
            return [event for piece in pieces_of(delta) for event in events.piece(piece)]
        case TaskEnd(view):
            return events.ending(view)
        case _:
            return ()


async def server_events(events: AsyncGenerator[Event, None], after: int) -> AsyncGenerator[ServerEvent, None]:
    """The events after a number, for the wire."""
    async with aclosing(events):
        async for event in events:
            if event["sequence_number"] > after:
                yield ServerEvent(dumps(event), event["type"])


async def only(events: Sequence[Event]) -> AsyncGenerator[Event, None]:
    """Events that are known already."""
    for event in events:
        yield event
