"""What each event means to a task that several models work on (`decide.panel`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from headrace_contracts.events import (
    Failure,
    ModelOperation,
    Outcome,
    PanelState,
    TaskPhase,
    TaskState,
    TaskSubmitted,
)

from headrace_router.decide import cascade, ensemble
from headrace_router.decide.attempts_step import runs
from headrace_router.decide.candidates import Choice
from headrace_router.decide.cascade import Confidence
from headrace_router.decide.model import AttemptEnded, Decision, DecisionContext, Ignored, Undeliverable, WakeUp
from headrace_router.decide.panel import choice_for, failed, heard
from headrace_router.decide.panel_step import PanelStep, answers_in
from headrace_router.decide.panel_summary import CASCADE, ENSEMBLE
from headrace_router.decide.policy import RolePolicy
from headrace_router.decide.reports import timed_out, undelivered
from headrace_router.decide.retry import panel_attempts
from headrace_router.decide.routes import choose_for, expire, late, role_of, route
from headrace_router.decide.terminal import task_of

NO_CASCADE: Final = "no_cascade"
NO_ENSEMBLE: Final = "no_ensemble"
ONE_OF_BOTH: Final = "cascade_and_ensemble"
NOT_FOR_SEVERAL: Final = "not_for_several_models"
"""Codes of tasks that ask for what they cannot have."""
_POLICY_CHANGED: Final = "policy_changed"


def begun(task: TaskSubmitted, role: RolePolicy | None) -> PanelState | Failure | None:
    """The models that work on a new task together; None if one does, a failure if it asks for what cannot be."""
    routing = task.routing
    wanted = {
        CASCADE: None if routing is None else routing.cascade,
        ENSEMBLE: None if routing is None else routing.ensemble,
    }
    if wanted[CASCADE] and wanted[ENSEMBLE]:
        return Failure(code=ONE_OF_BOTH, message="a task has a cascade or an ensemble: ask for one of them")
    named = None if role is None or task.model is not None else role
    plans = {
        CASCADE: None if named is None else named.cascade,
        ENSEMBLE: None if named is None else named.ensemble,
    }
    for one, code in ((CASCADE, NO_CASCADE), (ENSEMBLE, NO_ENSEMBLE)):
        if wanted[one] and plans[one] is None:
            why = f"the task asks for a {one}, and its role has none in the policy: name such a role, and no model"
            return Failure(code=code, message=why)
    usual = [
        one for one, plan in plans.items() if plan is not None and plan.use == "always" and wanted[one] is not False
    ]
    found = [one for one, asked in wanted.items() if asked] or usual
    if not found:
        return None
    kind = found[0]
    if (why_not := _objection(task)) is not None:
        return Failure(code=NOT_FOR_SEVERAL, message=f"{why_not}: one model answers it") if wanted[kind] else None
    members = () if named is None or named.ensemble is None or kind == CASCADE else ensemble.asked(named.ensemble)
    return PanelState(kind=kind, members=members)


def _objection(task: TaskSubmitted) -> str | None:
    """Why only one model can do a task; None if several can."""
    if task.operation is not ModelOperation.CHAT:
        return "the task asks for no text"
    if task.options is not None and task.options.tools:
        return "the task offers tools, which answers would call"
    if task.options is not None and task.options.choices > 1:
        return "the task asks for several answers of one model"
    return None


def answer(state: TaskState, context: DecisionContext) -> Decision | Ignored:
    """What a task that has no attempt out does next for its answer: one model, or several."""
    return route(state, context) if state.panel is None else _advanced(PanelStep(state), context)


def answer_choice(state: TaskState, context: DecisionContext) -> Choice:
    """The candidates for what a waiting task would do next for its answer."""
    panel, role = state.panel, role_of(task_of(state), context)
    if panel is None or role is None:
        return choose_for(state, context)
    if panel.kind == CASCADE:
        rungs = () if role.cascade is None else role.cascade.rungs
        candidates = [cascade.rung(place) for place in range(len(rungs))]
    else:
        candidates = list(panel.members)
    choices = [choice_for(state, member, context) for member in candidates]
    may_come = [choice for choice in choices if choice.chosen is None and choice.may_come]
    return next(iter((*may_come, *choices)), None) or choose_for(state, context)


def member_ended(state: TaskState, event: AttemptEnded, context: DecisionContext) -> Decision | Ignored:
    """A worker reports the end of an attempt of one of them."""
    step = PanelStep(state)
    ended = heard(step, event, _limit(state, context), context)
    return _advanced(step, context) if ended is None else ended


def member_undeliverable(state: TaskState, event: Undeliverable, context: DecisionContext) -> Decision | Ignored:
    """The record of an attempt is larger than its topic takes."""
    step = PanelStep(state)
    for place, member in enumerate(step.panel.members):
        if runs(member) and member.attempts[-1].number == event.number:
            failed(step, place, undelivered(member.attempts[-1], event.failure), _limit(state, context), context)
            return _advanced(step, context)
    return Ignored("late_result")


def wake_consulting(state: TaskState, _: WakeUp, context: DecisionContext) -> Decision | Ignored:
    """An attempt has taken too long, the next one is due, or the time for all of them is over."""
    if late(state, context):
        return expire(state, context)
    if state.wake_at is not None and context.now < state.wake_at:
        return Ignored("early")
    step = PanelStep(state)
    limit = _limit(state, context)
    for place, member in enumerate(step.panel.members):
        if runs(member) and member.wake_at is not None and member.wake_at <= context.now:
            failed(step, place, timed_out(member.attempts[-1], context.now), limit, context)
    return _advanced(step, context)


def _advanced(step: PanelStep, context: DecisionContext) -> Decision | Ignored:
    role = role_of(task_of(step.state), context)
    if step.panel.kind == CASCADE and role is not None and role.cascade is not None:
        return cascade.advanced(step, role.cascade, context)
    if step.panel.kind == ENSEMBLE and role is not None and role.ensemble is not None:
        return ensemble.advanced(step, role.ensemble, context)
    return _dissolved(step, context)


def _dissolved(step: PanelStep, context: DecisionContext) -> Decision | Ignored:
    """The policy has changed since the task began, and its role has no such thing any more: an answer that there is
    is given, and without one a single model is asked."""
    step.stop()
    answers = answers_in(step.panel)
    if answers and step.panel.kind == ENSEMBLE:
        return ensemble.combined(step, None, context)
    if answers:
        why = Confidence(passed=False, reason="the policy has no such cascade any more")
        return cascade.accepted(step, max(answers), None, why, context)
    gone = Failure(code=_POLICY_CHANGED, message="the policy has changed, and nobody waits for it")
    attempts = [
        replace(one, outcome=Outcome.FAILED_RETRYABLE, failure=gone) if one.outcome is None else one
        for one in panel_attempts(step.state)
    ]
    attempts.sort(key=lambda one: one.number)
    step.note(context.now, "fell_back", _POLICY_CHANGED)
    alone = replace(step.state, panel=None, attempts=(*step.state.attempts, *attempts))
    if alone.phase is TaskPhase.WAITING:
        # It may have waited for what nobody asks for any more.
        alone = replace(alone, wake_at=None, work_topic=None)
    return step.decided(route(alone, context))


def _limit(state: TaskState, context: DecisionContext) -> int | None:
    role = role_of(task_of(state), context)
    if state.panel is not None and state.panel.kind == CASCADE and role is not None and role.cascade is not None:
        return cascade.limit_of(state, role.cascade, context)
    return ensemble.limit_of(state)
