"""The object `provider` of a request: what it asks of the choice among models, in OpenRouter's terms."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from headrace_contracts.events import Routing
from headrace_contracts.limits import LONGEST_NAME, NAME_PATTERN
from headrace_contracts.narrowing import HIGHEST_PRICE_DOLLARS, HIGHEST_THROUGHPUT, MOST_NAMES, Strategy, routing_of
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

_Names = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=NAME_PATTERN)]],
    Field(max_length=MOST_NAMES),
]
_Dollars = Annotated[float, Field(ge=0, le=HIGHEST_PRICE_DOLLARS)]
_STRICT: Final = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HighestPrice(BaseModel):
    """Highest prices, in dollars per million tokens."""

    model_config = _STRICT

    prompt: _Dollars | None = None
    completion: _Dollars | None = None


class ProviderChoice(BaseModel):
    """Which providers and models may run a task, and in which order they are tried. `sort` and `strategy` say the same
    in two vocabularies. `cascade` and `ensemble` ask for what the task's role has, or forbid it."""

    model_config = _STRICT

    order: _Names | None = None
    only: _Names | None = None
    ignore: _Names | None = None
    sort: Literal["price", "latency", "throughput"] | None = None
    strategy: Strategy | None = None
    max_price: HighestPrice | None = None
    min_throughput: Annotated[float, Field(gt=0, le=HIGHEST_THROUGHPUT)] | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None
    cascade: bool | None = None
    ensemble: bool | None = None

    def event(self) -> Routing | None:
        """As the task's event has it; None if it asks for nothing. Raises ValueError, worded for the caller."""
        made = routing_of(self.model_dump(exclude_none=True))
        return None if made == Routing() else made
