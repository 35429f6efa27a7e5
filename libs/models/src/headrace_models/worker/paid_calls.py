"""Accounts for calls of providers that bill, whatever becomes of the worker that makes them.

1. Before an execution calls a provider, AttemptStarted is written to the task's home partition and acknowledged.
2. A record that may have been begun before (`earlier_executions`) is settled before anything else is done with it:
   an attempt that was reported is not run again, and usage that is missing of a report is recorded; an execution that
   was announced, and neither reported nor recorded, is recorded as lost, with what it may have cost at most.
3. An execution that is stopped by its own worker, since its partition leaves, is recorded with what it has consumed.

An execution may be recorded as lost, and later be recorded by its worker, which had only seemed dead. The two events
have different ids, and the ledger lets the second take the place of the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import (
    AttemptFinished,
    AttemptRequested,
    AttemptStarted,
    LostExecution,
    Outcome,
    Usage,
    UsageRecorded,
)
from headrace_contracts.headers import traceparent
from headrace_contracts.ids import lost_usage_id, usage_id
from headrace_contracts.topics import ATTEMPTS_FINISHED_CLOUD, ATTEMPTS_STARTED, USAGE_RECORDED
from headrace_streams.errors import OffsetOutOfRange, RecordRefused, TopicMissing, TransientError
from headrace_streams.ports import Log
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, Record

from headrace_models.worker import appending
from headrace_models.worker.earlier_executions import EarlierExecutions, Sighting, Traces
from headrace_models.worker.outcomes import Execution, ExecutionOutcome, usage_event, usage_record
from headrace_models.worker.running_attempt import RunningAttempt

_log = logging.getLogger(__name__)

_READ_SECONDS: Final = 5.0
_MOST_LOST: Final = 20
"""So many lost executions are named in a report; all of them are recorded."""


@dataclass(frozen=True, slots=True)
class SettledAttempt:
    """What earlier executions have left of an attempt.

    Attributes:
        ended: Whether it is reported, and nothing more is to be done.
        lost: Those that may have been billed, and whose cost nobody knows.
    """

    ended: bool = False
    lost: tuple[LostExecution, ...] = ()


NOTHING_EARLIER: Final = SettledAttempt()


class PaidCallObserver:
    """Called for metrics; does nothing by default."""

    def announced(self, seconds: float) -> None:
        """The start of an execution has been acknowledged after so long."""

    def reused(self) -> None:
        """An attempt was found to be reported, and was not run again."""

    def lost(self, request: AttemptRequested) -> None:
        """An execution of it has been recorded as lost."""


def affordable(request: AttemptRequested, lost: tuple[LostExecution, ...]) -> bool:
    """Whether an attempt may be run again: all its executions together must fit what its task may still spend."""
    left = request.budget_left_nanodollars
    return not lost or left is None or (len(lost) + 1) * request.worst_case_nanodollars <= left


class PaidCalls:
    """Announces executions, and settles those of others.

    Args:
        hold_seconds: So long a slot is kept for an execution whose announcement is not acknowledged yet.
        refused_seconds: Until an announcement is tried again that the cluster refuses.
    """

    def __init__(
        self,
        log: Log,
        codec: Codec,
        publisher: Publisher,
        *,
        worker: str,
        clock_ms: Callable[[], int],
        observer: PaidCallObserver | None = None,
        hold_seconds: float = 2.0,
        refused_seconds: float = 5.0,
    ) -> None:
        self._log = log
        self._codec = codec
        self._publisher = publisher
        self._worker = worker
        self._clock_ms = clock_ms
        self._observer = observer or PaidCallObserver()
        self._hold_seconds = hold_seconds
        self._refused_seconds = refused_seconds
        self._earlier = EarlierExecutions(log, codec.topic_prefix)
        self.doubt = self._earlier.doubt
        """To be told of every partition of work that is assigned."""

    # Before the call

    async def announced(self, run: RunningAttempt, key: bytes | None) -> bool:
        """Whether the start of this execution is on disk; waits for that a little."""
        if run.announcement is None:
            run.announcement = asyncio.ensure_future(self._announce(run, key))
        await asyncio.wait({run.announcement}, timeout=self._hold_seconds)
        return _is_written(run.announcement)

    async def _announce(self, run: RunningAttempt, key: bytes | None) -> None:
        request, now, began = run.request, self._clock_ms(), asyncio.get_running_loop().time()
        started = AttemptStarted(
            attempt_id=request.attempt_id,
            task_id=request.task_id,
            tenant=request.tenant,
            home_partition=request.home_partition,
            execution_id=run.execution_id,
            worker=self._worker,
            provider=request.provider,
            model=request.model,
            worst_case_nanodollars=request.worst_case_nanodollars,
            started_at=now,
        )
        publication = Publication(
            spec=ATTEMPTS_STARTED,
            event=started,
            event_id=usage_id(request.attempt_id, run.execution_id),
            key=key,
            tenant=request.tenant,
            time_ms=now,
            partition=request.home_partition,
            subject=request.task_id,
            traceparent=run.traceparent,
        )
        while True:
            try:
                await self._append(publication)
                break
            except RecordRefused as error:
                if await self._is_nowhere(request.home_partition):
                    raise
                # Whoever runs the cluster can mend that: a right or the topic is missing.
                _log.error("the start of %s is refused, and it waits: %s", request.attempt_id, error)
                await asyncio.sleep(self._refused_seconds)
        self._observer.announced(asyncio.get_running_loop().time() - began)

    async def _is_nowhere(self, home_partition: int) -> bool:
        """Whether there is no such partition of tasks: then the attempt could not be reported either."""
        topic = self._codec.topic_prefix + ATTEMPTS_FINISHED_CLOUD.name
        reader = self._log.reader()
        try:
            return not 0 <= home_partition < len(await reader.partitions_of(topic))
        except (TransientError, TopicMissing):
            return False
        finally:
            await reader.close()

    # What others have begun

    async def settle(self, record: Record, request: AttemptRequested) -> SettledAttempt:
        """Settle the earlier executions of the attempt in a record. Raises TransientError, RegistryUnavailable: nothing
        may be done with the record before this has succeeded."""
        traces = await self._earlier.of(record, request.attempt_id, request.home_partition, request.tenant)
        if not traces.started and not traces.finished:
            return NOTHING_EARLIER
        ended, unknown = await self._reports_settled(record, request, traces)
        lost = [
            _lost(execution, sighting)
            for execution, sighting in traces.started.items()
            if execution not in traces.recorded and (execution not in traces.finished or execution in unknown)
        ]
        for one in lost:
            if one.execution_id not in traces.marked:
                await self._record_lost(record, request, one)
                self._observer.lost(request)
        if ended:
            self._observer.reused()
        return SettledAttempt(ended, tuple(lost[-_MOST_LOST:]))

    async def _reports_settled(
        self, record: Record, request: AttemptRequested, traces: Traces
    ) -> tuple[bool, frozenset[str]]:
        """Whether the attempt is reported, after missing usage has been recorded; and of which reported executions
        nobody knows what they consumed."""
        unknown, unreadable = set(), set()
        for execution, sighting in traces.finished.items():
            if execution in traces.recorded:
                continue
            try:
                finished = await self._report_at(sighting)
            except UnreadableValue:
                unreadable.add(execution)
                continue
            if finished is None:
                unknown.add(execution)
            elif finished.node is not None:
                event = _usage_of(request, finished, usage_id(request.attempt_id, execution))
                await self._append(_usage_publication(request, event, traceparent(record.headers)))
        return bool(traces.finished.keys() - unreadable), frozenset(unknown | unreadable)

    async def _report_at(self, sighting: Sighting) -> AttemptFinished | None:
        """The report in a record; None if retention has removed it. Raises UnreadableValue, TransientError."""
        name, reader = sighting.partition, self._log.reader()
        try:
            async with asyncio.timeout(_READ_SECONDS):
                start, end = (await reader.bounds([name]))[name]
                if sighting.offset < start:
                    return None
                if sighting.offset >= end:
                    self._earlier.forget()
                    raise TransientError(f"{name} has no offset {sighting.offset} any more: it is another log")
                await reader.assign({name: sighting.offset})
                records: list[Record] = []
                while not records:
                    records = [one for one in await reader.poll(1, 1.0) if one.offset == sighting.offset]
        except (OffsetOutOfRange, TopicMissing, TimeoutError) as error:
            raise TransientError(f"the report at {name}@{sighting.offset} cannot be read yet") from error
        finally:
            await reader.close()
        [found] = records
        return await self._codec.read(AttemptFinished, found.value, Origin(found.topic, found.partition, found.offset))

    async def _record_lost(self, record: Record, request: AttemptRequested, lost: LostExecution) -> None:
        event = usage_record(
            request,
            event_id=lost_usage_id(usage_id(request.attempt_id, lost.execution_id)),
            execution_id=lost.execution_id,
            outcome=Outcome.LOST,
            possibly_billed_nanodollars=max(0, request.worst_case_nanodollars),
            usage=Usage(),
            recorded_at=lost.started_at,
        )
        await self._append(_usage_publication(request, event, traceparent(record.headers)))

    # What this worker stops itself

    async def record_stopped(self, run: RunningAttempt, ended: ExecutionOutcome, now_ms: int) -> None:
        """Record what an execution has consumed that is not reported, since another worker will run its attempt."""
        execution = Execution(
            execution_id=run.execution_id, worker=self._worker, node=run.node if ended.asked else None,
            queued_ms=0.0, finished_at=now_ms,
        )  # fmt: skip
        event = usage_event(run.request, execution, ended, usage_id(run.request.attempt_id, run.execution_id))
        await self._append(_usage_publication(run.request, event, run.traceparent))

    async def _append(self, publication: Publication) -> None:
        def make() -> ProducerRecord:
            return self._publisher.record_of(publication)

        await appending.append(self._publisher, make, publication.event_id)


async def written_within(run: RunningAttempt, seconds: float | None) -> bool:
    """Wait for the announcement of an execution, for at most so long; whether it is on disk."""
    assert run.announcement is not None, "it was announced before"
    await asyncio.wait({run.announcement}, timeout=seconds)
    return _is_written(run.announcement)


def _is_written(announcement: asyncio.Future[None]) -> bool:
    if not announcement.done():
        return False
    announcement.result()
    return True


def _lost(execution: str, announced: Sighting) -> LostExecution:
    return LostExecution(
        execution_id=execution, worker=announced.source.rpartition("/")[2], started_at=announced.timestamp_ms
    )


def _usage_of(request: AttemptRequested, finished: AttemptFinished, event_id: str) -> UsageRecorded:
    """The usage that a report tells, as its worker would have recorded it."""
    return usage_record(
        request,
        event_id=event_id,
        execution_id=finished.execution_id,
        node=finished.node,
        simulated=finished.simulated,
        outcome=finished.outcome,
        usage=finished.usage,
        model_ms=finished.model_ms,
        recorded_at=finished.finished_at,
    )


def _usage_publication(request: AttemptRequested, event: UsageRecorded, traceparent: str | None) -> Publication:
    return Publication(
        spec=USAGE_RECORDED,
        event=event,
        event_id=event.event_id,
        key=request.tenant.encode(),
        tenant=request.tenant,
        time_ms=event.recorded_at,
        subject=request.task_id,
        traceparent=traceparent,
    )
