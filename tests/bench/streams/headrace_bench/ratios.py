"""Figures of alternating rounds.

The machine's speed drifts from round to round, so contestants are compared within a round, and what is reported is the
median of these ratios, not the ratio of medians.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of some figures."""

    median: float
    low: float
    high: float


def spread(figures: Sequence[float]) -> Spread:
    """Raises ValueError for no figures at all."""
    if not figures:
        raise ValueError("no rounds were measured")
    return Spread(statistics.median(figures), min(figures), max(figures))


def ratios(figures: Sequence[float], others: Sequence[float]) -> Spread:
    """How many times the others' figures these are, round by round. Raises ValueError unless the rounds pair up."""
    return spread([figure / other for figure, other in zip(figures, others, strict=True)])


def percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank, of figures in ascending order: the smallest that at least this share does not exceed."""
    if not ordered or not 0 < share <= 1:
        raise ValueError(f"no {share:g} percentile of {len(ordered)} figures")
    # Rounded first: 0.55 * 100 is a little more than 55.
    return ordered[max(math.ceil(round(share * len(ordered), 9)), 1) - 1]
