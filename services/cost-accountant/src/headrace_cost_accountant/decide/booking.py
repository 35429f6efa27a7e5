"""From a usage event to its row in the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_contracts.ids import lost_usage_id, recorded_usage_id
from headrace_models.local_servers import LOCAL_PROVIDERS
from headrace_models.ports import CallUsage
from headrace_models.prices import PriceBook, PriceUnknown, cost

MOST_UNITS: Final = 1_000_000_000_000
"""Tokens or searches of one execution above which a number must be a mistake and is not billed."""
MOST_NANODOLLARS: Final = 1_000_000_000_000_000
"""A possible bill above a million dollars must be a mistake and is not booked."""
_EARLIEST_MS: Final = 946_684_800_000  # 2000-01-01
_LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01
_ANY_MODEL: Final = "*"


class Basis(StrEnum):
    """What a cost is based on."""

    MODEL = "model"
    """The model's own price."""
    PROVIDER = "provider"
    """The price for any model of the provider: the price book does not list this model."""
    UNPRICED = "unpriced"
    """The price book has neither model nor provider, so the cost is 0 until it does."""


class Implausible(Exception):
    """Dead-letter the event: its numbers cannot be booked."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an execution cost, in nano-dollars.

    Attributes:
        internal_value: The value assigned to a run on a local model; never billed.
    """

    nanodollars: int
    basis: Basis
    internal_value: int


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A row of the ledger; the fields are its columns.

    Attributes:
        possibly_billed_nanodollars: Of a lost execution, the most that it may have cost; never part of a sum of costs.
        recorded_at: In milliseconds since the epoch.
    """

    event_id: str
    tenant: str
    user_name: str
    task_id: str
    attempt_id: str
    execution_id: str
    kind: str
    role: str | None
    session: str | None
    subject: str | None
    provider: str
    model: str
    node: str | None
    simulated: bool
    batch: bool
    outcome: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    searches: int
    model_ms: float
    cost_nanodollars: int
    internal_value_nanodollars: int
    price_basis: str
    price_version: str
    recorded_at: int
    possibly_billed_nanodollars: int = 0


def cost_of(event: UsageRecorded, book: PriceBook) -> Cost:
    """The cost of an event's usage by this price book. Raises Implausible."""
    counts = (
        event.usage.input_tokens,
        event.usage.output_tokens,
        event.usage.cached_input_tokens,
        event.usage.searches,
        event.usage.cache_write_5m_tokens,
        event.usage.cache_write_1h_tokens,
    )
    if not all(0 <= count <= MOST_UNITS for count in counts):
        raise Implausible(f"usage must be from 0 to {MOST_UNITS}, not {min(counts)} to {max(counts)}")
    if event.outcome is Outcome.LOST:
        # What it may have cost is known only as a bound (`LedgerEntry`), and nothing of it is ever priced anew.
        return Cost(0, Basis.MODEL, 0)
    usage = call_usage(event.usage)
    internal = book.internal_value(event.model, usage) if event.provider in LOCAL_PROVIDERS else 0
    nanodollars, basis = charge(event.provider, event.model, usage, book, batch=event.batch)
    return Cost(nanodollars, basis, internal)


def call_usage(usage: Usage) -> CallUsage:
    """An event's usage in terms of the price book."""
    return CallUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        searches=usage.searches,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
    )


def charge(provider: str, model: str, usage: CallUsage, book: PriceBook, *, batch: bool = False) -> tuple[int, Basis]:
    """The cost of a model's usage by this price book, in nano-dollars, and what it is based on. `batch` if it was part
    of a provider's batch."""
    try:
        price = book.price(provider, model)
    except PriceUnknown:
        return 0, Basis.UNPRICED
    of_provider = price is book.providers[provider].get(_ANY_MODEL)
    return cost(usage, price, batch=batch), Basis.PROVIDER if of_provider else Basis.MODEL


def meant_time(recorded_at: int, received_at: int) -> int:
    """When the usage happened: the event's time, or the time of receipt if that is implausible."""
    return recorded_at if _EARLIEST_MS <= recorded_at < _LATEST_MS else received_at


def entry_of(event: UsageRecorded, book: PriceBook, received_at: int) -> LedgerEntry:
    """The row for an event. `received_at`, the log's own timestamp, replaces an implausible time.

    Raises Implausible.
    """
    costs = cost_of(event, book)
    if not event.event_id or not event.tenant:
        raise Implausible("event_id and tenant must not be empty")
    possibly = event.possibly_billed_nanodollars
    if event.outcome is not Outcome.LOST:
        possibly = 0
    elif not 0 <= possibly <= MOST_NANODOLLARS:
        raise Implausible(f"what may have been billed must be from 0 to {MOST_NANODOLLARS}, not {possibly}")
    elif recorded_usage_id(event.event_id) is None:
        raise Implausible("the id of a lost execution's event must say so")
    return LedgerEntry(
        event_id=_text(event.event_id),
        tenant=_text(event.tenant),
        user_name=_text(event.user),
        task_id=_text(event.task_id),
        attempt_id=_text(event.attempt_id),
        execution_id=_text(event.execution_id),
        kind=_text(event.kind),
        role=_optional_text(event.role),
        session=_optional_text(event.session),
        subject=_optional_text(event.subject),
        provider=_text(event.provider),
        model=_text(event.model),
        node=_optional_text(event.node),
        simulated=event.simulated,
        batch=event.batch,
        outcome=event.outcome.value,
        input_tokens=event.usage.input_tokens,
        output_tokens=event.usage.output_tokens,
        cached_input_tokens=event.usage.cached_input_tokens,
        cache_write_5m_tokens=event.usage.cache_write_5m_tokens,
        cache_write_1h_tokens=event.usage.cache_write_1h_tokens,
        searches=event.usage.searches,
        model_ms=event.model_ms,
        cost_nanodollars=costs.nanodollars,
        internal_value_nanodollars=costs.internal_value,
        price_basis=costs.basis.value,
        price_version=book.version,
        recorded_at=meant_time(event.recorded_at, received_at),
        possibly_billed_nanodollars=possibly,
    )


def rivals(entry: LedgerEntry) -> tuple[str, str]:
    """The ids of the two events that there may be of an execution: `entry`'s own is one of them. The first says that it
    was lost, and counts for nothing once there is the second, which says what it consumed."""
    recorded = recorded_usage_id(entry.event_id)
    return (lost_usage_id(entry.event_id), entry.event_id) if recorded is None else (entry.event_id, recorded)


def _text(value: str) -> str:
    # Postgres rejects null characters, and one bad name must not keep the rest of the batch out of the ledger.
    return value.replace("\0", "\ufffd")


def _optional_text(value: str | None) -> str | None:
    return None if value is None else _text(value)
