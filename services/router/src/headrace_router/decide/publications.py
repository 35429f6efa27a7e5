"""Commands as records to produce. What a record says follows from the journaled state alone, so a command that is
published again, after a restart and under another policy, says the same. Reply tokens and weights follow from settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from headrace_contracts.content import plain
from headrace_contracts.events import (
    AttemptRequested,
    AttemptsCancelled,
    AttemptState,
    AuditRecorded,
    Command,
    CommandKind,
    JournalEntry,
    MemberState,
    Message,
    Options,
    ReplyKind,
    Sampling,
    SearchState,
    ServedFrom,
    TaskCompleted,
    TaskPhase,
    TaskReply,
    TaskState,
    TaskSubmitted,
    TrailStep,
)
from headrace_contracts.reply_tokens import ReplyTokens
from headrace_contracts.topics import topic_named
from headrace_streams.publishing import Publication

from headrace_router.decide.candidates import spent
from headrace_router.decide.panel_messages import told, with_logprobs
from headrace_router.decide.panel_summary import CASCADE
from headrace_router.decide.queries import search_messages, without_queries
from headrace_router.decide.retry import all_attempts, any_attempt_of, member_of, next_number, search_of
from headrace_router.decide.sources import with_sources
from headrace_router.decide.terminal import BREACH_SUFFIX, BREACHED, rejected_steps, task_of

_SHORT = 64
_REPORT_MS = 2_000
"""Longest time left for the report of an attempt that ran out of time; less where an attempt's whole time is short."""

_Event = AttemptRequested | AttemptsCancelled | TaskCompleted | TaskReply | AuditRecorded


def all_equal(tenant: str) -> int:
    """The weight of a tenant where none has another share than the others."""
    return 1


def publication(
    entry: JournalEntry,
    command: Command,
    tokens: ReplyTokens | None = None,
    weight_of: Callable[[str], int] = all_equal,
) -> Publication:
    """The record that a command of a journal entry stands for. Raises ValueError for an entry without a state.

    Args:
        tokens: Makes the tokens of replies; None makes none.
        weight_of: The weight of a tenant's attempts.
    """
    state = entry.state
    if state is None:
        raise ValueError(f"the entry about task {entry.task_id} has a command and no state")
    match command.kind:
        case CommandKind.DISPATCH:
            return _dispatch(entry, state, command, tokens, weight_of)
        case CommandKind.COMPLETE:
            return _publish(state, command, _result(state), state.route_key, state.home_partition)
        case CommandKind.REPLY:
            return _reply(entry, state, command, tokens)
        case CommandKind.AUDIT:
            return _audit(entry, state, command)
        case CommandKind.CANCEL:
            return _cancel(entry, state, command)


def shortened(published: Publication) -> Publication:
    """An audit record without what may be long in it. Every id, the tenant and the decision stay."""
    event: AuditRecorded = published.event
    return replace(
        published,
        event=replace(event, user=event.user[:_SHORT], subject=None, key_id=None, reason=event.reason[:_SHORT]),
        traceparent=None,
    )


def _dispatch(
    entry: JournalEntry,
    state: TaskState,
    command: Command,
    tokens: ReplyTokens | None,
    weight_of: Callable[[str], int],
) -> Publication:
    task, attempt = task_of(state), _attempt(state, command.attempt)
    token = None
    if tokens is not None and task.stream and state.reply_partition is not None:
        token = tokens.of_attempt(task.tenant, task.task_id, attempt.number)
    prompt, messages = state.system_prompt, task.messages
    if state.research is not None:
        prompt, messages = with_sources(task, prompt, state.research.sources)
    system = () if prompt is None else (Message(role="system", content=plain(prompt)),)
    request = AttemptRequested(
        attempt_id=command.event_id,
        task_id=task.task_id,
        tenant=task.tenant,
        user=task.user,
        number=attempt.number,
        home_partition=state.home_partition,
        provider=attempt.provider,
        site=attempt.site,
        model=attempt.model,
        messages=(*system, *messages),
        sampling=replace(task.sampling, max_output_tokens=attempt.max_output_tokens),
        operation=task.operation,
        options=_options_for(task, attempt.provider),
        settings=attempt.settings,
        privacy=state.privacy,
        lane=state.lane,
        kind=task.kind,
        role=task.role,
        session=task.session,
        subject=task.subject,
        deadline_at=_due(state, attempt),
        stream=task.stream,
        reply_partition=state.reply_partition,
        reply_token=token,
        worst_case_nanodollars=attempt.worst_case_nanodollars,
        budget_left_nanodollars=_budget_left(state, attempt),
        policy_version=entry.policy_version,
        requested_at=attempt.dispatched_at,
    )
    search, member = search_of(state, attempt.number), member_of(state, attempt.number)
    if search is not None:
        request = _searching(request, search)
    elif member is not None:
        request = _consulting(request, state, member, prompt, messages)
    published = _publish(state, command, request, state.route_key)
    # Members of an ensemble are to run side by side; each rung of a cascade follows the one before.
    side_by_side = search is not None or (state.panel is not None and state.panel.kind != CASCADE)
    ordered = not side_by_side and _keeps_order(task)
    return replace(published, ordered=ordered, weight=weight_of(task.tenant))


