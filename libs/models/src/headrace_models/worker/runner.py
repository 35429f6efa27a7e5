"""Runs attempts: the parallel engine's handler for records of the work topics.

1. The attempt is decoded. If it cannot be, it is reported as failed by what the record's headers say, and the engine
   writes the record to the dead-letter topic.
2. It ends at once if it must not run here, its task was cancelled, its model is switched off, or its deadline has
   passed. If it is read again and has ended before, nothing more is written. Where calls cost money, earlier executions
   are settled first (`paid_calls`), and if one of them was lost, it runs again only within its task's budget.
3. It waits for a slot of an endpoint that offers its model. It ends as soon as less time is left before its deadline
   than a call of this model takes at least: it would be cut off, and the slot is worth more to another.
4. Where it costs money, the start is announced and acknowledged: without a slot if that takes long. Then the model is
   called; pieces of the answer are streamed to the waiting caller. A batch attempt may be interrupted for an
   interactive one (`displacing`): then it goes on with step 3. That costs no try, its key stays taken, and what was
   consumed counts.
5. AttemptFinished and UsageRecorded are written, and retried until both are acknowledged; only then the record is done.
   A worker that dies before that leaves the attempt to another: it may run twice, and is then billed twice. One that
   has to stop it records what it has consumed, where that costs money.

A cancellation also ends an attempt in steps 3 and 4; what was consumed until then is recorded. A kill switch ends those
that wait for their first call; calls that run are finished.
The worker never retries a model call: the router decides about retries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import AttemptFinished, AttemptRequested, Failure, Lane, UsageRecorded
from headrace_contracts.headers import REPEATED, traceparent, weight_of
from headrace_contracts.ids import usage_id
from headrace_contracts.topics import USAGE_RECORDED, TopicSpec
from headrace_streams.dead_letters import described
from headrace_streams.errors import RecordRefused, RetryRecord, SendToDeadLetters, TransientError
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, Record

from headrace_models.answer import SpokenPiece
from headrace_models.call import estimated_prompt, spent_until
from headrace_models.embedding import embed
from headrace_models.errors import ProviderError, RetrySameProvider
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, EmbedRequest, EmbedResult, OnPiece, OnText
from headrace_models.prices import estimated_tokens
from headrace_models.structured import ask
from headrace_models.worker import appending, outcomes
from headrace_models.worker.avoidance import is_of_endpoint
from headrace_models.worker.deltas import DeltaWriter
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.outcomes import Execution, ExecutionOutcome
from headrace_models.worker.pacing import Pacing
from headrace_models.worker.paid_calls import NOTHING_EARLIER, PaidCalls, SettledAttempt, affordable, written_within
from headrace_models.worker.pool import ModelNotOffered, Pool, TooLittleTime
from headrace_models.worker.running_attempt import RunningAttempt
from headrace_models.worker.watched_call import Lost, WatchedCall

_log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 1.0

_Told = ChatResult | EmbedResult | ProviderError
"""What came of a call."""


class _Displaced(NamedTuple):
    """A call was interrupted, for an interactive one to have its slot, after it had consumed this."""

    usage: CallUsage


class ModelName(NamedTuple):
    """A model of a provider."""

    provider: str
    model: str


class WorkInHand(NamedTuple):
    """A call that runs, or waits for a slot, and the seconds that are expected to be left of it; None if nobody here
    can tell."""

    model: ModelName
    has_begun: bool
    seconds_left: float | None


class MustNotRunHere(SendToDeadLetters):
    """An attempt reached a worker that must not run it; another service has written to the wrong topic."""


class RunObserver:
    """Called for each reported attempt, for metrics; does nothing by default."""

    def reported(self, request: AttemptRequested, ended: ExecutionOutcome, queued_seconds: float) -> None:
        """An attempt has been reported."""

    def reported_of_batch(self, request: AttemptRequested, ended: ExecutionOutcome) -> None:
        """The same, of one that was part of a batch at its provider: nobody knows how long its model took."""

    def displaced(self, request: AttemptRequested, node: str) -> None:
        """A call of an attempt was interrupted at a node, and begins anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """How attempts are run.

    Attributes:
        worker: Name of this process in what it reports.
        call_seconds: Longest time for one call of a model.
        first_token_seconds: Longest time until its first token.
        between_tokens_seconds: Longest time from one token to the next.
        delta_seconds: Pieces of an answer that come faster than this are sent together.
        interruptions: How often a batch attempt may be interrupted for interactive ones.
    """

    worker: str
    call_seconds: float = 300.0
    first_token_seconds: float = 60.0
    between_tokens_seconds: float = 30.0
    delta_seconds: float = 0.01
    interruptions: int = 0


