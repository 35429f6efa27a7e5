"""Takes attempts over that may go into a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from headrace_contracts.events import AttemptRequested
from headrace_streams.handling import ordering_key
from headrace_streams.records import Record

from headrace_models.batch_calls import BatchProvider, custom_id
from headrace_models.errors import ProviderError
from headrace_models.ports import ChatRequest, EmbedRequest, Provider
from headrace_models.worker.batches.choosing import BatchKind, BatchOptions, band_of, fits_schema, may_wait, member_of
from headrace_models.worker.batches.gathering import Gatherer
from headrace_models.worker.outcomes import ExecutionOutcome

_log = logging.getLogger(__name__)

CallOf = Callable[[AttemptRequested], ChatRequest | EmbedRequest | ExecutionOutcome]
"""The call that an attempt asks for, or its outcome if there can be none."""


class BatchClient(NamedTuple):
    """A provider, and its batch API."""

    provider: Provider
    batches: BatchProvider


@dataclass(slots=True)
class Refusals:
    """Until when each provider is not asked for batches, since it has refused one; milliseconds since the epoch."""

    until: dict[str, int]

    def is_resting(self, provider: str, now_ms: int) -> bool:
        """Whether its calls are ordinary ones for now."""
        return now_ms < self.until.get(provider, 0)


class BatchTaker:
    """Decides for each attempt of the batch lane, and hands it to the gatherer.

    Args:
        clients: Providers whose batches are switched on.
        topic: The topic of work, with its prefix, from which attempts go into batches.
        is_cancelled: As for `AttemptRunner`.
    """

    def __init__(
        self,
        clients: Mapping[str, BatchClient],
        gatherer: Gatherer,
        options: BatchOptions,
        refusals: Refusals,
        *,
        topic: str,
        call_of: CallOf,
        clock_ms: Callable[[], int],
        is_cancelled: Callable[[str, str], bool],
    ) -> None:
        self._clients = clients
        self._gatherer = gatherer
        self._options = options
        self._refusals = refusals
        self._topic = topic
        self._call_of = call_of
        self._clock_ms = clock_ms
        self._is_cancelled = is_cancelled

    async def take(self, record: Record, request: AttemptRequested) -> bool:
        """Whether an attempt is part of a batch from now on; see `HandOver`."""
        client, now = self._clients.get(request.provider), self._clock_ms()
        if client is None or record.topic != self._topic or self._refusals.is_resting(request.provider, now):
            return False
        if not may_wait(request, keeps_order=ordering_key(record) is not None):
            return False
        band = band_of(request.deadline_at, now, self._options)
        if band is None or any(
            self._is_cancelled(name, request.tenant) for name in (request.task_id, request.attempt_id)
        ):
            return False
        size = self._size_of(request, client)
        if size is None:
            return False
        kind = BatchKind(request.provider, request.model, band)
        member = member_of(request, record.partition, record.offset)
        return await self._gatherer.add(kind, member, request.deadline_at, size)

    def _size_of(self, request: AttemptRequested, client: BatchClient) -> int | None:
        """Bytes of its call in a batch; None if it cannot be part of one."""
        line = line_of(self._call_of(request), client, "0" * 32, 0)
        return None if line is None else len(line) + 1


def line_of(
    call: ChatRequest | EmbedRequest | ExecutionOutcome, client: BatchClient, name: str, number: int
) -> bytes | None:
    """A call as the batch API takes it; None if it takes no such call."""
    if not isinstance(call, ChatRequest):
        return None
    schema = call.schema
    if not fits_schema(call, lambda: schema is not None and client.provider.keeps_to(schema, call.model)):
        return None
    try:
        return client.batches.line_of(custom_id(name, number), call)
    except (ProviderError, ValueError):
        # As an ordinary call it ends with the reason.
        return None
