"""SearXNG's JSON API: `/searxng/<node>/...`. The same query has the same results; two queries share one of theirs."""

from __future__ import annotations

import hashlib
from typing import Final

from aiohttp import web

from headrace_models.conversation import ChatMessage
from headrace_models.simulator.exchange import SimulatorState
from headrace_models.simulator.faults import FaultKind
from headrace_models.simulator.hostile import break_off, hang, redirected

PROVIDER: Final = "searxng"
_RESULTS: Final = 4
_STATUS: Final = {
    FaultKind.RATE_LIMIT: 429, FaultKind.OVERLOADED: 503, FaultKind.ERROR: 500, FaultKind.UNAUTHORISED: 401,
    FaultKind.MODEL_MISSING: 404, FaultKind.BAD_REQUEST: 400, FaultKind.QUOTA: 402,
}  # fmt: skip


class SearXNGWire:
    """The API's routes, of nodes of any name."""

    def __init__(self, world: SimulatorState) -> None:
        self._world = world

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/searxng/{node}/healthz", self._healthz)
        app.router.add_get("/searxng/{node}/search", self._search)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def _search(self, request: web.Request) -> web.StreamResponse:
        node, query = request.match_info["node"], request.query.get("q", "")
        if request.query.get("format") != "json":
            return web.Response(status=403, text="Forbidden")
        if not query:
            return web.json_response({"error": "No query"}, status=400)
        self._world.evidence.record(PROVIDER, node, "", [ChatMessage("user", query)])
        fault = self._world.faults.take(PROVIDER, node)
        if fault is not None and fault.kind is FaultKind.TIMEOUT:
            return await hang(request)
        if (elsewhere := redirected(request, fault)) is not None:
            return elsewhere
        if fault is not None and fault.kind in (FaultKind.DISCONNECT, FaultKind.STREAM_ERROR):
            break_off(request)
            return web.Response()
        if fault is not None and fault.kind is FaultKind.BROKEN_JSON:
            return web.Response(text='{"results": [{"url": "https://sim', content_type="application/json")
        if fault is not None and fault.kind is FaultKind.EMPTY_ANSWER:
            return web.json_response(
                {"query": query, "results": [], "unresponsive_engines": [["simulated", "timeout"]]}
            )
        if fault is not None and fault.kind in _STATUS:
            headers = {} if fault.retry_after_seconds is None else {"Retry-After": f"{fault.retry_after_seconds:g}"}
            return web.json_response({"error": "simulated"}, status=_STATUS[fault.kind], headers=headers)
        results = [_result(node, query, rank) for rank in range(1, _RESULTS)]
        shared = {"url": f"https://{node}.simulated.example/overview", "title": "Simulated overview",
                  "content": "Simulated excerpt of a page that every query finds.", "engine": "simulated"}  # fmt: skip
        return web.json_response(
            {
                "query": query, "number_of_results": 0, "results": [*results, shared], "answers": [],
                "corrections": [], "infoboxes": [], "suggestions": [], "unresponsive_engines": [],
            }
        )  # fmt: skip


def _result(node: str, query: str, rank: int) -> dict[str, object]:
    digest = hashlib.sha256(f"{rank}:{query}".encode()).hexdigest()[:8]
    return {
        "url": f"https://{node}.simulated.example/{digest}",
        "title": f"Simulated page {rank}: {query[:60]}",
        "content": f"Simulated excerpt {digest} about {query[:120]}.",
        "engine": "simulated",
        "engines": ["simulated"],
        "score": round(1 / rank, 2),
        "category": "general",
    }
