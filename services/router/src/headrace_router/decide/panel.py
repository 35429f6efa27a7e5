"""Several models that work on one task: what an ensemble and a cascade have in common.

    waiting ─► consulting ─► finished        each of them: dispatched ─► answered | failed ─► another model, or ended

Each of their attempts is one like any other: chosen by the same rules, in the journal, in the trail, with its usage,
and counted against the task's budget with its worst case while it is out. Their numbers come from the task's one row of
attempts. What any of them has answered is in the journal, so that whoever takes the task over asks for none of it
again. A task of several models has one place in its tenant's window of attempts, however many it has out, and its
caller is sent no text before all is decided: pieces of an answer that is then not the answer would have to be taken
back.

A refusal by the safety system of any of them, be it one that only judges, is the task's answer: nobody else is asked
because of it, and who is being asked is stopped.

Who is asked when, and what of it is the answer, is decided in `decide.ensemble` and `decide.cascade`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from headrace_contracts.events import (
    AttemptFinished,
    AttemptState,
    Failure,
    MemberAnswer,
    MemberState,
    Outcome,
    Place,
    Rejection,
    ServedFrom,
    TaskPhase,
    TaskState,
    TaskStatus,
)
from headrace_contracts.topics import work_topic
from headrace_models.capabilities import LOGPROBS

from headrace_router.decide.candidates import Candidate, Choice, choose, spent
from headrace_router.decide.fleet import tagged
from headrace_router.decide.model import AttemptEnded, Decision, DecisionContext, Ignored
from headrace_router.decide.panel_messages import RATERS, SELF_RATING, VALIDATOR, rating_in, speaks_of_others, told
from headrace_router.decide.panel_step import PanelStep, running
from headrace_router.decide.panel_summary import CASCADE, PanelVerdict
from headrace_router.decide.policy import ModelRef, RolePolicy
from headrace_router.decide.reports import ANSWERED_REMOTELY, believed, came_too_late, close, given_up, in_vain
from headrace_router.decide.retry import all_attempts, backoff, closed, tries
from headrace_router.decide.routes import behind_others, dispatching, next_attempt, role_of, rules_of
from headrace_router.decide.sites import at_site
from headrace_router.decide.sources import cited, wants_json, with_sources
from headrace_router.decide.terminal import breach, finish, task_of, with_lost

NO_OTHER_NODE: Final = "no_other_node"
"""Code of a model that equal members are asked for at each of its nodes already."""


def models_of(member: MemberState, state: TaskState, role: RolePolicy | None) -> tuple[ModelRef, ...]:
    """The models for one of them, the best first, as the policy has it now."""
    if role is None or state.panel is None:
        return ()
    cascade, ensemble = role.cascade, role.ensemble
    if state.panel.kind == CASCADE and cascade is not None:
        if member.part == SELF_RATING:
            rated = state.panel.members[member.place].attempts[-1]
            return (ModelRef(provider=rated.provider, model=rated.model),)
        if member.part == VALIDATOR:
            return () if cascade.validator is None else cascade.validator.models
        return cascade.rungs[member.place : member.place + 1]
    if state.panel.kind == CASCADE or ensemble is None:
        return ()
    if speaks_of_others(member):
        return ensemble.judge
    return ensemble.members[member.place].models if member.place < len(ensemble.members) else ()


def choice_for(
    state: TaskState, member: MemberState, context: DecisionContext, without: Collection[str] = ()
) -> Choice:
    """The model for one of them, by the rules for all attempts of the task; but for those named (`provider/model`)."""
    task = task_of(state)
    role, rules = role_of(task, context), rules_of(task, context, floor=state.privacy)
    refs = [ref for ref in models_of(member, state, role) if f"{ref.provider}/{ref.model}" not in without]
    if role is None or state.panel is None or not refs:
        return Choice(None, (), rules.privacy, objection=rules.objection)
    prompt, messages = state.system_prompt, task.messages
    if state.research is not None:
        prompt, messages = with_sources(task, prompt, state.research.sources)
    first, asked = told(task, state.panel, member, prompt, messages)
    own = _alike(state, member)
    budget = task.budget_nanodollars
    asked = replace(
        asked, model=None,
        # What its own attempts have cost is taken off by `choose`.
        budget_nanodollars=None if budget is None else budget - spent(all_attempts(state)) + spent(own),
    )  # fmt: skip
    as_role = role.model_copy(update={"models": tuple(refs), "ladder": (), "strategy": "listed"})
    return at_site(choose(asked, as_role, first, rules, own, context), replace(state, attempts=own), context)


def _alike(state: TaskState, member: MemberState) -> tuple[AttemptState, ...]:
    """The attempts that count as its own: a rung may be asked again after others."""
    if state.panel is None or state.panel.kind != CASCADE or speaks_of_others(member):
        return member.attempts
    rungs = [one for one in state.panel.members if not speaks_of_others(one) and one.place == member.place]
    return tuple([attempt for one in rungs for attempt in one.attempts])


def send(step: PanelStep, place: int, limit: int | None, context: DecisionContext) -> Decision | Ignored | None:
    """Dispatch an attempt of one of them, or end it if it has no candidate now.

    Returns the wait for the task's turn, if its tenant has too much out; None otherwise.

    Args:
        limit: When the attempt is given up at the latest.
    """
    member = step.panel.members[place]
    without = step.failed_now.get(place, frozenset())
    choice = choice_for(step.state, member, context, without)
    while choice.chosen is not None and _is_everywhere(step, choice.chosen, choice):
        chosen = choice.chosen
        without |= {chosen.name}
        nowhere = Rejection(
            provider=chosen.provider, model=chosen.model, code=NO_OTHER_NODE,
            detail="equal members are asked for it at each of its nodes",
        )  # fmt: skip
        left = choice_for(step.state, member, context, without)
        choice = replace(left, rejected=(*choice.rejected, *left.rejected, nowhere))
    step.reject(choice.rejected, context.now)
    if choice.chosen is None:
        step.missed, step.may_come = choice, step.may_come or choice.may_come
        step.change(place, replace(member, wake_at=None, ended=True))
        return None
    topic = work_topic(choice.chosen.place, step.state.lane, choice.chosen.site).name
    if step.state.phase is not TaskPhase.CONSULTING:
        behind = behind_others(step.state, choice, topic, context)
        if behind is not None:
            return behind
    _dispatch(step, place, choice, choice.chosen, topic, limit, context)
    return None


def _is_everywhere(step: PanelStep, chosen: Candidate, choice: Choice) -> bool:
    """Whether equal members run on each node of ours that could run this one. A cloud provider is no single node."""
    if chosen.place is not Place.LOCAL:
        return False
    where = chosen.provider, chosen.model, chosen.site
    equal = sum((one.provider, one.model, one.site) == where for one in running(step.panel))
    return equal >= len({node.node for node in choice.nodes if node.site == chosen.site})


def _dispatch(
    step: PanelStep,
    place: int,
    choice: Choice,
    chosen: Candidate,
    topic: str,
    limit: int | None,
    context: DecisionContext,
) -> None:
    state, now = step.state, context.now
    member = step.panel.members[place]
    attempt = next_attempt(state, chosen, now)
    due = [now + context.policy.attempts.timeout.of(state.lane), limit, state.deadline_at]
    step.state = replace(
        state,
        phase=TaskPhase.CONSULTING,
        leader_task_id=None,
        work_topic=state.work_topic if state.phase is TaskPhase.CONSULTING else topic,
        privacy=choice.privacy,
    )
    step.change(
        place,
        replace(
            member,
            attempts=(*member.attempts, attempt),
            wake_at=min(at for at in due if at is not None),
            logprobs=member.logprobs and _gives_logprobs(choice, chosen, context),
        ),
    )
    step.note(now, "dispatched", f"{step.name(place)}: {choice.reason}", attempt)
    step.commands += dispatching(state, attempt, topic)


def _gives_logprobs(choice: Choice, chosen: Candidate, context: DecisionContext) -> bool:
    """Whether all nodes that may run it say that the model gives probabilities: others may fail for being asked."""
    if context.policy.incapable(chosen.provider, chosen.model, frozenset({LOGPROBS})):
        return False
    name = tagged(chosen.model, chosen.place)
    told_of = [m.capabilities for node in choice.nodes for m in node.models if tagged(m.name, chosen.place) == name]
    return all(told is not None and LOGPROBS in told for told in told_of)


def heard(
    step: PanelStep, event: AttemptEnded, limit: int | None, context: DecisionContext
) -> Decision | Ignored | None:
    """Take the report of an attempt into the step.

    Returns the end of the task if it was refused, what is to become of a report that changes nothing else, and None if
    what comes next is to be decided.

    Args:
        limit: When a further attempt is given up at the latest.
    """
    state, said = step.state, event.attempt
    task = task_of(state)
    place = next(
        (p for p, one in enumerate(step.panel.members) if any(a.number == said.number for a in one.attempts)), None
    )
    if place is None or said.tenant != task.tenant:
        return Ignored("late_result")
    member = step.panel.members[place]
    sent = next(attempt for attempt in member.attempts if attempt.number == said.number)
    ended = believed(sent, said, task)
    end = close(sent, ended, context.prices)
    has_left = ended.failure is not None and ended.failure.code == ANSWERED_REMOTELY
    if sent.outcome is not None:
        if has_left and not (sent.failure is not None and sent.failure.code == ANSWERED_REMOTELY):
            # An attempt that asked nobody was no try, and does not become one.
            _close(step, place, replace(end, outcome=Outcome.FAILED_PERMANENT, asked=sent.asked), context)
            _breached(step, sent, ended, context)
            return step.decided(Decision(step.state))
        if not given_up(sent) or ended.outcome not in (Outcome.ANSWERED, Outcome.REFUSED):
            return Ignored("late_result")
        if ended.outcome is Outcome.ANSWERED and (member.ended or member.attempts[-1].number != said.number):
            return Ignored("late_result")
    step.state = with_lost(step.state, sent, ended.lost, context.now)
    if has_left:
        _breached(step, sent, ended, context)
    if ended.outcome is Outcome.REFUSED:
        return _refused(step, place, end, ended, context)
    if ended.outcome is Outcome.ANSWERED:
        _keep(step, place, end, ended, context)
    else:
        failure = ended.failure or Failure(code=str(ended.outcome), message="the worker reported no reason")
        hopeless = ended.outcome is Outcome.FAILED_PERMANENT or came_too_late(end)
        outcome = Outcome.FAILED_PERMANENT if hopeless else end.outcome
        failed(step, place, replace(end, outcome=outcome, failure=failure), limit, context)
    return None


def _breached(step: PanelStep, sent: AttemptState, ended: AttemptFinished, context: DecisionContext) -> None:
    assert ended.failure is not None
    step.state, owed = breach(step.state, sent, ended.failure, context.now)
    step.commands.append(owed)


def _keep(step: PanelStep, place: int, end: AttemptState, ended: AttemptFinished, context: DecisionContext) -> None:
    _close(step, place, end, context)
    member = replace(step.panel.members[place], wake_at=None, ended=True)
    if member.part in RATERS:
        score = rating_in(ended.content)
        step.change(place, replace(member, score=score))
        step.note(context.now, "rated", f"{step.name(place)}: {'not readable' if score is None else score}", end)
        return
    answer = MemberAnswer(
        content=ended.content,
        finish_reason=ended.finish_reason,
        choices=ended.choices,
        model=ended.model,
        node=ended.node,
        simulated=ended.simulated,
        model_ms=ended.model_ms,
        fits_schema=ended.fits_schema,
    )
    step.change(place, replace(member, answer=answer))
    word = "judged" if speaks_of_others(member) else "answered"
    step.note(context.now, word, f"{step.name(place)}: {ended.node or end.provider}", end)


def _refused(
    step: PanelStep, place: int, end: AttemptState, ended: AttemptFinished, context: DecisionContext
) -> Decision:
    _close(step, place, end, context)
    member = step.panel.members[place]
    step.change(place, replace(member, wake_at=None, ended=True))
    step.stop()
    return step.decided(
        finish(
            step.state,
            context,
            TaskStatus.REFUSED,
            failure=ended.failure,
            answer=ended.content,
            finish_reason=ended.finish_reason,
            choices=ended.choices,
            provider=ended.provider,
            model=ended.model,
            node=ended.node,
            simulated=ended.simulated or _found_by_simulator(step.state),
            served_from=ServedFrom.ATTEMPT,
            model_ms=ended.model_ms,
        )
    )


def failed(step: PanelStep, place: int, end: AttemptState, limit: int | None, context: DecisionContext) -> None:
    """After an attempt that gave no answer: another model at once, the same one after a delay, or the member's end."""
    retry, now = context.policy.retry, context.now
    _close(step, place, end, context)
    member = replace(step.panel.members[place], wake_at=None)
    step.change(place, member)
    code = "" if end.failure is None else end.failure.code
    name = f"{end.provider}/{end.model}"
    if (limit is None or now < limit) and tries(member.attempts) < retry.attempts:
        without = frozenset({name})
        if choice_for(step.state, member, context, without).chosen is not None:
            step.failed_now[place] = without
            step.note(now, "fell_back", f"{step.name(place)}: {code}", end)
            return
        tried = tries(member.attempts, end.provider, end.model)
        before = tried if end.asked else end.number - tries(member.attempts)
        wait = backoff(task_of(step.state).task_id, end.number, max(1, before), retry)
        wait = max(wait, 0 if end.failure is None else end.failure.retry_after_ms or 0)
        again = end.outcome is not Outcome.FAILED_PERMANENT and tried < retry.attempts_per_model and not in_vain(end)
        if again and (limit is None or now + wait < limit):
            step.change(place, replace(member, wake_at=now + wait))
            if end.asked:
                step.note(now, "retried", f"{step.name(place)}: {code}; retry in {wait} ms", end)
            return
    step.change(place, replace(member, ended=True))
    step.note(now, "gave_up", f"{step.name(place)}: {code}", end)


