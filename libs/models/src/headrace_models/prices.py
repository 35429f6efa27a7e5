"""Costs of calls: the price book and pure integer arithmetic over it.

Money is integer nano-dollars (10⁻⁹ dollars). A call's cost is summed exactly and rounded up once, so a ledger never
shows less than the provider charges, and at most one nano-dollar per call more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headrace_models.conversation import ChatMessage
from headrace_models.ports import CallUsage

NANODOLLARS_PER_DOLLAR: Final = 1_000_000_000
_TOKENS_PER_PRICE: Final = 1_000_000
_ANY_MODEL: Final = "*"
_MESSAGE_OVERHEAD_TOKENS: Final = 16


class PriceUnknown(Exception):
    """The price book has no price for this provider and model; add one, or do not call it."""

    def __init__(self, provider: str, model: str) -> None:
        super().__init__(f"the price book has no price for model {model!r} of provider {provider!r}")
        self.provider = provider
        self.model = model


class PriceBookInvalid(Exception):
    """The file is not a valid price book; the message names the position in it."""


@dataclass(frozen=True, slots=True)
class TokenPrices:
    """Nano-dollars per million tokens."""

    input: int
    output: int
    cached_input: int
    """For input from the prompt cache."""
    cache_write_5m: int
    """For input that is written to the prompt cache for 5 minutes."""
    cache_write_1h: int
    """For input that is written to the prompt cache for 1 hour."""

    @property
    def dearest_input(self) -> int:
        """The highest price of any kind of input."""
        return max(self.input, self.cached_input, self.cache_write_5m, self.cache_write_1h)


@dataclass(frozen=True, slots=True)
class BatchDiscount:
    """What calls in a provider's batch cost, in percent of the ordinary prices of tokens."""

    percent: int
    cached_percent: int
    """For input from the prompt cache: at some providers its discount and that of batches do not add up."""


@dataclass(frozen=True, slots=True)
class Price:
    """Prices of one model of one provider."""

    tokens: TokenPrices
    request: int = 0
    """Nano-dollars per call."""
    search: int = 0
    """Nano-dollars per web search."""
    long_prompt_above: int | None = None
    """Prompts of more tokens than this pay `long_prompt` for all tokens of the call."""
    long_prompt: TokenPrices | None = None
    batch: BatchDiscount | None = None
    """None if the provider has no price for batches: calls in them then cost what any other costs."""


@dataclass(frozen=True, slots=True)
class InternalRate:
    """Notional value of tokens of our own models, up to a size."""

    up_to_parameters: int
    per_million_tokens: int


@dataclass(frozen=True, slots=True)
class PriceBook:
    """All prices, and the edition of the book."""

    version: str
    effective: date
    digest: str
    """SHA-256 of the file: two processes agree on costs exactly if they agree on this."""
    providers: Mapping[str, Mapping[str, Price]]
    internal: Sequence[InternalRate]

    def price(self, provider: str, model: str) -> Price:
        """The price of `model`, by its exact name, else by the name without a trailing date, else the provider's `*`.

        Raises PriceUnknown.
        """
        models = self.providers.get(provider, {})
        for name in (model, _DATED.sub("", model), _ANY_MODEL):
            if name in models:
                return models[name]
        raise PriceUnknown(provider, model)

    def knows(self, provider: str) -> bool:
        """Whether `provider` has any price."""
        return provider in self.providers

    def internal_value(self, model: str, usage: CallUsage) -> int:
        """Notional value of `usage` of one of our own models; 0 if its name does not state its size.

        For reports that compare local with cloud; not part of any bill or budget.
        """
        parameters = parameters_of(model)
        if parameters is None:
            return 0
        tokens = usage.input_tokens + usage.output_tokens
        for rate in self.internal:
            if parameters <= rate.up_to_parameters:
                return _round_up(tokens * rate.per_million_tokens)
        return 0


_DATED: Final = re.compile(r"-20\d{6}$")
_SIZE: Final = re.compile(r"(?:^|[:\-_])(\d+(?:\.\d+)?)b(?:$|[\-_.])", re.IGNORECASE)


def parameters_of(model: str) -> int | None:
    """Number of parameters according to a model's name (`phi3:3.8b`); None if the name does not state it."""
    match = _SIZE.search(model)
    return round(float(match[1]) * 1e9) if match else None


def cost(usage: CallUsage, price: Price, *, batch: bool = False) -> int:
    """Cost of a call in nano-dollars, rounded up; never negative. `batch` if it was part of a provider's batch.

    Providers' counts may contradict each other. If more tokens are counted as cached and written than as input, the
    number of input tokens holds, and the dearest kinds are taken for it first, usually writes before reads. A negative
    count is 0.
    """
    long = price.long_prompt_above is not None and usage.input_tokens > price.long_prompt_above
    tokens = price.long_prompt if long and price.long_prompt is not None else price.tokens
    if batch and price.batch is not None:
        tokens = _discounted(tokens, price.batch)
    kinds = sorted(
        (
            (tokens.cache_write_1h, usage.cache_write_1h_tokens),
            (tokens.cache_write_5m, usage.cache_write_5m_tokens),
            (tokens.cached_input, usage.cached_input_tokens),
        ),
        reverse=True,
    )
    rest = max(usage.input_tokens, 0)
    per_million = max(usage.output_tokens, 0) * tokens.output
    for per_token, count in kinds:
        counted = min(max(count, 0), rest)
        per_million += counted * per_token
        rest -= counted
    per_million += rest * tokens.input
    return _round_up(per_million) + price.request + max(usage.searches, 0) * price.search


