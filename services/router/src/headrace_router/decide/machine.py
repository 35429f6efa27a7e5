"""The lifecycle of a task as a transition table: what each event means in each phase.

    (new) ─► waiting ─► running ─► finished
      ▲  ▲       │  ▲
      │  └───────┤  │        a failure without a candidate that is available
      │          ▼  │
      │     backing_off      a failure that a retry may fix
    following                an equal task is in flight

A task is waiting for a candidate that is available, or, with a `work_topic`, for its turn: for attempts of its tenant
to end (`decide.attempt_windows`).

Where its role has research, a task is searching between waiting and running (`decide.research`). Where several models
work on it, as an ensemble or a cascade, it is consulting instead of running (`decide.panel`).

Every pair is in TRANSITIONS. An event that does not apply to a phase is ignored: repeats, results of abandoned
attempts and late cancellation requests change nothing. A cancellation request that arrives before its task is
recorded. A report of an attempt that its writer was not given is disbelieved in every phase with attempts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from headrace_contracts.events import (
    AttemptFinished,
    Failure,
    Outcome,
    PanelState,
    ResearchState,
    ServedFrom,
    TaskCancelled,
    TaskPhase,
    TaskState,
    TaskStatus,
    TaskSubmitted,
    TrailStep,
)

from headrace_router.decide import consulting
from headrace_router.decide.answer_policy import answer_version
from headrace_router.decide.candidates import unknown_model
from headrace_router.decide.consulting import member_ended, member_undeliverable, wake_consulting
from headrace_router.decide.equality import equality_digest
from headrace_router.decide.model import (
    AttemptEnded,
    Cancelled,
    Decision,
    DecisionContext,
    Disbelieved,
    Equal,
    Ignored,
    LeaderFinished,
    Noted,
    RouterEvent,
    Submitted,
    Undeliverable,
    Unrecordable,
    WakeUp,
)
from headrace_router.decide.policy import RolePolicy
from headrace_router.decide.queries import begun
from headrace_router.decide.raising import (
    Raise,
    content_raises,
    highest,
    is_in_sensitive_session,
    raised_steps,
    with_mark,
)
from headrace_router.decide.reports import (
    ANSWERED_REMOTELY,
    believed,
    came_too_late,
    close,
    given_up,
    may_report,
    timed_out,
    undelivered,
)
from headrace_router.decide.research import (
    choice_now,
    go_on,
    search_ended,
    search_undeliverable,
    wake_searching,
)
from headrace_router.decide.retry import any_attempt_of, attempt_of, closed, member_of
from headrace_router.decide.routes import (
    after_failure,
    after_late_word,
    expire,
    fail,
    late,
    refuse,
    role_name,
    route,
    rules_of,
    take_back,
    unknown_role,
)
from headrace_router.decide.rules import rules_for
from headrace_router.decide.sharing import may_serve_followers
from headrace_router.decide.sources import cited, wants_json
from headrace_router.decide.stored_answers import known_answer
from headrace_router.decide.tenant_quota import over_quota
from headrace_router.decide.terminal import breach, finish, serve, stop, task_of, too_large, with_lost

Result = Decision | Noted | Ignored | Disbelieved

_NOWHERE_BETTER: Final = frozenset({"invalid_request"})
"""Codes of failures that every other model would repeat."""


def decide(state: TaskState | None, event: RouterEvent, context: DecisionContext) -> Result:
    """The outcome of an event for its task; `state` is None for an unknown task."""
    result = TRANSITIONS[None if state is None else state.phase, type(event)](state, event, context)
    if isinstance(result, Decision) and (marked := with_mark(result.state)) is not result.state:
        return replace(result, state=marked)
    return result


def _submit(_: None, event: Submitted, context: DecisionContext) -> Result:
    task, policy, now = event.task, context.policy, context.now
    name = role_name(task, policy)
    role = None if name is None else policy.roles.get(name)
    raises = content_raises(task, policy)
    rules = rules_of(task, context, floor=highest(raises))
    lane = task.lane or (role.lane if role is not None and role.lane is not None else policy.defaults.lane)
    own = task.deadline_at if task.deadline_at is not None else now + policy.deadlines.default.of(lane)
    state = TaskState(
        phase=TaskPhase.WAITING,
        task=task,
        route_key=event.key,
        home_partition=event.home_partition,
        digest=equality_digest(task, rules, answer_version(policy, name)),
        privacy=rules.privacy,
        lane=lane,
        deadline_at=min(own, now + policy.deadlines.longest),
        system_prompt=None if role is None else role.system_prompt,
        reply_partition=task.reply_partition,
        traceparent=event.traceparent,
        turn=context.peers.last_turn + 1,
        trail=_raised(task, role, raises, context),
    )
    research = begun(task, role)
    if isinstance(research, ResearchState):
        state = replace(state, research=research)
    panel = consulting.begun(task, role)
    if isinstance(panel, PanelState):
        state = replace(state, panel=panel)
    if event.refused is not None:
        return fail(replace(state, digest=""), context, event.refused)
    if event.cancelled is not None and event.cancelled.tenant == task.tenant:
        return _cancel(state, Cancelled(event.cancelled), context)
    if name is not None and role is None:
        return fail(state, context, unknown_role(name))
    if rules.objection is not None:
        return refuse(replace(state, digest=""), context, rules.objection)
    if isinstance(research, Failure):
        return fail(replace(state, digest=""), context, research)
    if isinstance(panel, Failure):
        return fail(replace(state, digest=""), context, panel)
    if late(state, context):
        return expire(state, context, where="was in tasks.submitted")
    if (off := context.switches.against_tenant(task.tenant, now)) is not None:
        return fail(replace(state, digest=""), context, off)
    if unknown_model(task, context):
        return fail(state, context, Failure(code="unknown_model", message=f"no provider has the model {task.model!r}"))
    equal = _shareable(known_answer(state, event.stored, context), context) if state.digest else Equal()
    if equal.answer is not None:
        return serve(state, context, equal.answer, ServedFrom.CACHE)
    # From here on it would be live, and be held in memory until it ends.
    if (too_many := over_quota(context.peers.load_of(task.tenant), task, context.quota)) is not None:
        return fail(replace(state, digest=""), context, too_many)
    if equal.leader is not None:
        step = TrailStep(at=now, step="coalesced", reason=f"follows the equal task {equal.leader}")
        return Decision(
            replace(
                state, phase=TaskPhase.FOLLOWING, leader_task_id=equal.leader, wake_at=state.deadline_at,
                trail=(*state.trail, step),
            )
        )  # fmt: skip
    return go_on(state, context)


def _raised(
    task: TaskSubmitted, role: RolePolicy | None, raises: Sequence[Raise], context: DecisionContext
) -> tuple[TrailStep, ...]:
    """What has raised a task's level from what was demanded."""
    in_session = is_in_sensitive_session(task, context.sessions, context.now)
    # Of most tasks nothing does, and what was demanded need not be known.
    if not raises and not in_session:
        return ()
    demanded = rules_for(
        task, role, context.policy, context.user_preferences, context.tenant_preferences,
        providers=context.fleet.providers,
    )  # fmt: skip
    return raised_steps(raises, in_session, demanded.privacy, context.now)


