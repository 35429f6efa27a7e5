"""Every kind of event for a task, for tests that try them all."""

from __future__ import annotations

from dataclasses import replace

from headrace_contracts.content import plain
from headrace_contracts.events import (
    AttemptFinished,
    Failure,
    Outcome,
    Place,
    ServedFrom,
    TaskCompleted,
    TaskState,
    TaskStatus,
    TaskSubmitted,
    Usage,
)
from headrace_router.decide.model import (
    AttemptEnded,
    Cancelled,
    DecisionContext,
    LeaderFinished,
    RouterEvent,
    Submitted,
    Unrecordable,
    WakeUp,
)

from headrace_testing.routing import cancelled, finished


def variants(
    state: TaskState | None, task: TaskSubmitted, context: DecisionContext
) -> list[tuple[RouterEvent, DecisionContext]]:
    """Every kind of event for a task, valid or not: late, early, duplicated, out of order, and from other tenants."""
    last = 0 if state is None or not state.attempts else state.attempts[-1].number
    events: list[RouterEvent] = [
        Submitted(task, b"key", 0),
        Submitted(replace(task, tenant="mallory"), b"other", 1),
        Submitted(task, b"key", 0, None, cancelled(task.task_id)),
        Submitted(task, b"key", 0, None, cancelled(task.task_id, "mallory")),
        Cancelled(cancelled(task.task_id, task.tenant)),
        Cancelled(cancelled(task.task_id, "mallory")),
        LeaderFinished(None),
        Unrecordable(9, 8),
        WakeUp(),
    ]
    leaders = [
        TaskCompleted(
            task_id="leader",
            tenant=task.tenant,
            status=status,
            answer=plain("Deep.") if status in (TaskStatus.SUCCEEDED, TaskStatus.REFUSED) else None,
            finish_reason="stop" if status is TaskStatus.SUCCEEDED else None,
            failure=None if status is TaskStatus.SUCCEEDED else Failure(code="refusal"),
            served_from=ServedFrom.ATTEMPT,
            submitted_at=context.now,
            completed_at=context.now,
        )
        for status in TaskStatus
    ]
    whole = next(leader for leader in leaders if leader.status is TaskStatus.SUCCEEDED)
    leaders += [replace(whole, finish_reason=reason) for reason in (None, "length", "end_of_the_world")]
    leaders += [replace(whole, answer=answer) for answer in (None, plain(""), plain(" \n"))]
    events += [LeaderFinished(leader) for leader in leaders]
    for number in sorted({0, 1, max(0, last - 1), last, last + 1}):
        for tenant in (task.tenant, "mallory"):
            events += [
                AttemptEnded(finished(outcome, number, task_id=task.task_id, tenant=tenant)) for outcome in Outcome
            ]
    busy = Failure(code="overloaded", retry_after_ms=3_000)
    events.append(AttemptEnded(finished(Outcome.FAILED_RETRYABLE, last, task_id=task.task_id, failure=busy)))
    for number in sorted({1, max(1, last - 1), max(1, last), last + 1}):
        for tenant in (task.tenant, "mallory"):
            for outcome in (Outcome.FAILED_PERMANENT, Outcome.ANSWERED):
                left = finished(outcome, number, task_id=task.task_id, tenant=tenant)
                events.append(AttemptEnded(replace(left, failure=Failure(code="answered_remotely", message="x"))))
    for number in sorted({1, max(1, last - 1), max(1, last)}):
        for outcome in (Outcome.FAILED_RETRYABLE, Outcome.FAILED_PERMANENT, Outcome.EXPIRED):
            for code in ("no_capacity", "too_little_time"):
                report = finished(outcome, number, task_id=task.task_id, usage=Usage(), failure=Failure(code=code))
                events.append(AttemptEnded(report))
    events += [AttemptEnded(report) for report in odd_reports(task, last)]
    events += [replace(event, worker=Place.CLOUD) for event in events if isinstance(event, AttemptEnded)]
    found = [(event, context) for event in events]
    if state is not None:
        times = [at for at in (state.wake_at, state.deadline_at) if at is not None]
        found += [(WakeUp(), replace(context, now=now)) for at in times for now in (at - 1, at, at + 1)]
        found += [(LeaderFinished(leader), replace(context, now=at)) for at in times for leader in (None, *leaders)]
    return found


def odd_reports(task: TaskSubmitted, number: int) -> list[AttemptFinished]:
    """Reports of the newest attempt that no worker of ours would write, and some that it writes of odd providers."""
    codes = ["timeout", "connection_lost", "empty_answer", "unknown_finish", "request_rejected", "output_blocked", ""]
    failures = [
        *(Failure(code=code) for code in codes),
        Failure(code="c" * 10_000, message="m\n" * 10_000, retry_after_ms=-5),
        Failure(code="rate_limited", retry_after_ms=2**62),
    ]
    usages = [
        Usage(input_tokens=-1),
        Usage(input_tokens=2**62, output_tokens=2**62),
        Usage(input_tokens=100_000_001, cached_input_tokens=-(2**62), searches=2**62),
    ]
    answered = finished(Outcome.ANSWERED, number, task_id=task.task_id)
    return [
        *(
            finished(outcome, number, task_id=task.task_id, failure=failure)
            for failure in failures
            for outcome in (Outcome.FAILED_RETRYABLE, Outcome.FAILED_PERMANENT, Outcome.EXPIRED)
        ),
        *(replace(answered, usage=usage) for usage in usages),
        *(replace(answered, content=content) for content in (None, plain(""), plain(" \n\t"))),
        *(replace(answered, finish_reason=reason) for reason in (None, "length", "f" * 10_000)),
        replace(answered, provider="", model="", node=""),
        replace(answered, provider="p" * 10_000, model="m" * 10_000, node="n" * 10_000),
        *(replace(answered, model_ms=milliseconds) for milliseconds in (-1.0, float("nan"), float("inf"))),
    ]
