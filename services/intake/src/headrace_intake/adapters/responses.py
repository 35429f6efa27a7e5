"""`/v1/responses` in the form that OpenAI's client libraries expect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_runtime.access import Caller, Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import parse_model, read_json
from headrace_runtime.problems import Problem
from headrace_runtime.sse import event_stream
from pydantic import BaseModel

from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.problems import problem_with
from headrace_intake.adapters.response_streams import events_of, server_events
from headrace_intake.adapters.turns import TurnHistory
from headrace_intake.decide.chat_answers import answer_sealed, error_of, headers, too_late
from headrace_intake.decide.idempotency import parse_key
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.responses.items import input_items, references
from headrace_intake.decide.responses.output import QUEUED, response
from headrace_intake.decide.responses.request import (
    NOTHING_EARLIER,
    Earlier,
    ResponseRequest,
    draft_of_response,
    expect_coherent,
    taken_response,
)
from headrace_intake.decide.responses.stream import ResponseEvents
from headrace_intake.decide.responses.turns import KeptTurn, task_id_of, turn_of_draft
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.views import TaskView
from headrace_intake.decide.waits import wait_seconds
from headrace_intake.following import Following, Said, TaskEnd
from headrace_intake.hang_ups import HangUps
from headrace_intake.service import Acceptance, Intake, SubmitRequest


class ResponsesApi:
    """Handlers of the Responses API.

    Args:
        most_bytes: Most bytes of a conversation.
        answer_seconds: Longest wait for a task without a deadline.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        intake: Intake,
        following: Following,
        turns: TurnHistory,
        hang_ups: HangUps,
        *,
        most_bytes: int,
        answer_seconds: float,
        heartbeat_seconds: float,
        clock: Callable[[], int],
    ) -> None:
        self._intake = intake
        self._following = following
        self._turns = turns
        self._hang_ups = hang_ups
        self._most_bytes = most_bytes
        self._answer_seconds = answer_seconds
        self._heartbeat = heartbeat_seconds
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/responses", self.create)]

    async def create(self, request: web.Request) -> web.StreamResponse:
        caller = require(request, Scope.TASKS)
        key = parse_key(request.headers.getall("Idempotency-Key", []))
        body = taken_response(with_headers(expect_object(await read_json(request)), request.headers, request.query))
        asked = parse_model(body, ResponseRequest)
        expect_coherent(asked)
        items = input_items(asked.input, parse_item)
        referred = await self._turns.referred(caller.tenant, references(items))
        # What a repetition continues has gone on meanwhile, perhaps by this very task: it only follows it.
        repeated = key is not None and await self._intake.repeats("responses", caller, body, key)
        earlier = _of_repetition(asked) if repeated else await self._earlier(caller, asked)
        draft = draft_of_response(asked, items, referred, earlier, self._most_bytes, repeated=repeated)
        kept = turn_of_draft(draft)
        acceptance = await self._intake.accept(SubmitRequest("responses", caller, draft, body, key))
        told = {"X-Headrace-Task-Id": acceptance.view.task_id}
        if acceptance.replayed:
            told["Idempotency-Replayed"] = "true"
        wait = wait_seconds(acceptance.view, self._clock(), self._answer_seconds)
        if asked.background and not asked.stream:
            return web.json_response(response(kept, acceptance.view, status=QUEUED), headers=told, dumps=dumps)
        with self._hang_ups.watching(request, caller, acceptance.view.task_id):
            if asked.stream:
                return await self._stream(request, kept, acceptance, told, wait)
            end = await self._intake.end(acceptance, wait)
        if end is None:
            raise problem_with(too_late(acceptance.view.task_id), told)
        error = error_of(end)
        if error is not None:
            raise problem_with(error, {**told, **headers(end)})
        return web.json_response(_whole(kept, end), headers={**told, **headers(end)}, dumps=dumps)

    async def _earlier(self, caller: Caller, asked: ResponseRequest) -> Earlier:
        if asked.previous_response_id is not None:
            return await self._turns.up_to(caller.tenant, asked.previous_response_id)
        if asked.conversation_id is not None:
            return await self._turns.of_conversation(caller.tenant, asked.conversation_id)
        return NOTHING_EARLIER

    async def _stream(
        self, request: web.Request, kept: KeptTurn, acceptance: Acceptance, told: dict[str, str], wait: float
    ) -> web.StreamResponse:
        stream = await self._following.open_accepted(acceptance.pending, acceptance.view, acceptance.reply_partition)
        events = ResponseEvents(kept, acceptance.view)
        first: asyncio.Future[Said] = asyncio.ensure_future(anext(stream))
        async with aclosing(stream):
            try:
                if not kept.turn.background:
                    # A task that ends before any text was sent can still be reported as an HTTP status.
                    await asyncio.wait((first,), timeout=min(wait, self._heartbeat))
                if first.done() and isinstance(ended := first.result().what, TaskEnd):
                    error = error_of(ended.view)
                    if error is not None and not kept.turn.background:
                        raise problem_with(error, {**told, **headers(ended.view)})
                    told |= headers(ended.view)
                return await event_stream(
                    request,
                    server_events(events_of(events, acceptance.view.task_id, first, stream, wait), after=-1),
                    heartbeat_seconds=self._heartbeat,
                    resumable=False,
                    headers=told,
                )
            finally:
                # Inside: the stream cannot be closed while it is being read.
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)


def _of_repetition(asked: ResponseRequest) -> Earlier:
    previous = asked.previous_response_id
    return Earlier(previous_task_id=None if previous is None else task_id_of(previous))


def parse_item(document: Any, model: type[BaseModel], where: str) -> BaseModel:
    """Validate an item of a body. Raises Problem, naming the field below `where`."""
    try:
        return parse_model(document, model)
    except Problem as problem:
        param = f"{where}.{problem.param}"
        raise Problem(problem.status, problem.kind, f"{where}.{problem.detail}", param=param) from None


def _whole(kept: KeptTurn, end: TaskView) -> Mapping[str, Any]:
    try:
        return response(kept, end)
    except ContentSealed as sealed:
        raise problem_with(answer_sealed(sealed), headers(end)) from sealed
