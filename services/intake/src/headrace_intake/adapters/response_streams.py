"""From the replies of a task to the events of a streamed response."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from headrace_runtime.sse import ServerEvent

from headrace_intake.adapters.answering import Update, Updates
from headrace_intake.adapters.encoding import dumps
from headrace_intake.decide.chat_answers import ChatError, pieces_of
from headrace_intake.decide.replies import Delta, Restarted
from headrace_intake.decide.responses.stream import Event, ResponseEvents
from headrace_intake.following import TaskEnd


async def events_of(events: ResponseEvents, updates: Updates) -> AsyncGenerator[Event, None]:
    """All events of a response: what its task says becomes what OpenAI's clients expect."""
    broken = False
    for event in events.opening():
        yield event
    async for update in updates:
        if isinstance(update, Restarted):
            broken = bool(events.sent)
        for event in _of_update(events, update, broken):
            yield event


def _of_update(events: ResponseEvents, update: Update, broken: bool) -> Sequence[Event]:
    match update:
        case Delta() as delta if not broken:
            return [event for piece in pieces_of(delta) for event in events.piece(piece)]
        case TaskEnd(view):
            return events.ending(view)
        case ChatError() as error:
            return [events.failure(error)]
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