def _close(step: PanelStep, place: int, end: AttemptState, context: DecisionContext) -> None:
    """Record the end of an attempt. Of those that asked nobody only the newest are held."""
    member = step.panel.members[place]
    after = closed(replace(step.state, attempts=member.attempts), end, context.now, context.policy.retry)
    step.state = replace(step.state, trail=after.trail)
    step.change(place, replace(member, attempts=after.attempts))


def answered(step: PanelStep, verdict: PanelVerdict, context: DecisionContext) -> Decision:
    """End the task with one of the answers."""
    state, task = step.state, task_of(step.state)
    member = step.panel.members[verdict.place]
    answer, last = member.answer, member.attempts[-1]
    assert answer is not None, "a verdict is about an answer"
    choices = answer.choices
    if member.logprobs and (task.options is None or task.options.top_logprobs is None):
        choices = tuple(replace(choice, logprobs=None) for choice in choices)
    if state.research is not None:
        choices = cited(answer.content, choices, answer.finish_reason, state.research.sources, as_json=wants_json(task))
    return step.decided(
        finish(
            state,
            context,
            TaskStatus.SUCCEEDED,
            answer=answer.content,
            finish_reason=answer.finish_reason,
            choices=choices,
            provider=last.provider,
            model=answer.model,
            node=answer.node,
            simulated=_found_by_simulator(state),
            served_from=ServedFrom.ATTEMPT,
            model_ms=answer.model_ms,
            verdict=verdict,
        )
    )


