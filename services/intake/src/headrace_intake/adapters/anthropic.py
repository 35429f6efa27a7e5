"""`/v1/messages` in the form that Anthropic's client libraries expect."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import REQUEST_ID, parse_model, read_json
from headrace_runtime.sse import ServerEvent, event_stream

from headrace_intake.adapters.answering import Answering, Updates, asker
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.problems import problem_with
from headrace_intake.decide.anthropic.answers import message
from headrace_intake.decide.anthropic.counting import estimated_tokens
from headrace_intake.decide.anthropic.request import (
    MessagesRequest,
    conversation,
    draft_of_messages,
    options_of,
    taken,
)
from headrace_intake.decide.anthropic.stream import PING, Event, MessageEvents, NotTheAnswer
from headrace_intake.decide.chat_answers import ChatError, answer_sealed, broken_off, error_of, headers
from headrace_intake.decide.drafts import TaskDraft, designation
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.replies import Delta, Restarted
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.views import TaskView
from headrace_intake.following import TaskEnd
from headrace_intake.service import Acceptance, SubmitRequest


class AnthropicApi:
    """Handlers of the Messages API."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/messages", self.create),
            web.post("/v1/messages/count_tokens", self.count_tokens),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        caller, key = asker(request)
        body, asked = await _read(request)
        draft = draft_of_messages(asked)
        acceptance, told = await self._answering.accept(SubmitRequest("messages", caller, draft, body, key))
        view = acceptance.view
        told["request-id"] = request[REQUEST_ID]
        with self._answering.watching(request, caller, view.task_id):
            if asked.stream:
                return await self._stream(request, _events_of(asked, draft, view), acceptance, told)
            end = await self._answering.end(acceptance, told)
        return web.json_response(_whole(end, asked), headers={**told, **headers(end)}, dumps=dumps)

    async def count_tokens(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        _, asked = await _read(request)
        _, model = designation(asked.model, asked.role)
        tokens = estimated_tokens(conversation(asked), options_of(asked, model))
        told = {"request-id": request[REQUEST_ID]}
        return web.json_response({"input_tokens": tokens, "headrace": {"estimate": True}}, headers=told, dumps=dumps)

    async def _stream(
        self, request: web.Request, events: MessageEvents, acceptance: Acceptance, told: Mapping[str, str]
    ) -> web.StreamResponse:
        async with self._answering.updates(acceptance, told) as updates:
            return await event_stream(
                request,
                _server_events(events, updates, request[REQUEST_ID]),
                heartbeat_seconds=self._answering.heartbeat_seconds,
                heartbeat=_server_event(PING),
                resumable=False,
                headers=updates.told,
            )


async def _read(request: web.Request) -> tuple[dict[str, Any], MessagesRequest]:
    body = taken(with_headers(expect_object(await read_json(request)), request.headers, request.query))
    return body, parse_model(body, MessagesRequest)


def _events_of(asked: MessagesRequest, draft: TaskDraft, view: TaskView) -> MessageEvents:
    tokens = estimated_tokens(draft.messages, draft.asked)
    return MessageEvents(view, asked.model, tokens, shows_thoughts=asked.shows_thoughts)


async def _server_events(events: MessageEvents, updates: Updates, request_id: str) -> AsyncGenerator[ServerEvent, None]:
    broken = False
    for event in events.opening():
        yield _server_event(event)
    async for update in updates:
        match update:
            case Delta() as delta:
                for event in () if broken else events.update(delta):
                    yield _server_event(event)
            case TaskEnd(view):
                for last in _last_events(events, view, request_id):
                    yield last
            case Restarted():
                events.restarted()
                broken = events.has_sent
            case ChatError() as error:
                yield _failure(error, request_id)


def _last_events(events: MessageEvents, end: TaskView, request_id: str) -> Iterable[ServerEvent]:
    error = error_of(end)
    if error is not None:
        return [_failure(error, request_id)]
    try:
        return [_server_event(event) for event in events.ending(end)]
    except ContentSealed as sealed:
        return [_failure(answer_sealed(sealed), request_id)]
    except NotTheAnswer:
        return [_failure(broken_off(end.task_id), request_id)]


def _server_event(event: Event) -> ServerEvent:
    return ServerEvent(dumps(event), event["type"])


def _failure(error: ChatError, request_id: str) -> ServerEvent:
    return _server_event(problem_with(error, {}).to_anthropic(request_id))


def _whole(end: TaskView, asked: MessagesRequest) -> Mapping[str, Any]:
    try:
        return message(end, shows_thoughts=asked.shows_thoughts)
    except ContentSealed as sealed:
        raise problem_with(answer_sealed(sealed), headers(end)) from sealed
