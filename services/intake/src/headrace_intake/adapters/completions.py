"""`/v1/completions` and `/v1/moderations` in the form that OpenAI's client libraries expect."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_contracts.events import PartKind
from headrace_runtime.access import Caller, Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import parse_model, read_json
from headrace_runtime.problems import Problem
from headrace_runtime.sse import ServerEvent, event_stream

from headrace_intake.adapters.answering import Answering, Updates
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.problems import problem_with
from headrace_intake.decide.chat_answers import (
    ChatError,
    Sent,
    answer_sealed,
    broken_off,
    error_of,
    headers,
    model_name,
    pieces_of,
)
from headrace_intake.decide.choices import answers_of
from headrace_intake.decide.completions import (
    CompletionRequest,
    drafts_of_completion,
    reason,
    taken_completion,
    text_chunk,
    text_completion,
    usage_of,
)
from headrace_intake.decide.drafts import TaskDraft
from headrace_intake.decide.idempotency import parse_key
from headrace_intake.decide.moderations import ModerationRequest, drafts_of_moderation, moderation, no_such_role
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.replies import Delta, Restarted
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.views import TaskView
from headrace_intake.following import TaskEnd
from headrace_intake.service import Acceptance, SubmitRequest


class CompletionsApi:
    """Handlers of the two."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/completions", self.complete), web.post("/v1/moderations", self.moderate)]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        caller = require(request, Scope.TASKS)
        body = taken_completion(with_headers(expect_object(await read_json(request)), request.headers, request.query))
        asked = parse_model(body, CompletionRequest)
        accepted = await self._accept("completions", request, caller, drafts_of_completion(asked), body)
        told = {"X-Headrace-Task-Id": accepted[0].view.task_id}
        with self._answering.watching(request, caller, *_ids(accepted)):
            if asked.stream:
                return await event_stream(
                    request,
                    self._chunks(asked, accepted),
                    heartbeat_seconds=self._answering.heartbeat_seconds,
                    resumable=False,
                    headers=told,
                )
            ends = await self._ends(accepted)
        try:
            document = text_completion(asked, ends)
        except ContentSealed as sealed:
            raise problem_with(answer_sealed(sealed), told) from sealed
        return web.json_response(document, headers={**told, **headers(ends[0])}, dumps=dumps)

    async def moderate(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        body = with_headers(expect_object(await read_json(request)), request.headers, request.query)
        asked = parse_model(body, ModerationRequest)
        accepted = await self._accept("moderations", request, caller, drafts_of_moderation(asked), body)
        try:
            with self._answering.watching(request, caller, *_ids(accepted)):
                ends = await self._ends(accepted)
        except Problem as problem:
            if problem.kind == "unknown_role":
                raise no_such_role() from problem
            raise
        try:
            document = moderation(ends)
        except ContentSealed as sealed:
            raise problem_with(answer_sealed(sealed), headers(ends[0])) from sealed
        return web.json_response(document, headers=headers(ends[0]), dumps=dumps)

    async def _accept(
        self, api: str, request: web.Request, caller: Caller, drafts: Sequence[TaskDraft], body: Mapping[str, Any]
    ) -> list[Acceptance]:
        key = parse_key(request.headers.getall("Idempotency-Key", []))
        accepted = []
        for place, draft in enumerate(drafts):
            # Each task of a request has a key of its own, which follows from the caller's.
            own = key if key is None or place == 0 else f"{key[:240]} {place}"
            asked = SubmitRequest(api, caller, draft, {**body, "place": place}, own)
            acceptance, _ = await self._answering.accept(asked)
            accepted.append(acceptance)
        return accepted

    async def _ends(self, accepted: Sequence[Acceptance]) -> list[TaskView]:
        return [
            await self._answering.end(acceptance, {"X-Headrace-Task-Id": acceptance.view.task_id})
            for acceptance in accepted
        ]

    async def _chunks(
        self, asked: CompletionRequest, accepted: Sequence[Acceptance]
    ) -> AsyncGenerator[ServerEvent, None]:
        """The prompts one after another: all are being answered meanwhile, and what is said waits."""
        ends: list[TaskView] = []
        for place, acceptance in enumerate(accepted):
            async with (
                self._answering.updates(acceptance, {}, early_end=False) as updates,
                aclosing(_chunks(asked, acceptance.view, place, updates, ends)) as chunks,
            ):
                async for chunk in chunks:
                    yield chunk
            if len(ends) == place:
                return  # it ended with an error
        if asked.include_usage:
            last = text_chunk(accepted[0].view, model_name(ends[0]), 0, "")
            yield ServerEvent(dumps({**last, "choices": [], "usage": usage_of(ends)}))
        yield ServerEvent("[DONE]")


def _ids(accepted: Sequence[Acceptance]) -> list[str]:
    return [acceptance.view.task_id for acceptance in accepted]


async def _chunks(
    asked: CompletionRequest, view: TaskView, place: int, updates: Updates, ends: list[TaskView]
) -> AsyncGenerator[ServerEvent, None]:
    """The chunks of one prompt; its end is added to `ends` if there is an answer."""
    sent, broken = Sent(), False
    first = place * (asked.n or 1)

    def chunk(index: int, text: str, told: str | None = None) -> ServerEvent:
        return ServerEvent(
            dumps(text_chunk(view, asked.model, first + index, text, told, with_usage=asked.include_usage))
        )

    if asked.echo:
        for index in range(asked.n or 1):
            yield chunk(index, asked.prompts[place])
    async for update in updates:
        match update:
            case Delta() as delta:
                for piece in pieces_of(delta) if not broken else ():
                    sent.add(piece)
                    if piece.kind in (PartKind.TEXT, PartKind.REFUSAL):
                        yield chunk(piece.choice, piece.text)
            case TaskEnd(end):
                failed = error_of(end)
                try:
                    rest = None if failed is not None else sent.missing(end)
                except ContentSealed as sealed:
                    failed, rest = answer_sealed(sealed), None
                if rest is None:
                    yield _failure(failed or broken_off(view.task_id))
                    return
                for piece in rest:
                    if piece.kind in (PartKind.TEXT, PartKind.REFUSAL):
                        yield chunk(piece.choice, piece.text)
                for choice in answers_of(end):
                    yield chunk(choice.index, "", reason(choice))
                ends.append(end)
            case Restarted():
                broken = bool(sent)
            case ChatError() as error:
                yield _failure(error)


def _failure(error: ChatError) -> ServerEvent:
    return ServerEvent(dumps(problem_with(error, {}).to_openai()))