def _shareable(equal: Equal, context: DecisionContext) -> Equal:
    return Equal(
        leader=equal.leader if context.switches.has("coalescing", context.now) else None,
        answer=equal.answer if context.switches.has("cache", context.now) else None,
    )


def _note(_: None, event: Cancelled, __: DecisionContext) -> Result:
    return Noted(event.cancellation)


def _cancel(state: TaskState, event: Cancelled, context: DecisionContext) -> Result:
    cancellation: TaskCancelled = event.cancellation
    if cancellation.tenant != task_of(state).tenant:
        return Ignored("foreign_tenant")
    failure = Failure(code="cancelled", message=cancellation.reason or "cancelled on request")
    ended = finish(state, context, TaskStatus.CANCELLED, failure=failure)
    return replace(ended, commands=(*stop(state), *ended.commands))


def _if_believed(
    report: Callable[[TaskState, AttemptEnded, DecisionContext], Result],
) -> Callable[[TaskState, AttemptEnded, DecisionContext], Result]:
    """What a report means, if whoever has written it was given the attempt."""

    def meant(state: TaskState, event: AttemptEnded, context: DecisionContext) -> Result:
        number = event.attempt.number
        sent = any_attempt_of(state, number)
        if sent is not None and not may_report(event.worker, sent):
            return Disbelieved(f"attempt {event.attempt.attempt_id} was not given to a {event.worker.value} worker")
        return report(state, event, context)

    return meant


