"""A cascade: the smallest model answers first, and larger ones only if its answer passes no test of confidence.

    rung 1 ─► tests ─► accepted
                │ not passed
                ▼
    rung 2 ─► tests ─► …          the last rung is not tested

The tests of the policy are made in the order of what they cost: form, probabilities of the tokens, a rating by the
model itself, one by a validator. All that can be made must be passed, and at least one; an answer that was cut off, and
a rating that does not come or cannot be read, are not passed. A rung that gives no answer is passed over, be it that it
failed, that nobody offers it now or that the task's rules leave it out. The next rung is asked only if the task's
budget covers its worst case, and if enough time is left; where there is none, the answer of the highest rung so far is
given, and the task's end says that it has not passed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from headrace_contracts.content import PLAIN, text_of
from headrace_contracts.events import AttemptState, MemberState, ResponseFormatKind, TaskPhase, TaskState

from headrace_router.decide.agreement import certainty_of
from headrace_router.decide.attempts_step import runs
from headrace_router.decide.costs import cost
from headrace_router.decide.model import Decision, DecisionContext, Ignored
from headrace_router.decide.panel import answered, failure_of, resting, send, untouched
from headrace_router.decide.panel_messages import SELF_RATING, VALIDATOR, speaks_of_others
from headrace_router.decide.panel_step import PanelStep, answers_in
from headrace_router.decide.panel_summary import PanelVerdict
from headrace_router.decide.policy import CascadePolicy
from headrace_router.decide.retry import panel_attempts
from headrace_router.decide.routes import fail, refuse, without_candidate
from headrace_router.decide.terminal import task_of

RUNG: Final = "rung"
_LONGEST_MARGIN: Final = 1_000
"""Most milliseconds before the deadline by which a task that has an answer ends with it."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """What the tests have said of an answer so far.

    Attributes:
        passed: Whether it has passed all that were made, and at least one was.
        missing: The rating that is still to be made; None if there is none.
        least: The lowest score; None without one.
        reason: What decided, in words.
    """

    passed: bool
    missing: str | None = None
    least: float | None = None
    reason: str = ""


def advanced(step: PanelStep, plan: CascadePolicy, context: DecisionContext) -> Decision | Ignored:
    """Ask whoever is next, accept an answer, or rest until something happens."""
    members = step.panel.members
    last = len(members) - 1
    if last >= 0 and not members[last].ended and step.state.phase is TaskPhase.CONSULTING:
        member = members[last]
        if runs(member) or (member.wake_at is not None and member.wake_at > context.now):
            return resting(step, context)
        send(step, last, limit_of(step.state, plan, context), context)
        if runs(step.panel.members[last]):
            return resting(step, context)
    while True:
        answers = answers_in(step.panel)
        highest = max(answers, default=None)
        newest = next((p for p in reversed(range(len(step.panel.members))) if _is_rung(step.panel.members[p])), None)
        if highest is None or highest != newest:
            # Nothing is answered yet, or the newest rung has failed.
            return _climbed(step, plan, context)
        confidence = tested(step.state, highest, plan)
        if confidence.missing is None:
            place = step.panel.members[highest].place
            if confidence.passed or place >= len(plan.rungs) - 1:
                return accepted(step, highest, plan, confidence, context)
            return _climbed(step, plan, context, confidence)
        rating = step.add(MemberState(part=confidence.missing, place=highest, system_prompt=_prompt(confidence, plan)))
        send(step, rating, limit_of(step.state, plan, context), context)
        if runs(step.panel.members[rating]):
            return resting(step, context)


def rung(place: int) -> MemberState:
    """A rung, by its place on the ladder, before it was asked."""
    return MemberState(part=RUNG, place=place)


def limit_of(state: TaskState, plan: CascadePolicy, context: DecisionContext) -> int | None:
    """When whoever works on it now is given up at the latest: a task that has an answer ends before its deadline."""
    panel, limit = state.panel, state.deadline_at
    if panel is None or not answers_in(panel):
        return limit
    limits = [] if limit is None else [limit - min(_LONGEST_MARGIN, (limit - context.now) // 10)]
    last = panel.members[-1]
    if speaks_of_others(last) and not last.ended:
        limits.append((last.attempts[0].dispatched_at if last.attempts else context.now) + plan.rating_within)
    return min(limits, default=None)


def tested(state: TaskState, place: int, plan: CascadePolicy) -> Confidence:
    """What the tests say of the answer of a rung."""
    assert state.panel is not None, "only a task with a cascade is tested"
    member = state.panel.members[place]
    answer = member.answer
    assert answer is not None, "only answers are tested"
    if member.place >= len(plan.rungs) - 1:
        return Confidence(passed=True, reason="the last rung is not tested")
    if answer.finish_reason != "stop":
        return Confidence(passed=False, reason=f"it ended by {answer.finish_reason}")
    passed: list[str] = []
    scores: list[float] = []
    if plan.fits_schema and _wants_schema(state):
        if not answer.fits_schema:
            return Confidence(passed=False, reason="it does not fit its schema")
        passed.append("it fits its schema")
    logprobs = next((choice.logprobs for choice in answer.choices if choice.logprobs is not None), None)
    if plan.logprob is not None and logprobs is not None and logprobs.cipher == PLAIN:
        certainty = certainty_of(text_of(logprobs))
        if certainty is not None:
            scores.append(certainty)
            if certainty < plan.logprob:
                reason = f"mean probability {certainty:.2f}, below {plan.logprob:g}"
                return Confidence(passed=False, least=certainty, reason=reason)
            passed.append(f"mean probability {certainty:.2f}")
    for part, least in (
        (SELF_RATING, plan.self_rating),
        (VALIDATOR, None if plan.validator is None else plan.validator.at_least),
    ):
        if least is None:
            continue
        rating = next((one for one in state.panel.members if one.part == part and one.place == place), None)
        if rating is None:
            return Confidence(passed=False, missing=part, least=min(scores, default=None))
        if rating.score is None:
            return Confidence(passed=False, least=min(scores, default=None), reason=f"no {part}")
        scores.append(rating.score)
        if rating.score < least:
            reason = f"{part} {rating.score:g}, below {least:g}"
            return Confidence(passed=False, least=min(scores), reason=reason)
        passed.append(f"{part} {rating.score:g}")
    if not passed:
        return Confidence(passed=False, reason="no test could be made of it")
    return Confidence(passed=True, least=min(scores, default=None), reason="; ".join(passed))


def _climbed(
    step: PanelStep, plan: CascadePolicy, context: DecisionContext, confidence: Confidence | None = None
) -> Decision | Ignored:
    """Ask the next rung that has a candidate. Without one the task ends with the answer it has, waits, or fails."""
    before, now = step.state, context.now
    rungs = [member for member in step.panel.members if _is_rung(member)]
    answers = answers_in(step.panel)
    kept = max(answers, default=None)
    # Of those that were passed over some may be there now, if the task has waited meanwhile.
    resumes = before.phase is not TaskPhase.CONSULTING
    first = 0 if resumes or not rungs else rungs[-1].place + 1
    deadline = before.deadline_at
    short = kept is not None and deadline is not None and deadline - now < plan.time_to_escalate
    codes: list[str] = []
    if confidence is not None and first < len(plan.rungs) and not short:
        step.note(now, "escalated", f"{step.name(len(step.panel.members) - 1)}: {confidence.reason}")
    for place in () if short else range(first, len(plan.rungs)):
        number = step.add(replace(rung(place), logprobs=plan.logprob is not None))
        behind = send(step, number, limit_of(step.state, plan, context), context)
        if behind is not None:
            return untouched(behind, before)
        if runs(step.panel.members[number]):
            return resting(step, context)
        # Nothing was asked of it: it leaves no trace but its rejection.
        step.state = replace(step.state, panel=replace(step.panel, members=step.panel.members[:-1]))
        if step.missed is not None and step.missed.objection is not None:
            return step.decided(refuse(step.state, context, step.missed.objection))
        if step.missed is not None:
            codes.append(step.missed.failure().code)
    if kept is not None:
        none_left = f"no further rung ({', '.join(dict.fromkeys(codes)) or 'it failed'})"
        why = "too little time to escalate" if short else none_left
        tests = tested(step.state, kept, plan)
        reason = f"{why}; {tests.reason}" if tests.reason else why
        return accepted(step, kept, plan, replace(tests, passed=False, missing=None, reason=reason), context)
    missed = step.missed
    if step.may_come and missed is not None:
        if before.phase is TaskPhase.WAITING and before.wake_at is not None and before.work_topic is None:
            return Ignored("no_capacity")
        lacking = tuple(step.rejected)
        waits = without_candidate(step.state, replace(missed, rejected=lacking, may_come=True), context)
        return replace(waits, commands=(*step.commands, *waits.commands))
    failure = failure_of(step)
    if failure is None:
        assert missed is not None, "a rung that was not asked has no candidate"
        failure = missed.failure()
    return step.decided(fail(step.state, context, failure))


def accepted(
    step: PanelStep, place: int, plan: CascadePolicy | None, confidence: Confidence, context: DecisionContext
) -> Decision:
    """End the task with the answer of a rung."""
    member = step.panel.members[place]
    step.note(context.now, "accepted", f"{step.name(place)}: {confidence.reason}", member.attempts[-1])
    verdict = PanelVerdict(
        place,
        rungs=member.place + 1 if plan is None else len(plan.rungs),
        sufficient=confidence.passed,
        confidence=confidence.least,
        reason=confidence.reason,
        saved_nanodollars=0 if plan is None else _saved(step.state, member.attempts[-1], plan, context),
    )
    return answered(step, verdict, context)


def _saved(state: TaskState, answer: AttemptState, plan: CascadePolicy, context: DecisionContext) -> int:
    """What the same answer would have cost at the last rung, less what all attempts have cost, ratings included."""
    top = plan.rungs[-1]
    spent = sum(one.cost_nanodollars + one.possibly_billed_nanodollars for one in panel_attempts(state))
    return cost(context.prices, top.provider, top.model, answer.usage) - spent


def _is_rung(member: MemberState) -> bool:
    return not speaks_of_others(member)


def _wants_schema(state: TaskState) -> bool:
    options = task_of(state).options
    form = None if options is None else options.response_format
    return form is not None and form.kind is ResponseFormatKind.JSON_SCHEMA


def _prompt(confidence: Confidence, plan: CascadePolicy) -> str | None:
    rater = plan.validator
    return rater.system_prompt if confidence.missing == VALIDATOR and rater is not None else None
