"""Tavily's search API: `/tavily/...`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from headrace_models.conversation import ChatMessage
from headrace_models.simulator.exchange import SimulatorState, json_object
from headrace_models.simulator.faults import FaultKind
from headrace_models.simulator.hostile import break_off, hang, redirected

_ERRORS: Final[Mapping[FaultKind, tuple[int, str]]] = {
    FaultKind.RATE_LIMIT: (429, "Your request has been blocked due to excessive requests."),
    FaultKind.OVERLOADED: (503, "Service unavailable."),
    FaultKind.ERROR: (500, "Internal server error."),
    FaultKind.QUOTA: (432, "This request exceeds your plan's set usage limit."),
    FaultKind.UNAUTHORISED: (401, "Unauthorized: missing or invalid API key."),
    FaultKind.MODEL_MISSING: (404, "Not found."),
    FaultKind.BAD_REQUEST: (400, "Invalid request."),
}


class TavilyWire:
    """The API's routes."""

    provider: Final = "tavily"

    def __init__(self, world: SimulatorState) -> None:
        self._world = world
        self._number = 0

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/tavily/usage", self._usage)
        app.router.add_post("/tavily/search", self._search)

    async def _usage(self, request: web.Request) -> web.Response:
        if not request.headers.get("Authorization"):
            return _error(*_ERRORS[FaultKind.UNAUTHORISED])
        return web.json_response({"key": {"usage": self._number, "limit": None}})

    async def _search(self, request: web.Request) -> web.StreamResponse:
        if not request.headers.get("Authorization"):
            return _error(*_ERRORS[FaultKind.UNAUTHORISED])
        document = await json_object(request)
        query = str(document.get("query") or "")
        if not query:
            return _error(400, "Query is missing.")
        self._world.evidence.record(self.provider, self.provider, "tavily-search", [ChatMessage("user", query)])
        fault = self._world.faults.take(self.provider, self.provider)
        if fault is not None and fault.kind is FaultKind.TIMEOUT:
            return await hang(request)
        if (elsewhere := redirected(request, fault)) is not None:
            return elsewhere
        if fault is not None and fault.kind in (FaultKind.DISCONNECT, FaultKind.STREAM_ERROR):
            break_off(request)
            return web.Response()
        if fault is not None and fault.kind in _ERRORS:
            return _error(*_ERRORS[fault.kind], retry_after=fault.retry_after_seconds)
        self._number += 1
        count = min(int(document.get("max_results") or 5), 20)
        return web.json_response(
            {
                "query": query,
                "answer": f"Simulated findings about: {query[:80]}",
                "images": [],
                "results": [_result(query, rank) for rank in range(1, count + 1)],
                "response_time": 0.1,
                "request_id": f"simulated-{self._number}",
            }
        )


def _result(query: str, rank: int) -> dict[str, object]:
    digest = hashlib.sha256(f"{rank}:{query}".encode()).hexdigest()[:8]
    return {
        "title": f"Simulated source {rank}: {query[:60]}",
        "url": f"https://simulated.example/{digest}",
        "content": f"Simulated excerpt {digest} on {query[:120]}.",
        "score": round(1 - rank / 20, 2),
        "raw_content": None,
    }


def _error(status: int, text: str, retry_after: float | None = None) -> web.Response:
    headers = {"Retry-After": f"{retry_after:g}"} if retry_after is not None else None
    return web.json_response({"detail": {"error": text}}, status=status, headers=headers)
