"""API keys over HTTP: authentication, permissions and rate limits.

app = new_app(..., middlewares=(authentication(keys, pepper, public=("/v1/health",)),))

async def list_tasks(request: web.Request) -> web.Response:
    caller = require(request, Scope.TASKS)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import SecretStr

from headrace_runtime.access import Caller, KeyTable, NotRecognised, recognise
from headrace_runtime.http import EXTRA_HEADERS
from headrace_runtime.logging import log_context
from headrace_runtime.problems import Problem
from headrace_runtime.rate_limit import RateLimiter

CALLER: Final = web.RequestKey("caller", Caller)


def authentication(
    keys: KeyTable,
    pepper: SecretStr,
    *,
    public: tuple[str, ...] = (),
    limiter: RateLimiter | None = None,
    now: Callable[[], float] = time.time,
) -> Middleware:
    """Middleware that turns `Authorization: Bearer hr_…` (or `X-Api-Key`) into a Caller, and enforces rate limits.

    Paths in `public` need no key. Answers 401 for a key that is not recognised, 429 with Retry-After above the key's
    rate; every answer to a rate-limited key carries the RateLimit headers.
    """
    buckets = limiter if limiter is not None else RateLimiter()

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in public or request.method == "OPTIONS":
            return await handler(request)
        at = now()
        caller = _caller(request, keys, pepper.get_secret_value(), int(at * 1000))
        request[CALLER] = caller
        if caller.requests_per_minute is not None:
            decision = buckets.take(caller.key_id, caller.requests_per_minute, at)
            if not decision.allowed:
                raise Problem(
                    429,
                    "rate-limit-exceeded",
                    f"This key may send {decision.limit} requests a minute; "
                    f"try again in {decision.retry_after_seconds} s.",
                    headers=decision.headers(),
                )
            request[EXTRA_HEADERS] = decision.headers()
        with log_context(tenant=caller.tenant, key_id=caller.key_id):
            return await handler(request)

    return authenticate


def require(request: web.Request, scope: str) -> Caller:
    """The caller, if its key has `scope`.

    Raises Problem 403 otherwise.
    """
    caller = request[CALLER]
    if not caller.may(scope):
        raise Problem(403, "scope-missing", f"This key lacks the scope {scope!r}; ask an admin for one that has it.")
    return caller


def _caller(request: web.Request, keys: KeyTable, pepper: str, now_ms: int) -> Caller:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    presented = credentials if scheme.lower() == "bearer" else request.headers.get("X-Api-Key", "")
    if not presented:
        raise _unauthorized("Send an API key as Authorization: Bearer hr_…")
    try:
        return recognise(presented, keys, pepper, now_ms)
    except NotRecognised:
        raise _unauthorized("This API key is not recognised; it may be mistyped or revoked.") from None


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="headrace"'})
