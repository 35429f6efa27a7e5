"""`/api/…` in the form that Ollama's clients expect: the fleet as one big Ollama."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any, Final

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_contracts.events import NodeStatus, PartKind
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import invalid, parse_model, read_json
from headrace_runtime.problems import Problem
from headrace_runtime.sse import body_stream
from pydantic import ValidationError

from headrace_intake.adapters.answering import Answering, Updates, asker
from headrace_intake.adapters.confirmations import TableView
from headrace_intake.adapters.embeddings import written
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.problems import problem_with
from headrace_intake.decide.chat_answers import ChatError, Sent, answer_sealed, broken_off, error_of, headers, pieces_of
from headrace_intake.decide.choices import answers_of
from headrace_intake.decide.drafts import TaskDraft
from headrace_intake.decide.ollama.answers import OllamaAnswer, embedded, tool_calls
from headrace_intake.decide.ollama.models import FleetModel, description, listed, named, offered_models, running
from headrace_intake.decide.ollama.requests import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaShowRequest,
    asks_nothing,
    draft_of_generate,
    draft_of_ollama_chat,
    draft_of_ollama_embed,
    taken_ollama,
)
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.replies import Delta, Restarted
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.vectors import in_numbers
from headrace_intake.decide.views import TaskView
from headrace_intake.following import TaskEnd
from headrace_intake.service import Acceptance, SubmitRequest

VERSION: Final = "0.13.0"
"""Of the API that is spoken here: clients look at it to see what they can ask for."""
NDJSON: Final = "application/x-ndjson"
MANAGED: Final = (
    ("POST", "pull"), ("POST", "push"), ("POST", "create"), ("POST", "copy"), ("DELETE", "delete"),
    ("POST", "blobs/{digest}"),
)  # fmt: skip
"""What changes models, or stores parts of new ones."""

Part = Mapping[str, Any]


class OllamaApi:
    """Handlers of Ollama's API.

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
            web.post("/api/chat", self.chat),
            web.post("/api/generate", self.generate),
            web.post("/api/embed", self.embed),
            web.post("/api/embeddings", self.embeddings),
            web.get("/api/tags", self.tags),
            web.get("/api/ps", self.ps),
            web.post("/api/show", self.show),
            web.get("/api/version", self.version),
            *(web.route(method, f"/api/{path}", self.managed) for method, path in MANAGED),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        said = await _said(request)
        body = taken_ollama(said, OllamaChatRequest)
        asked = parse_model(body, OllamaChatRequest)
        answer = OllamaAnswer(asked.model, chat=True)
        return await self._answer(
            request, said, asked, answer, lambda: draft_of_ollama_chat(asked, body, self._models())
        )

    async def generate(self, request: web.Request) -> web.StreamResponse:
        said = await _said(request)
        body = taken_ollama(said, OllamaGenerateRequest)
        asked = parse_model(body, OllamaGenerateRequest)
        answer = OllamaAnswer(asked.model, chat=False)
        return await self._answer(request, said, asked, answer, lambda: draft_of_generate(asked, body, self._models()))

    async def _answer(
        self,
        request: web.Request,
        said: Mapping[str, Any],
        asked: OllamaChatRequest | OllamaGenerateRequest,
        answer: OllamaAnswer,
        draft: Callable[[], TaskDraft],
    ) -> web.StreamResponse:
        caller = require(request, Scope.TASKS)
        if asks_nothing(asked):
            self._expect_offered(asked.model)
            return _json(answer.loaded(self._clock()))
        acceptance, told = await self._accept(request, said, draft)
        with self._answering.watching(request, caller, acceptance.view.task_id):
            if asked.stream:
                return await self._stream(request, answer, acceptance, told)
            end = await self._answering.end(acceptance, told)
        try:
            return _json(answer.whole(end), {**told, **headers(end)})
        except ContentSealed as sealed:
            raise problem_with(answer_sealed(sealed), {**told, **headers(end)}) from sealed

    async def embed(self, request: web.Request) -> web.Response:
        said = await _said(request)
        body = taken_ollama(said, OllamaEmbedRequest)
        asked = parse_model(body, OllamaEmbedRequest)
        if not asked.input:
            require(request, Scope.TASKS)
            self._expect_offered(asked.model)
            return _json({"model": asked.model, "embeddings": []})
        end, told = await self._vectors(request, said, asked, body)

        def write() -> str:
            vectors = ",".join(map(in_numbers, end.embeddings))
            return f'{{"embeddings":[{vectors}],{dumps(embedded(asked.model, end))[1:]}'

        return web.Response(text=await _written(write, end, told), content_type="application/json", headers=told)

    async def embeddings(self, request: web.Request) -> web.Response:
        said = await _said(request)
        body = taken_ollama(said, OllamaEmbeddingsRequest)
        asked = parse_model(body, OllamaEmbeddingsRequest)
        if not asked.prompt:
            require(request, Scope.TASKS)
            self._expect_offered(asked.model)
            return _json({"embedding": []})
        end, told = await self._vectors(request, said, asked, body)
        text = await _written(lambda: f'{{"embedding":{in_numbers(end.embeddings[0])}}}', end, told)
        return web.Response(text=text, content_type="application/json", headers=told)

    async def _vectors(
        self,
        request: web.Request,
        said: Mapping[str, Any],
        asked: OllamaEmbedRequest | OllamaEmbeddingsRequest,
        body: Mapping[str, Any],
    ) -> tuple[TaskView, dict[str, str]]:
        draft = partial(draft_of_ollama_embed, asked, body, self._models())
        acceptance, told = await self._accept(request, said, draft)
        caller = require(request, Scope.TASKS)
        with self._answering.watching(request, caller, acceptance.view.task_id):
            end = await self._answering.end(acceptance, told)
        return end, {**told, **headers(end)}

    async def _accept(
        self, request: web.Request, said: Mapping[str, Any], draft: Callable[[], TaskDraft]
    ) -> tuple[Acceptance, dict[str, str]]:
        caller, key = asker(request)
        try:
            made = draft()
        except ValidationError as error:
            raise invalid(error, said) from None
        return await self._answering.accept(SubmitRequest(f"ollama {request.path}", caller, made, said, key))

    async def _stream(
        self, request: web.Request, answer: OllamaAnswer, acceptance: Acceptance, told: Mapping[str, str]
    ) -> web.StreamResponse:
        async with self._answering.updates(acceptance, told) as updates:
            return await body_stream(
                request,
                _parts(answer, updates, self._clock),
                _line,
                content_type=NDJSON,
                heartbeat=lambda: _line(answer.nothing(self._clock())),
                heartbeat_seconds=self._answering.heartbeat_seconds,
                headers=updates.told,
            )

    async def tags(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        return _json({"models": listed(self._models())})

    async def ps(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        return _json({"models": running(self._models())})

    async def show(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        asked = parse_model(expect_object(await read_json(request)), OllamaShowRequest)
        return _json(description(self._expect_offered(asked.model or asked.name or "")))

    async def version(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        return _json({"version": VERSION})

    async def managed(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        why = "Models are managed on the nodes: run `ollama pull`, `create` or `rm` there."
        raise Problem(403, "models-managed-on-nodes", why)

    def _models(self) -> dict[str, FleetModel]:
        return offered_models(self._fleet.items().values(), self._clock())

    def _expect_offered(self, name: str) -> FleetModel:
        found = named(name, self._models())
        if found is None:
            raise Problem(404, "model-not-found", f"model '{name}' not found: no healthy node offers it now")
        return found


async def _said(request: web.Request) -> dict[str, Any]:
    require(request, Scope.TASKS)
    return with_headers(expect_object(await read_json(request)), request.headers, request.query)


async def _written(write: Callable[[], str], end: TaskView, told: Mapping[str, str]) -> str:
    try:
        return await written(write, end.embeddings)
    except ContentSealed as sealed:
        raise problem_with(answer_sealed(sealed), told) from sealed


async def _parts(answer: OllamaAnswer, updates: Updates, clock: Callable[[], int]) -> AsyncGenerator[Part, None]:
    sent = Sent()
    broken = False
    async for update in updates:
        match update:
            case Delta() as delta if not broken:
                for piece in pieces_of(delta):
                    # Tool calls come whole, at the end.
                    if piece.choice == 0 and piece.kind is not PartKind.TOOL_CALL:
                        sent.add(piece)
                        yield answer.piece(piece, clock())
            case TaskEnd(view):
                for part in _last_parts(answer, view, sent):
                    yield part
            case Restarted():
                broken = bool(sent)
            case ChatError() as error:
                yield problem_with(error, {}).to_ollama()


def _last_parts(answer: OllamaAnswer, end: TaskView, sent: Sent) -> list[Part]:
    if (error := error_of(end)) is not None:
        return [problem_with(error, {}).to_ollama()]
    now = end.completed_at or end.submitted_at
    try:
        rest = sent.missing(end)
        calls = tool_calls(answers_of(end)[0]) if answer.chat else []
        last = answer.last(end)
    except ContentSealed as sealed:
        return [problem_with(answer_sealed(sealed), {}).to_ollama()]
    if rest is None:
        return [problem_with(broken_off(end.task_id), {}).to_ollama()]
    said: list[Part] = [answer.piece(piece, now) for piece in rest if piece.kind is not PartKind.TOOL_CALL]
    return [*said, *([answer.calls(calls, now)] if calls else ()), last]


def _line(part: Part) -> bytes:
    return f"{dumps(part)}\n".encode()


def _json(body: Part, told: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(dict(body), headers=told, dumps=dumps)
