"""Which attempts go into batches, which of them together, and when a batch is looked at, and given up. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from headrace_contracts.events import AttemptRequested, BatchMember, Lane, ModelOperation
from headrace_contracts.ids import digest

from headrace_models.ports import ChatRequest

LONGEST_MS: Final = 25 * 3_600_000
"""Life of a batch without a deadline: providers end theirs after 24 hours."""
_LOOK_GROWTH: Final = 1.5
_JITTER: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How attempts are gathered, and how batches are followed.

    Attributes:
        gather_seconds: Longest time that the first attempt waits for others.
        most_attempts, most_bytes: A batch that has so many attempts, or bytes of calls, is submitted at once.
        least_seconds: Attempts with less time left before their deadline are ordinary calls.
        reserve_seconds: Time before the first deadline of a batch at which it is given up.
        look_seconds, longest_look_seconds: First and longest time between two looks at a batch.
        most_open: Open batches of one provider, of all workers; further attempts are ordinary calls.
        patience_seconds: How long a submission is tried that the provider turns away without a final word, and how long
            after a refusal no batch is tried.
        unheard_seconds: How long after the begin of a submission the batch may yet appear at the provider: until then
            that it is not there means nothing.
        end_seconds: How long a cancelled batch may take to end.
    """

    gather_seconds: float = 30.0
    most_attempts: int = 192
    most_bytes: int = 16 * 1024 * 1024
    least_seconds: float = 3_600.0
    reserve_seconds: float = 600.0
    look_seconds: float = 30.0
    longest_look_seconds: float = 300.0
    most_open: int = 100
    patience_seconds: float = 300.0
    unheard_seconds: float = 600.0
    end_seconds: float = 300.0


class BatchKind(NamedTuple):
    """What the attempts of one batch have in common.

    Tenants are not kept apart: all calls go out under the installation's own key, and a provider sees them together
    also one by one. Results come back by ids that say nothing of a tenant. `band` keeps attempts with much time from
    those with little, since a batch is given up for its first deadline: each band is twice as long as the one before.
    """

    provider: str
    model: str
    band: int


def may_wait(request: AttemptRequested, *, keeps_order: bool) -> bool:
    """Whether an attempt may be answered within hours, out of order, and all at once."""
    return (
        request.lane is Lane.BATCH
        and request.operation is ModelOperation.CHAT
        # Somebody looks at the pieces as they come.
        and not request.stream
        # The next attempt of its session would wait for hours, or be answered before it.
        and not keeps_order
    )


def band_of(deadline_at: int | None, now_ms: int, options: BatchOptions) -> int | None:
    """The band of an attempt; None if too little time is left."""
    if deadline_at is None:
        return -1
    left = (deadline_at - now_ms) / 1000
    if left < options.least_seconds:
        return None
    return int(left // options.least_seconds).bit_length()


def due_at(deadlines: Iterable[int | None], now_ms: int, options: BatchOptions) -> int:
    """When a batch is given up, in milliseconds since the epoch."""
    reserve = round(options.reserve_seconds * 1000)
    return min([now_ms + LONGEST_MS, *(deadline - reserve for deadline in deadlines if deadline is not None)])


def fits_schema(call: ChatRequest, keeps_to_it: Callable[[], bool]) -> bool:
    """Whether the answer needs no second question: there is no schema, or the provider makes the model keep to it."""
    return call.schema is None or keeps_to_it()


def look_delay(looks: int, chance: float, options: BatchOptions) -> float:
    """Seconds to the next look after so many, with a jitter from `chance` (0 to 1), so that batches that were submitted
    together are not looked at together."""
    usual = min(options.look_seconds * _LOOK_GROWTH ** min(looks, 50), options.longest_look_seconds)
    return usual * (1 + _JITTER * (2 * chance - 1))


def execution_of(batch_id: str, provider_batch_id: str | None) -> str:
    """The id of the execution of every attempt in a batch. Two workers that deliver the same result make it the same;
    a batch that really ran twice makes two, since it is billed twice."""
    return f"batch-{digest([batch_id, provider_batch_id or ''])[:32]}"


def name_of(batch_id: str) -> str:
    """The name of a batch at its provider: its id, as 32 hexadecimal digits."""
    return batch_id.replace("-", "")


def member_of(request: AttemptRequested, partition: int, offset: int) -> BatchMember:
    """An attempt as a batch names it."""
    return BatchMember(attempt_id=request.attempt_id, tenant=request.tenant, partition=partition, offset=offset)
