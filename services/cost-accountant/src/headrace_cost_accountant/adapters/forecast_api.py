"""The HTTP API for the forecast of demand."""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiohttp import web
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.problems import Problem

from headrace_cost_accountant.decide.demand import PastDemand, ask_forecast, forecast_document
from headrace_cost_accountant.decide.questions import CostQueryInvalid, said_once


class DemandSource(Protocol):
    """The demand of past hours, and which hour it is."""

    @property
    def past(self) -> PastDemand: ...

    @property
    def hour(self) -> int: ...


class ForecastApi:
    """The handler of `/v1/costs/forecast`. The demand is that of all tenants together, so it is for admins."""

    def __init__(self, demand: DemandSource) -> None:
        self._demand = demand

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.router.add_get("/v1/costs/forecast", self.forecast)

    async def forecast(self, request: web.Request) -> web.Response:
        """The calls that are expected to run at once, hour by hour."""
        require(request, Scope.ADMIN)
        try:
            query = ask_forecast(said_once(request.query.items()))
        except CostQueryInvalid as error:
            raise Problem(400, "invalid-request", f"{error}.", param=error.parameter) from None
        document = await asyncio.to_thread(forecast_document, query, self._demand.past, self._demand.hour)
        return web.json_response(document)
