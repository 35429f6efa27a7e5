"""Shared by all HTTP APIs: the application with its middleware, and request bodies.

    app = new_app(metrics=metrics, body_limit_bytes=settings.body_limit_bytes)
    app.router.add_post("/v1/tasks", handler)

Middleware, outermost first: request id and log context, trace span, access log and metrics, errors, requests of other
origins.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from aiohttp import web
from aiohttp.hdrs import CONTENT_ENCODING
from aiohttp.typedefs import Handler, Middleware
from opentelemetry.trace import SpanKind
from pydantic import BaseModel, ValidationError

from headrace_runtime import tracing
from headrace_runtime.bodies import expect_utf8, parse_json, too_large, undo_coding
from headrace_runtime.cors import allow_origin, cross_origin
from headrace_runtime.decoding import LARGE_BYTES, FairDecoder
from headrace_runtime.invalid_fields import invalid_fields
from headrace_runtime.logging import get_logger, log_context
from headrace_runtime.metrics import Metrics
from headrace_runtime.open_requests import OPEN_REQUEST
from headrace_runtime.problems import ErrorShape, Problem, from_http_exception, internal_error, respond

REQUEST_ID: Final = web.RequestKey("request_id", str)
EXTRA_HEADERS: Final = web.RequestKey("extra_headers", dict[str, str])
"""Headers that middleware adds to every response, event streams included, behind what the response has of them."""
STARTED: Final = web.RequestKey("started", bool)
"""There once the head of the response has been sent."""
ANSWERED: Final = web.RequestKey("answered", bool)
"""There once a streamed answer has been sent to its end: who closes the connection after that has not hung up."""
DRAINING: Final = web.AppKey("draining", asyncio.Event)
"""Set when the server drains: event streams that a caller can resume elsewhere then end."""


class InProgress:
    """Counts the requests in progress, and signals when there are none."""

    __slots__ = ("_count", "none_open")

    def __init__(self) -> None:
        self._count = 0
        self.none_open = asyncio.Event()
        self.none_open.set()

    def enter(self) -> None:
        self._count += 1
        self.none_open.clear()

    def leave(self) -> None:
        self._count -= 1
        if self._count == 0:
            self.none_open.set()


DECODER: Final = web.AppKey("decoder", FairDecoder)
IN_PROGRESS: Final = web.AppKey("in_progress", InProgress)

_REQUEST_ID_HEADER: Final = "X-Request-Id"
_BODY_SECONDS: Final = 30.0
"""Longest time for a body to arrive: a mobile phone sends 1 MiB in it."""
_MOST_ERRORS: Final = 20
"""Most errors that one answer lists; a body can have hundreds of thousands."""
_MOST_TOLD: Final = 3
"""Most errors in the text of one answer, which is all that clients of other APIs see."""
_ACCEPTABLE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_log = get_logger("headrace.runtime.http")

ModelT = TypeVar("ModelT", bound=BaseModel)


ShapeOf = Callable[[web.Request], ErrorShape]


def _problem_details(_request: web.Request) -> ErrorShape:
    return ErrorShape.PROBLEM_DETAILS


def new_app(
    *,
    metrics: Metrics,
    body_limit_bytes: int,
    error_shape: ShapeOf = _problem_details,
    origins: tuple[str, ...] = (),
    middlewares: tuple[Middleware, ...] = (),
) -> web.Application:
    """An application with the shared middleware; `middlewares` (authentication) run inside it, next to the handler.

    Args:
        error_shape: The form of the errors that answer a request.
        origins: Of the web pages that may send requests from a browser.
    """
    observe = _observing(metrics, error_shape)
    app = web.Application(client_max_size=body_limit_bytes, middlewares=[observe, cross_origin(origins), *middlewares])
    app[DRAINING] = asyncio.Event()
    app[IN_PROGRESS] = InProgress()
    app[DECODER] = FairDecoder()
    app.on_response_prepare.append(_put_headers)
    return app


async def _put_headers(request: web.Request, response: web.StreamResponse) -> None:
    request[STARTED] = True
    if REQUEST_ID in request:
        response.headers[_REQUEST_ID_HEADER] = request[REQUEST_ID]
    for name, value in request.get(EXTRA_HEADERS, {}).items():
        # A refusal has limits of its own to tell, beside those of the key: all of these headers are lists.
        own = response.headers.get(name)
        response.headers[name] = value if own is None else f"{own}, {value}"
    allow_origin(request, response)
    if request.app[DRAINING].is_set():
        response.force_close()


def _observing(metrics: Metrics, error_shape: ShapeOf) -> Middleware:
    seconds = metrics.for_subsystem("http").latency(
        "request", "From the request's headers to the end of the response.", ("method", "route", "status")
    )
    being_answered = metrics.for_subsystem("http").gauge("open_requests", "Requests being answered now.")

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get(_REQUEST_ID_HEADER, "")
        request_id = given if _ACCEPTABLE_REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        request[REQUEST_ID] = request_id
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "(none)"
        began = time.monotonic()
        status = 499  # the caller disconnected before there was a status; nginx's code for that
        request.app[IN_PROGRESS].enter()
        being_answered.inc()
        name = f"{request.method} {route}"
        with (
            log_context(request_id=request_id),
            tracing.span(name, parent=tracing.extract_mapping(request.headers), kind=SpanKind.SERVER) as span,
        ):
            try:
                response = await _answer(request, handler, error_shape(request))
                status = response.status
                return response
            finally:
                request.app[IN_PROGRESS].leave()
                being_answered.dec()
                elapsed = time.monotonic() - began
                seconds.labels(request.method, route, str(status)).observe(elapsed)
                if span.is_recording():
                    span.set_attribute("http.response.status_code", status)
                write = _log.warning if status >= 500 else _log.info
                write("request", method=request.method, route=route, status=status, ms=round(elapsed * 1000, 2))

    return observe


async def _answer(request: web.Request, handler: Handler, shape: ErrorShape) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        return respond(problem, shape, request[REQUEST_ID])
    except web.HTTPException as error:
        return respond(from_http_exception(error), shape, request[REQUEST_ID])
    except ConnectionError:
        raise  # the caller disconnected while we were writing
    except Exception:  # noqa: BLE001 - the boundary: every request gets an answer
        _log.exception("request failed", method=request.method)
        return respond(internal_error(), shape, request[REQUEST_ID])


async def read_json(request: web.Request) -> Any:
    """Parse the body as JSON, in whichever content coding it was sent.

    Raises Problem: 413 above the application's body limit, 415 for another content type or coding, 408 when it takes
    more than 30 s to arrive, 429 and 503 when open requests hold too many bytes, 400 when it is not JSON, or JSON that
    readers understand differently (see `parse_json`).
    """
    if request.content_type not in ("application/json", "application/octet-stream") and not (
        request.content_type.endswith("+json")
    ):
        raise Problem(415, "unsupported-media-type", "Send the body as application/json.")
    expect_utf8(request.charset)
    limit = request.client_max_size
    coding = ",".join(request.headers.getall(CONTENT_ENCODING, ()))
    counted = request.get(OPEN_REQUEST)
    if counted is not None:
        # How large it is in the end shows only when it is there, unless it says so and is not packed.
        announced = request.content_length
        counted.reserve(limit if coding or announced is None else min(announced, limit))
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limit) from None
    except TimeoutError:
        raise Problem(408, "body-timeout", f"The body did not arrive within {_BODY_SECONDS:g} s.") from None
    if counted is not None:
        counted.reserve(limit if coding else len(raw))
    if not coding and len(raw) < LARGE_BYTES:
        return parse_json(raw)
    tenant = counted.caller.tenant if counted is not None else ""
    return await request.app[DECODER].run(tenant, lambda: parse_json(undo_coding(raw, coding, limit)))


async def read_model(request: web.Request, model: type[ModelT]) -> ModelT:
    """Parse and validate the body as `model`.

    Raises Problem: as `read_json`, and 400 with one entry for each of the first 20 invalid fields (its path and the
    error, not its value).
    """
    return parse_model(await read_json(request), model)


def parse_model(document: Any, model: type[ModelT]) -> ModelT:
    """Validate `document` (from JSON) as `model`; raises Problem 400 as `read_model` does."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise invalid(error, document) from None


def invalid(error: ValidationError, document: Any) -> Problem:
    """The problem for a document that does not fit its model."""
    wrong = invalid_fields(error, document)[:_MOST_ERRORS]
    told = "; ".join(f"{one.field}: {one.message}" for one in wrong[:_MOST_TOLD])
    more = f"; and {len(wrong) - _MOST_TOLD} more" if len(wrong) > _MOST_TOLD else ""
    errors = [{"field": one.field, "message": one.message} for one in wrong]
    return Problem(400, "invalid-request", told + more, extra={"errors": errors}, param=wrong[0].field)
