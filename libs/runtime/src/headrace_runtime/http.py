"""Shared by all HTTP APIs: the application with its middleware, request bodies, and a server that drains.

    app = new_app(service="intake", metrics=metrics, body_limit_bytes=settings.body_limit_bytes)
    app.router.add_post("/v1/tasks", handler)
    server = HttpServer(app, settings.api_host, settings.api_port)
    Part("api", start=server.start, drain=server.drain, stop=server.stop)

Middleware, outermost first: request id and log context, trace span, access log and metrics, errors.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from typing import Any, Final, TypeVar

from aiohttp import web
from aiohttp.hdrs import CONTENT_ENCODING
from aiohttp.typedefs import Handler, Middleware
from opentelemetry.trace import SpanKind
from pydantic import BaseModel, ValidationError

from headrace_runtime import tracing
from headrace_runtime.bodies import expect_utf8, parse_json, place_of, too_large, undo_coding
from headrace_runtime.logging import get_logger, log_context
from headrace_runtime.metrics import Metrics
from headrace_runtime.problems import Problem, from_http_exception, internal_error, respond

REQUEST_ID: Final = web.RequestKey("request_id", str)
EXTRA_HEADERS: Final = web.RequestKey("extra_headers", dict[str, str])
"""Headers that middleware adds to every response, event streams included."""
DRAINING: Final = web.AppKey("draining", asyncio.Event)
"""Set when the server drains: event streams that a caller can resume elsewhere then end."""


class _OpenRequests:
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


_OPEN_REQUESTS: Final = web.AppKey("open_requests", _OpenRequests)

OPENAI_PATHS: Final = ("/v1/chat", "/v1/models", "/v1/completions", "/v1/embeddings")

_REQUEST_ID_HEADER: Final = "X-Request-Id"
_MOST_ERRORS: Final = 20
"""Most errors that one answer lists; a body can have hundreds of thousands."""
_ACCEPTABLE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_log = get_logger("headrace.runtime.http")

ModelT = TypeVar("ModelT", bound=BaseModel)


def new_app(
    *,
    metrics: Metrics,
    body_limit_bytes: int,
    openai_paths: tuple[str, ...] = OPENAI_PATHS,
    middlewares: tuple[Middleware, ...] = (),
) -> web.Application:
    """An application with the shared middleware; `middlewares` (authentication) run inside it, next to the handler.

    Errors under `openai_paths` have the OpenAI shape, all others are RFC 9457 problem details.
    """
    observe = _observing(metrics, openai_paths)
    app = web.Application(client_max_size=body_limit_bytes, middlewares=[observe, *middlewares])
    app[DRAINING] = asyncio.Event()
    app[_OPEN_REQUESTS] = _OpenRequests()
    app.on_response_prepare.append(_put_headers)
    return app


async def _put_headers(request: web.Request, response: web.StreamResponse) -> None:
    if REQUEST_ID in request:
        response.headers[_REQUEST_ID_HEADER] = request[REQUEST_ID]
    if EXTRA_HEADERS in request:
        response.headers.update(request[EXTRA_HEADERS])
    if request.app[DRAINING].is_set():
        response.force_close()


def _observing(metrics: Metrics, openai_paths: tuple[str, ...]) -> Middleware:
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
        request.app[_OPEN_REQUESTS].enter()
        being_answered.inc()
        name = f"{request.method} {route}"
        with (
            log_context(request_id=request_id),
            tracing.span(name, parent=tracing.extract_mapping(request.headers), kind=SpanKind.SERVER) as span,
        ):
            try:
                response = await _answer(request, handler, openai=request.path.startswith(openai_paths))
                status = response.status
                return response
            finally:
                request.app[_OPEN_REQUESTS].leave()
                being_answered.dec()
                elapsed = time.monotonic() - began
                seconds.labels(request.method, route, str(status)).observe(elapsed)
                if span.is_recording():
                    span.set_attribute("http.response.status_code", status)
                write = _log.warning if status >= 500 else _log.info
                write("request", method=request.method, route=route, status=status, ms=round(elapsed * 1000, 2))

    return observe


async def _answer(request: web.Request, handler: Handler, *, openai: bool) -> web.StreamResponse:
    try:
        return await handler(request)
    except Problem as problem:
        return respond(problem, openai=openai, request_id=request[REQUEST_ID])
    except web.HTTPException as error:
        return respond(from_http_exception(error), openai=openai, request_id=request[REQUEST_ID])
    except ConnectionError:
        raise  # the caller disconnected while we were writing
    except Exception:  # noqa: BLE001 - the boundary: every request gets an answer
        _log.exception("request failed", method=request.method)
        return respond(internal_error(), openai=openai, request_id=request[REQUEST_ID])


async def read_json(request: web.Request) -> Any:
    """Parse the body as JSON, in whichever content coding it was sent.

    Raises Problem: 413 above the application's body limit, 415 for another content type or coding, 400 when it is not
    JSON, or JSON that readers understand differently (see `parse_json`).
    """
    if request.content_type not in ("application/json", "application/octet-stream") and not (
        request.content_type.endswith("+json")
    ):
        raise Problem(415, "unsupported-media-type", "Send the body as application/json.")
    expect_utf8(request.charset)
    limit = request.client_max_size
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limit) from None
    coding = ",".join(request.headers.getall(CONTENT_ENCODING, ()))
    return parse_json(undo_coding(raw, coding, limit))


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
        wrong = [
            {"field": place_of(detail["loc"]), "message": detail["msg"]}
            for detail in error.errors(include_url=False, include_input=False, include_context=False)[:_MOST_ERRORS]
        ]
        first = wrong[0]
        more = f" (and {error.error_count() - 1} more)" if len(wrong) > 1 else ""
        detail = f"{first['field']}: {first['message']}{more}"
        raise Problem(400, "invalid-request", detail, extra={"errors": wrong}, param=first["field"]) from None


class HttpServer:
    """Serves an application; `drain` refuses new connections and lets requests in progress finish."""

    def __init__(
        self,
        app: web.Application,
        host: str,
        port: int,
        *,
        shutdown_seconds: float = 2.0,
    ) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=shutdown_seconds,
            handler_cancellation=False,
            # `read_json` does it: aiohttp passes on codings it does not know, and answers 500 to a body in another one.
            auto_decompress=False,
        )
        self._site: web.TCPSite | None = None
        self._bound_port = 0

    @property
    def port(self) -> int:
        """The port it listens on, even if 0 was requested; 0 before `start`."""
        return self._bound_port

    async def start(self) -> None:
        """Raises OSError when the address is in use or not local."""
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, self._host, self._port)
        await self._site.start()
        self._bound_port = int(self._runner.addresses[0][1])

    async def drain(self) -> None:
        """Returns when all requests have been answered; resumable event streams end, so that callers reconnect."""
        self._app[DRAINING].set()
        if self._site is not None:
            await self._site.stop()
        await self._app[_OPEN_REQUESTS].none_open.wait()

    async def stop(self) -> None:
        self._app[DRAINING].set()
        await self._runner.cleanup()
        self._site = None
