"""`/v1/chat/completions` and `/v1/models` in the form the openai client libraries expect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Final

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_contracts.events import NodeStatus, TaskStatus
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import parse_model, read_json
from headrace_runtime.logging import get_logger
from headrace_runtime.problems import Problem
from headrace_runtime.sse import ServerEvent, event_stream
from headrace_streams.errors import StreamsError

from headrace_intake.adapters.confirmations import TableView
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.problems import problem_of
from headrace_intake.decide.chat import ChatCompletionRequest, draft_of_chat, taken
from headrace_intake.decide.chat_answers import (
    NO_RETRY,
    ChatError,
    Chunks,
    answer_text,
    completion,
    error_of,
    headers,
    remainder,
)
from headrace_intake.decide.idempotency import parse_key
from headrace_intake.decide.models import offered
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.replies import Delta
from headrace_intake.decide.tasks import expect_object
from headrace_intake.decide.views import TaskView
from headrace_intake.following import Following, Said, Stream, TaskEnd
from headrace_intake.service import Acceptance, Intake, SubmitRequest

_GRACE_SECONDS: Final = 5.0
"""How long after the deadline the router may take to report that it has passed."""

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
        *,
        answer_seconds: float,
        heartbeat_seconds: float,
        clock: Callable[[], int],
    ) -> None:
        self._intake = intake
        self._following = following
        self._fleet = fleet
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
        body = taken(with_headers(expect_object(await read_json(request)), request.headers))
        chat = parse_model(body, ChatCompletionRequest)
        acceptance = await self._intake.accept(SubmitRequest("chat", caller, draft_of_chat(chat), body, key))
        told = {"X-Headrace-Task-Id": acceptance.view.task_id}
        if acceptance.replayed:
            told["Idempotency-Replayed"] = "true"
        wait = self._wait_seconds(acceptance.view)
        if chat.stream:
            return await self._stream(request, chat, acceptance, told, wait)
        end = await self._intake.end(acceptance, wait)
        if end is None:
            raise _problem(_too_late(acceptance.view.task_id), told)
        error = error_of(end)
        if error is not None:
            raise _problem(error, {**told, **headers(end)})
        return web.json_response(_completion(end), headers={**told, **headers(end)}, dumps=dumps)

    def _wait_seconds(self, view: TaskView) -> float:
        if view.deadline_at is None:
            return self._answer_seconds
        return max(0.0, (view.deadline_at - self._clock()) / 1000) + _GRACE_SECONDS

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
        try:
            async with aclosing(stream):
                # A task that ends before any text was sent can still be reported as an HTTP status.
                await asyncio.wait((first,), timeout=min(wait, self._heartbeat))
                if first.done() and isinstance(ended := first.result().what, TaskEnd):
                    error = error_of(ended.view)
                    if error is not None:
                        raise _problem(error, {**told, **headers(ended.view)})
                    told |= headers(ended.view)
                return await event_stream(
                    request,
                    _chunks(chunks, first, stream, wait),
                    heartbeat_seconds=self._heartbeat,
                    resumable=False,
                    headers=told,
                )
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    async def models(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        found = offered(self._fleet.items().values(), self._clock())
        return web.json_response({"object": "list", "data": list(found.values())}, dumps=dumps)

    async def model(self, request: web.Request) -> web.Response:
        require(request, Scope.TASKS)
        name = request.match_info["model"]
        found = offered(self._fleet.items().values(), self._clock()).get(name)
        if found is None:
            raise Problem(404, "model-not-found", "No healthy node or provider offers this model now.", param="model")
        return web.json_response(found, dumps=dumps)


async def _chunks(
    chunks: Chunks, first: asyncio.Future[Said], stream: Stream, wait_seconds: float
) -> AsyncGenerator[ServerEvent, None]:
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_seconds
    sent: list[str] = []
    broken = False
    yield _data(chunks.opening())
    upcoming: asyncio.Future[Said] | None = first
    while True:
        try:
            async with asyncio.timeout_at(until):
                said = await (anext(stream) if upcoming is None else upcoming)
        except (TimeoutError, StopAsyncIteration):
            yield _failure(_too_late(chunks.task_id))
            return
        except StreamsError as error:
            _log.warning("an answer stream was cut off", reason=str(error))
            yield _failure(_broken_off(chunks.task_id))
            return
        upcoming = None
        match said.what:
            case Delta(text) if text and not broken:
                sent.append(text)
                yield _data(chunks.text(text))
            case TaskEnd(view):
                for event in _last_chunks(chunks, view, "".join(sent)):
                    yield event
                return
            case Delta():
                continue
            case _:
                broken = bool(sent)


def _last_chunks(chunks: Chunks, end: TaskView, sent: str) -> list[ServerEvent]:
    error = error_of(end)
    if error is not None:
        return [_failure(error)]
    try:
        whole = answer_text(end)
    except ContentSealed as sealed:
        return [_failure(_sealed(sealed))]
    rest = remainder(sent, whole)
    if rest is None:
        return [_failure(_broken_off(end.task_id))]
    refused = end.status == TaskStatus.REFUSED
    pieces = [chunks.refusal(rest) if refused else chunks.text(rest)] if rest else []
    return [*(_data(chunk) for chunk in (*pieces, *chunks.closing(end))), ServerEvent("[DONE]")]


def _data(chunk: Mapping[str, object]) -> ServerEvent:
    return ServerEvent(dumps(chunk))


def _failure(error: ChatError) -> ServerEvent:
    return ServerEvent(dumps(_problem(error, {}).to_openai()))


def _completion(end: TaskView) -> dict[str, object]:
    try:
        return completion(end)
    except ContentSealed as sealed:
        raise _problem(_sealed(sealed), headers(end)) from sealed


def _problem(error: ChatError, told: Mapping[str, str]) -> Problem:
    problem = problem_of(error.refusal)
    problem.headers = {**problem.headers, **told, **error.headers}
    return problem


def _too_late(task_id: str) -> ChatError:
    why = f"There is no answer yet and this request has timed out: GET /v1/tasks/{task_id} will return it."
    return ChatError(Refusal(504, "answer-timeout", why), NO_RETRY)


def _broken_off(task_id: str) -> ChatError:
    why = (
        "The attempt being streamed failed, and another attempt gave a different answer: "
        f"GET /v1/tasks/{task_id} shows the whole answer."
    )
    return ChatError(Refusal(502, "stream-broken", why), NO_RETRY)


def _sealed(error: ContentSealed) -> ChatError:
    return ChatError(Refusal(502, "answer-sealed", f"The answer cannot be shown here: {error}"), NO_RETRY)
