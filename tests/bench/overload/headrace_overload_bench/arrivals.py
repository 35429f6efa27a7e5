"""When which tenant asks for how much: a Poisson process for each, since agents know nothing of each other.

The times and lengths of a tenant depend on its rate and its number only: in every step of a benchmark, those that ask
at the same rate ask at the same moments, whatever the greedy one does meanwhile. Pure.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

GREEDY: Final = 0
"""Number of the greedy tenant."""

SHARE: Final = 0.05
"""Of what the models can do, what each of the modest tenants asks for."""


@dataclass(frozen=True, slots=True)
class OverloadStep:
    """How much is asked for.

    Attributes:
        times: How many times what the models can do, all tenants together.
        rates: Requests a second of each tenant; the first one is the greedy one.
    """

    name: str
    times: float
    rates: tuple[float, ...]


def step_of(times: float, capacity: float, tenants: int) -> OverloadStep:
    """All but the first tenant ask for `SHARE` of the capacity each, the first one for the rest.

    Args:
        capacity: Answers a second.

    Raises ValueError when nothing is left for the first one.
    """
    modest = capacity * SHARE
    greedy = capacity * times - modest * (tenants - 1)
    if greedy < 0:
        raise ValueError(f"{tenants - 1} tenants alone ask for more than {times:g} times the capacity")
    return OverloadStep(f"{times:g} ×", times, (greedy, *[modest] * (tenants - 1)))


def without_the_greedy(capacity: float, tenants: int) -> OverloadStep:
    """The step that the others' latency is compared with."""
    modest = SHARE * (tenants - 1)
    return OverloadStep("without the greedy one", modest, (0.0, *[capacity * SHARE] * (tenants - 1)))


class Arrival(NamedTuple):
    """A request: seconds after the load's start, whose it is, and how many tokens its answer has."""

    at: float
    tenant: int
    tokens: int


def lengths(tokens: int) -> range:
    """The lengths that answers have, each as often as the others: half as long as the mean, to half as much longer."""
    return range(tokens - tokens // 2, tokens + tokens // 2 + 1)


def arrivals(rates: Sequence[float], seconds: float, seed: int, tokens: int) -> Iterator[Arrival]:
    """All requests, the first one first.

    Args:
        rates: Requests a second of each tenant.
        tokens: Mean length of the answers.
    """
    return heapq.merge(*(_of_tenant(rate, number, seconds, seed, tokens) for number, rate in enumerate(rates)))


def _of_tenant(rate: float, number: int, seconds: float, seed: int, tokens: int) -> Iterator[Arrival]:
    drawn = random.Random(f"{seed}-{number}")
    at = 0.0
    while rate > 0 and (at := at + drawn.expovariate(rate)) < seconds:
        yield Arrival(at, number, drawn.choice(lengths(tokens)))
