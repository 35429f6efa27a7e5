"""The demand of past hours by model and by role, and what follows from it for callers and autoscalers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from headrace_models.local_servers import LOCAL_PROVIDERS

from headrace_cost_accountant.decide.answers import time_text
from headrace_cost_accountant.decide.forecast import (
    HISTORY_HOURS,
    HOUR_SECONDS,
    LONGEST_AHEAD,
    DemandForecast,
    forecast,
)
from headrace_cost_accountant.decide.questions import CostQueryInvalid

OTHER_MODELS: Final = "other"
MOST_MODELS: Final = 50
FORECASTS_BY: Final = ("model", "role")
_HOURS_SHOWN: Final = 24


class DemandKey(NamedTuple):
    """Whose demand it is."""

    provider: str
    model: str
    role: str

    @property
    def place(self) -> str:
        """Where its model runs."""
        return "local" if self.provider in LOCAL_PROVIDERS else "cloud"


@dataclass(frozen=True, slots=True)
class HourOfDemand:
    """Model time of one hour, in seconds."""

    hour: int
    key: DemandKey
    seconds: float


@dataclass(frozen=True, slots=True)
class ForecastQuery:
    """What a caller wants to know: by model or by role, for how many hours from the present one on."""

    by: str = "model"
    hours: int = _HOURS_SHOWN


class PastDemand:
    """The demand of the past weeks, hour by hour. Immutable."""

    def __init__(self, hours: Mapping[int, Mapping[DemandKey, float]] | None = None) -> None:
        self._hours = hours or {}

    def with_hours(self, first: int, end: int, found: Iterable[HourOfDemand]) -> PastDemand:
        """With the hours from `first` to before `end` as they were found, and without those that are not needed any
        more."""
        fresh: defaultdict[int, dict[DemandKey, float]] = defaultdict(dict)
        for one in found:
            if first <= one.hour < end:
                fresh[one.hour][one.key] = one.seconds
        kept = {
            hour: demand
            for hour, demand in self._hours.items()
            if hour >= end - HISTORY_HOURS and not first <= hour < end
        }
        return PastDemand({**kept, **fresh})

    def forecasts(self, query: ForecastQuery, first_hour: int) -> Mapping[tuple[str, ...], DemandForecast]:
        """The expected demand, that with most first: by provider and model, or by role."""
        series: defaultdict[tuple[str, ...], defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
        for hour, demand in self._hours.items():
            for key, seconds in demand.items():
                name = (key.role,) if query.by == "role" else (key.provider, key.model)
                series[name][hour] += seconds
        made = {name: forecast(history, first_hour, query.hours) for name, history in series.items()}
        return dict(sorted(made.items(), key=lambda item: (-sum(item[1].seconds), item[0])))


def ask_forecast(query: Mapping[str, str]) -> ForecastQuery:
    """Parse a query string. Raises CostQueryInvalid."""
    unknown = sorted(query.keys() - {"by", "hours"})
    if unknown:
        raise CostQueryInvalid(unknown[0], f"there is no parameter {unknown[0]}; there are by, hours")
    by, hours = query.get("by") or "model", query.get("hours") or str(_HOURS_SHOWN)
    if by not in FORECASTS_BY:
        raise CostQueryInvalid("by", f"by is one of {', '.join(FORECASTS_BY)}")
    if not (hours.isascii() and hours.isdigit() and len(hours) < 5 and 1 <= int(hours) <= LONGEST_AHEAD):
        raise CostQueryInvalid("hours", f"hours is a whole number from 1 to {LONGEST_AHEAD}")
    return ForecastQuery(by, int(hours))


def forecast_document(query: ForecastQuery, past: PastDemand, first_hour: int) -> dict[str, Any]:
    """A forecast for callers."""
    return {
        "by": query.by,
        "from": time_text(first_hour * HOUR_SECONDS * 1000),
        "hours": query.hours,
        "forecasts": [
            {
                **({"role": name[0]} if query.by == "role" else {"provider": name[0], "model": name[1]}),
                "history_hours": made.history_hours,
                "busy_calls": [round(seconds / HOUR_SECONDS, 4) for seconds in made.seconds],
            }
            for name, made in past.forecasts(query, first_hour).items()
        ],
    }


def soon_busy(
    made: Mapping[tuple[str, ...], DemandForecast], now_ms: int, lead_seconds: float
) -> Mapping[tuple[str, str, str], float]:
    """By place, provider and model how many calls are expected to run at once: now, or when the lead time is over,
    whatever is more. Those beyond MOST_MODELS are one.

    Args:
        made: Forecasts by provider and model, that with most first.
    """
    now, later = (int(at // (HOUR_SECONDS * 1000)) for at in (now_ms, now_ms + lead_seconds * 1000))
    found: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for number, ((provider, model), expected) in enumerate(made.items()):
        busy = max(expected.busy_calls(hour) for hour in range(now, later + 1))
        name = model if number < MOST_MODELS else OTHER_MODELS
        found[DemandKey(provider, model, "").place, provider, name] += busy
    return found
