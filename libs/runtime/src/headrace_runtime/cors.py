"""Cross-origin requests from browsers (the CORS protocol of the Fetch standard), for the origins that a setting names.

Only what the browser needs: which origin may read answers, and what it may send. API keys travel in headers and never
in cookies, so credentials in the sense of the protocol are never allowed.
"""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

ANY_ORIGIN: Final = "*"
_METHODS: Final = "GET, POST, PUT, PATCH, DELETE"
_PREFLIGHT_SECONDS: Final = "600"
"""How long a browser may keep the answer to a preflight request; Chromium keeps none for longer than two hours."""
_ORIGIN: Final = web.RequestKey("allowed_origin", str)


def cross_origin(origins: tuple[str, ...]) -> Middleware:
    """Middleware that lets pages of these origins send requests and read the answers, errors included.

    It stands outside of authentication: a preflight request carries no key. Without origins nothing is added to any
    answer, and browsers refuse.
    """
    everyone = ANY_ORIGIN in origins

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN, "")
        if not origin or not (everyone or origin in origins):
            return await handler(request)
        request[_ORIGIN] = ANY_ORIGIN if everyone else origin
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
        if request.method != hdrs.METH_OPTIONS or not asked:
            return await handler(request)
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS,
                # Whatever a page wants to send, it could send without a browser: the key decides.
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, ""),
                hdrs.ACCESS_CONTROL_MAX_AGE: _PREFLIGHT_SECONDS,
            },
        )

    return answer


def allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Tell the browser that the page may read this response; for every response, event streams included."""
    origin = request.get(_ORIGIN)
    if origin is None:
        return
    response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
    if origin != ANY_ORIGIN:
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
    exposed = [name for name in dict.fromkeys(response.headers) if not name.lower().startswith("access-control-")]
    response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ", ".join(exposed)
