"""API keys over HTTP: authentication, permissions, rate limits, and the end of requests whose key is revoked.

open_requests = OpenRequests(settings.request_limits())
keys = Table(..., on_change=open_requests.key_changed)
app = new_app(..., middlewares=(authentication(keys, pepper, open_requests),))

async def list_tasks(request: web.Request) -> web.Response:
    caller = require(request, Scope.TASKS)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import SecretStr

from headrace_runtime.access import Caller, KeyTable, NotRecognised, recognise
from headrace_runtime.http import EXTRA_HEADERS, STARTED
from headrace_runtime.logging import get_logger, log_context
from headrace_runtime.open_requests import OPEN_REQUEST, OpenRequests
from headrace_runtime.problems import Problem
from headrace_runtime.rate_limit import RequestRates

CALLER: Final = web.RequestKey("caller", Caller)

_log = get_logger("headrace.runtime.authentication")


def authentication(
    keys: KeyTable,
    pepper: SecretStr,
    open_requests: OpenRequests | None = None,
    *,
    public: tuple[str, ...] = (),
    rates: RequestRates | None = None,
    now: Callable[[], float] = time.time,
) -> Middleware:
    """Middleware that turns `Authorization: Bearer hr_…` (or `X-Api-Key`) into a Caller, and enforces limits.

    Paths in `public` need no key. Answers 400 for two different credentials, 401 for a key that is not recognised, and
    to an open request whose key is revoked meanwhile (a stream that has begun breaks off); 429 with Retry-After above
    the rate of the key or of its tenant, and for too many open requests of a tenant. Every answer to a rate-limited key
    carries the RateLimit headers.
    """
    buckets = rates if rates is not None else RequestRates()
    counted = open_requests if open_requests is not None else OpenRequests()

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in public or request.method == "OPTIONS":
            return await handler(request)
        at = now()
        caller = _caller(request, keys, pepper.get_secret_value(), int(at * 1000))
        request[CALLER] = caller
        _take(request, buckets, caller, at)
        with log_context(tenant=caller.tenant, key_id=caller.key_id), counted.opened(caller) as open_request:
            request[OPEN_REQUEST] = open_request
            try:
                return await handler(request)
            except asyncio.CancelledError:
                if not open_request.revoked:
                    raise
                _end_revoked(request)
                raise _unauthorized("This API key was revoked.") from None

    return authenticate


def _take(request: web.Request, rates: RequestRates, caller: Caller, at: float) -> None:
    decision = rates.take(caller, at)
    if decision is None:
        return
    if not decision.allowed:
        raise Problem(
            429,
            "rate-limit-exceeded",
            f"This {decision.policy} may send {decision.limit} requests a minute; "
            f"try again in {decision.retry_after_seconds} s.",
            headers=decision.headers(),
        )
    request[EXTRA_HEADERS] = decision.headers()


def _end_revoked(request: web.Request) -> None:
    """The request was cancelled since its key is revoked: its task goes on, to answer or to break off.

    Raises ConnectionResetError if an answer has begun: nothing but the end of the connection can say so then.
    """
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    _log.info("ended an open request: its key is revoked", method=request.method)
    if STARTED in request:
        raise ConnectionResetError("the key was revoked")


def require(request: web.Request, scope: str) -> Caller:
    """The caller, if its key has `scope`.

    Raises Problem 403 otherwise.
    """
    caller = request[CALLER]
    if not caller.may(scope):
        raise Problem(403, "scope-missing", f"This key lacks the scope {scope}; ask an admin for one that has it.")
    return caller


def _caller(request: web.Request, keys: KeyTable, pepper: str, now_ms: int) -> Caller:
    presented = _presented(request)
    try:
        return recognise(presented, keys, pepper, now_ms)
    except NotRecognised:
        raise _unauthorized("This API key is not recognised; it may be mistyped or revoked.") from None


def _presented(request: web.Request) -> str:
    """The one API key of the request. Raises Problem: 400 for several credentials, 401 for none."""
    # Whatever one of them says, it must not win in silence: who looks at the other sees another caller.
    told = [_bearer(value) or value for value in request.headers.getall("Authorization", ()) if value]
    told += [value for value in request.headers.getall("X-Api-Key", ()) if value]
    if len(set(told)) > 1:
        raise Problem(
            400,
            "contradiction",
            "Authorization and X-Api-Key hold different credentials; send one API key, in one of them.",
        )
    authorization = request.headers.get("Authorization", "")
    presented = _bearer(authorization) if authorization else request.headers.get("X-Api-Key", "")
    if not presented:
        raise _unauthorized("Send an API key as Authorization: Bearer hr_…")
    return presented


def _bearer(authorization: str) -> str:
    """The token of an Authorization header; empty for other schemes."""
    scheme, _, token = authorization.partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="headrace"'})
