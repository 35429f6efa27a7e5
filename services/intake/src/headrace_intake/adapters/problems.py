"""Translates intake's own errors into HTTP problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from headrace_runtime.database import DatabaseAway
from headrace_runtime.logging import get_logger
from headrace_runtime.problems import ErrorShape, Problem
from headrace_streams.errors import StreamsError

from headrace_intake.adapters.rereading import EventsGone, NoSuchPosition, TooManyRereaders
from headrace_intake.adapters.writing import NeverWritable, NotWritten, WriteUncertain
from headrace_intake.decide.chat_answers import ChatError
from headrace_intake.decide.error_shapes import error_shape, nothing_at
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.resuming import not_given_out
from headrace_intake.following import TaskNotFound
from headrace_intake.service import UncertainTask

_SOON: Final[Mapping[str, str]] = {"Retry-After": "1"}
_LATER: Final[Mapping[str, str]] = {"Retry-After": "5"}
_IN_VAIN: Final[Mapping[str, str]] = {"x-should-retry": "false"}
"""Stops OpenAI's clients, which retry a 409 by themselves, from retrying this one."""

_log = get_logger("headrace.intake.http")

_TRANSLATED: Final = (
    Refusal,
    TaskNotFound,
    NotWritten,
    UncertainTask,
    WriteUncertain,
    NeverWritable,
    DatabaseAway,
    EventsGone,
    NoSuchPosition,
    TooManyRereaders,
    StreamsError,
)


def translating() -> Middleware:
    """Middleware that turns intake's own errors into problems."""

    @web.middleware
    async def translate(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            raise Problem(404, "not-found", nothing_at(request.path)) from None
        except _TRANSLATED as error:
            raise problem_of(error) from error

    return translate


def error_shape_of(request: web.Request) -> ErrorShape:
    """The form of the errors that answer a request."""
    return error_shape(request.path, anthropic="anthropic-version" in request.headers)


def problem_of(error: Exception) -> Problem:
    """The problem for an error. A message from a broker or database goes to the log, not to the caller."""
    match error:
        case Refusal():
            headers = error.headers or (_IN_VAIN if error.status == 409 else _SOON if error.status == 429 else None)
            return Problem(error.status, error.kind, error.detail, param=error.param, headers=headers)
        case TaskNotFound():
            return Problem(404, "task-not-found", "There is no task with this id; it may be past its retention.")
        case EventsGone():
            return Problem(
                410, "events-gone", "The events after this Last-Event-ID have expired: fetch the task instead."
            )
        case NoSuchPosition():
            return problem_of(not_given_out())
        case TooManyRereaders():
            return Problem(503, "too-many-resuming", "Too many callers are resuming at the moment.", headers=_SOON)
        case UncertainTask():
            return Problem(
                503,
                "accept-uncertain",
                "Kafka did not acknowledge the task in time: it may run. Ask for it by its id, or repeat the "
                "request with the same Idempotency-Key if it has one.",
                extra={"task_id": error.task_id},
                headers={**_LATER, "X-Headrace-Task-Id": error.task_id, **_IN_VAIN},
            )
        case NeverWritable():
            _log.error("Kafka refused an event", reason=str(error))
            return Problem(
                413,
                "record-refused",
                "Kafka refused this request, most likely because it is too large; the service's log has the reason.",
            )
    _log.warning("a request was turned away, retryable", error=type(error).__name__, reason=str(error))
    match error:
        case DatabaseAway():
            return Problem(
                503,
                "database-unavailable",
                "Postgres is unavailable. Tasks without an Idempotency-Key are still accepted.",
                headers=_LATER,
            )
        case WriteUncertain():
            return Problem(
                503, "accept-uncertain", "Kafka did not acknowledge this in time: repeat the request.", headers=_LATER
            )
        case _:
            return Problem(503, "not-accepted", "Kafka is unavailable; nothing was accepted.", headers=_SOON)


def problem_with(error: ChatError, told: Mapping[str, str]) -> Problem:
    """The problem for a task that has ended without an answer, with the headers told about it."""
    problem = problem_of(error.refusal)
    problem.headers = {**problem.headers, **told, **error.headers}
    return problem
