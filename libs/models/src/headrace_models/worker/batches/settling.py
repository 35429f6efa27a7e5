"""Settles the attempts of a batch: those with a result are reported, the others run as ordinary calls.

1. The records of work are read again: a batch holds no content.
2. The results are read, and reported under ids that follow from attempt and batch: a repeat is recognised by everybody.
3. What was not answered, or cannot be read, runs as an ordinary call, if its deadline leaves time for that. After a
   crash in this step each is looked up first, as every attempt that may have been begun before (`paid_calls`).
4. The files at the provider are deleted.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import AttemptRequested, BatchMember, Outcome, ProviderBatch
from headrace_contracts.topics import WORK_CLOUD_BATCH
from headrace_streams.dead_letters import DeadLetterSink, described
from headrace_streams.errors import SendToDeadLetters
from headrace_streams.records import Record

from headrace_models.batch_calls import BatchLook, BatchState
from headrace_models.errors import ProviderError
from headrace_models.ports import CallUsage, ChatRequest
from headrace_models.worker import outcomes
from headrace_models.worker.batches.choosing import BatchOptions, execution_of
from headrace_models.worker.batches.observing import BatchObserver
from headrace_models.worker.batches.results import SortedResults, dropped, outcome_of, sort_results, unsettled
from headrace_models.worker.batches.taking import BatchClient, CallOf, line_of
from headrace_models.worker.batches.work_records import WorkRecords
from headrace_models.worker.runner import AttemptRunner

_log = logging.getLogger(__name__)

_BATCHES_IN_MEMORY: Final = 2
"""Batches of a provider whose content is held at a time: each has `most_bytes`, and its results may have more."""
_REPORTS_AT_ONCE: Final = 64
_CALLS_AT_ONCE: Final = 32
_RETRY_SECONDS: Final = 5.0
_CLEANUPS: Final = 4
_TRIES_OF_MISSING: Final = 3


@dataclass(frozen=True, slots=True)
class BatchMembers:
    """The attempts of a batch by their numbers in it; those whose records are gone are missing."""

    records: dict[int, Record]
    requests: dict[int, AttemptRequested]


class Settler:
    """Reads the attempts of batches, and ends them.

    Args:
        may_leave: Whether the call of an attempt may be submitted.
        is_cancelled: As for `AttemptRunner`.
        clock_ms: Milliseconds since the epoch.
    """

    def __init__(
        self,
        runner: AttemptRunner,
        records: WorkRecords,
        options: BatchOptions,
        *,
        codec: Codec,
        dead_letters: DeadLetterSink,
        call_of: CallOf,
        may_leave: Callable[[AttemptRequested], bool],
        is_cancelled: Callable[[str, str], bool],
        clock_ms: Callable[[], int],
        observer: BatchObserver,
    ) -> None:
        self._runner = runner
        self._records = records
        self._options = options
        self._codec = codec
        self._dead_letters = dead_letters
        self._call_of = call_of
        self._may_leave = may_leave
        self._is_cancelled = is_cancelled
        self._clock_ms = clock_ms
        self._observer = observer
        # For each provider its own: one that does not answer keeps no other waiting.
        self._rooms: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_BATCHES_IN_MEMORY))

    def is_cancelled(self, member: BatchMember) -> bool:
        """Whether its task, or it alone, was cancelled."""
        task = member.attempt_id.rpartition("/")[0]
        return self._is_cancelled(task, member.tenant) or self._is_cancelled(member.attempt_id, member.tenant)

    @asynccontextmanager
    async def loaded(self, batch: ProviderBatch) -> AsyncIterator[BatchMembers]:
        """The attempts of a batch, in memory within the block. Raises TransientError, RegistryUnavailable."""
        async with self._rooms[batch.provider]:
            yield await self._read(batch)

    def lines_of(self, members: BatchMembers, client: BatchClient, name: str) -> list[bytes]:
        """The calls to submit: of all attempts that are still wanted, and may leave (checked once more)."""
        lines = []
        for number, request in members.requests.items():
            cancelled = self._is_cancelled(request.task_id, request.tenant) or self._is_cancelled(
                request.attempt_id, request.tenant
            )
            if not cancelled and self._may_leave(request):
                line = line_of(self._call_of(request), client, name, number)
                if line is not None:
                    lines.append(line)
        return lines

    async def settle(
        self, batch: ProviderBatch, client: BatchClient | None, name: str, seen: BatchLook | None, *, resumed: bool
    ) -> None:
        """End all attempts of a batch. Raises TransientError, RegistryUnavailable."""
        look, results = await self._results(batch, client, name, seen, resumed=resumed)
        async with self.loaded(batch) as members:
            rest = unsettled(list(members.records), results)
            await self._report_results(batch, client, members, results)
            waiting = {number: members.records[number] for number in rest}
        lost = len(batch.members) - len(members.records)
        if lost:
            _log.error("batch %s: the records of %d attempts are gone, nothing is reported of them",
                       batch.batch_id, lost)  # fmt: skip
            self._observer.settled(batch.provider, "lost", lost)
        await self._call(batch, waiting, resumed=resumed)
        await self._clean_up(batch, client, name, look)

    async def _read(self, batch: ProviderBatch) -> BatchMembers:
        wanted = [(member.partition, member.offset) for member in batch.members]
        found = await self._records.read(WORK_CLOUD_BATCH.name, wanted)
        members = BatchMembers({}, {})
        for number, member in enumerate(batch.members):
            record = found.get((member.partition, member.offset))
            if record is None:
                continue
            origin = Origin(record.topic, record.partition, record.offset)
            try:
                request = await self._codec.read(AttemptRequested, record.value, origin)
            except UnreadableValue as error:
                _log.error("an attempt of batch %s cannot be read: %s", batch.batch_id, described(error))
                continue
            # Another record, if the topic was created again.
            if request.attempt_id == member.attempt_id and request.tenant == member.tenant:
                members.records[number], members.requests[number] = record, request
        return members

    async def _results(
        self, batch: ProviderBatch, client: BatchClient | None, name: str, seen: BatchLook | None, *, resumed: bool
    ) -> tuple[BatchLook | None, SortedResults]:
        """The results as far as there are any, tried for as long as there is time."""
        nothing = SortedResults({}, 0)
        if client is None or batch.provider_batch_id is None:
            return seen, nothing
        until = max(batch.due_at, batch.changed_at) + round(self._options.reserve_seconds * 500)
        for tries in itertools.count(1):
            try:
                look = await client.batches.look(batch.provider_batch_id)
                if look.state is not BatchState.ENDED:
                    return look, nothing
                lines = await client.batches.results(batch.provider_batch_id, look)
            except ProviderError as error:
                _log.warning("the results of batch %s cannot be read: %s", batch.batch_id, error.message)
                if _is_missing(error) and resumed:
                    # Whoever had this batch before has read them, and deleted them.
                    return seen, nothing
                if self._clock_ms() >= until or (_is_missing(error) and tries >= _TRIES_OF_MISSING):
                    _log.error("the results of batch %s are given up: its cost is not booked", batch.batch_id)
                    self._observer.unaccounted(batch.provider)
                    return seen, nothing
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            results = sort_results(lines, name, len(batch.members))
            if results.strange:
                _log.warning("batch %s: %d results are of no call, unreadable, or there twice",
                             batch.batch_id, results.strange)  # fmt: skip
            return look, results
        raise AssertionError("it counts without end")

    async def _report_results(
        self, batch: ProviderBatch, client: BatchClient | None, members: BatchMembers, results: SortedResults
    ) -> None:
        if client is None:
            return
        execution_id = execution_of(batch.batch_id, batch.provider_batch_id)
        counts: Counter[str] = Counter()

        async def report(number: int) -> None:
            request, record = members.requests[number], members.records[number]
            call = self._call_of(request)
            assert isinstance(call, ChatRequest), "others are in no batch"
            try:
                ended = await outcome_of(
                    results.of[number], call, client.batches, client.provider,
                    now_ms=self._clock_ms(), deadline_at=request.deadline_at,
                )  # fmt: skip
            except Exception as error:  # noqa: BLE001 - a bug ends this attempt, not those of the whole batch
                _log.error("the result of %s cannot be used: %s", request.attempt_id, described(error))
                ended = outcomes.failed(
                    f"the worker failed with {type(error).__name__}", usage=CallUsage(), model_ms=0.0
                )
            if self.is_cancelled(batch.members[number]):
                ended = dropped(ended)
            counts["cancelled" if ended.outcome is Outcome.CANCELLED else "result"] += 1
            await self._guarded(record, self._runner.report_of_batch(record, request, execution_id, ended))

        rest = set(unsettled(list(members.records), results))
        await self._all([number for number in members.records if number not in rest], report, _REPORTS_AT_ONCE)
        for how, count in counts.items():
            self._observer.settled(batch.provider, how, count)

    async def _call(self, batch: ProviderBatch, waiting: dict[int, Record], *, resumed: bool) -> None:
        async def call(number: int) -> None:
            record = waiting[number]
            await self._guarded(record, self._runner.call(record, repeated=resumed))

        await self._all(list(waiting), call, _CALLS_AT_ONCE)
        if waiting:
            _log.info("batch %s: %d attempts were ordinary calls", batch.batch_id, len(waiting))
            self._observer.settled(batch.provider, "ordinary", len(waiting))

    async def _guarded(self, record: Record, work: Awaitable[None]) -> None:
        """Do something about one attempt; one that can never be handled must not keep the others waiting."""
        try:
            await work
        except (SendToDeadLetters, UnreadableValue) as error:
            await self._dead_letters.keep(record, error)

    @staticmethod
    async def _all(numbers: Sequence[int], work: Callable[[int], Awaitable[None]], at_once: int) -> None:
        room = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with room:
                await work(number)

        try:
            async with asyncio.TaskGroup() as group:
                for number in numbers:
                    group.create_task(one(number))
        except ExceptionGroup as failed:
            # The engine judges errors by their kind.
            raise failed.exceptions[0] from None

    async def _clean_up(
        self, batch: ProviderBatch, client: BatchClient | None, name: str, look: BatchLook | None
    ) -> None:
        if client is None or batch.first_submitted_at is None:
            return
        for number in range(_CLEANUPS):
            try:
                await client.batches.clean_up(name, look)
            except ProviderError as error:
                _log.warning("files of batch %s cannot be deleted: %s", batch.batch_id, error.message)
                if number + 1 == _CLEANUPS:
                    _log.error("files of batch %s stay at %s: delete headrace-%s.jsonl and its results there",
                               batch.batch_id, batch.provider, name)  # fmt: skip
                    return
                await asyncio.sleep(_RETRY_SECONDS * (number + 1))
            else:
                return


def _is_missing(error: ProviderError) -> bool:
    return error.status in (404, 410)
