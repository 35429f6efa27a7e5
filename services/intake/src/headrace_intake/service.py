"""Accepts and cancels tasks: load, decide, record, and only then answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace_contracts.events import Place, TaskSubmitted
from headrace_contracts.floors import Demands, Party
from headrace_contracts.ids import new_id
from headrace_contracts.topics import AUDIT_RECORDED, TASKS_CANCELLED, TASKS_SUBMITTED
from headrace_runtime.access import Caller, Scope
from headrace_runtime.database import DatabaseAway
from headrace_runtime.logging import get_logger
from headrace_streams.publishing import Publication

from headrace_intake.adapters.idempotency_keys import IdempotencyKeys
from headrace_intake.adapters.metrics import IntakeMetrics
from headrace_intake.adapters.pending_task import PendingTask
from headrace_intake.adapters.replies import ReplyDispatcher
from headrace_intake.adapters.writing import NeverWritable, NotWritten, Writer, WriteUncertain, traceparent
from headrace_intake.decide import cancelling
from headrace_intake.decide.backlogs import asked_for, budget_seconds
from headrace_intake.decide.drafts import Submitter, TaskDraft, record_key, refusal_of, submission, who_asks
from headrace_intake.decide.idempotency import Follow, SubmitAnew, Taken, content_digest, decide
from headrace_intake.decide.live_tasks import too_many
from headrace_intake.decide.options import deadline_at
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.views import TaskView, of_submission
from headrace_intake.following import Following

_log = get_logger("headrace.intake")


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """A request from an API: who asks for what, and the key under which it may be repeated.

    Attributes:
        api: "tasks", "chat", "responses", …
        document: The body, for telling a repetition from another request.
    """

    api: str
    caller: Caller
    draft: TaskDraft
    document: Mapping[str, Any]
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A task that is on disk in Kafka.

    Attributes:
        view: What is known of it; for a repetition that was accepted elsewhere only its id, time and request.
        pending: None if it was accepted by another process, or before this one's restart.
        replayed: Whether the request was a repetition.
    """

    view: TaskView
    pending: PendingTask | None
    reply_partition: int
    replayed: bool


