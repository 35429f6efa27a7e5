"""Reads the demand of past hours from the ledger, and keeps the forecast current in metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from headrace_runtime.database import Database
from headrace_runtime.health import Health
from headrace_streams.errors import TransientError

from headrace_cost_accountant.decide.demand import DemandKey, ForecastQuery, HourOfDemand, PastDemand, soon_busy
from headrace_cost_accountant.decide.forecast import HISTORY_HOURS, HOUR_SECONDS, DemandForecast
from headrace_cost_accountant.metrics import ForecastMetrics

_REFRESH_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 5.0
_HOURS_AT_ONCE: Final = 24
"""Of the past weeks in one statement, so that none takes long."""
_READ_AGAIN_HOURS: Final = 6
"""Usage comes late: of so many hours before the present one the sums may still change."""
_ALL_AGAIN_HOURS: Final = 24
"""How often all weeks are read again: a ledger that catches up after an outage books hours that are long over."""
_HOURS_AHEAD: Final = 26
"""As far as a lead time may reach."""
_HOUR_MS: Final = HOUR_SECONDS * 1000
_STATEMENT: Final = f"""
    SELECT recorded_at / {_HOUR_MS} AS hour, provider, model, coalesce(role, '') AS role,
           sum(model_ms) / 1000 AS seconds
    FROM ledger.entries WHERE recorded_at >= $1 AND recorded_at < $2 GROUP BY 1, 2, 3, 4
"""


class DemandReader:
    """The demand of the past weeks, as the ledger has it.

    Args:
        clock: Milliseconds since the epoch.
        lead_seconds: How long before an hour the metrics tell of it.
    """

    def __init__(
        self,
        database: Database,
        metrics: ForecastMetrics,
        health: Health,
        clock: Callable[[], int],
        lead_seconds: float,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._lead_seconds = lead_seconds
        self._read_until: int | None = None
        self._all_read_at = 0
        self._expected: Mapping[tuple[str, ...], DemandForecast] = {}
        self.past = PastDemand()

    @property
    def hour(self) -> int:
        """The present hour."""
        return self._clock() // _HOUR_MS

    async def run(self) -> None:
        """Keep the forecast current until cancelled. While the ledger cannot be read, the last one stands."""
        while True:
            try:
                await self.refresh()
            except TransientError as error:
                self._health.note("forecast", f"the ledger cannot be read: {error}")
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                self._health.note("forecast", "current")
                await asyncio.sleep(_REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Read the hours that are new or may have changed, once in each hour, and set the metrics. Raises
        TransientError."""
        present = self.hour
        if self._read_until != present:
            first = present - HISTORY_HOURS
            if self._read_until is None or present - self._all_read_at >= _ALL_AGAIN_HOURS:
                self._all_read_at = present
            else:
                first = max(first, min(self._read_until, present) - _READ_AGAIN_HOURS)
            past = self.past
            for begin in range(first, present, _HOURS_AT_ONCE):
                end = min(begin + _HOURS_AT_ONCE, present)
                past = past.with_hours(begin, end, await self._read(begin, end))
            # A millisecond for each model: too long for the loop.
            query = ForecastQuery(hours=_HOURS_AHEAD)
            self._expected = await asyncio.to_thread(past.forecasts, query, present)
            self.past, self._read_until = past, present
        self._metrics.expected(soon_busy(self._expected, self._clock(), self._lead_seconds))

    async def _read(self, first: int, end: int) -> Sequence[HourOfDemand]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(_STATEMENT, first * _HOUR_MS, end * _HOUR_MS)
        return [
            HourOfDemand(int(row["hour"]), DemandKey(row["provider"], row["model"], row["role"]), float(row["seconds"]))
            for row in rows
        ]
