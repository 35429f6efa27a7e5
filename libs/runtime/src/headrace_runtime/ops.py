"""The ops server: /healthz, /readyz, /metrics and the service's own documents and pages, on a separate port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from headrace_runtime.api_limits import ConnectionLimits
from headrace_runtime.health import Health, Verdict
from headrace_runtime.http_server import HttpServer
from headrace_runtime.metrics import Metrics

_LAG_PERIOD_SECONDS: Final = 0.5
_LIMITS: Final = ConnectionLimits(connections=256, starting_per_address=32)
"""Whoever asks here is one of a few: probes, Prometheus, an operator."""
_PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""Nothing runs and nothing is loaded: what a page shows comes from nodes."""


class OpsServer:
    """Serves health and metrics of this process, and measures how late its event loop runs.

    /healthz answers 200 as long as the loop runs and all liveness checks pass; /readyz 200 only if all readiness checks
    pass, else 503 with the reasons. Its body also names what is degraded while the process is ready.
    """

    def __init__(self, *, host: str, port: int, service: str, version: str, instance: str, health: Health,
                 metrics: Metrics) -> None:  # fmt: skip
        self._host = host
        self._port = port
        self._identity = {"service": service, "version": version, "instance": instance}
        self._health = health
        self._metrics = metrics
        self._lag = metrics.for_subsystem("runtime").gauge(
            "loop_lag", "How late the event loop last woke from a sleep.", unit="seconds"
        )
        self._lag_seconds = 0.0
        self._started_at = time.monotonic()
        self._server: HttpServer | None = None
        self._lag_task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on, even if 0 was requested; 0 before `start`."""
        return self._server.port if self._server is not None else 0

    async def start(self) -> None:
        """Raises OSError when the address is in use or not local."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        for name, document in self._metrics.documents.items():
            app.router.add_get(f"/{name}", _page_of(document))
        for name, page in self._metrics.pages.items():
            app.router.add_get(f"/{name}", _html_page_of(page))
        self._server = HttpServer(app, self._host, self._port, _LIMITS, shutdown_seconds=1.0)
        await self._server.start()
        self._lag_task = asyncio.create_task(self._watch_lag(), name="ops-loop-lag")

    async def stop(self) -> None:
        if self._lag_task is not None:
            self._lag_task.cancel()
            await asyncio.gather(self._lag_task, return_exceptions=True)
            self._lag_task = None
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def _watch_lag(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LAG_PERIOD_SECONDS)
            self._lag_seconds = max(0.0, time.monotonic() - before - _LAG_PERIOD_SECONDS)
            self._lag.set(self._lag_seconds)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return self._report("alive", "dead", self._health.alive())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return self._report("ready", "not ready", self._health.ready(), self._health.degraded())

    def _report(
        self, good: str, bad: str, verdict: Verdict, degraded: Mapping[str, str] = MappingProxyType({})
    ) -> web.Response:
        document = {
            "status": good if verdict.ok else bad,
            **self._identity,
            "uptime_seconds": round(time.monotonic() - self._started_at, 1),
            "loop_lag_ms": round(self._lag_seconds * 1000, 1),
            "checks": {name: "ok" if reason is None else reason for name, reason in verdict.reasons.items()},
            "degraded": dict(degraded),
            "notes": self._health.notes,
        }
        return web.json_response(document, status=200 if verdict.ok else 503)

    async def _metrics_page(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics.registry), headers={"Content-Type": content_type})


def _page_of(document: Callable[[], Mapping[str, Any]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def page(_request: web.Request) -> web.Response:
        return web.json_response(document())

    return page


def _html_page_of(render: Callable[[], str]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def page(_request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-store"}
        return web.Response(text=render(), content_type="text/html", charset="utf-8", headers=headers)

    return page
