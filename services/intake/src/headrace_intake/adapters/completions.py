"""`/v1/completions` and `/v1/moderations` in the form that OpenAI's client libraries expect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_contracts.events import PartKind
from headrace_runtime.access import Caller, Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import parse_model, read_json
from headrace_runtime.logging import get_logger
from headrace_runtime.sse import ServerEvent, event_stream
from headrace_streams.errors import StreamsError

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
    too_late,
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
from headrace_intake.decide.replies import Delta
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.views import TaskView
from headrace_intake.decide.waits import wait_seconds
from headrace_intake.following import Following, Stream, TaskEnd
from headrace_intake.hang_ups import HangUps
from headrace_intake.service import Acceptance, Intake, SubmitRequest

_log = get_logger("headrace.intake.completions")


class CompletionsApi:
    """Handlers of the two.

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
        return [web.post("/v1/completions", self.complete), web.post("/v1/moderations", self.moderate)]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        caller = require(request, Scope.TASKS)
        body = taken_completion(with_headers(expect_object(await read_json(request)), request.headers, request.query))
        asked = parse_model(body, CompletionRequest)
        accepted = await self._accept("completions", request, caller, drafts_of_completion(asked), body)
        told = {"X-Headrace-Task-Id": accepted[0].view.task_id}
        with self._hang_ups.watching(request, caller, *_ids(accepted)):
            if asked.stream:
                chunks = self._chunks(asked, accepted)
                return await event_stream(
                    request, chunks, heartbeat_seconds=self._heartbeat, resumable=False, headers=told
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
        with self._hang_ups.watching(request, caller, *_ids(accepted)):
            ends = await self._ends(accepted, {"unknown_role": no_such_role})
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
            accepted.append(await self._intake.accept(SubmitRequest(api, caller, draft, {**body, "place": place}, own)))
        return accepted

    @contextmanager
    def _watching(self, request: web.Request, caller: Caller, accepted: Sequence[Acceptance]) -> Iterator[None]:
        with ExitStack() as watched:
            for acceptance in accepted:
                watched.enter_context(self._hang_ups.watching(request, caller, acceptance.view.task_id))
            yield

    async def _ends(
        self, accepted: Sequence[Acceptance], instead: Mapping[str, Callable[[], Exception]] | None = None
    ) -> list[TaskView]:
        ends = []
        for acceptance in accepted:
            view = acceptance.view
            end = await self._intake.end(acceptance, wait_seconds(view, self._clock(), self._answer_seconds))
            if end is None:
                raise problem_with(too_late(view.task_id), {"X-Headrace-Task-Id": view.task_id})
            error = error_of(end)
            if error is not None:
                made = (instead or {}).get(error.refusal.kind)
                raise problem_with(error, headers(end)) if made is None else made()
            ends.append(end)
        return ends

    async def _chunks(
        self, asked: CompletionRequest, accepted: Sequence[Acceptance]
    ) -> AsyncGenerator[ServerEvent, None]:
        """The prompts one after another: all are being answered meanwhile, and what is said waits."""
        ends: list[TaskView] = []
        for place, acceptance in enumerate(accepted):
            stream = await self._following.open_accepted(
                acceptance.pending, acceptance.view, acceptance.reply_partition
            )
            wait = wait_seconds(acceptance.view, self._clock(), self._answer_seconds)
            async with aclosing(stream), aclosing(_chunks(asked, acceptance.view, place, stream, wait, ends)) as chunks:
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
    asked: CompletionRequest, view: TaskView, place: int, stream: Stream, wait: float, ends: list[TaskView]
) -> AsyncGenerator[ServerEvent, None]:
    """The chunks of one prompt; its end is added to `ends` if there is an answer."""
    until = asyncio.get_running_loop().time() + wait
    sent, broken = Sent(), False
    first = place * (asked.n or 1)

    def chunk(index: int, text: str, told: str | None = None) -> ServerEvent:
        return ServerEvent(
            dumps(text_chunk(view, asked.model, first + index, text, told, with_usage=asked.include_usage))
        )

    if asked.echo:
        for index in range(asked.n or 1):
            yield chunk(index, asked.prompts[place])
    while True:
        try:
            async with asyncio.timeout_at(until):
                said = await anext(stream)
        except (TimeoutError, StopAsyncIteration):
            yield _failure(too_late(view.task_id))
            return
        except StreamsError as error:
            _log.warning("an answer stream was cut off", reason=str(error))
            yield _failure(broken_off(view.task_id))
            return
        match said.what:
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
                return
            case _:
                broken = bool(sent)


def _failure(error: ChatError) -> ServerEvent:
    return ServerEvent(dumps(problem_with(error, {}).to_openai()))
