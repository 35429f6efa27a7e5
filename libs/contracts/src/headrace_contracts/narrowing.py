"""What a task may ask of the choice among models (`tasks.Routing`), and what is wrong with one that asks for more."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, Literal, get_args

from headrace_contracts.events import Routing
from headrace_contracts.limits import LONGEST_NAME, NANODOLLARS_IN_A_DOLLAR, is_name

Strategy = Literal[
    "listed", "local-first", "cheapest", "fastest", "lowest-latency", "highest-throughput", "balanced", "quality",
    "throughput-at-least",
]  # fmt: skip
"""How candidates are put in order."""
STRATEGIES: Final[tuple[str, ...]] = get_args(Strategy)
MOST_NAMES: Final = 32
"""In each list."""
HIGHEST_PRICE_DOLLARS: Final = 1_000_000
"""Per million tokens."""
HIGHEST_THROUGHPUT: Final = 1_000_000
"""In tokens per second."""


def routing_objections(routing: Routing) -> Iterator[tuple[str, str]]:
    """The paths of invalid fields, and what each must be."""
    for field in ("order", "only", "ignore"):
        names = getattr(routing, field)
        if len(names) > MOST_NAMES:
            yield field, f"must be at most {MOST_NAMES}"
        elif not all(is_name(name) for name in names):
            yield field, f"must hold names of 1 to {LONGEST_NAME} characters"
    if routing.strategy is not None and routing.strategy not in STRATEGIES:
        yield "strategy", f"must be one of {', '.join(STRATEGIES)}"
    for field in ("max_input_price", "max_output_price"):
        price = getattr(routing, field)
        if price is not None and not 0 <= price <= HIGHEST_PRICE_DOLLARS * NANODOLLARS_IN_A_DOLLAR:
            yield field, f"must be from 0 to {HIGHEST_PRICE_DOLLARS} dollars"
    speed = routing.min_throughput
    if speed is not None and not (math.isfinite(speed) and 0 < speed <= HIGHEST_THROUGHPUT):
        yield "min_throughput", f"must be more than 0 and at most {HIGHEST_THROUGHPUT} tokens per second"


SORTS: Final = {"price": "cheapest", "latency": "lowest-latency", "throughput": "highest-throughput"}
"""OpenRouter's words for an order, and the strategies that they stand for."""
_FIELDS: Final = frozenset({
    "order", "only", "ignore", "sort", "strategy", "max_price", "min_throughput", "allow_fallbacks",
    "require_parameters", "data_collection", "zdr", "cascade", "ensemble",
})  # fmt: skip
_NANODOLLARS: Final = Decimal(NANODOLLARS_IN_A_DOLLAR)


def routing_of(document: Mapping[str, Any]) -> Routing:
    """The event's `routing` from the object `provider` of a request, whose fields are as OpenRouter has them, and
    `strategy`, `cascade` and `ensemble`. Prices are in dollars per million tokens. Raises ValueError, worded for the
    caller.

    Source of the names: OpenRouter's documentation of provider routing, read in November 2026.
    """
    if unknown := sorted(document.keys() - _FIELDS):
        raise ValueError(f"provider.{unknown[0]}: there is no such field; there are {', '.join(sorted(_FIELDS))}")
    sort, strategy = document.get("sort"), document.get("strategy")
    if sort is not None and sort not in SORTS:
        raise ValueError(f"provider.sort: must be one of {', '.join(SORTS)}")
    if sort is not None and strategy is not None:
        raise ValueError("provider.sort: give it or strategy, not both")
    collection = document.get("data_collection")
    if collection not in (None, "allow", "deny"):
        raise ValueError("provider.data_collection: must be allow or deny")
    prices = document.get("max_price") or {}
    fallbacks, speed = document.get("allow_fallbacks"), document.get("min_throughput")
    try:
        made = Routing(
            order=tuple(document.get("order") or ()),
            only=tuple(document.get("only") or ()),
            ignore=tuple(document.get("ignore") or ()),
            strategy=SORTS[sort] if sort is not None else strategy,
            max_input_price=_nanodollars(prices.get("prompt")),
            max_output_price=_nanodollars(prices.get("completion")),
            min_throughput=None if speed is None else float(speed),
            allow_fallbacks=True if fallbacks is None else bool(fallbacks),
            require_parameters=bool(document.get("require_parameters")),
            deny_data_collection=collection == "deny",
            zero_retention=bool(document.get("zdr")),
            cascade=_flag(document, "cascade"),
            ensemble=_flag(document, "ensemble"),
        )
        problem = next(routing_objections(made), None)
    except (TypeError, AttributeError, ArithmeticError, ValueError) as error:
        raise ValueError(f"provider: {error}") from None
    if problem is not None:
        raise ValueError(f"provider.{problem[0]}: {problem[1]}")
    return made


def _flag(document: Mapping[str, Any], name: str) -> bool | None:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false")
    return value


def _nanodollars(dollars: Any) -> int | None:
    return None if dollars is None else int(Decimal(str(dollars)) * _NANODOLLARS)