Forbid = Callable[[AttemptRequested], Failure | None]
"""Why an attempt must not run on this worker; None if it may."""


def nothing_forbidden(_request: AttemptRequested) -> Failure | None:
    """Any attempt may run here."""
    return None


SwitchedOffNow = Callable[[AttemptRequested], Failure | None]
"""Why no call is to be made for an attempt just now, by an operator's decision; None if it may be."""


def nothing_switched_off(_request: AttemptRequested) -> Failure | None:
    """Any call may be made."""
    return None


IsCancelled = Callable[[str, str], bool]
"""Whether the task or the attempt with an id (the first argument) of a tenant (the second) was cancelled."""


HasEnded = Callable[[Record, str], Awaitable[bool]]
"""Whether the attempt (the second argument) in a record that is read again has ended."""


HandOver = Callable[[Record, AttemptRequested], Awaitable[bool]]
"""Whether somebody else has taken an attempt over, and will report its end; see `batches`."""


async def _never(_record: Record, _what: object) -> bool:
    return False


def header_traceparent(record: Record) -> str | None:
    """The trace context in a record's headers."""
    return traceparent(record.headers)


class AttemptRunner:
    """Handles records of the work topics.

    Args:
        outcomes_to: The topic for the outcomes.
        clock_ms: Milliseconds since the epoch.
        new_id: Makes the id of an execution.
        forbid: Attempts that it rejects are reported as failed permanently, and written to the dead-letter topic.
        switched_off: Attempts that it rejects are reported as failed without a call, for the router to send elsewhere.
        is_cancelled: These attempts, and those of these tasks, are not started.
        has_ended: These attempts are done; see `ended_attempts`. Not asked where calls cost money.
        hand_over: These attempts are another's work from then on.
        paid: Accounts for calls that cost money; None if none does.
        traceparent_of: Trace context for the events published for a record.
    """

    def __init__(
        self,
        *,
        codec: Codec,
        publisher: Publisher,
        pool: Pool,
        options: RunnerOptions,
        outcomes_to: TopicSpec,
        clock_ms: Callable[[], int],
        new_id: Callable[[], str],
        forbid: Forbid = nothing_forbidden,
        switched_off: SwitchedOffNow = nothing_switched_off,
        is_cancelled: IsCancelled = lambda _name, _tenant: False,
        has_ended: HasEnded = _never,
        hand_over: HandOver = _never,
        paid: PaidCalls | None = None,
        observer: RunObserver | None = None,
        traceparent_of: Callable[[Record], str | None] = header_traceparent,
    ) -> None:
        self._codec = codec
        self._publisher = publisher
        self._pool = pool
        self._options = options
        self._outcomes = outcomes_to
        self._clock_ms = clock_ms
        self._new_id = new_id
        self._forbid = forbid
        self._switched_off = switched_off
        self._is_cancelled = is_cancelled
        self._has_ended = has_ended
        self._hand_over = hand_over
        self._paid = paid
        # By task id and tenant; a dict, for its order.
        self._running: dict[tuple[str, str], dict[RunningAttempt, None]] = {}
        # Attempts whose calls cost money, by id and tenant, until they are reported.
        self._held: set[tuple[str, str]] = set()
        self._observer = observer or RunObserver()
        self._pacing = Pacing()
        self._traceparent_of = traceparent_of

    async def handle(self, record: Record) -> None:
        """Run the attempt of one record. Raises UnreadableValue, RegistryUnavailable, SendToDeadLetters, and
        TransientError or RetryRecord while it is not known what other executions of it have come to."""
        await self._handle(record, self._hand_over, self._traceparent_of(record))

    async def call(self, record: Record, *, repeated: bool) -> None:
        """The same, by a call of its own in any case; `repeated` if another worker may have begun it. Raises as
        `handle`."""
        traceparent = header_traceparent(record)
        if repeated:
            # Its place says nothing: it was read for its batch, not from a partition that was assigned.
            record = replace(record, headers=(*record.headers, (REPEATED, b"1")))
        await self._handle(record, _never, traceparent)

    async def report_of_batch(
        self, record: Record, request: AttemptRequested, execution_id: str, ended: ExecutionOutcome
    ) -> None:
        """Report the end of an attempt that was handed over and was part of a batch. Raises as `handle`."""
        run = RunningAttempt(request, execution_id, header_traceparent(record))
        run.node = request.provider
        await self._report(record, run, ended, batch=True)

    async def _handle(self, record: Record, hand_over: HandOver, traceparent: str | None) -> None:
        request = await self._read_or_report(record)
        execution_id = self._new_id()
        objection = self._forbid(request)
        if objection is not None:
            await self._refuse(record, request, execution_id, objection)
            return
        with self._in_hand(request):
            await self._settle_and_run(record, request, execution_id, hand_over, traceparent)

    @contextmanager
    def _in_hand(self, request: AttemptRequested) -> Iterator[None]:
        """Raises RetryRecord while this worker has another record of an attempt whose calls cost money in hand."""
        name = request.attempt_id, request.tenant
        if name in self._held:
            raise RetryRecord(f"another record of {request.attempt_id} is in hand", _AGAIN_SECONDS)
        if self._paid is not None:
            self._held.add(name)
        try:
            yield
        finally:
            self._held.discard(name)

    async def _settle_and_run(
        self, record: Record, request: AttemptRequested, execution_id: str, hand_over: HandOver, traceparent: str | None
    ) -> None:
        earlier = await self._earlier(record, request)
        if earlier.ended:
            _log.info("attempt %s has ended before, and is not run again", request.attempt_id)
            return
        if not earlier.lost and self._switched_off(request) is None and await hand_over(record, request):
            return
        run = RunningAttempt(request, execution_id, traceparent, weight_of(record.headers), earlier.lost)
        if affordable(request, earlier.lost):
            ended = await self._run_unless_cancelled(record, run)
        else:
            ended = outcomes.beyond_budget(len(earlier.lost))
        await self._report(record, run, ended)

    async def _earlier(self, record: Record, request: AttemptRequested) -> SettledAttempt:
        if self._paid is not None:
            return await self._paid.settle(record, request)
        # Past its deadline it is not run anyway.
        in_time = outcomes.seconds_left(request.deadline_at, self._clock_ms()) != 0
        if in_time and await self._has_ended(record, request.attempt_id):
            return SettledAttempt(ended=True)
        return NOTHING_EARLIER

    async def skip(self, record: Record) -> None:
        """Report the attempt of one record as cancelled before its start. Raises as `handle`."""
        request = await self._read_or_report(record)
        execution_id = self._new_id()
        with self._in_hand(request):
            earlier = NOTHING_EARLIER if self._paid is None else await self._paid.settle(record, request)
            if not earlier.ended:
                run = RunningAttempt(request, execution_id, self._traceparent_of(record), lost=earlier.lost)
                await self._report(record, run, outcomes.cancelled())

    def interrupt(self, cancelled: AbstractSet[tuple[str, str]]) -> int:
        """End these attempts, and those of these tasks, as far as they run (id and tenant); returns how many did."""
        runs = [
            run
            for name, tenant in cancelled
            for run in self._running.get((name.partition("/")[0], tenant), ())
            if name in (run.request.task_id, run.request.attempt_id)
        ]
        return sum(run.interrupt() for run in runs)

    def look_at_switches(self) -> None:
        """End the attempts that wait for their first call, and may not be called any more."""
        for runs in list(self._running.values()):
            for run in [run for run in runs if not run.called]:
                if (off := self._switched_off(run.request)) is not None:
                    run.interrupt(off)

    def calls(self) -> Iterator[WorkInHand]:
        """The calls that run now, and those that wait for a slot."""
        for runs in self._running.values():
            for run in runs:
                name, left = ModelName(run.request.provider, run.request.model), run.seconds_left()
                if left is not None:
                    yield WorkInHand(name, True, left)
                else:
                    yield WorkInHand(name, False, self._pool.expected_seconds(*name, run.size))

    async def _read(self, record: Record) -> AttemptRequested:
        origin = Origin(record.topic, record.partition, record.offset)
        return await self._codec.read(AttemptRequested, record.value, origin)

    async def _read_or_report(self, record: Record) -> AttemptRequested:
        """The attempt in a record. Raises UnreadableValue, once its end has been reported, and RegistryUnavailable."""
        try:
            return await self._read(record)
        except UnreadableValue as error:
            finished = outcomes.unreadable(record.headers, self._new_id(), self._options.worker, self._clock_ms())
            if finished is None:
                _log.error("a work record names no attempt in its headers: %s", error)
            else:
                _log.error("attempt %s cannot be read, and is reported as failed: %s", finished.attempt_id, error)
                # The home partition stands in the body. Unless partitions have been added since, the key leads to it.
                event_id = usage_id(finished.attempt_id, finished.execution_id)
                publication = Publication(
                    spec=self._outcomes,
                    event=finished,
                    event_id=event_id,
                    key=record.key,
                    tenant=finished.tenant,
                    time_ms=finished.finished_at,
                    subject=finished.task_id,
                    traceparent=self._traceparent_of(record),
                )
                await self._append(lambda: self._publisher.record_of(publication), event_id)
            raise

    async def _run_unless_cancelled(self, record: Record, run: RunningAttempt) -> ExecutionOutcome:
        name = run.request.task_id, run.request.tenant
        if self._is_cancelled(*name) or self._is_cancelled(run.request.attempt_id, run.request.tenant):
            return outcomes.cancelled()
        if (off := self._switched_off(run.request)) is not None:
            return outcomes.switched_off(off)
        self._running.setdefault(name, {})[run] = None
        try:
            return await self._run(record, run)
        except asyncio.CancelledError as cancelled:
            # The call may have ended already, while its last pieces were being written.
            if (spent := spent_until(cancelled)) is not None:
                run.consume(spent)
            if not run.was_interrupted:
                await self._stopped(run)
                raise
            # Its call may have begun just before it was interrupted: then it has consumed something.
            if run.objection is not None and not run.called:
                return outcomes.switched_off(run.objection)
            return outcomes.cancelled(usage=run.consumed, model_ms=run.model_ms())
        except Exception as error:  # noqa: BLE001 - a bug ends this attempt, with what it consumed, not the process
            _log.error("attempt %s failed: %s", run.request.attempt_id, described(error))
            return outcomes.failed(
                f"the worker failed with {type(error).__name__}", usage=run.consumed, model_ms=run.model_ms()
            )
        finally:
            run.ended()
            del self._running[name][run]
            if not self._running[name]:
                del self._running[name]

    async def _stopped(self, run: RunningAttempt) -> None:
        """This worker has to give an execution up, and another one will run its attempt."""
        if self._paid is None or run.announcement is None or (run.called and run.consumed is None):
            # Nothing was announced, or nobody knows what it has consumed: then it is lost.
            return
        ended = outcomes.stopped(usage=run.consumed, model_ms=run.model_ms())
        await self._paid.record_stopped(run, ended, self._clock_ms())

    async def _refuse(self, record: Record, request: AttemptRequested, execution_id: str, objection: Failure) -> None:
        _log.error("attempt %s must not run here: %s (%s)", request.attempt_id, objection.message, objection.code)
        ended = outcomes.not_asked(objection.code, objection.message, lasting=True)
        await self._report(record, RunningAttempt(request, execution_id, self._traceparent_of(record)), ended)
        raise MustNotRunHere(f"{objection.code}: {objection.message}")

    async def _run(self, record: Record, run: RunningAttempt) -> ExecutionOutcome:
        """Ask one endpoint, and the next one as long as it is the endpoint that fails: that is one attempt."""
        failed: ProviderError | None = None
        asked_before = False
        tried: frozenset[str] = frozenset()
        while True:
            found = await self._slot(run, tried)
            if isinstance(found, Endpoint):
                told = await self._ask(record, run, found, len(tried) + run.displaced)
                if told is None:
                    await written_within(run, outcomes.seconds_left(run.request.deadline_at, self._clock_ms()))
                    continue
                if isinstance(told, _Displaced):
                    run.displaced += 1
                    self._observer.displaced(run.request, found.name)
                    continue
                if isinstance(told, ExecutionOutcome):
                    found = told
                elif not isinstance(told, ProviderError):
                    # With what endpoints consumed that failed before.
                    return replace(outcomes.from_result(told), usage=run.consumed or told.usage)
                else:
                    asked_before |= failed is not None and not outcomes.nobody_asked(failed)
                    failed, tried = told, tried | {found.name}
                    if is_of_endpoint(told):
                        continue
            if failed is None:
                assert isinstance(found, ExecutionOutcome)
                return found
            # What was interrupted is no try, and is accounted for by `_report`.
            unasked = run.displaced > 0 and not asked_before and outcomes.nobody_asked(failed)
            return outcomes.from_error(
                failed, model_ms=run.model_ms(), now_ms=self._clock_ms(), deadline_at=run.request.deadline_at,
                used=None if unasked else run.consumed, asked_before=asked_before,
            )  # fmt: skip

    async def _slot(self, run: RunningAttempt, tried: frozenset[str]) -> Endpoint | ExecutionOutcome:
        """A slot of an endpoint that has not been tried, or how the attempt ends without one."""
        request = run.request
        left = outcomes.seconds_left(request.deadline_at, self._clock_ms())
        if left == 0:
            return outcomes.expired("the deadline had passed before the attempt began")
        apart, anywhere = self._apart(run, tried), False
        while True:
            try:
                found = await self._pool.acquire(
                    request.provider,
                    request.model,
                    request.lane,
                    outcomes.seconds_left(request.deadline_at, self._clock_ms()),
                    request.tenant,
                    run.weight,
                    waited_seconds=run.queued_ms(self._clock_ms()) / 1000,
                    without=tried | apart,
                    size=run.size,
                )
            except TimeoutError:
                return outcomes.expired("the deadline passed while the attempt waited for a free slot")
            except TooLittleTime as error:
                return outcomes.too_late_to_begin(str(error))
            except ModelNotOffered as error:
                if not apart:
                    return outcomes.not_asked(outcomes.NO_CAPACITY, str(error), lasting=False)
                # Beside another attempt of its task is better than nowhere.
                apart, anywhere = frozenset(), True
                continue
            # Another attempt of the task may have begun there while this one waited.
            if not anywhere and found.name in (begun := self._apart(run, tried)):
                self._pool.release(found, None, request.model, request.tenant, size=run.size)
                apart |= begun
                continue
            return found

    def _apart(self, run: RunningAttempt, tried: frozenset[str]) -> frozenset[str]:
        """The endpoints to leave out because other attempts of its task ask the same model there: equal members of an
        ensemble are to be independent. None, if there would be no other endpoint left."""
        request = run.request
        taken = frozenset(
            other.node
            for other in self._running.get((request.task_id, request.tenant), ())
            if other is not run
            and other.node is not None
            and (other.request.provider, other.request.model) == (request.provider, request.model)
        )
        left = self._pool.serving(request.provider, request.model) - tried - taken
        return taken if taken and left else frozenset()

    async def _ask(
        self, record: Record, run: RunningAttempt, endpoint: Endpoint, before: int
    ) -> _Told | _Displaced | ExecutionOutcome | None:
        """What an endpoint said after so many calls before, or how the attempt ends without asking it; None if its
        start could not be announced yet. Gives the slot back."""
        told: _Told | None = None
        try:
            call = self._call_of(run, endpoint)
            if self._paid is not None and not isinstance(call, ExecutionOutcome):
                if not await self._paid.announced(run, record.key):
                    return None
                call = self._call_of(run, endpoint)
            if isinstance(call, ExecutionOutcome):
                return call
            ended = await self._call(run, endpoint, call, before)
            if isinstance(ended, _Displaced):
                return ended
            told = ended
            return told
        finally:
            self._pool.release(endpoint, told, run.request.model, run.request.tenant, run.model_ms() / 1000, run.size)

    def _call_of(self, run: RunningAttempt, endpoint: Endpoint) -> ChatRequest | EmbedRequest | ExecutionOutcome:
        """The call that an attempt makes of an endpoint from now on, or how it ends without one."""
        request, options = run.request, self._options
        if (off := self._switched_off(request)) is not None:
            return outcomes.switched_off(off)
        run.begin(endpoint, self._clock_ms())
        left = outcomes.seconds_left(request.deadline_at, self._clock_ms())
        least = endpoint.least_seconds(request.model, asyncio.get_running_loop().time(), run.size)
        if left is not None and left <= least:
            name = f"{request.provider}/{request.model}"
            return outcomes.too_late_to_begin(str(TooLittleTime(name, left, least)))
        return outcomes.call_of(
            request,
            options.call_seconds if left is None else min(left, options.call_seconds),
            first_token_seconds=options.first_token_seconds,
            between_tokens_seconds=options.between_tokens_seconds,
        )

    async def _call(
        self, run: RunningAttempt, endpoint: Endpoint, call: ChatRequest | EmbedRequest, before: int
    ) -> _Told | _Displaced:
        request = run.request
        deltas: DeltaWriter | None = None
        if request.stream and request.reply_partition is not None:
            deltas = DeltaWriter(
                self._publisher,
                request,
                # Readers know by another id that the pieces begin anew.
                f"{run.execution_id}.{before + 1}" if before else run.execution_id,
                clock_ms=self._clock_ms,
                interval_seconds=self._options.delta_seconds,
                traceparent=run.traceparent,
            )
            if request.number > 1 and not before:
                deltas.restart()
        run.called = True
        may_be_displaced = request.lane is Lane.BATCH and run.displaced < self._options.interruptions
        try:
            if deltas is None:
                told = await _asked(endpoint, call, _ignore, _ignore, may_be_displaced)
            else:
                told = await _asked(endpoint, call, deltas.write, deltas.write_piece, may_be_displaced)
            # Before anything else is awaited: a cancellation from here on carries no usage of its own.
            run.consume(told.usage)
            return told
        finally:
            if deltas is not None:
                await deltas.close()

    async def _report(
        self, record: Record, run: RunningAttempt, ended: ExecutionOutcome, *, batch: bool = False
    ) -> None:
        # Its slot is free already: what waits for that has begun before this is written.
        await self._pacing.turn()
        request, now = run.request, self._clock_ms()
        execution = Execution(
            execution_id=run.execution_id,
            worker=self._options.worker,
            node=run.node if ended.asked else None,
            queued_ms=run.queued_ms(now),
            finished_at=now,
            batch=batch and ended.asked,
            lost=run.lost,
        )
        event_id = usage_id(request.attempt_id, run.execution_id)
        finished = Publication(
            spec=self._outcomes,
            event=None,
            event_id=event_id,
            key=record.key,
            tenant=request.tenant,
            time_ms=now,
            partition=request.home_partition,
            subject=request.task_id,
            traceparent=run.traceparent,
        )
        writes = [self._write_end(finished, execution, request, ended)]
        if ended.asked or run.displaced:
            # Not asked in the end, but before it was interrupted.
            billed, by = (ended, execution) if ended.asked else (
                replace(ended, usage=run.consumed or ended.usage), replace(execution, node=run.node)
            )  # fmt: skip
            usage = replace(finished, spec=USAGE_RECORDED, key=request.tenant.encode(), partition=None)

            def usage_of(one: ExecutionOutcome) -> UsageRecorded:
                return outcomes.usage_event(request, by, one, event_id)

            writes.append(self._append(lambda: self._encoded(usage, billed, usage_of), event_id))
        for result in await asyncio.gather(*writes, return_exceptions=True):
            if isinstance(result, RecordRefused):
                raise SendToDeadLetters(f"the outcome of {request.attempt_id} was refused: {result}") from result
            if isinstance(result, BaseException):
                raise result
        if batch:
            self._observer.reported_of_batch(request, ended)
        else:
            self._observer.reported(request, ended, execution.queued_ms / 1000)

    async def _write_end(
        self, finished: Publication, execution: Execution, request: AttemptRequested, ended: ExecutionOutcome
    ) -> None:
        def event_of(one: ExecutionOutcome) -> AttemptFinished:
            return outcomes.finished_event(request, execution, one)

        try:
            await self._append(lambda: self._encoded(finished, ended, event_of), finished.event_id)
        except RecordRefused:
            if not ended.has_answer:
                raise
            smaller = outcomes.too_large(ended)
            await self._append(lambda: self._encoded(finished, smaller, event_of), finished.event_id)

    def _encoded(
        self, publication: Publication, ended: ExecutionOutcome, event_of: Callable[[ExecutionOutcome], Any]
    ) -> ProducerRecord:
        """The record of an outcome; of a failed one that can be encoded, if this one cannot.

        Otherwise the record of work would be tried again, and the model be paid again, for the same end. Raises
        TransientError.
        """
        try:
            return self._publisher.record_of(replace(publication, event=event_of(ended)))
        except TransientError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the attempt must end in a report
            _log.error("the outcome %s cannot be encoded: %s", publication.event_id, described(error))
            return self._publisher.record_of(replace(publication, event=event_of(outcomes.unencodable(ended))))

    async def _append(self, make: Callable[[], ProducerRecord], event_id: str) -> None:
        """Append until acknowledged. A repeat has the same event id, so that readers recognise it."""
        await appending.append(self._publisher, make, event_id)


