"""Named strategies: how the candidates that may run a task are put in order.

Each is a key over a candidate's measures; the smallest comes first, and of equal ones that which the policy lists
first. So equal inputs have equal orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from headrace_contracts.narrowing import Strategy

from headrace_router.decide.measures import Measures

_Key = Callable[[Measures, "_Scale"], tuple[float, ...]]

_OF_COST, _OF_TIME, _OF_QUALITY = 0.4, 0.4, 0.2
"""What each figure counts in `balanced`."""


class _Scale:
    """The largest figures among the candidates, so that shares of them can be added."""

    __slots__ = ("nanodollars", "seconds", "throughput")

    def __init__(self, candidates: Sequence[Measures], throughput: float) -> None:
        self.nanodollars = max((one.nanodollars or 0 for one in candidates), default=0)
        self.seconds = max((one.seconds for one in candidates), default=0.0)
        self.throughput = throughput

    def is_as(self, other: _Scale) -> bool:
        """Whether shares are the same."""
        return self.nanodollars == other.nanodollars and self.seconds == other.seconds


def _cost(one: Measures) -> float:
    # Nothing is known to be dearer than a price that nobody knows.
    return math.inf if one.nanodollars is None else float(one.nanodollars)


def _balanced(one: Measures, scale: _Scale) -> tuple[float, ...]:
    cost = 1.0 if one.nanodollars is None else _share(one.nanodollars, scale.nanodollars)
    return (_OF_COST * cost + _OF_TIME * _share(one.seconds, scale.seconds) + _OF_QUALITY * (1 - one.quality),)


def _share(figure: float, most: float) -> float:
    return figure / most if most > 0 else 0.0


def _fast_enough(one: Measures, scale: _Scale) -> tuple[float, ...]:
    speed = one.tokens_per_second
    if speed is None:
        return (1.0, _cost(one))
    return (0.0, _cost(one)) if speed >= scale.throughput else (2.0, -speed)


_KEYS: Final[Mapping[Strategy, _Key]] = {
    "listed": lambda _one, _scale: (),
    "local-first": lambda one, _scale: (not one.is_local,),
    "cheapest": lambda one, _scale: (_cost(one), one.seconds),
    "fastest": lambda one, _scale: (one.seconds, _cost(one)),
    "lowest-latency": lambda one, _scale: (one.first_seconds, one.seconds),
    "highest-throughput": lambda one, _scale: (-(one.tokens_per_second or 0.0), one.seconds),
    "balanced": _balanced,
    "quality": lambda one, _scale: (-one.quality, _cost(one), one.seconds),
    "throughput-at-least": _fast_enough,
}


def ranked(strategy: Strategy, candidates: Sequence[Measures], throughput: float) -> Sequence[int]:
    """The places of the candidates in the order of a strategy.

    Args:
        throughput: Tokens per second that `throughput-at-least` asks for.
    """
    return Ranking(strategy, candidates, throughput).order


class Ranking:
    """The order of some candidates, which is put right when figures of a few of them change.

    Attributes:
        order: The places of the candidates in the order of the strategy.
    """

    __slots__ = ("_figures", "_key", "_keys", "_scale", "_throughput", "order")

    def __init__(self, strategy: Strategy, candidates: Sequence[Measures], throughput: float) -> None:
        self._key, self._figures, self._throughput = _KEYS[strategy], list(candidates), throughput
        self.order: Sequence[int] = range(len(candidates))
        self._rank()

    def change(self, figures: Mapping[int, Measures]) -> None:
        """Other figures for the candidates at some places."""
        changed = {place: new for place, new in figures.items() if new != self._figures[place]}
        if not changed:
            return
        for place, new in changed.items():
            self._figures[place] = new
        scale = _Scale(self._figures, self._throughput)
        if not self._scale.is_as(scale):
            self._rank()
            return
        for place, new in changed.items():
            self._keys[place] = *self._key(new, scale), place
        self._sort()

    def _rank(self) -> None:
        self._scale = _Scale(self._figures, self._throughput)
        self._keys = [(*self._key(one, self._scale), place) for place, one in enumerate(self._figures)]
        self._sort()

    def _sort(self) -> None:
        # Of equal ones the first that is listed comes first, since its place is part of the key. What was in order
        # before is sorted in little time.
        self.order = sorted(self.order, key=self._keys.__getitem__)
