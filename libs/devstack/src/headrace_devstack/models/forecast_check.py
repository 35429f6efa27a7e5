"""How far the forecast of demand is off on simulated weeks, beside simple baselines. Pure but for its seeds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace_cost_accountant.decide.forecast import (
    HOURS_OF_DAY,
    HOURS_OF_WEEK,
    forecast,
    mean_of_history,
    same_hour_yesterday,
)

_FIRST_HOUR: Final = 2_500 * HOURS_OF_WEEK
_WEEKS_BEFORE: Final = 4
_DAYS: Final = 14


@dataclass(frozen=True, slots=True)
class DemandPattern:
    """A kind of demand to simulate.

    Attributes:
        weekend: Demand on Saturday and Sunday as a share of that of other days.
        night: Demand at night as a share of that of the busiest hour.
        growth: Factor for each week.
        noise: Spread of single hours, as a share.
        idle_days: Share of days on which nearly nobody works.
    """

    name: str
    weekend: float = 0.1
    night: float = 0.02
    growth: float = 1.0
    noise: float = 0.2
    idle_days: float = 0.0


PATTERNS: Final = (
    DemandPattern("office hours"),
    DemandPattern("office hours, growing 15 % a week", growth=1.15),
    DemandPattern("office hours, one day in ten off", idle_days=0.1),
    DemandPattern("every day alike", weekend=1.0, night=0.3),
    DemandPattern("all hours alike", weekend=1.0, night=1.0),
)

Method = Callable[[Mapping[int, float], int, int], Sequence[float]]
METHODS: Final[Mapping[str, Method]] = {
    "forecast": lambda history, first, hours: forecast(history, first, hours).seconds,
    "same hour yesterday": same_hour_yesterday,
    "mean": mean_of_history,
}


@dataclass(frozen=True, slots=True)
class ForecastError:
    """The error of a method with some demand: the sum of what it was off in each hour, as a share of the demand."""

    pattern: str
    method: str
    share: float


def simulated_demand(pattern: DemandPattern, seed: int, weeks: int) -> dict[int, float]:
    """Seconds of model time for each hour of so many weeks."""
    dice = random.Random(seed)
    demand: dict[int, float] = {}
    for number in range(weeks * HOURS_OF_WEEK):
        if number % HOURS_OF_DAY == 0:
            off = dice.random() < pattern.idle_days
        of_day = number % HOURS_OF_DAY
        day = number // HOURS_OF_DAY % 7
        curve = pattern.night + (1 - pattern.night) * math.exp(-(((of_day - 13.0) / 4.0) ** 2))
        usual = 7_200.0 * curve * (pattern.weekend if day >= 5 else 1.0) * (0.05 if off else 1.0)
        usual *= pattern.growth ** (number / HOURS_OF_WEEK)
        demand[_FIRST_HOUR + number] = max(0.0, usual * dice.gauss(1.0, pattern.noise))
    return demand


def errors(seeds: int) -> tuple[ForecastError, ...]:
    """The errors of all methods, forecasting a day at each midnight of two weeks, after four weeks of history."""
    found = []
    for pattern in PATTERNS:
        off = dict.fromkeys(METHODS, 0.0)
        total = 0.0
        for seed in range(seeds):
            demand = simulated_demand(pattern, seed, _WEEKS_BEFORE + _DAYS // 7)
            for day in range(_DAYS):
                first = _FIRST_HOUR + _WEEKS_BEFORE * HOURS_OF_WEEK + day * HOURS_OF_DAY
                history = {hour: seconds for hour, seconds in demand.items() if hour < first}
                actual = [demand[first + ahead] for ahead in range(HOURS_OF_DAY)]
                total += sum(actual)
                for name, method in METHODS.items():
                    said = method(history, first, HOURS_OF_DAY)
                    off[name] += sum(abs(one - other) for one, other in zip(said, actual, strict=True))
        found += [ForecastError(pattern.name, name, off[name] / total) for name in METHODS]
    return tuple(found)
