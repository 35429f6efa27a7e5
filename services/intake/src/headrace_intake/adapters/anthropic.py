"""`/v1/messages` in the form that Anthropic's client libraries expect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import REQUEST_ID, parse_model, read_json
from headrace_runtime.logging import get_logger
from headrace_runtime.sse import ServerEvent, event_stream
from headrace_streams.errors import StreamsError

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
from headrace_intake.decide.chat_answers import ChatError, answer_sealed, broken_off, error_of, headers, too_late
from headrace_intake.decide.drafts import TaskDraft, designation
from headrace_intake.decide.idempotency import parse_key
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.replies import Delta
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.views import TaskView
from headrace_intake.decide.waits import wait_seconds
from headrace_intake.following import Following, Said, Stream, TaskEnd
from headrace_intake.hang_ups import HangUps
from headrace_intake.service import Acceptance, Intake, SubmitRequest

_log = get_logger("headrace.intake.anthropic")


class AnthropicApi:
    """Handlers of the Messages API.

    Args:
        answer_seconds: Longest wait for a task without a deadline.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        intake: Intake,
        following: Following,
        hang_ups: HangUps,
        *,
        answer_seconds: float,
        heartbeat_seconds: float,
        clock: Callable[[], int],
    ) -> None:
        self._intake = intake
        self._following = following
        self._hang_ups = hang_ups
        self._answer_seconds = answer_seconds
        self._heartbeat = heartbeat_seconds
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/messages", self.create),
            web.post("/v1/messages/count_tokens", self.count_tokens),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        caller = require(request, Scope.TASKS)
        key = parse_key(request.headers.getall("Idempotency-Key", []))
        body, asked = await _read(request)
        draft = draft_of_messages(asked)
        acceptance = await self._intake.accept(SubmitRequest("messages", caller, draft, body, key))
        view = acceptance.view
        told = {"X-Headrace-Task-Id": view.task_id, "request-id": request[REQUEST_ID]}
        if acceptance.replayed:
            told["Idempotency-Replayed"] = "true"
        wait = wait_seconds(view, self._clock(), self._answer_seconds)
        with self._hang_ups.watching(request, caller, view.task_id):
            if asked.stream:
                events = _events_of(asked, draft, view)
                return await self._stream(request, events, acceptance, told, wait)
            end = await self._intake.end(acceptance, wait)
        if end is None:
            raise problem_with(too_late(view.task_id), told)
        error = error_of(end)
        if error is not None:
            raise problem_with(error, {**told, **headers(end)})
        return web.json_response(_whole(end, asked), headers={**told, **headers(end)}, dumps=dumps)

    async def count_tokens(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        _, asked = await _read(request)
        _, model = designation(asked.model, asked.role)
        tokens = estimated_tokens(conversation(asked), options_of(asked, model))
        told = {"request-id": request[REQUEST_ID]}
        return web.json_response({"input_tokens": tokens, "headrace": {"estimate": True}}, headers=told, dumps=dumps)

    async def _stream(
        self,
        request: web.Request,
        events: MessageEvents,
        acceptance: Acceptance,
        told: dict[str, str],
        wait: float,
    ) -> web.StreamResponse:
        stream = await self._following.open_accepted(acceptance.pending, acceptance.view, acceptance.reply_partition)
        first: asyncio.Future[Said] = asyncio.ensure_future(anext(stream))
        async with aclosing(stream):
            try:
                # A task that ends before any text was sent can still be reported as an HTTP status.
                await asyncio.wait((first,), timeout=min(wait, self._heartbeat))
                if first.done() and isinstance(ended := first.result().what, TaskEnd):
                    error = error_of(ended.view)
                    if error is not None:
                        raise problem_with(error, {**told, **headers(ended.view)})
                    told |= headers(ended.view)
                return await event_stream(
                    request,
                    _server_events(events, acceptance.view.task_id, first, stream, wait, request[REQUEST_ID]),
                    heartbeat_seconds=self._heartbeat,
                    heartbeat=_server_event(PING),
                    resumable=False,
                    headers=told,
                )
            finally:
                # Inside: the stream cannot be closed while it is being read.
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)


async def _read(request: web.Request) -> tuple[dict[str, Any], MessagesRequest]:
    body = taken(with_headers(expect_object(await read_json(request)), request.headers, request.query))
    return body, parse_model(body, MessagesRequest)


def _events_of(asked: MessagesRequest, draft: TaskDraft, view: TaskView) -> MessageEvents:
    tokens = estimated_tokens(draft.messages, draft.asked)
    return MessageEvents(view, asked.model, tokens, shows_thoughts=asked.shows_thoughts)


async def _server_events(
    events: MessageEvents,
    task_id: str,
    first: asyncio.Future[Said],
    stream: Stream,
    wait_seconds: float,
    request_id: str,
) -> AsyncGenerator[ServerEvent, None]:
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_seconds
    broken = False
    for event in events.opening():
        yield _server_event(event)
    upcoming: asyncio.Future[Said] | None = first
    while True:
        try:
            async with asyncio.timeout_at(until):
                said = await (anext(stream) if upcoming is None else upcoming)
        except (TimeoutError, StopAsyncIteration):
            yield _failure(too_late(task_id), request_id)
            return
        except StreamsError as error:
            _log.warning("an answer stream was cut off", reason=str(error))
            yield _failure(broken_off(task_id), request_id)
            return
        upcoming = None
        match said.what:
            case Delta() as delta:
                for event in () if broken else events.update(delta):
                    yield _server_event(event)
            case TaskEnd(view):
                for last in _last_events(events, view, request_id):
                    yield last
                return
            case _:
                events.restarted()
                broken = events.has_sent


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