async def _asked(
    endpoint: Endpoint, call: ChatRequest | EmbedRequest, on_text: OnText, on_piece: OnPiece, may_be_displaced: bool
) -> _Told | _Displaced:
    limit = asyncio.timeout(None)
    watched = WatchedCall(call.model, _prompt_tokens(call), limit, may_be_displaced=may_be_displaced)
    try:
        async with limit:
            with _watched(endpoint, watched) as heard:

                def text_heard(piece: str) -> Awaitable[None] | None:
                    heard()
                    return on_text(piece)

                def piece_heard(piece: SpokenPiece) -> Awaitable[None] | None:
                    heard()
                    return on_piece(piece)

                if isinstance(call, EmbedRequest):
                    return await embed(endpoint.provider, call)
                return await ask(endpoint.provider, call, text_heard, piece_heard)
    except ProviderError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a bug in a client ends this attempt, not the process
        if watched.lost is not None and isinstance(error, TimeoutError):
            if watched.lost == "displaced":
                return _Displaced(_spent_until(error) or CallUsage())
            return _lost(endpoint, watched.lost, error)
        # Our own clients raise ProviderError only (`calling`).
        _log.error("client of %s failed: %s", endpoint.name, described(error))
        message = f"the worker's client failed with {type(error).__name__}"
        return RetrySameProvider("worker_error", message, provider=endpoint.provider.provider)