def _attempt_ended(state: TaskState, event: AttemptEnded, context: DecisionContext) -> Result:
    last = state.attempts[-1]
    if event.attempt.number != last.number or event.attempt.tenant != task_of(state).tenant:
        return _late_word(state, event, context)
    ended = believed(last, event.attempt, task_of(state))
    end = close(last, ended, context.prices)
    if came_too_late(end) and state.wake_at == state.deadline_at:
        # Until the deadline the time only gets less: this model is of no more use to the task.
        ended = replace(ended, outcome=Outcome.FAILED_PERMANENT)
        end = replace(end, outcome=Outcome.FAILED_PERMANENT)
    state = with_lost(closed(state, end, context.now, context.policy.retry), last, ended.lost, context.now)
    if ended.failure is None or ended.failure.code != ANSWERED_REMOTELY:
        return _go_on(state, ended, context)
    state, owed = breach(state, last, ended.failure, context.now)
    next_step = _go_on(state, ended, context)
    assert isinstance(next_step, Decision), "the end of a running attempt is never ignored"
    return replace(next_step, commands=(*next_step.commands, owed))


def _go_on(state: TaskState, ended: AttemptFinished, context: DecisionContext) -> Result:
    if ended.outcome in (Outcome.ANSWERED, Outcome.REFUSED):
        return _answered(state, ended, context)
    failure = ended.failure or Failure(code=str(ended.outcome), message="the worker reported no reason")
    if ended.outcome is Outcome.FAILED_PERMANENT and failure.code in _NOWHERE_BETTER:
        return fail(state, context, failure)
    return after_failure(state, failure, ended.outcome is not Outcome.FAILED_PERMANENT, context)


def _late_answer(state: TaskState, event: AttemptEnded, context: DecisionContext) -> Result:
    """While no attempt runs, the last abandoned one may still deliver an answer, which saves another attempt."""
    if member_of(state, event.attempt.number) is not None:
        return member_ended(state, event, context)
    last = state.attempts[-1] if state.attempts else None
    if (
        last is None
        or event.attempt.number != last.number
        or not given_up(last)
        or believed(last, event.attempt, task_of(state)).outcome not in (Outcome.ANSWERED, Outcome.REFUSED)
    ):
        return _late_word(state, event, context)
    return _attempt_ended(state, event, context)


def _late_word(state: TaskState, event: AttemptEnded, context: DecisionContext) -> Result:
    """The result of an abandoned attempt is of no use, but that content has left with it is audited all the same, and
    that it asked nobody means that it was no try."""
    said = event.attempt
    sent = attempt_of(state, said.number)
    if said.tenant != task_of(state).tenant or sent is None:
        return Ignored("late_result")
    ended = believed(sent, said, task_of(state))
    failure, end = ended.failure, close(sent, ended, context.prices)
    known = sent.failure is not None and sent.failure.code == ANSWERED_REMOTELY
    if known or failure is None:
        return Ignored("late_result")
    if failure.code == ANSWERED_REMOTELY:
        # An attempt that was taken back was no try, and does not become one.
        end = replace(end, outcome=Outcome.FAILED_PERMANENT, asked=sent.asked)
        state = closed(state, end, context.now, context.policy.retry)
        state, owed = breach(state, sent, failure, context.now)
        return Decision(state, (owed,))
    if given_up(sent) and sent.asked and not end.asked and not late(state, context):
        # What it may have cost stays: another execution of it may have asked after all, and never report.
        return after_late_word(closed(state, replace(sent, asked=False), context.now, context.policy.retry), context)
    return Ignored("late_result")


