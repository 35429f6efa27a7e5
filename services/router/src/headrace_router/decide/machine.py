"""The lifecycle of a task as a transition table: what each event means in each phase.

    (new) ─► waiting ─► running ─► finished
      ▲  ▲       │  ▲
      │  └───────┤  │        a failure without a candidate that is available
      │          ▼  │
      │     backing_off      a failure that a retry may fix
    following                an equal task is in flight

Every pair is in TRANSITIONS. An event that does not apply to a phase is ignored: repeats, results of abandoned
attempts and late cancellation requests change nothing. A cancellation request that arrives before its task is
recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from headrace_contracts.events import (
    AttemptFinished,
    AttemptState,
    Command,
    CommandKind,
    Failure,
    Outcome,
    Rejection,
    ServedFrom,
    TaskCancelled,
    TaskPhase,
    TaskState,
    TaskStatus,
    TaskSubmitted,
    TrailStep,
)
from headrace_contracts.ids import attempt_id
from headrace_contracts.topics import AUDIT_RECORDED, TASKS_REPLIES, work_topic

from headrace_router.decide.candidates import Candidate, Choice, choose, given_up, unknown_model
from headrace_router.decide.costs import cost
from headrace_router.decide.equality import equality_digest
from headrace_router.decide.model import (
    ATTEMPT_TIMEOUT,
    AttemptEnded,
    Cancelled,
    Decision,
    DecisionContext,
    Ignored,
    LeaderFinished,
    Noted,
    RouterEvent,
    Submitted,
    Unrecordable,
    WakeUp,
)
from headrace_router.decide.policy import Policy, RolePolicy
from headrace_router.decide.retry import backoff
from headrace_router.decide.rules import rules_for
from headrace_router.decide.terminal import finish, serve, task_of, too_large

Result = Decision | Noted | Ignored

_NOWHERE_BETTER: Final = frozenset({"invalid_request"})
"""Codes of failures that every other model would repeat."""
_SHARED_ENDS: Final = frozenset({TaskStatus.SUCCEEDED, TaskStatus.REFUSED})
"""Ends of a leader that its followers share. A refusal is an answer: asking again would circumvent it."""


def decide(state: TaskState | None, event: RouterEvent, context: DecisionContext) -> Result:
    """The outcome of an event for its task; `state` is None for an unknown task."""
    return TRANSITIONS[None if state is None else state.phase, type(event)](state, event, context)


def _submit(_: None, event: Submitted, context: DecisionContext) -> Result:
    task, policy, now = event.task, context.policy, context.now
    name = _role_name(task, policy)
    role = None if name is None else policy.roles.get(name)
    rules = rules_for(task, role, policy, context.user_preferences, context.tenant_preferences)
    lane = task.lane or (role.lane if role is not None and role.lane is not None else policy.defaults.lane)
    own = task.deadline_at if task.deadline_at is not None else now + policy.deadlines.default.of(lane)
    state = TaskState(
        phase=TaskPhase.WAITING,
        task=task,
        route_key=event.key,
        home_partition=event.home_partition,
        digest=equality_digest(task, rules, policy.version),
        privacy=rules.privacy,
        lane=lane,
        deadline_at=min(own, now + policy.deadlines.longest),
        system_prompt=None if role is None else role.system_prompt,
        reply_partition=task.reply_partition,
        traceparent=event.traceparent,
    )
    if event.cancelled is not None and event.cancelled.tenant == task.tenant:
        return _cancel(state, Cancelled(event.cancelled), context)
    if name is not None and role is None:
        return _fail(state, context, Failure(code="unknown_role", message=f"the policy has no role {name!r}"))
    if _late(state, context):
        return _expire(state, context)
    if unknown_model(task, context):
        return _fail(state, context, Failure(code="unknown_model", message=f"no provider has the model {task.model!r}"))
    if state.digest:
        equal = context.peers.equal_to(state.digest, now)
        if equal.answer is not None:
            return serve(state, context, equal.answer, ServedFrom.CACHE)
        if equal.leader is not None:
            step = TrailStep(at=now, step="coalesced", reason=f"follows the equal task {equal.leader}")
            return Decision(
                replace(
                    state, phase=TaskPhase.FOLLOWING, leader_task_id=equal.leader, wake_at=state.deadline_at,
                    trail=(*state.trail, step),
                )
            )  # fmt: skip
    return _route(state, context)


def _note(_: None, event: Cancelled, __: DecisionContext) -> Result:
    return Noted(event.cancellation)


def _cancel(state: TaskState, event: Cancelled, context: DecisionContext) -> Result:
    cancellation: TaskCancelled = event.cancellation
    if cancellation.tenant != task_of(state).tenant:
        return Ignored("foreign_tenant")
    failure = Failure(code="cancelled", message=cancellation.reason or "cancelled on request")
    return finish(state, context, TaskStatus.CANCELLED, failure=failure)


def _attempt_ended(state: TaskState, event: AttemptEnded, context: DecisionContext) -> Result:
    ended = event.attempt
    last = state.attempts[-1]
    if ended.number != last.number or ended.tenant != task_of(state).tenant:
        return Ignored("late_result")
    closed = replace(
        last,
        outcome=ended.outcome,
        failure=ended.failure,
        usage=ended.usage,
        cost_nanodollars=cost(context.prices, last.provider, last.model, ended.usage),
    )
    state = replace(state, attempts=(*state.attempts[:-1], closed))
    if ended.outcome in (Outcome.ANSWERED, Outcome.REFUSED):
        return _answered(state, ended, context)
    failure = ended.failure or Failure(code=str(ended.outcome), message="the worker reported no reason")
    if ended.outcome is Outcome.CANCELLED:
        # The worker has read the cancellation request before the router did.
        return finish(state, context, TaskStatus.CANCELLED, failure=failure)
    if ended.outcome is Outcome.FAILED_PERMANENT and failure.code in _NOWHERE_BETTER:
        return _fail(state, context, failure)
    return _after_failure(state, failure, ended.outcome is not Outcome.FAILED_PERMANENT, context)


def _late_answer(state: TaskState, event: AttemptEnded, context: DecisionContext) -> Result:
    """While no attempt runs, the last abandoned one may still deliver an answer, which saves another attempt."""
    ended = event.attempt
    if (
        not state.attempts
        or ended.number != state.attempts[-1].number
        or not given_up(state.attempts[-1])
        or ended.outcome not in (Outcome.ANSWERED, Outcome.REFUSED)
    ):
        return Ignored("late_result")
    return _attempt_ended(state, event, context)


def _answered(state: TaskState, ended: AttemptFinished, context: DecisionContext) -> Result:
    return finish(
        state,
        context,
        TaskStatus.SUCCEEDED if ended.outcome is Outcome.ANSWERED else TaskStatus.REFUSED,
        failure=None if ended.outcome is Outcome.ANSWERED else ended.failure,
        answer=ended.content,
        finish_reason=ended.finish_reason,
        provider=ended.provider,
        model=ended.model,
        node=ended.node,
        simulated=ended.simulated,
        served_from=ServedFrom.ATTEMPT,
        model_ms=ended.model_ms,
    )


def _leader_ended(state: TaskState, event: LeaderFinished, context: DecisionContext) -> Result:
    if _late(state, context):
        return _expire(state, context)
    if event.result is not None and event.result.status in _SHARED_ENDS:
        return serve(state, context, event.result, ServedFrom.COALESCED)
    return _route(state, context)


def _wake_waiting(state: TaskState, _: WakeUp, context: DecisionContext) -> Result:
    if _late(state, context):
        return _expire(state, context, _choose(state, context))
    return _route(state, context)


def _wake_running(state: TaskState, _: WakeUp, context: DecisionContext) -> Result:
    if _early(state, context):
        return Ignored("early")
    last = state.attempts[-1]
    waited = context.now - last.dispatched_at
    failure = Failure(code=ATTEMPT_TIMEOUT, message=f"no result after {waited} ms")
    closed = replace(last, outcome=Outcome.EXPIRED, failure=failure)
    state = replace(state, attempts=(*state.attempts[:-1], closed))
    if _late(state, context):
        return _expire(state, context)
    return _after_failure(state, failure, True, context)


def _wake_backing_off(state: TaskState, _: WakeUp, context: DecisionContext) -> Result:
    if _early(state, context):
        return Ignored("early")
    return _expire(state, context) if _late(state, context) else _route(state, context)


def _wake_following(state: TaskState, _: WakeUp, context: DecisionContext) -> Result:
    return _expire(state, context) if _late(state, context) else Ignored("early")


def _too_large(state: TaskState, event: Unrecordable, context: DecisionContext) -> Result:
    return too_large(state, context, event.size, event.limit)


def _after_failure(state: TaskState, failure: Failure, retryable: bool, context: DecisionContext) -> Result:
    """Retry the same model after a delay, try the next candidate, or finish."""
    retry, now = context.policy.retry, context.now
    last = state.attempts[-1]
    if _late(state, context):
        return _expire(state, context)
    if len(state.attempts) >= retry.attempts:
        return _fail(state, context, failure)
    tries = sum((a.provider, a.model) == (last.provider, last.model) for a in state.attempts)
    if not retryable or tries >= retry.attempts_per_model:
        return _route(_fallen_back(state, failure, now), context)
    asked = failure.retry_after_ms or 0
    wait = max(backoff(task_of(state).task_id, last.number, tries, retry), asked)
    in_time = state.deadline_at is None or now + wait < state.deadline_at
    if not in_time or asked > retry.patience:
        choice = _choose(state, context, not_now=f"{last.provider}/{last.model}")
        if choice.chosen is not None:
            return _dispatch(_fallen_back(state, failure, now), choice, choice.chosen, context)
        if not in_time:
            return _fail(state, context, failure, choice.rejected)
    step = TrailStep(
        at=now, step="retried", provider=last.provider, model=last.model,
        reason=f"{failure.code}; retry in {wait} ms",
    )  # fmt: skip
    return Decision(
        replace(state, phase=TaskPhase.BACKING_OFF, wake_at=now + wait, trail=(*state.trail, step)),
    )


def _fallen_back(state: TaskState, failure: Failure, now: int) -> TaskState:
    last = state.attempts[-1]
    step = TrailStep(at=now, step="fell_back", provider=last.provider, model=last.model, reason=failure.code)
    return replace(state, trail=(*state.trail, step))


def _route(state: TaskState, context: DecisionContext) -> Result:
    """Dispatch to the best available candidate, wait for one, or finish."""
    choice = _choose(state, context)
    if choice.chosen is not None:
        return _dispatch(state, choice, choice.chosen, context)
    if not choice.may_come:
        last = state.attempts[-1].failure if state.attempts else None
        return _fail(state, context, last or choice.failure(), choice.rejected)
    if state.phase is TaskPhase.WAITING and state.wake_at is not None:
        return Ignored("no_capacity")
    failure = choice.failure()
    step = TrailStep(at=context.now, step="waited", reason=f"{failure.code}: {failure.message}")
    waiting = replace(
        state, phase=TaskPhase.WAITING, wake_at=state.deadline_at, leader_task_id=None, trail=(*state.trail, step)
    )
    return Decision(waiting, rejected=choice.rejected)


def _dispatch(state: TaskState, choice: Choice, chosen: Candidate, context: DecisionContext) -> Decision:
    task, now = task_of(state), context.now
    number = len(state.attempts) + 1
    attempt = AttemptState(
        number=number,
        provider=chosen.provider,
        model=chosen.model,
        place=chosen.place,
        dispatched_at=now,
        max_output_tokens=chosen.max_output_tokens,
        worst_case_nanodollars=chosen.worst_case_nanodollars,
    )
    sent = TrailStep(at=now, step="dispatched", provider=chosen.provider, model=chosen.model, reason=choice.reason)
    wake_at = now + context.policy.attempts.timeout.of(state.lane)
    running = replace(
        state,
        phase=TaskPhase.RUNNING,
        attempts=(*state.attempts, attempt),
        wake_at=wake_at if state.deadline_at is None else min(wake_at, state.deadline_at),
        leader_task_id=None,
        trail=(*state.trail, *_rejected_steps(state, choice.rejected, now), sent),
        privacy=choice.privacy,
    )
    name = attempt_id(task.task_id, number)
    commands = [
        Command(
            kind=CommandKind.DISPATCH, event_id=name, topic=work_topic(chosen.place, state.lane).name, attempt=number
        ),
        Command(kind=CommandKind.AUDIT, event_id=f"{name}/audit", topic=AUDIT_RECORDED.name, attempt=number),
    ]
    if number > 1 and task.stream and state.reply_partition is not None:
        restarted = Command(
            kind=CommandKind.REPLY, event_id=f"{name}/restarted", topic=TASKS_REPLIES.name, attempt=number
        )
        commands.insert(0, restarted)
    return Decision(running, tuple(commands), choice.rejected)


def _rejected_steps(state: TaskState, rejected: tuple[Rejection, ...], now: int) -> list[TrailStep]:
    said = {(step.provider, step.model, step.reason) for step in state.trail if step.step == "rejected"}
    steps = [
        TrailStep(at=now, step="rejected", provider=r.provider, model=r.model, reason=f"{r.code}: {r.detail}")
        for r in rejected
    ]
    return [step for step in steps if (step.provider, step.model, step.reason) not in said]


def _fail(
    state: TaskState, context: DecisionContext, failure: Failure, rejected: tuple[Rejection, ...] = ()
) -> Decision:
    steps = _rejected_steps(state, rejected, context.now)
    return finish(
        replace(state, trail=(*state.trail, *steps)), context, TaskStatus.FAILED, failure=failure, rejected=rejected
    )


def _expire(state: TaskState, context: DecisionContext, choice: Choice | None = None) -> Decision:
    failure = Failure(code="deadline_passed", message=f"the deadline passed while the task was {state.phase}")
    rejected: tuple[Rejection, ...] = ()
    if choice is not None and choice.chosen is None:
        failure, rejected = choice.failure(), choice.rejected
    steps = _rejected_steps(state, rejected, context.now)
    return finish(
        replace(state, trail=(*state.trail, *steps)), context, TaskStatus.EXPIRED, failure=failure, rejected=rejected
    )


def _choose(state: TaskState, context: DecisionContext, not_now: str | None = None) -> Choice:
    task, role = task_of(state), _role(state, context)
    rules = rules_for(
        task, role, context.policy, context.user_preferences, context.tenant_preferences, floor=state.privacy
    )
    return choose(task, role, state.system_prompt, rules, state.attempts, context, not_now)


def _role_name(task: TaskSubmitted, policy: Policy) -> str | None:
    return task.role if task.role is not None or task.model is not None else policy.defaults.role


def _role(state: TaskState, context: DecisionContext) -> RolePolicy | None:
    name = _role_name(task_of(state), context.policy)
    return None if name is None else context.policy.roles.get(name)


def _late(state: TaskState, context: DecisionContext) -> bool:
    return state.deadline_at is not None and context.now >= state.deadline_at


def _early(state: TaskState, context: DecisionContext) -> bool:
    return state.wake_at is not None and context.now < state.wake_at


def _ignored(reason: str) -> Callable[[Any, Any, DecisionContext], Result]:
    def ignore(_state: Any, _event: Any, _context: DecisionContext) -> Result:
        return Ignored(reason)

    return ignore


_UNKNOWN, _DUPLICATE, _AFTER_END = _ignored("unknown_task"), _ignored("duplicate"), _ignored("finished")
_NOT_FOLLOWING, _NO_ATTEMPT = _ignored("not_following"), _ignored("no_attempt")

TRANSITIONS: Final[
    Mapping[tuple[TaskPhase | None, type[RouterEvent]], Callable[[Any, Any, DecisionContext], Result]]
] = {
    (None, Submitted): _submit,
    (None, Cancelled): _note,
    (None, AttemptEnded): _UNKNOWN,
    (None, LeaderFinished): _UNKNOWN,
    (None, WakeUp): _UNKNOWN,
    (None, Unrecordable): _UNKNOWN,
    (TaskPhase.WAITING, Submitted): _DUPLICATE,
    (TaskPhase.WAITING, Cancelled): _cancel,
    (TaskPhase.WAITING, AttemptEnded): _late_answer,
    (TaskPhase.WAITING, LeaderFinished): _NOT_FOLLOWING,
    (TaskPhase.WAITING, WakeUp): _wake_waiting,
    (TaskPhase.WAITING, Unrecordable): _too_large,
    (TaskPhase.RUNNING, Submitted): _DUPLICATE,
    (TaskPhase.RUNNING, Cancelled): _cancel,
    (TaskPhase.RUNNING, AttemptEnded): _attempt_ended,
    (TaskPhase.RUNNING, LeaderFinished): _NOT_FOLLOWING,
    (TaskPhase.RUNNING, WakeUp): _wake_running,
    (TaskPhase.RUNNING, Unrecordable): _too_large,
    (TaskPhase.BACKING_OFF, Submitted): _DUPLICATE,
    (TaskPhase.BACKING_OFF, Cancelled): _cancel,
    (TaskPhase.BACKING_OFF, AttemptEnded): _late_answer,
    (TaskPhase.BACKING_OFF, LeaderFinished): _NOT_FOLLOWING,
    (TaskPhase.BACKING_OFF, WakeUp): _wake_backing_off,
    (TaskPhase.BACKING_OFF, Unrecordable): _too_large,
    (TaskPhase.FOLLOWING, Submitted): _DUPLICATE,
    (TaskPhase.FOLLOWING, Cancelled): _cancel,
    (TaskPhase.FOLLOWING, AttemptEnded): _NO_ATTEMPT,
    (TaskPhase.FOLLOWING, LeaderFinished): _leader_ended,
    (TaskPhase.FOLLOWING, WakeUp): _wake_following,
    (TaskPhase.FOLLOWING, Unrecordable): _too_large,
    (TaskPhase.FINISHED, Submitted): _AFTER_END,
    (TaskPhase.FINISHED, Cancelled): _AFTER_END,
    (TaskPhase.FINISHED, AttemptEnded): _AFTER_END,
    (TaskPhase.FINISHED, LeaderFinished): _AFTER_END,
    (TaskPhase.FINISHED, WakeUp): _AFTER_END,
    (TaskPhase.FINISHED, Unrecordable): _too_large,
}
