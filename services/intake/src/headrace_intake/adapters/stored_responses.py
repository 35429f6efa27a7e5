"""Responses that exist already: retrieve, follow, cancel, delete, and their input items."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_runtime.access import Caller, Scope
from headrace_runtime.authentication import require
from headrace_runtime.sse import event_stream

from headrace_intake.adapters.answering import Answering
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.history_changes import HistoryChanges
from headrace_intake.adapters.problems import problem_with
from headrace_intake.adapters.replies import ReplyDispatcher
from headrace_intake.adapters.response_streams import events_of, only, server_events
from headrace_intake.adapters.turns import TurnHistory
from headrace_intake.decide.chat_answers import answer_sealed
from headrace_intake.decide.on_disconnect import parse_on_disconnect
from headrace_intake.decide.responses.continuing import PastTurn, input_listing, response_not_found
from headrace_intake.decide.responses.listing import item_page, starting_after
from headrace_intake.decide.responses.output import response
from headrace_intake.decide.responses.stream import ResponseEvents
from headrace_intake.decide.responses.turns import response_id
from headrace_intake.decide.views import TaskView
from headrace_intake.service import Intake

_CANCEL_SECONDS: Final = 5.0
"""How long a caller who cancels waits for the task to end."""


class StoredResponsesApi:
    """Handlers of `/v1/responses/{id}`."""

    def __init__(
        self,
        answering: Answering,
        intake: Intake,
        dispatcher: ReplyDispatcher,
        turns: TurnHistory,
        changes: HistoryChanges,
    ) -> None:
        self._answering = answering
        self._intake = intake
        self._dispatcher = dispatcher
        self._turns = turns
        self._changes = changes

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/responses/{id}", self.show),
            web.delete("/v1/responses/{id}", self.delete),
            web.post("/v1/responses/{id}/cancel", self.cancel),
            web.get("/v1/responses/{id}/input_items", self.input_items),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        caller = require(request, Scope.TASKS)
        turn, view = await self._turn(caller, request)
        if request.query.get("stream", "").lower() == "true":
            return await self._follow(request, caller, turn, view)
        return _json(_told(turn, view))

    async def _turn(self, caller: Caller, request: web.Request) -> tuple[PastTurn, TaskView]:
        turn = await self._turns.get(caller.tenant, request.match_info["id"])
        if turn.view is None:
            # What was added to a conversation without a task is no response.
            raise response_not_found(request.match_info["id"])
        return turn, turn.view

    async def _follow(self, request: web.Request, caller: Caller, turn: PastTurn, view: TaskView) -> web.StreamResponse:
        after = starting_after(request.query)
        events = ResponseEvents(turn.kept, view)
        buffered = self._dispatcher.get(caller.tenant, view.task_id) is not None
        if view.ended and not buffered and after is not None:
            return await event_stream(
                request,
                server_events(only(events.over(view, after)), after),
                heartbeat_seconds=self._answering.heartbeat_seconds,
                resumable=False,
            )
        parse_on_disconnect(request.headers)
        updates = await self._answering.updates_again(view)
        if updates is None:
            raise response_not_found(response_id(view.task_id))
        with self._answering.watching(request, caller, view.task_id):
            async with aclosing(updates):
                return await event_stream(
                    request,
                    server_events(events_of(events, updates), -1 if after is None else after),
                    heartbeat_seconds=self._answering.heartbeat_seconds,
                    resumable=True,
                )

    async def cancel(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        turn, view = await self._turn(caller, request)
        if not view.ended:
            view = await self._cancelled(caller, view)
        return _json(_told(turn, view))

    async def _cancelled(self, caller: Caller, view: TaskView) -> TaskView:
        await self._intake.cancel(caller, view.task_id, "cancelled through /v1/responses")
        return await self._turns.ended(caller.tenant, view, _CANCEL_SECONDS)

    async def delete(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        _, view = await self._turn(caller, request)
        if not view.ended:
            await self._cancelled(caller, view)
        await self._changes.forget(caller, view.task_id)
        await self._turns.forgotten(caller.tenant, view.task_id)
        self._dispatcher.drop(view.task_id)
        return _json({"id": response_id(view.task_id), "object": "response", "deleted": True})

    async def input_items(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        turn, _ = await self._turn(caller, request)
        try:
            items = [item for _, (item, _) in input_listing(turn)]
        except ContentSealed as sealed:
            raise problem_with(answer_sealed(sealed), {}) from sealed
        return _json(item_page(items, request.query))


def _told(turn: PastTurn, view: TaskView) -> dict[str, Any]:
    try:
        return response(turn.kept, view)
    except ContentSealed as sealed:
        raise problem_with(answer_sealed(sealed), {}) from sealed


def _json(body: Any) -> web.Response:
    return web.json_response(body, dumps=dumps)