def _answered(state: TaskState, ended: AttemptFinished, context: DecisionContext) -> Result:
    choices, simulated = ended.choices, ended.simulated
    if state.research is not None:
        simulated = simulated or state.research.simulated
        if ended.outcome is Outcome.ANSWERED:
            choices = cited(
                ended.content, choices, ended.finish_reason, state.research.sources, as_json=wants_json(task_of(state))
            )
    return finish(
        state,
        context,
        TaskStatus.SUCCEEDED if ended.outcome is Outcome.ANSWERED else TaskStatus.REFUSED,
        failure=None if ended.outcome is Outcome.ANSWERED else ended.failure,
        answer=ended.content,
        finish_reason=ended.finish_reason,
        choices=choices,
        embeddings=ended.embeddings,
        provider=ended.provider,
        model=ended.model,
        node=ended.node,
        simulated=simulated,
        served_from=ServedFrom.ATTEMPT,
        model_ms=ended.model_ms,
    )


def _leader_ended(state: TaskState, event: LeaderFinished, context: DecisionContext) -> Result:
    if late(state, context):
        return expire(state, context)
    if event.result is not None and may_serve_followers(event.result) and _is_still_equal(state, context):
        return serve(state, context, event.result, ServedFrom.COALESCED)
    return go_on(state, context)


def _is_still_equal(state: TaskState, context: DecisionContext) -> bool:
    """Whether a follower's rules are still those of the task that it follows: preferences may have changed since."""
    task = task_of(state)
    rules = rules_of(task, context, floor=state.privacy)
    version = answer_version(context.policy, role_name(task, context.policy))
    return rules.objection is None and equality_digest(task, rules, version) == state.digest


def _wake_waiting(state: TaskState, _: WakeUp, context: DecisionContext) -> Result:
    if late(state, context):
        return expire(state, context, choice_now(state, context))
    return go_on(state, context)


def _wake_running(state: TaskState, _: WakeUp, context: DecisionContext) -> Result:
    if _early(state, context):
        return take_back(state, context)
    end = timed_out(state.attempts[-1], context.now)
    state = closed(state, end, context.now, context.policy.retry)
    if late(state, context):
        return expire(state, context)
    assert end.failure is not None, "a time-out is one"
    return after_failure(state, end.failure, True, context)


def _wake_backing_off(state: TaskState, _: WakeUp, context: DecisionContext) -> Result:
    if _early(state, context):
        return Ignored("early")
    return expire(state, context) if late(state, context) else route(state, context)


def _wake_following(state: TaskState, _: WakeUp, context: DecisionContext) -> Result:
    return expire(state, context) if late(state, context) else Ignored("early")


def _too_large(state: TaskState, event: Unrecordable, context: DecisionContext) -> Result:
    return too_large(state, context, event.size, event.limit, event.owed)