@contextmanager
def _watched(endpoint: Endpoint, call: WatchedCall) -> Iterator[Callable[[], None]]:
    """Has the endpoint watch a call; gives what to call when something has come for it."""
    now = asyncio.get_running_loop().time
    endpoint.calls.add(call, now())
    try:
        yield lambda: endpoint.calls.heard(call, now())
    finally:
        endpoint.calls.remove(call, now())


def _lost(endpoint: Endpoint, why: Lost, error: TimeoutError) -> RetrySameProvider:
    used = _spent_until(error)
    trouble = "cannot be reached any more" if why == "gone" else "answers probes, and no call any more"
    _log.warning("%s %s: a call of it is given up", endpoint.name, trouble)
    message = f"{endpoint.name} {trouble}"
    # No time-out, of which it would be learned that such calls take longer.
    return RetrySameProvider("connection_lost", message, provider=endpoint.provider.provider, usage=used)


def _spent_until(error: TimeoutError) -> CallUsage | None:
    cancelled = error.__cause__
    return spent_until(cancelled) if isinstance(cancelled, asyncio.CancelledError) else None


def _prompt_tokens(call: ChatRequest | EmbedRequest) -> int:
    return sum(map(estimated_tokens, call.inputs)) if isinstance(call, EmbedRequest) else estimated_prompt(call)


def _ignore(_piece: object) -> None:
    return None