def _found_by_simulator(state: TaskState) -> bool:
    """Whether a simulator has a part in the answer."""
    members = () if state.panel is None else state.panel.members
    said = any(member.answer is not None and member.answer.simulated for member in members)
    return said or (state.research is not None and state.research.simulated)


def resting(step: PanelStep, context: DecisionContext) -> Decision:
    """Until the next of them has to be looked at."""
    times = [member.wake_at for member in step.panel.members if not member.ended]
    due = [at for at in (*times, step.panel.until, step.state.deadline_at) if at is not None]
    state = replace(step.state, wake_at=min(due, default=None))
    return Decision(state, tuple(step.commands), tuple(step.rejected))


def untouched(waits: Decision | Ignored, before: TaskState) -> Decision | Ignored:
    """The wait for the task's turn, as if nobody had been looked for yet."""
    return waits if isinstance(waits, Ignored) else replace(waits, state=replace(waits.state, panel=before.panel))


def failure_of(step: PanelStep) -> Failure | None:
    """Why the last of them that failed did; None if none has."""
    ends = [one.attempts[-1] for one in step.panel.members if one.attempts and not speaks_of_others(one)]
    told_of = [end for end in ends if end.failure is not None]
    return max(told_of, key=lambda end: end.number).failure if told_of else None