def _searching(request: AttemptRequested, search: SearchState) -> AttemptRequested:
    """The request for one search of a task: its query, and nothing else of the conversation."""
    due = search.wake_at
    return replace(
        request,
        messages=search_messages(search),
        sampling=Sampling(),
        options=None,
        stream=False,
        reply_token=None,
        deadline_at=None if due is None else due - _report_time(request.requested_at, due),
    )


def _consulting(
    request: AttemptRequested,
    state: TaskState,
    member: MemberState,
    prompt: str | None,
    messages: tuple[Message, ...],
) -> AttemptRequested:
    """The request to one of several models. Nothing of what it says is shown before it is known to be the answer."""
    assert state.panel is not None, "only a task of several models has members"
    first, asked = told(task_of(state), state.panel, member, prompt, messages)
    options = None if asked.options is None else request.options
    system = () if first is None else (Message(role="system", content=plain(first)),)
    due = member.wake_at
    return replace(
        request,
        messages=(*system, *asked.messages),
        sampling=replace(asked.sampling, max_output_tokens=request.sampling.max_output_tokens),
        options=with_logprobs(options) if member.logprobs else options,
        stream=False,
        reply_token=None,
        deadline_at=None if due is None else due - _report_time(request.requested_at, due),
    )


def _budget_left(state: TaskState, attempt: AttemptState) -> int | None:
    """What a task may still spend on an attempt; None without a budget."""
    budget = task_of(state).budget_nanodollars
    others = [one for one in all_attempts(state) if one.number != attempt.number]
    return None if budget is None else budget - spent(others)


def _keeps_order(task: TaskSubmitted) -> bool:
    """Whether its attempts run one after another with those of the same route key.

    Only a session asks for that. Tasks without one share a key because their prompts are equal, for coalescing and the
    cache; those that want an answer of their own nevertheless need not wait for each other.
    """
    return task.session is not None


def _options_for(task: TaskSubmitted, provider: str) -> Options | None:
    """What the task asks of this provider: parameters of one provider's API mean something else to another."""
    options = without_queries(task.options)
    named = task.preferred_provider == provider or (task.model or "").startswith(f"{provider}/")
    return options if options is None or not options.extra or named else replace(options, extra={})


def _reply(entry: JournalEntry, state: TaskState, command: Command, tokens: ReplyTokens | None) -> Publication:
    if command.attempt:
        task = task_of(state)
        reply = TaskReply(
            task_id=task.task_id,
            tenant=task.tenant,
            kind=ReplyKind.RESTARTED,
            attempt=command.attempt,
            emitted_at=entry.decided_at,
        )
    elif state.phase is TaskPhase.WAITING:
        task = task_of(state)
        reply = TaskReply(
            task_id=task.task_id,
            tenant=task.tenant,
            kind=ReplyKind.WAITING,
            attempt=next_number(state) - 1,
            trail=(*state.trail[:-1], *rejected_steps(state, entry.rejected, entry.decided_at), state.trail[-1]),
            emitted_at=entry.decided_at,
        )
    else:
        result = _result(state)
        reply = TaskReply(
            task_id=result.task_id,
            tenant=result.tenant,
            kind=ReplyKind.FINISHED,
            attempt=result.attempts,
            result=result,
            emitted_at=entry.decided_at,
        )
    if tokens is not None:
        reply = replace(reply, reply_token=tokens.of_router(reply.tenant, reply.task_id))
    return _publish(state, command, reply, reply.task_id.encode(), state.reply_partition)


