"""`/v1/responses` in the form that OpenAI's client libraries expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_runtime.access import Caller
from headrace_runtime.http import parse_model, read_json
from headrace_runtime.problems import Problem
from headrace_runtime.sse import event_stream
from pydantic import BaseModel

from headrace_intake.adapters.answering import Answering, asker
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.problems import problem_with
from headrace_intake.adapters.response_streams import events_of, server_events
from headrace_intake.adapters.turns import TurnHistory
from headrace_intake.decide.chat_answers import answer_sealed, headers
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
from headrace_intake.service import Acceptance, Intake, SubmitRequest


class ResponsesApi:
    """Handlers of the Responses API.

    Args:
        most_bytes: Most bytes of a conversation.
    """

    def __init__(self, answering: Answering, intake: Intake, turns: TurnHistory, *, most_bytes: int) -> None:
        self._answering = answering
        self._intake = intake
        self._turns = turns
        self._most_bytes = most_bytes

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/responses", self.create)]

    async def create(self, request: web.Request) -> web.StreamResponse:
        caller, key = asker(request)
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
        acceptance, told = await self._answering.accept(SubmitRequest("responses", caller, draft, body, key))
        if asked.background and not asked.stream:
            return web.json_response(response(kept, acceptance.view, status=QUEUED), headers=told, dumps=dumps)
        with self._answering.watching(request, caller, acceptance.view.task_id):
            if asked.stream:
                return await self._stream(request, kept, acceptance, told)
            end = await self._answering.end(acceptance, told)
        return web.json_response(_whole(kept, end), headers={**told, **headers(end)}, dumps=dumps)

    async def _earlier(self, caller: Caller, asked: ResponseRequest) -> Earlier:
        if asked.previous_response_id is not None:
            return await self._turns.up_to(caller.tenant, asked.previous_response_id)
        if asked.conversation_id is not None:
            return await self._turns.of_conversation(caller.tenant, asked.conversation_id)
        return NOTHING_EARLIER

    async def _stream(
        self, request: web.Request, kept: KeptTurn, acceptance: Acceptance, told: Mapping[str, str]
    ) -> web.StreamResponse:
        events = ResponseEvents(kept, acceptance.view)
        async with self._answering.updates(acceptance, told, early_end=not kept.turn.background) as updates:
            return await event_stream(
                request,
                server_events(events_of(events, updates), after=-1),
                heartbeat_seconds=self._answering.heartbeat_seconds,
                resumable=False,
                headers=updates.told,
            )


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
