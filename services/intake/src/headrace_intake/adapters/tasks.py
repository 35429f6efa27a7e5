"""/v1/tasks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from aiohttp import web
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.database import DatabaseAway
from headrace_runtime.http import parse_model, read_json
from headrace_runtime.logging import get_logger
from headrace_runtime.sse import ServerEvent, event_stream, last_event_id
from headrace_streams.errors import StreamsError

from headrace_intake.adapters.embeddings import written
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.history import History
from headrace_intake.decide.cancelling import parse_reason
from headrace_intake.decide.choices import choices_document
from headrace_intake.decide.embeddings import EmbedTaskRequest, draft_of_embed_task, taken_embedding
from headrace_intake.decide.idempotency import parse_key
from headrace_intake.decide.on_disconnect import parse_on_disconnect
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.pages import cursor, parse_filter
from headrace_intake.decide.replies import Delta, Restarted, StillWaiting
from headrace_intake.decide.resuming import FINISHED_ID, AtTheEnd, parse_place
from headrace_intake.decide.tasks import TaskRequest, draft_of_task, expect_object, parse_wait, taken_task
from headrace_intake.decide.views import TaskView, document_text, links, summary
from headrace_intake.following import Following, Said, Stream, TaskNotFound
from headrace_intake.hang_ups import HangUps
from headrace_intake.service import Acceptance, Intake, SubmitRequest

_RETRY_MS: Final = 1_000

_log = get_logger("headrace.intake.tasks")


class TasksApi:
    """Handlers of the tasks API.

    Args:
        longest_wait_seconds: Upper limit for `Prefer: wait`.
    """

    def __init__(
        self,
        intake: Intake,
        following: Following,
        history: History,
        hang_ups: HangUps,
        *,
        longest_wait_seconds: float,
        heartbeat_seconds: float,
    ) -> None:
        self._intake = intake
        self._following = following
        self._history = history
        self._hang_ups = hang_ups
        self._longest_wait = longest_wait_seconds
        self._heartbeat = heartbeat_seconds

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/tasks", self.submit),
            web.get("/v1/tasks", self.list),
            web.get("/v1/tasks/{id}", self.show),
            web.delete("/v1/tasks/{id}", self.cancel),
            web.get("/v1/tasks/{id}/events", self.events),
        ]

    async def submit(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        wait = parse_wait(request.headers.getall("Prefer", []), self._longest_wait)
        key = parse_key(request.headers.getall("Idempotency-Key", []))
        said = with_headers(expect_object(await read_json(request)), request.headers, request.query)
        if said.get("operation") == "embed":
            body = taken_embedding(said, EmbedTaskRequest)
            draft = draft_of_embed_task(parse_model(body, EmbedTaskRequest))
        else:
            body = taken_task(said)
            draft = draft_of_task(parse_model(body, TaskRequest))
        acceptance = await self._intake.accept(SubmitRequest("tasks", caller, draft, body, key))
        headers = {"Location": links(acceptance.view.task_id)["self"]}
        if acceptance.replayed:
            headers["Idempotency-Replayed"] = "true"
        if wait is not None:
            headers["Preference-Applied"] = f"wait={wait:g}"
            with self._hang_ups.watching(request, caller, acceptance.view.task_id):
                ended = await self._intake.end(acceptance, wait)
        else:
            ended = None
        view = ended or await self._newest(acceptance)
        return await _shown(view, 200 if view.ended else 202, headers)

    async def _newest(self, acceptance: Acceptance) -> TaskView:
        if acceptance.pending is not None:
            return acceptance.pending.view if acceptance.replayed else acceptance.view
        try:
            return (await self._following.find(acceptance.view.tenant, acceptance.view.task_id)).view
        except TaskNotFound:
            return acceptance.view

    async def show(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        known = await self._following.find(caller.tenant, request.match_info["id"])
        return await _shown(known.view)

    async def list(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        views, after = await self._history.page(caller.tenant, parse_filter(request.query))
        following = None if after is None else cursor(after)
        return _json({"tasks": [summary(view) for view in views], "next": following})

    async def cancel(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        view = await self._intake.cancel(caller, request.match_info["id"], parse_reason(request.query.get("reason")))
        return await _shown(view, 200 if view.ended else 202)

    async def events(self, request: web.Request) -> web.StreamResponse:
        caller = require(request, Scope.TASKS)
        parse_on_disconnect(request.headers)
        after = parse_place(last_event_id(request))
        if isinstance(after, AtTheEnd):
            return web.Response(status=204)
        stream = await self._following.open(caller.tenant, request.match_info["id"], after)
        if stream is None:
            return web.Response(status=204)
        with self._hang_ups.watching(request, caller, request.match_info["id"]):
            async with aclosing(stream):
                return await event_stream(request, _events(stream), heartbeat_seconds=self._heartbeat, resumable=True)


async def _events(stream: Stream) -> AsyncGenerator[ServerEvent, None]:
    first = True
    try:
        async for said in stream:
            yield _event(said, _RETRY_MS if first else None)
            first = False
    except (StreamsError, DatabaseAway) as error:
        # The end of the stream makes the caller reconnect with its Last-Event-ID, perhaps to another intake.
        _log.warning("an event stream was cut off", reason=str(error))


def _event(said: Said, retry_ms: int | None) -> ServerEvent:
    place = None if said.place is None else str(said.place)
    match said.what:
        case Delta(text, attempt, pieces):
            more = {"pieces": [asdict(piece) for piece in pieces]} if pieces else {}
            return ServerEvent(dumps({"text": text, "attempt": attempt, **more}), "delta", place, retry_ms)
        case Restarted(attempt):
            return ServerEvent(dumps({"attempt": attempt}), "restarted", place, retry_ms)
        case StillWaiting() as wait:
            return ServerEvent(dumps({"reason": wait.reason}), "waiting", place, retry_ms)
        case ended:
            return ServerEvent(_text(ended.view), "finished", place or FINISHED_ID, retry_ms)


async def _shown(view: TaskView, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    text = await written(partial(_text, view), view.embeddings)
    return web.Response(text=text, status=status, headers=headers, content_type="application/json")


def _text(view: TaskView) -> str:
    return document_text(view, choices_document(view))


def _json(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(body, status=status, headers=headers, dumps=dumps)
