"""`/v1/chat/completions` and `/v1/models` in the form the openai client libraries expect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_contracts.events import NodeStatus
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import parse_model, read_json
from headrace_runtime.logging import get_logger
from headrace_runtime.problems import Problem
from headrace_runtime.sse import ServerEvent, event_stream
from headrace_streams.errors import StreamsError

from headrace_intake.adapters.confirmations import TableView
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.problems import problem_with
from headrace_intake.decide.anthropic import models as anthropic_models
from headrace_intake.decide.chat import ChatCompletionRequest, draft_of_chat, taken
from headrace_intake.decide.chat_answers import (
    ChatError,
    Chunks,
    Sent,
    answer_sealed,
    broken_off,
    completion,
    error_of,
    headers,
    pieces_of,
    too_late,
)
from headrace_intake.decide.idempotency import parse_key
from headrace_intake.decide.models import offered
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.replies import Delta
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.views import TaskView
from headrace_intake.decide.waits import wait_seconds
from headrace_intake.following import Following, Said, Stream, TaskEnd
from headrace_intake.hang_ups import HangUps
from headrace_intake.service import Acceptance, Intake, SubmitRequest

_log = get_logger("headrace.intake.chat")


class ChatApi:
    """Handlers of the OpenAI-compatible API.

    Args:
        fleet: What nodes and providers offer.
        answer_seconds: Longest wait for a task without a deadline.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        intake: Intake,
        following: Following,
        fleet: TableView[NodeStatus],
        hang_ups: HangUps,
        *,
        answer_seconds: float,
        heartbeat_seconds: float,
        clock: Callable[[], int],
    ) -> None:
        self._intake = intake
        self._following = following
        self._fleet = fleet
        self._hang_ups = hang_ups
        self._answer_seconds = answer_seconds
        self._heartbeat = heartbeat_seconds
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self.complete),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{model:.+}", self.model),
        ]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        caller = require(request, Scope.TASKS)
        key = parse_key(request.headers.getall("Idempotency-Key", []))
        body = taken(with_headers(expect_object(await read_json(request)), request.headers, request.query))
        chat = parse_model(body, ChatCompletionRequest)
        acceptance = await self._intake.accept(SubmitRequest("chat", caller, draft_of_chat(chat), body, key))
        told = {"X-Headrace-Task-Id": acceptance.view.task_id}
        if acceptance.replayed:
            told["Idempotency-Replayed"] = "true"
        wait = wait_seconds(acceptance.view, self._clock(), self._answer_seconds)
        with self._hang_ups.watching(request, caller, acceptance.view.task_id):
            if chat.stream:
                return await self._stream(request, chat, acceptance, told, wait)
            end = await self._intake.end(acceptance, wait)
        if end is None:
            raise problem_with(too_late(acceptance.view.task_id), told)
        error = error_of(end)
        if error is not None:
            raise problem_with(error, {**told, **headers(end)})
        return web.json_response(_completion(end), headers={**told, **headers(end)}, dumps=dumps)

    async def _stream(
        self,
        request: web.Request,
        chat: ChatCompletionRequest,
        acceptance: Acceptance,
        told: dict[str, str],
        wait: float,
    ) -> web.StreamResponse:
        view = acceptance.view
        stream = await self._following.open_accepted(acceptance.pending, view, acceptance.reply_partition)
        chunks = Chunks(view.task_id, view.submitted_at, chat.model, chat.include_usage)
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
                    _chunks(chunks, first, stream, wait),
                    heartbeat_seconds=self._heartbeat,
                    resumable=False,
                    headers=told,
                )
            finally:
                # Inside: the stream cannot be closed while it is being read.
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)

    async def models(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        found = offered(self._fleet.items().values(), self._clock())
        if _is_anthropics(request):
            return web.json_response(anthropic_models.page(found), dumps=dumps)
        return web.json_response({"object": "list", "data": list(found.values())}, dumps=dumps)

    async def model(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        name = request.match_info["model"]
        found = offered(self._fleet.items().values(), self._clock()).get(name)
        if found is None:
            raise Problem(404, "model-not-found", "No healthy node or provider offers this model now.", param="model")
        return web.json_response(anthropic_models.model(found) if _is_anthropics(request) else found, dumps=dumps)


def _is_anthropics(request: web.Request) -> bool:
    """Whether the request comes from one of Anthropic's clients, which share this path with OpenAI's."""
    return "anthropic-version" in request.headers


async def _chunks(
    chunks: Chunks, first: asyncio.Future[Said], stream: Stream, wait_seconds: float
) -> AsyncGenerator[ServerEvent, None]:
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_seconds
    sent = Sent()
    opened = {0}
    broken = False
    yield _data(chunks.opening())
    upcoming: asyncio.Future[Said] | None = first
    while True:
        try:
            async with asyncio.timeout_at(until):
                said = await (anext(stream) if upcoming is None else upcoming)
        except (TimeoutError, StopAsyncIteration):
            yield _failure(too_late(chunks.task_id))
            return
        except StreamsError as error:
            _log.warning("an answer stream was cut off", reason=str(error))
            yield _failure(broken_off(chunks.task_id))
            return
        upcoming = None
        match said.what:
            case Delta() as delta if not broken:
                for piece in pieces_of(delta):
                    if piece.choice not in opened:
                        opened.add(piece.choice)
                        yield _data(chunks.opening(piece.choice))
                    sent.add(piece)
                    yield _data(chunks.piece(piece))
            case TaskEnd(view):
                for event in _last_chunks(chunks, view, sent):
                    yield event
                return
            case Delta():
                continue
            case _:
                broken = bool(sent)


def _last_chunks(chunks: Chunks, end: TaskView, sent: Sent) -> list[ServerEvent]:
    error = error_of(end)
    if error is not None:
        return [_failure(error)]
    try:
        rest = sent.missing(end)
        closing = chunks.closing(end)
    except ContentSealed as sealed:
        return [_failure(answer_sealed(sealed))]
    if rest is None:
        return [_failure(broken_off(end.task_id))]
    return [*(_data(chunk) for chunk in (*map(chunks.piece, rest), *closing)), ServerEvent("[DONE]")]


def _data(chunk: Mapping[str, object]) -> ServerEvent:
    return ServerEvent(dumps(chunk))


def _failure(error: ChatError) -> ServerEvent:
    return ServerEvent(dumps(problem_with(error, {}).to_openai()))


def _completion(end: TaskView) -> dict[str, object]:
    try:
        return completion(end)
    except ContentSealed as sealed:
        raise problem_with(answer_sealed(sealed), headers(end)) from sealed