def _undeliverable(state: TaskState, event: Undeliverable, context: DecisionContext) -> Result:
    last = state.attempts[-1]
    if last.number != event.number:
        return Ignored("late_result")
    end = undelivered(last, event.failure)
    state = closed(state, end, context.now, context.policy.retry)
    return after_failure(state, event.failure, False, context)


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
    (None, Undeliverable): _UNKNOWN,
    (TaskPhase.WAITING, Submitted): _DUPLICATE,
    (TaskPhase.WAITING, Cancelled): _cancel,
    (TaskPhase.WAITING, AttemptEnded): _if_believed(_late_answer),
    (TaskPhase.WAITING, LeaderFinished): _NOT_FOLLOWING,
    (TaskPhase.WAITING, WakeUp): _wake_waiting,
    (TaskPhase.WAITING, Unrecordable): _too_large,
    (TaskPhase.WAITING, Undeliverable): _NO_ATTEMPT,
    (TaskPhase.RUNNING, Submitted): _DUPLICATE,
    (TaskPhase.RUNNING, Cancelled): _cancel,
    (TaskPhase.RUNNING, AttemptEnded): _if_believed(_attempt_ended),
    (TaskPhase.RUNNING, LeaderFinished): _NOT_FOLLOWING,
    (TaskPhase.RUNNING, WakeUp): _wake_running,
    (TaskPhase.RUNNING, Unrecordable): _too_large,
    (TaskPhase.RUNNING, Undeliverable): _undeliverable,
    (TaskPhase.BACKING_OFF, Submitted): _DUPLICATE,
    (TaskPhase.BACKING_OFF, Cancelled): _cancel,
    (TaskPhase.BACKING_OFF, AttemptEnded): _if_believed(_late_answer),
    (TaskPhase.BACKING_OFF, LeaderFinished): _NOT_FOLLOWING,
    (TaskPhase.BACKING_OFF, WakeUp): _wake_backing_off,
    (TaskPhase.BACKING_OFF, Unrecordable): _too_large,
    (TaskPhase.BACKING_OFF, Undeliverable): _NO_ATTEMPT,
    (TaskPhase.SEARCHING, Submitted): _DUPLICATE,
    (TaskPhase.SEARCHING, Cancelled): _cancel,
    (TaskPhase.SEARCHING, AttemptEnded): _if_believed(search_ended),
    (TaskPhase.SEARCHING, LeaderFinished): _NOT_FOLLOWING,
    (TaskPhase.SEARCHING, WakeUp): wake_searching,
    (TaskPhase.SEARCHING, Unrecordable): _too_large,
    (TaskPhase.SEARCHING, Undeliverable): search_undeliverable,
    (TaskPhase.CONSULTING, Submitted): _DUPLICATE,
    (TaskPhase.CONSULTING, Cancelled): _cancel,
    (TaskPhase.CONSULTING, AttemptEnded): _if_believed(member_ended),
    (TaskPhase.CONSULTING, LeaderFinished): _NOT_FOLLOWING,
    (TaskPhase.CONSULTING, WakeUp): wake_consulting,
    (TaskPhase.CONSULTING, Unrecordable): _too_large,
    (TaskPhase.CONSULTING, Undeliverable): member_undeliverable,
    (TaskPhase.FOLLOWING, Submitted): _DUPLICATE,
    (TaskPhase.FOLLOWING, Cancelled): _cancel,
    (TaskPhase.FOLLOWING, AttemptEnded): _NO_ATTEMPT,
    (TaskPhase.FOLLOWING, LeaderFinished): _leader_ended,
    (TaskPhase.FOLLOWING, WakeUp): _wake_following,
    (TaskPhase.FOLLOWING, Unrecordable): _too_large,
    (TaskPhase.FOLLOWING, Undeliverable): _NO_ATTEMPT,
    (TaskPhase.FINISHED, Submitted): _AFTER_END,
    (TaskPhase.FINISHED, Cancelled): _AFTER_END,
    (TaskPhase.FINISHED, AttemptEnded): _AFTER_END,
    (TaskPhase.FINISHED, LeaderFinished): _AFTER_END,
    (TaskPhase.FINISHED, WakeUp): _AFTER_END,
    (TaskPhase.FINISHED, Unrecordable): _too_large,
    (TaskPhase.FINISHED, Undeliverable): _AFTER_END,
}
