"""What is known of a candidate when candidates are compared: price, speed, quality. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from headrace_contracts.events import ModelObserved, ModelStatus, NodeStatus, Place
from headrace_contracts.frozen import cheaply_made
from headrace_models.prices import Price, PriceBook, PriceUnknown

from headrace_router.decide.policy import ModelRef, Policy

_USUAL_OUTPUT_TOKENS: Final = 400
"""Of an answer, where the task sets no limit below: prices and times are compared for answers of this length."""
_BYTES_PER_TOKEN: Final = 4
_UNKNOWN_FIRST_SECONDS: Final = 1.0
_UNKNOWN_TOKENS_PER_SECOND: Final = 20.0
"""Of models that nobody has called in the last minutes: slow enough not to draw tasks away from those that are known to
be fast, and fast enough to be tried."""


@cheaply_made
@dataclass(frozen=True, slots=True)
class Size:
    """What a task is about to consume, in steps of a factor of two, so that tasks of one step are compared alike.

    Attributes:
        prompt_tokens, output_tokens: As estimated.
    """

    prompt_tokens: int
    output_tokens: int


@cheaply_made
@dataclass(frozen=True, slots=True)
class Measures:
    """A candidate's figures for a task of a size.

    Attributes:
        nanodollars: Its expected cost; None if the price book has no price.
        first_seconds: Until the first piece of the answer.
        tokens_per_second: Of the answer after that; None if nobody has observed it.
        seconds: The whole answer, waiting for a slot included.
        quality: From 0 to 1, as the policy states it.
    """

    nanodollars: int | None
    first_seconds: float
    tokens_per_second: float | None
    seconds: float
    quality: float
    is_local: bool


def size_of_task(prompt_bytes: int, max_output_tokens: int | None, *, writes: bool = True) -> Size:
    """The size of a task, by the bytes of its prompt and its limit."""
    output = _USUAL_OUTPUT_TOKENS if max_output_tokens is None else min(max_output_tokens, _USUAL_OUTPUT_TOKENS)
    return _size(max(0, prompt_bytes // _BYTES_PER_TOKEN - 1).bit_length(), max(1, output) if writes else 0)


@lru_cache(maxsize=65_536)
def _size(prompt_steps: int, output: int) -> Size:
    return Size(1 << prompt_steps, _step(output) if output else 0)


def price_of(book: PriceBook, ref: ModelRef) -> Price | None:
    """The price of a model; None if there is none."""
    try:
        return book.price(ref.provider, ref.model)
    except PriceUnknown:
        return None


def measures(
    ref: ModelRef,
    place: Place,
    offered: Sequence[tuple[NodeStatus, ModelStatus]],
    size: Size,
    policy: Policy,
    book: PriceBook,
) -> Measures:
    """The figures of a candidate at these healthy nodes, by what they say of it. They are those of its best node; with
    none, those of a model that nobody knows."""
    price = price_of(book, ref)
    best: tuple[float, float, float | None] | None = None
    for node, status in offered:
        observed = status.observed
        first, speed = _first_seconds(node, observed), _speed(node, observed)
        seconds = first + size.output_tokens / (speed or _UNKNOWN_TOKENS_PER_SECOND)
        if node.slots and node.busy >= node.slots:
            # All is taken: one call has to end first. On average they are half done, and there are `slots` of them.
            seconds += seconds / (2 * node.slots)
        if best is None or seconds < best[0]:
            best = seconds, first, speed
    if best is None:
        seconds = _UNKNOWN_FIRST_SECONDS + size.output_tokens / _UNKNOWN_TOKENS_PER_SECOND
        best = seconds, _UNKNOWN_FIRST_SECONDS, None
    return Measures(
        nanodollars=None if price is None else _expected_cost(price, size),
        first_seconds=best[1],
        tokens_per_second=best[2],
        seconds=best[0],
        quality=policy.quality(ref.provider, ref.model),
        is_local=place is Place.LOCAL,
    )


def _first_seconds(node: NodeStatus, observed: ModelObserved | None) -> float:
    if observed is not None:
        return max(0.0, observed.first_output_p50_ms / 1000)
    return _UNKNOWN_FIRST_SECONDS if node.latency_ms is None else _UNKNOWN_FIRST_SECONDS + node.latency_ms / 1000


def _speed(node: NodeStatus, observed: ModelObserved | None) -> float | None:
    found = node.tokens_per_second
    if observed is not None and observed.tokens_per_second_p50 is not None:
        found = observed.tokens_per_second_p50
    return found if found is not None and found > 0 else None


def _expected_cost(price: Price, size: Size) -> int:
    tokens = price.tokens
    if (
        price.long_prompt is not None
        and price.long_prompt_above is not None
        and size.prompt_tokens > price.long_prompt_above
    ):
        tokens = price.long_prompt
    spent = size.prompt_tokens * tokens.input + size.output_tokens * tokens.output
    return price.request + spent // 1_000_000


def _step(tokens: int) -> int:
    return 1 << max(0, tokens - 1).bit_length()
