"""Whether a process grows: a line through its memory that single readings cannot turn. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

MEBIBYTE: Final = 1 << 20
LEAST_GROWTH: Final = 16 * MEBIBYTE
"""Bytes an hour, below which no process counts as growing."""
GROWTH_SHARE: Final = 0.05
"""Of its own memory, what a process may gain an hour, where that is more than `LEAST_GROWTH`."""
_MOST_POINTS: Final = 400


@dataclass(frozen=True, slots=True)
class Growth:
    """What became of the memory of one part.

    Attributes:
        first, last: Bytes, medians of the first and of the last tenth of the readings that count.
        hourly: Bytes an hour by which the line rises.
        bound: Bytes an hour that still count as none.
        ceiling: Bytes that its own settings allow it; None if it has none. Below it, it may fill them.
    """

    first: float
    last: float
    hourly: float
    bound: float
    ceiling: float | None = None

    @property
    def grows(self) -> bool:
        """Whether it is above the bound, and not below its ceiling."""
        return self.hourly > self.bound and (self.ceiling is None or self.last > self.ceiling)


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """The slope of a line through the points: the median of the slopes between any two (Theil, Sen).

    More than a quarter of the readings would have to be wrong to spoil it. Raises ValueError unless two points differ
    in their first coordinate.
    """
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, later in enumerate(points)
        for earlier in points[:number]
        if later[0] != earlier[0]
    ]
    if not slopes:
        raise ValueError("no two readings of different times")
    return statistics.median(slopes)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Medians of neighbours, where there are more points than a slope of all pairs is worth computing from."""
    width = -(-len(points) // _MOST_POINTS)
    groups = [points[start : start + width] for start in range(0, len(points), width)] if points else []
    return [
        (statistics.median(at for at, _ in group), statistics.median(value for _, value in group)) for group in groups
    ]


def growth(readings: Sequence[tuple[float, float]], ceiling: float | None = None) -> Growth:
    """Of readings in bytes at times in seconds, those of the first minutes left out already.

    Raises ValueError unless two of them are of different times.
    """
    hourly = 3600 * theil_sen(thinned(readings))
    tenth = max(len(readings) // 10, 1)
    first, last = (statistics.median(size for _, size in part) for part in (readings[:tenth], readings[-tenth:]))
    return Growth(first, last, hourly, max(LEAST_GROWTH, GROWTH_SHARE * first), ceiling)


def growths(
    readings: Mapping[str, Sequence[tuple[float, float]]], after: float, ceilings: Mapping[str, float] | None = None
) -> dict[str, Growth]:
    """By part, from readings after so many seconds; parts with fewer than two of them are left out."""
    found: dict[str, Growth] = {}
    for part, points in readings.items():
        counted = [point for point in points if point[0] >= after]
        if len(counted) > 1:
            found[part] = growth(counted, (ceilings or {}).get(part))
    return found
