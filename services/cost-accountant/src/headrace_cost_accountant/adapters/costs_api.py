"""The HTTP API for costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aiohttp import web
from headrace_contracts.events import SpendWindows
from headrace_runtime.access import Caller, Scope
from headrace_runtime.authentication import require
from headrace_runtime.logging import get_logger
from headrace_runtime.problems import Problem
from headrace_streams.errors import TransientError

from headrace_cost_accountant.decide.answers import ReportGroup, live_document, report_csv, report_document
from headrace_cost_accountant.decide.questions import (
    CostQuery,
    CostQueryInvalid,
    TenantForbidden,
    ask,
    said_once,
    whose,
)

_log = get_logger("headrace.costs.api")


class Reports(Protocol):
    """Answers questions about the ledger."""

    async def groups(self, question: CostQuery) -> list[ReportGroup]:
        """The groups of a report. Raises TransientError."""
        ...


class SpendWindowsSource(Protocol):
    """The newest spend windows by tenant."""

    def get(self, key: str, /) -> SpendWindows | None: ...


class CostsApi:
    """Handlers of `/v1/costs`.

    Args:
        clock: Milliseconds since the epoch.
    """

    def __init__(self, reports: Reports, live: SpendWindowsSource, clock: Callable[[], int]) -> None:
        self._reports = reports
        self._live = live
        self._clock = clock

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/v1/costs", self.report)
        app.router.add_get("/v1/costs/live", self.live)

    async def report(self, request: web.Request) -> web.Response:
        """The cost of a period, as JSON, or as CSV if the caller accepts that."""
        caller = require(request, Scope.COSTS)
        try:
            question = ask(said_once(request.query.items()), caller.tenant, is_admin=_is_admin(caller))
        except CostQueryInvalid as error:
            raise _invalid(error) from None
        except TenantForbidden:
            raise _forbidden() from None
        try:
            groups = await self._reports.groups(question)
        except TransientError as error:
            _log.warning("a report could not be read", reason=str(error))
            raise Problem(
                503, "database-unavailable", "The ledger is unavailable; try again.", headers={"Retry-After": "2"}
            ) from None
        if _wants_csv(request):
            return web.Response(
                text=report_csv(question, groups),
                content_type="text/csv",
                charset="utf-8",
                headers={"Content-Disposition": 'attachment; filename="costs.csv"', "Vary": "Accept"},
            )
        return web.json_response(report_document(question, groups), headers={"Vary": "Accept"})

    async def live(self, request: web.Request) -> web.Response:
        """The cost so far of the current minute, hour and day."""
        caller = require(request, Scope.COSTS)
        try:
            asked = said_once(request.query.items()).get("tenant")
            tenant = whose(asked, caller.tenant, is_admin=_is_admin(caller))
        except CostQueryInvalid as error:
            raise _invalid(error) from None
        except TenantForbidden:
            raise _forbidden() from None
        if tenant is None:
            raise Problem(400, "invalid-request", "Live windows belong to one tenant: name it.", param="tenant")
        return web.json_response(live_document(tenant, self._live.get(tenant), self._clock()))


def _is_admin(caller: Caller) -> bool:
    return Scope.ADMIN in caller.scopes


def _wants_csv(request: web.Request) -> bool:
    accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("Accept", "").split(",")]
    return "text/csv" in accepted and "application/json" not in accepted


def _invalid(error: CostQueryInvalid) -> Problem:
    return Problem(400, "invalid-request", f"{error}.", param=error.parameter)


def _forbidden() -> Problem:
    return Problem(403, "tenant-forbidden", "Only a key with the scope admin sees another tenant's costs.")