class UncertainTask(Exception):
    """Kafka did not acknowledge the task in time: it may run, and the caller must be told so."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"no acknowledgement of {task_id}")
        self.task_id = task_id


class Intake:
    """Accepts, cancels and waits for tasks.

    Args:
        most_live: How many tasks of a tenant that were accepted here may be live.
        patience_seconds: How long tasks without a deadline wait, but for those of the batch lane.
        places: Where the providers known at the moment run models.
        demands: What a tenant and one of its users demand at the moment.
        fullness: What this process holds of bodies of requests, of the most that it may.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        dispatcher: ReplyDispatcher,
        keys: IdempotencyKeys,
        following: Following,
        places: Callable[[], Mapping[str, Place]],
        demands: Callable[[str, str], Mapping[Party, Demands]],
        clock: Callable[[], int],
        metrics: IntakeMetrics,
        most_live: int,
        patience_seconds: float,
        fullness: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._fullness = fullness
        self._patience_seconds = patience_seconds
        self._most_live = most_live
        self._writer = writer
        self._dispatcher = dispatcher
        self._keys = keys
        self._following = following
        self._places = places
        self._demands = demands
        self._clock = clock
        self._metrics = metrics
        self._notes: set[asyncio.Task[None]] = set()

    async def accept(self, request: SubmitRequest) -> Acceptance:
        """Accept a task: check whether it is allowed, take its idempotency key, record it in Kafka.

        Raises Refusal, NotWritten, UncertainTask, NeverWritable, and with an idempotency key DatabaseAway.
        """
        try:
            return await self._accept(request)
        except Refusal as refusal:
            self._metrics.not_accepted.labels(refusal.kind).inc()
            raise
        except (NotWritten, UncertainTask, NeverWritable, DatabaseAway) as error:
            self._metrics.not_accepted.labels(type(error).__name__).inc()
            raise

    async def _accept(self, request: SubmitRequest) -> Acceptance:
        caller = request.caller
        origin = Submitter(
            task_id=new_id(),
            tenant=caller.tenant,
            key_id=caller.key_id,
            now_ms=self._clock(),
            reply_partition=self._dispatcher.partition,
        )
        refusal = self._refusal_of(caller, request.draft)
        if refusal is not None and not (refusal.status == 403 and await self._was_accepted(request)):
            await self._audit(request.draft, origin, refusal)
            raise refusal
        live = self._dispatcher.live_of(caller.tenant)
        if live >= self._most_live and not await self._was_accepted(request):
            raise too_many(live)
        overloaded = self._dispatcher.shed_of(caller.tenant, request.draft.lane, self._fullness())
        overloaded = overloaded or self._overload(request.draft, origin)
        if overloaded is not None and not await self._was_accepted(request):
            raise overloaded
        if request.idempotency_key is None:
            return await self._submit(request, submission(request.draft, origin))
        return await self._accept_once(request, request.idempotency_key, origin)

    def _refusal_of(self, caller: Caller, draft: TaskDraft) -> Refusal | None:
        demands = self._demands(caller.tenant, draft.options.user or "")
        by = Party.ADMIN_KEY if caller.may(Scope.ADMIN) else Party.TASKS_KEY
        return refusal_of(draft, demands, self._places(), by)

    def _overload(self, draft: TaskDraft, origin: Submitter) -> Refusal | None:
        try:
            deadline = deadline_at(draft.options.deadline, origin.now_ms)
        except Refusal:
            # A repetition has the deadline of the first one; of others it is refused for what it is.
            return None
        budget = budget_seconds(deadline, draft.lane, origin.now_ms, self._patience_seconds)
        asked = asked_for(draft.model, draft.role, draft.options.privacy, draft.lane)
        return self._dispatcher.overload_of(origin.tenant, asked, who_asks(draft), budget)

    def defers_batches_of(self, tenant: str) -> bool:
        """Whether lines of the tenant's batches wait, since interactive tasks do, or there is little room."""
        return self._dispatcher.defers_batches_of(tenant, self._fullness())

    async def accept_unwatched(
        self, api: str, caller: Caller, draft: TaskDraft, origin: Submitter, latest: int, *, repeated: bool
    ) -> None:
        """Record a task under an id and a time that are kept elsewhere, and for whose replies nobody waits.

        Raises Refusal, NotWritten, UncertainTask, NeverWritable.

        Args:
            latest: Its deadline, unless it has an earlier one, in milliseconds since the epoch.
            repeated: Whether it may have been recorded before. Then it is not refused any more: it runs, or the router
                ends it.
        """
        refusal = None if repeated else self._refusal_of(caller, draft)
        if refusal is not None:
            self._metrics.not_accepted.labels(refusal.kind).inc()
            await self._audit(draft, origin, refusal)
            raise refusal
        task = submission(draft, origin)
        deadline = latest if task.deadline_at is None else min(latest, task.deadline_at)
        task = replace(task, deadline_at=deadline)
        await self._record(task, record_key(task))
        self._metrics.accepted.labels(api).inc()

    async def _accept_once(self, request: SubmitRequest, key: str, origin: Submitter) -> Acceptance:
        tenant = origin.tenant
        mine = Taken(
            origin.task_id,
            content_digest(request.api, request.document),
            origin.now_ms,
            self._dispatcher.partition,
            accepted=False,
        )
        found = await self._keys.take(tenant, key, mine)
        in_flight = self._dispatcher.get(tenant, found.task_id) if found is not None else None
        decision = decide(mine, found, in_flight_here=in_flight is not None)
        # With the first one's id and time a repetition is the same event, deadline included.
        task = submission(
            request.draft,
            replace(
                origin,
                task_id=decision.task_id,
                now_ms=decision.submitted_at,
                reply_partition=decision.reply_partition,
            ),
        )
        match decision:
            case SubmitAnew(repeated=False):
                accepted = await self._submit(request, task)
            case SubmitAnew():
                await self._record(task, record_key(task))
                accepted = Acceptance(of_submission(task), None, decision.reply_partition, replayed=True)
            case Follow():
                if in_flight is not None:
                    await asyncio.shield(in_flight.accepted)
                view = of_submission(task) if in_flight is None else in_flight.view
                accepted = Acceptance(view, in_flight, decision.reply_partition, replayed=True)
        if accepted.replayed:
            self._metrics.replayed.inc()
        if isinstance(decision, SubmitAnew):
            self._note_accepted(tenant, key, decision.task_id)
        return accepted

    async def _was_accepted(self, request: SubmitRequest) -> bool:
        """Whether this repeats a task that was accepted before its tenant demanded more, or had too many live ones: it
        runs or ends by itself."""
        return await self.repeats(request.api, request.caller, request.document, request.idempotency_key)

    async def repeats(self, api: str, caller: Caller, document: Mapping[str, Any], key: str | None) -> bool:
        """Whether a request repeats one whose task was accepted, so that nothing is submitted. Raises DatabaseAway."""
        found = None if key is None else await self._keys.find(caller.tenant, key)
        return (
            found is not None
            and found.digest == content_digest(api, document)
            and (found.accepted or self._dispatcher.get(caller.tenant, found.task_id) is not None)
        )

    async def _submit(self, request: SubmitRequest, task: TaskSubmitted) -> Acceptance:
        key = record_key(task)
        pending = self._dispatcher.open(of_submission(task), key)
        began = time.perf_counter()
        try:
            appended = await self._record(task, key)
        except UncertainTask as error:
            pending.fail(error)
            raise
        except (NotWritten, NeverWritable) as error:
            pending.fail(error)
            self._dispatcher.drop(task.task_id)
            raise
        self._metrics.accept_seconds.observe(time.perf_counter() - began)
        self._metrics.accepted.labels(request.api).inc()
        pending.home_partition = appended
        pending.accepted.set_result(None)
        assert task.reply_partition is not None
        return Acceptance(pending.view, pending, task.reply_partition, replayed=False)

    async def _record(self, task: TaskSubmitted, key: bytes) -> int:
        try:
            appended = await self._writer.write(
                Publication(
                    spec=TASKS_SUBMITTED,
                    event=task,
                    event_id=task.task_id,
                    key=key,
                    tenant=task.tenant,
                    time_ms=task.submitted_at,
                    subject=task.task_id,
                    traceparent=traceparent(),
                )
            )
        except WriteUncertain as error:
            raise UncertainTask(task.task_id) from error
        return appended.partition

    async def _audit(self, draft: TaskDraft, origin: Submitter, refusal: Refusal) -> None:
        record = cancelling.refused(draft, origin, refusal)
        try:
            await self._writer.write(
                Publication(
                    spec=AUDIT_RECORDED,
                    event=record,
                    event_id=record.event_id,
                    key=record.tenant.encode(),
                    tenant=record.tenant,
                    time_ms=record.recorded_at,
                    subject=record.task_id,
                    traceparent=traceparent(),
                )
            )
        except (NotWritten, WriteUncertain, NeverWritable) as error:
            # Nothing has left our systems, so the caller is still refused.
            _log.error("an audit record of a refusal could not be written", reason=str(error), kind=refusal.kind)

    async def cancel(self, caller: Caller, task_id: str, reason: str) -> TaskView:
        """Ask the router to cancel a task. Returns the task as known; one that has ended is left as it is.

        Raises TaskNotFound, DatabaseAway, NotWritten, WriteUncertain, NeverWritable.
        """
        known = await self._following.find(caller.tenant, task_id)
        if known.view.ended:
            return known.view
        await self.cancel_at(caller, known.view.task_id, known.place, reason)
        return known.view

    async def cancel_at(
        self, caller: Caller, task_id: str, place: tuple[bytes | None, int | None], reason: str
    ) -> None:
        """Ask the router to cancel the task whose records have this key and home partition.

        Raises NotWritten, WriteUncertain, NeverWritable.
        """
        key, home_partition = place
        now = self._clock()
        await self._writer.write(
            Publication(
                spec=TASKS_CANCELLED,
                event=cancelling.cancellation(
                    task_id=task_id,
                    tenant=caller.tenant,
                    key_id=caller.key_id,
                    home_partition=home_partition,
                    reason=reason,
                    now_ms=now,
                ),
                event_id=cancelling.cancellation_id(task_id),
                key=key,
                partition=home_partition,
                tenant=caller.tenant,
                time_ms=now,
                subject=task_id,
                traceparent=traceparent(),
            )
        )

    async def end(self, acceptance: Acceptance, timeout_seconds: float) -> TaskView | None:
        """The task's end, or None at the timeout. Raises TooManyRereaders, DatabaseAway."""
        if acceptance.pending is not None:
            return await self._following.end(acceptance.pending, timeout_seconds)
        view = acceptance.view
        return await self._following.end_elsewhere(
            view.tenant, view.task_id, acceptance.reply_partition, view.submitted_at, timeout_seconds
        )

    async def close(self) -> None:
        """Finish the pending updates of idempotency keys in Postgres."""
        if self._notes:
            await asyncio.wait(self._notes, timeout=5.0)

    def _note_accepted(self, tenant: str, key: str, task_id: str) -> None:
        # The caller does not wait for this: if it fails, a repetition submits the same event once more.
        note = asyncio.create_task(self._mark_accepted(tenant, key, task_id))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _mark_accepted(self, tenant: str, key: str, task_id: str) -> None:
        try:
            await self._keys.mark_accepted(tenant, key, task_id)
        except DatabaseAway as error:
            _log.warning("an idempotency key could not be marked as accepted", task_id=task_id, reason=str(error))
