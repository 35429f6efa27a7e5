"""`/v1/chat/completions` and `/v1/models` in the form the openai client libraries expect."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_contracts.events import NodeStatus
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import parse_model, read_json
from headrace_runtime.problems import Problem
from headrace_runtime.sse import ServerEvent, event_stream

from headrace_intake.adapters.answering import Answering, Updates, asker
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
)
from headrace_intake.decide.models import offered
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.replies import Delta, Restarted
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.views import TaskView
from headrace_intake.following import TaskEnd
from headrace_intake.service import Acceptance, SubmitRequest


class ChatApi:
    """Handlers of the OpenAI-compatible API.

    Args:
        fleet: What nodes and providers offer.
        clock: Milliseconds since the epoch.
    """

    def __init__(self, answering: Answering, fleet: TableView[NodeStatus], clock: Callable[[], int]) -> None:
        self._answering = answering
        self._fleet = fleet
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self.complete),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{model:.+}", self.model),
        ]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        caller, key = asker(request)
        body = taken(with_headers(expect_object(await read_json(request)), request.headers, request.query))
        chat = parse_model(body, ChatCompletionRequest)
        acceptance, told = await self._answering.accept(SubmitRequest("chat", caller, draft_of_chat(chat), body, key))
        with self._answering.watching(request, caller, acceptance.view.task_id):
            if chat.stream:
                return await self._stream(request, chat, acceptance, told)
            end = await self._answering.end(acceptance, told)
        return web.json_response(_completion(end), headers={**told, **headers(end)}, dumps=dumps)

    async def _stream(
        self, request: web.Request, chat: ChatCompletionRequest, acceptance: Acceptance, told: Mapping[str, str]
    ) -> web.StreamResponse:
        view = acceptance.view
        chunks = Chunks(view.task_id, view.submitted_at, chat.model, chat.include_usage)
        async with self._answering.updates(acceptance, told) as updates:
            return await event_stream(
                request,
                _chunks(chunks, updates),
                heartbeat_seconds=self._answering.heartbeat_seconds,
                resumable=False,
                headers=updates.told,
            )

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


async def _chunks(chunks: Chunks, updates: Updates) -> AsyncGenerator[ServerEvent, None]:
    sent = Sent()
    opened = {0}
    broken = False
    yield _data(chunks.opening())
    async for update in updates:
        match update:
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
            case Restarted():
                broken = bool(sent)
            case ChatError() as error:
                yield _failure(error)


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