def _audit(entry: JournalEntry, state: TaskState, command: Command) -> Publication:
    # A breach is audited by the decision about the attempt's end, which may be the task's end too.
    source = _result(state) if state.task is None else state.task
    provider: str | None
    model: str | None
    if command.event_id.endswith(BREACH_SUFFIX):
        trail = _result(state).trail if state.task is None else state.trail
        step = [step for step in trail if step.step == BREACHED][-1]
        provider, model = step.provider, step.model
        action, reason = "breach", f"content left to another host than the one asked: {step.reason}"
    elif command.attempt:
        attempt = _attempt(state, command.attempt)
        provider, model = attempt.provider, attempt.model
        action, reason = "dispatch", _dispatch_step(state, attempt).reason
    else:
        result = _result(state)
        provider, model = result.provider, result.model
        if result.served_from in (ServedFrom.CACHE, ServedFrom.COALESCED):
            action = "serve_cached"
            reason = f"the answer to the equal task {result.source_task_id}, of the same tenant and privacy level"
        else:
            action = "refuse"
            reason = "" if result.failure is None else f"{result.failure.code}: {result.failure.message}"
    audit = AuditRecorded(
        event_id=command.event_id,
        tenant=source.tenant,
        user=source.user,
        key_id=source.key_id,
        subject=source.subject,
        task_id=source.task_id,
        attempt_id=command.event_id.rpartition("/")[0] if command.attempt else None,
        action=action,
        privacy=state.privacy,
        provider=provider,
        model=model,
        allowed=action not in ("refuse", "breach"),
        reason=reason,
        policy_version=entry.policy_version,
        recorded_at=entry.decided_at,
    )
    return _publish(state, command, audit, source.tenant.encode())


def _cancel(entry: JournalEntry, state: TaskState, command: Command) -> Publication:
    # The decision to take an attempt back may be the task's end too.
    source = _result(state) if state.task is None else state.task
    at = entry.decided_at if command.attempt else _result(state).completed_at
    event = AttemptsCancelled(task_id=source.task_id, tenant=source.tenant, number=command.attempt, cancelled_at=at)
    return _publish(state, command, event, state.route_key)


def _due(state: TaskState, attempt: AttemptState) -> int | None:
    """Until when a worker has time for an attempt. The result is of no use once the router has abandoned it. One that
    is abandoned before the task's deadline ends a little earlier, so that its report comes first: it says whether a
    model was asked."""
    due = state.wake_at
    if due is None or due == state.deadline_at:
        return due
    return due - _report_time(attempt.dispatched_at, due)


def _report_time(begun: int, due: int) -> int:
    return min(_REPORT_MS, (due - begun) // 20)


def _attempt(state: TaskState, number: int) -> AttemptState:
    found = any_attempt_of(state, number)
    assert found is not None, "an attempt is in the state that commands it"
    return found


def _dispatch_step(state: TaskState, attempt: AttemptState) -> TrailStep:
    """The step of an attempt that the entry commands: the newest one of its model, since it is the last or one of
    several searches."""
    model = attempt.provider, attempt.model
    return [step for step in state.trail if step.step == "dispatched" and (step.provider, step.model) == model][-1]


def _result(state: TaskState) -> TaskCompleted:
    if state.result is None:
        raise ValueError(f"a {state.phase} task has no terminal state")
    return state.result


def _publish(
    state: TaskState,
    command: Command,
    event: _Event,
    key: bytes,
    partition: int | None = None,
) -> Publication:
    return Publication(
        spec=topic_named(command.topic),
        event=event,
        event_id=command.event_id,
        key=key,
        tenant=event.tenant,
        time_ms=_time_of(event),
        partition=partition,
        subject=event.task_id,
        traceparent=state.traceparent,
    )


def _time_of(event: _Event) -> int:
    match event:
        case AttemptRequested():
            return event.requested_at
        case TaskCompleted():
            return event.completed_at
        case TaskReply():
            return event.emitted_at
        case AuditRecorded():
            return event.recorded_at
        case AttemptsCancelled():
            return event.cancelled_at
