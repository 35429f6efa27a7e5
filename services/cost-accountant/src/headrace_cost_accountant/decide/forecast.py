"""What demand to expect in the next hours, from the hours of the past weeks: a stated, simple method.

Demand is seconds of model time in an hour; divided by 3,600 it is how many calls run at once on average.

1. Each hour of the week has an average of the same hour in past weeks, each hour of the day one of past days; newer
   ones count more, by exponential smoothing. The more weeks are known, the more the hour of the week counts.
2. Demand that grows or falls: the expectation is multiplied by what the last week was, compared with what was to be
   expected of it; by at most 1.5, at least its inverse.

Hours without any demand count as 0, from the first hour with demand on. Hours are whole hours since the epoch, in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

HOUR_SECONDS: Final = 3_600
HOURS_OF_WEEK: Final = 168
HOURS_OF_DAY: Final = 24
HISTORY_HOURS: Final = 6 * HOURS_OF_WEEK
LONGEST_AHEAD: Final = HOURS_OF_WEEK
_WEIGHT_OF_NEWEST_WEEK: Final = 0.4
_WEIGHT_OF_NEWEST_DAY: Final = 0.2
_LEVEL_BOUND: Final = 1.5
_LEVEL_HOURS: Final = HOURS_OF_WEEK


@dataclass(slots=True)
class _Smoothed:
    """An exponentially smoothed average, and of how many values."""

    value: float = 0.0
    count: int = 0

    def add(self, value: float, weight: float) -> None:
        # The first values are averaged plainly: the very first one would otherwise count for too much.
        share = max(weight, 1.0 / (self.count + 1))
        self.value += share * (value - self.value)
        self.count += 1


@dataclass(frozen=True, slots=True)
class DemandForecast:
    """The demand expected of an hour and of those that follow it.

    Attributes:
        first_hour: The hour of the first value.
        seconds: Model time for each hour.
        history_hours: From how many hours this follows; 0 if nothing is known, and then all is 0.
    """

    first_hour: int
    seconds: tuple[float, ...]
    history_hours: int

    def busy_calls(self, hour: int) -> float:
        """How many calls run at once on average in an hour; 0 for one that is not in the forecast."""
        place = hour - self.first_hour
        return self.seconds[place] / HOUR_SECONDS if 0 <= place < len(self.seconds) else 0.0


def forecast(history: Mapping[int, float], first_hour: int, hours: int) -> DemandForecast:
    """The demand of `hours` hours from `first_hour` on, from the hours before it.

    Args:
        history: Seconds of model time by hour; hours that are missing had none.
    """
    known = {hour: max(0.0, seconds) for hour, seconds in history.items() if hour < first_hour}
    hours = max(0, min(hours, LONGEST_AHEAD))
    if not known:
        return DemandForecast(first_hour, (0.0,) * hours, 0)
    begin = max(min(known), first_hour - HISTORY_HOURS)
    of_week = [_Smoothed() for _ in range(HOURS_OF_WEEK)]
    of_day = [_Smoothed() for _ in range(HOURS_OF_DAY)]
    recent = first_hour - _LEVEL_HOURS
    expected = actual = 0.0
    for hour in range(begin, first_hour):
        seconds = known.get(hour, 0.0)
        if hour >= recent:
            expected += _usual(of_week, of_day, hour)
            actual += seconds
        of_week[hour % HOURS_OF_WEEK].add(seconds, _WEIGHT_OF_NEWEST_WEEK)
        of_day[hour % HOURS_OF_DAY].add(seconds, _WEIGHT_OF_NEWEST_DAY)
    level = 1.0
    if first_hour - begin >= HOURS_OF_WEEK + _LEVEL_HOURS and expected > 0.0:
        level = min(max(actual / expected, 1.0 / _LEVEL_BOUND), _LEVEL_BOUND)
    ahead = range(first_hour, first_hour + hours)
    return DemandForecast(
        first_hour, tuple(_usual(of_week, of_day, hour) * level for hour in ahead), first_hour - begin
    )


def _usual(of_week: Sequence[_Smoothed], of_day: Sequence[_Smoothed], hour: int) -> float:
    week, day = of_week[hour % HOURS_OF_WEEK], of_day[hour % HOURS_OF_DAY]
    return (week.count * week.value + day.value) / (week.count + 1)


def same_hour_yesterday(history: Mapping[int, float], first_hour: int, hours: int) -> tuple[float, ...]:
    """A baseline: each hour as the newest known one at the same time of day."""
    return tuple(history.get(first_hour - HOURS_OF_DAY + ahead % HOURS_OF_DAY, 0.0) for ahead in range(hours))


def mean_of_history(history: Mapping[int, float], first_hour: int, hours: int) -> tuple[float, ...]:
    """A baseline: each hour as the mean of the hours so far."""
    known = [seconds for hour, seconds in history.items() if hour < first_hour]
    begin = min((hour for hour in history if hour < first_hour), default=first_hour)
    return (sum(known) / max(1, first_hour - begin),) * hours