def _discounted(tokens: TokenPrices, discount: BatchDiscount) -> TokenPrices:
    def of(price: int, percent: int) -> int:
        return -(-price * percent // 100)

    return TokenPrices(
        input=of(tokens.input, discount.percent),
        output=of(tokens.output, discount.percent),
        cached_input=of(tokens.cached_input, discount.cached_percent),
        cache_write_5m=of(tokens.cache_write_5m, discount.percent),
        cache_write_1h=of(tokens.cache_write_1h, discount.percent),
    )


def worst_case(prompt_tokens: int, max_output_tokens: int, price: Price) -> int:
    """Highest possible cost of a call in nano-dollars, if its prompt has at most `prompt_tokens` (see `most_tokens`).

    That of an ordinary call: whether it becomes part of a batch is not known before, and a batch may be given up.

    The whole prompt counts as the dearest kind of input (for a provider that bills writes to its prompt cache, these),
    and a prompt that may be a long one counts as long.
    """
    dearest = max(
        (
            prompt_tokens * tokens.dearest_input + max_output_tokens * tokens.output
            for tokens in (price.tokens, price.long_prompt)
            if tokens is not None and (tokens is price.tokens or prompt_tokens > (price.long_prompt_above or 0))
        ),
    )
    return _round_up(dearest) + price.request + price.search


def most_tokens(messages: Sequence[ChatMessage]) -> int:
    """Upper bound of the tokens in a prompt, for any byte-level tokenizer: each token has at least one byte.

    About four times the real number for English text; the difference returns to the budget when the call is settled.
    """
    return sum(len(message.text.encode()) + _MESSAGE_OVERHEAD_TOKENS for message in messages)


def estimated_tokens(text: str) -> int:
    """Approximate number of tokens of a text (four bytes each), for display and for interrupted calls without usage."""
    return -(-len(text.encode()) // 4)


def _round_up(per_million: int) -> int:
    return -(-per_million // _TOKENS_PER_PRICE)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _TokenPricesEntry(_Strict):
    input: int = Field(default=0, ge=0)
    output: int = Field(default=0, ge=0)
    cached_input: int | None = Field(default=None, ge=0)
    cache_write_5m: int | None = Field(default=None, ge=0)
    cache_write_1h: int | None = Field(default=None, ge=0)

    def to_prices(self) -> TokenPrices:
        def or_input(price: int | None) -> int:
            return self.input if price is None else price

        return TokenPrices(
            input=self.input,
            output=self.output,
            cached_input=or_input(self.cached_input),
            cache_write_5m=or_input(self.cache_write_5m),
            cache_write_1h=or_input(self.cache_write_1h),
        )


class _LongPromptEntry(_TokenPricesEntry):
    above: int = Field(gt=0)


class _PriceEntry(_TokenPricesEntry):
    request: int = Field(default=0, ge=0)
    search: int = Field(default=0, ge=0)
    long_prompt: _LongPromptEntry | None = None
    batch_percent: int | None = Field(default=None, ge=0, le=100)
    batch_cached_percent: int | None = Field(default=None, ge=0, le=100)

    @model_validator(mode="after")
    def _batch_has_a_price(self) -> Self:
        if self.batch_cached_percent is not None and self.batch_percent is None:
            raise ValueError("batch_cached_percent needs batch_percent")
        return self

    def to_price(self) -> Price:
        long = self.long_prompt
        return Price(
            tokens=self.to_prices(),
            request=self.request,
            search=self.search,
            long_prompt_above=long.above if long is not None else None,
            long_prompt=long.to_prices() if long is not None else None,
            batch=None if self.batch_percent is None else BatchDiscount(
                self.batch_percent,
                self.batch_percent if self.batch_cached_percent is None else self.batch_cached_percent,
            ),
        )  # fmt: skip


class _InternalEntry(_Strict):
    up_to_parameters: int = Field(gt=0)
    per_million_tokens: int = Field(ge=0)


class _BookEntry(_Strict):
    version: str = Field(min_length=1)
    effective: date
    providers: dict[str, dict[str, _PriceEntry]]
    internal: list[_InternalEntry] = []


def parse_price_book(text: str) -> PriceBook:
    """Parse a price book from YAML.

    Raises PriceBookInvalid.
    """
    try:
        entry = _BookEntry.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise PriceBookInvalid(f"the price book is not valid YAML: {error}") from None
    except ValidationError as error:
        places = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or '(top)'}: {detail['msg']}" for detail in error.errors()
        )
        raise PriceBookInvalid(f"the price book is invalid at {places}") from None
    internal = sorted(entry.internal, key=lambda rate: rate.up_to_parameters)
    return PriceBook(
        version=entry.version,
        effective=entry.effective,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        providers={
            provider: {model: price.to_price() for model, price in models.items()}
            for provider, models in entry.providers.items()
        },
        internal=tuple(InternalRate(rate.up_to_parameters, rate.per_million_tokens) for rate in internal),
    )


def load_price_book(path: Path | None = None) -> PriceBook:
    """The price book at `path`, or the one included in the package.

    Raises PriceBookInvalid, and OSError when the file cannot be read.
    """
    return _shipped() if path is None else parse_price_book(path.read_text(encoding="utf-8"))


@cache
def _shipped() -> PriceBook:
    return parse_price_book(resources.files("headrace_models").joinpath("prices.yaml").read_text(encoding="utf-8"))
