"""An ensemble: several models answer one task side by side, and one of their answers is given.

1. All members are asked at once, each as its part of the policy says; equal ones at different nodes. If fewer than the
   quorum can be asked now, nobody is: the task waits, as for any model, or fails.
2. A member whose model fails is asked elsewhere, as long as there is time. When all have answered or failed, at the
   latest after `within`, the task goes on with what there is. Fewer answers than the quorum: it fails.
3. A judge, if the policy has one, chooses among them within `judge_within`. Without a word of it the vote counts.
4. The answer that was chosen is the task's, word for word: nothing is made of several.

A deadline that is nearer than `within` and `judge_within` together shortens both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from headrace_contracts.content import PLAIN, text_of
from headrace_contracts.events import Content, Failure, MemberState, TaskPhase, TaskState

from headrace_router.decide.agreement import Opinion, best_of, certainty_of, coherence, voted
from headrace_router.decide.attempts_step import runs
from headrace_router.decide.model import Decision, DecisionContext, Ignored
from headrace_router.decide.panel import answered, failure_of, resting, send, untouched
from headrace_router.decide.panel_messages import JUDGE, choice_in
from headrace_router.decide.panel_step import PanelStep, answers_in
from headrace_router.decide.panel_summary import PanelVerdict
from headrace_router.decide.policy import EnsemblePolicy
from headrace_router.decide.reports import expired
from headrace_router.decide.routes import fail, refuse, without_candidate

NO_QUORUM: Final = "no_quorum"
"""Code of a task that too few members of its ensemble have answered."""
_TOO_LATE: Final = "the time for the members is over"
_WHOLE: Final = "stop"


def asked(plan: EnsemblePolicy) -> tuple[MemberState, ...]:
    """The members before any of them was asked."""
    return tuple(
        MemberState(part=member.part, place=place, system_prompt=member.system_prompt)
        for place, member in enumerate(plan.members)
    )


def limit_of(state: TaskState) -> int | None:
    """When whoever works on it now is given up at the latest."""
    return None if state.panel is None else state.panel.until


def advanced(step: PanelStep, plan: EnsemblePolicy, context: DecisionContext) -> Decision | Ignored:
    """Dispatch what is due, go on to the answer if nothing is left to wait for, or rest until something happens."""
    panel, now = step.panel, context.now
    if panel.until is None:
        return _begun(step, plan, context)
    over = now >= panel.until
    if not over:
        for place, member in enumerate(panel.members):
            due = not runs(member) and (member.wake_at is None or member.wake_at <= now)
            if not member.ended and due:
                send(step, place, panel.until, context)
        if any(not member.ended for member in step.panel.members):
            return resting(step, context)
    else:
        _give_up_rest(step, context)
    return _concluded(step, plan, context)


def _begun(step: PanelStep, plan: EnsemblePolicy, context: DecisionContext) -> Decision | Ignored:
    state, now = step.state, context.now
    left = None if state.deadline_at is None else state.deadline_at - now
    within = plan.within + (plan.judge_within if plan.judge else 0)
    share = 1.0 if left is None else min(1.0, 0.9 * left / within)
    until = now + max(1, int(plan.within * share))
    trial = PanelStep(replace(state, panel=replace(step.panel, until=until)))
    for place in range(len(step.panel.members)):
        behind = send(trial, place, until, context)
        if behind is not None:
            return untouched(behind, state)
    missed = trial.missed
    if missed is not None and missed.objection is not None:
        return refuse(state, context, missed.objection)
    if sum(map(runs, trial.panel.members)) >= plan.quorum:
        return resting(trial, context)
    # Nothing was sent: so much as one member asked in vain would cost.
    assert missed is not None, "a member that is not asked has no candidate"
    lacking = tuple(trial.rejected)
    if trial.may_come:
        if state.phase is TaskPhase.WAITING and state.wake_at is not None and state.work_topic is None:
            return Ignored("no_capacity")
        return without_candidate(state, replace(missed, rejected=lacking, may_come=True), context)
    return fail(state, context, missed.failure(), lacking)


def _give_up_rest(step: PanelStep, context: DecisionContext) -> None:
    # Their workers have ended them by now: attempts have a deadline.
    for place, member in enumerate(step.panel.members):
        if member.ended:
            continue
        attempts = member.attempts
        if runs(member):
            attempts = (*attempts[:-1], expired(attempts[-1], _TOO_LATE))
        step.change(place, replace(member, attempts=attempts, wake_at=None, ended=True))
        step.note(context.now, "gave_up", f"{step.name(place)}: {_TOO_LATE}")


def _concluded(step: PanelStep, plan: EnsemblePolicy, context: DecisionContext) -> Decision:
    """All who will answer have: their answers are combined."""
    answers = answers_in(step.panel)
    if len(answers) < plan.quorum:
        return step.decided(fail(step.state, context, _too_few(step, len(answers), plan.quorum)))
    judge = next((member for member in step.panel.members if member.part == JUDGE), None)
    if judge is None and plan.combine == "judge" and len(answers) > 1 and _judging(step, plan, context):
        return resting(step, context)
    return combined(step, plan, context)


def _judging(step: PanelStep, plan: EnsemblePolicy, context: DecisionContext) -> bool:
    """Whether a judge could be asked."""
    deadline, now = step.state.deadline_at, context.now
    left = plan.judge_within if deadline is None else min(plan.judge_within, int(0.9 * (deadline - now)))
    until = now + max(1, left)
    step.state = replace(step.state, panel=replace(step.panel, until=until))
    place = step.add(MemberState(part=JUDGE))
    send(step, place, until, context)
    return runs(step.panel.members[place])


def combined(step: PanelStep, plan: EnsemblePolicy | None, context: DecisionContext) -> Decision:
    """End the task with one of the answers; by a vote, if its role has no ensemble any more."""
    answers = answers_in(step.panel)
    places = list(answers)
    opinions = _opinions(answers, context)
    alike = coherence([one.text for one in opinions])
    judge = next((member for member in step.panel.members if member.part == JUDGE), None)
    chosen = None if judge is None or judge.answer is None else choice_in(judge.answer.content, len(places))
    if len(places) == 1:
        how, at = "only", 0
    elif chosen is not None:
        how, at = "judge", chosen
    elif plan is not None and plan.combine == "best_of":
        how, at = "best_of", best_of(opinions)
    else:
        how, at = "vote", voted(opinions)
    goal = EnsemblePolicy.model_fields["goal"].default if plan is None else plan.goal
    told = "unknown" if alike is None else f"{alike:.2f}, {'at' if alike >= goal else 'below'} the goal of {goal:g}"
    last = step.panel.members[places[at]].attempts[-1]
    reason = f"{how} among {len(places)} answers: {step.name(places[at])}; coherence {told}"
    step.note(context.now, "combined", reason, last)
    return answered(step, PanelVerdict(places[at], combined_by=how, coherence=alike, goal=goal), context)


def _opinions(answers: Mapping[int, MemberState], context: DecisionContext) -> Sequence[Opinion]:
    found = []
    for member in answers.values():
        answer, last = member.answer, member.attempts[-1]
        assert answer is not None, "only members with an answer are looked at"
        logprobs = next((choice.logprobs for choice in answer.choices if choice.logprobs is not None), None)
        found.append(
            Opinion(
                text=_text(answer.content),
                whole=answer.finish_reason == _WHOLE,
                fits=answer.fits_schema is not False,
                quality=context.policy.quality(last.provider, last.model),
                is_primary=member.part == "primary",
                certainty=None if logprobs is None else certainty_of(_text(logprobs)),
            )
        )
    return found


def _text(content: Content | None) -> str:
    return text_of(content) if content is not None and content.cipher == PLAIN else ""


def _too_few(step: PanelStep, answers: int, quorum: int) -> Failure:
    last = failure_of(step)
    why = "" if last is None else f"; the last that failed: {last.code}"
    return Failure(code=NO_QUORUM, message=f"{answers} members have answered, and {quorum} must{why}")
