"""The searches of a task before a model answers it.

    waiting ─► searching ─► running …        each search: dispatched ─► answered | failed ─► another source, or ended
                   │
                   └─► failed                nothing was found, and the policy wants no answer without sources

Searches run side by side, each an attempt like any other: chosen by the same rules, in the journal, in the trail, with
its usage. Their numbers come from the task's one row of attempts, so that results that are in the journal are never
asked for again, whoever takes the task over. A source that fails, is slow or sends what cannot be read is replaced by
the next one; whatever the others have found is used. The task goes on when all searches have ended, at the latest after
`within` of the policy. A task that searches has one place in its tenant's window of attempts, however many it has out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from headrace_contracts.content import ContentSealed, text_of
from headrace_contracts.events import (
    AttemptFinished,
    AttemptState,
    Failure,
    Outcome,
    ResearchState,
    Routing,
    Sampling,
    SearchState,
    TaskPhase,
    TaskState,
)
from headrace_contracts.topics import work_topic
from headrace_models.found_sources import LARGEST_ANSWER, FoundSource, sources_in
from headrace_models.upstream.values import Unreadable

from headrace_router.decide.attempts_step import runs
from headrace_router.decide.candidates import Candidate, Choice, NotNow, choose
from headrace_router.decide.consulting import answer, answer_choice
from headrace_router.decide.model import AttemptEnded, Decision, DecisionContext, Ignored, Undeliverable, WakeUp
from headrace_router.decide.policy import ResearchPolicy
from headrace_router.decide.queries import search_messages
from headrace_router.decide.reports import (
    ANSWERED_REMOTELY,
    believed,
    close,
    expired,
    given_up,
    timed_out,
    undelivered,
)
from headrace_router.decide.retry import backoff, search_attempts, tries
from headrace_router.decide.routes import (
    behind_others,
    dispatching,
    expire,
    fail,
    late,
    left_of_budget,
    next_attempt,
    refuse,
    role_of,
    rules_of,
    without_candidate,
)
from headrace_router.decide.search_step import SearchStep
from headrace_router.decide.sites import at_site
from headrace_router.decide.sources import merged
from headrace_router.decide.terminal import breach, has_answered, task_of

NO_SOURCES: Final = "no_sources"
"""Code of a task whose searches have found nothing."""
UNREADABLE_RESULTS: Final = "unreadable_results"
"""Code of a search whose answer is not what a search answers."""
_ENOUGH: Final = "the time for searches is over"


def open_research(state: TaskState) -> bool:
    """Whether a task has to search before a model answers it."""
    return state.research is not None and not state.research.ended


def go_on(state: TaskState, context: DecisionContext) -> Decision | Ignored:
    """What a task that has no attempt out does next: it searches, or a model answers."""
    return _advanced(SearchStep(state), context) if open_research(state) else answer(state, context)


def choice_now(state: TaskState, context: DecisionContext) -> Choice:
    """The candidates for what a waiting task would do next."""
    if not open_research(state) or (policy := _policy(state, context)) is None:
        return answer_choice(state, context)
    waiting = next((search for search in _searches(state) if not search.ended), None)
    return answer_choice(state, context) if waiting is None else _choice(state, waiting, policy, context)


def search_ended(state: TaskState, event: AttemptEnded, context: DecisionContext) -> Decision | Ignored:
    """A worker reports the end of a search."""
    said = event.attempt
    place = _place_of(state, said.number)
    if place is None or said.tenant != task_of(state).tenant:
        return Ignored("late_result")
    search = _searches(state)[place]
    last = search.attempts[-1]
    ended = believed(last, said, task_of(state))
    if search.ended or (last.outcome is not None and not (given_up(last) and ended.outcome is Outcome.ANSWERED)):
        return Ignored("late_result")
    found: list[FoundSource] = []
    if ended.outcome is Outcome.ANSWERED:
        try:
            found = _found(ended)
        except (Unreadable, ContentSealed) as error:
            failure = Failure(code=UNREADABLE_RESULTS, message=f"the results cannot be read: {error}")
            ended = replace(ended, outcome=Outcome.FAILED_RETRYABLE, failure=failure)
    end = close(last, ended, context.prices)
    step = SearchStep(state)
    if ended.failure is not None and ended.failure.code == ANSWERED_REMOTELY:
        step.state, owed = breach(step.state, last, ended.failure, context.now)
        step.commands.append(owed)
    if ended.outcome is Outcome.ANSWERED:
        _take(step, place, end, found, ended.simulated, context)
    else:
        failure = ended.failure or Failure(code=str(ended.outcome), message="the worker reported no reason")
        permanent = ended.outcome in (Outcome.FAILED_PERMANENT, Outcome.REFUSED)
        end = replace(end, outcome=Outcome.FAILED_PERMANENT) if permanent else end
        _try_again(step, place, replace(end, failure=failure), context)
    return _advanced(step, context)


def search_undeliverable(state: TaskState, event: Undeliverable, context: DecisionContext) -> Decision | Ignored:
    """The record of a search is larger than its topic takes."""
    place = _place_of(state, event.number)
    if place is None or _searches(state)[place].attempts[-1].outcome is not None:
        return Ignored("late_result")
    step = SearchStep(state)
    _try_again(step, place, undelivered(_searches(state)[place].attempts[-1], event.failure), context)
    return _advanced(step, context)


def wake_searching(state: TaskState, _: WakeUp, context: DecisionContext) -> Decision | Ignored:
    """A search has taken too long, its next attempt is due, or the time for all of them is over."""
    if late(state, context):
        return expire(state, context)
    if state.wake_at is not None and context.now < state.wake_at:
        return Ignored("early")
    step = SearchStep(state)
    for place, search in enumerate(_searches(state)):
        if not search.ended and runs(search) and search.wake_at is not None and search.wake_at <= context.now:
            _try_again(step, place, timed_out(search.attempts[-1], context.now), context)
    return _advanced(step, context)


def _advanced(step: SearchStep, context: DecisionContext) -> Decision | Ignored:
    """Dispatch what is due, go on to the answer if nothing is left to wait for, or rest until something happens."""
    state, policy = step.state, _policy(step.state, context)
    if policy is None:
        # Another policy than the one that it began under.
        return _concluded(step, None, "the role has no research any more", context)
    if step.research.until is not None and context.now >= step.research.until and state.phase is TaskPhase.SEARCHING:
        _give_up_rest(step, context)
    unavailable: Choice | None = None
    for place, search in enumerate(step.research.searches):
        due = not runs(search) and (search.wake_at is None or search.wake_at <= context.now)
        if search.ended or not due:
            continue
        choice = _choice(step.state, search, policy, context, step.not_now.get(place))
        if choice.objection is not None:
            return step.decided(refuse(step.state, context, choice.objection))
        if choice.chosen is None:
            unavailable = choice
            _no_candidate(step, place, choice, context)
            continue
        topic = work_topic(choice.chosen.place, state.lane, choice.chosen.site).name
        if step.state.phase is not TaskPhase.SEARCHING:
            behind = behind_others(step.state, choice, topic, context)
            if behind is not None:
                return behind
        _dispatch(step, place, choice, choice.chosen, topic, policy, context)
    if any(not search.ended for search in step.research.searches):
        return _resting(step, context)
    if unavailable is not None and unavailable.may_come and _must_wait(step, policy):
        return _waiting(step, state, unavailable, context)
    return _concluded(step, policy, "", context, unavailable)


def _dispatch(
    step: SearchStep,
    place: int,
    choice: Choice,
    chosen: Candidate,
    topic: str,
    policy: ResearchPolicy,
    context: DecisionContext,
) -> None:
    step.reject(choice.rejected, context.now)
    state, now = step.state, context.now
    search = step.research.searches[place]
    # A search writes no tokens, and runs no model of ours.
    attempt = replace(next_attempt(state, chosen, now), max_output_tokens=None, settings=None)
    begins = state.phase is not TaskPhase.SEARCHING
    step.state = replace(
        state,
        phase=TaskPhase.SEARCHING,
        leader_task_id=None,
        work_topic=topic if begins else state.work_topic,
        privacy=choice.privacy,
        research=replace(step.research, until=now + policy.within if begins else step.research.until),
    )
    step.change(place, replace(search, attempts=(*search.attempts, attempt), wake_at=now + policy.attempt_timeout))
    step.note(now, "dispatched", f"{step.name(place)}: {choice.reason}", attempt)
    step.commands += dispatching(state, attempt, topic)


def _take(
    step: SearchStep, place: int, end: AttemptState, found: list[FoundSource], simulated: bool, context: DecisionContext
) -> None:
    """Keep what a search has found."""
    policy = _policy(step.state, context)
    share = (ResearchPolicy.model_fields["most_bytes"].default if policy is None else policy.most_bytes) // len(
        step.research.searches
    )
    search = step.research.searches[place]
    kept = merged(step.research.sources, found, share)
    step.change(
        place,
        replace(search, attempts=(*search.attempts[:-1], end), wake_at=None, ended=True, found=len(found)),
    )
    research = replace(step.research, sources=kept, simulated=step.research.simulated or simulated)
    step.state = replace(step.state, research=research)
    step.note(context.now, "searched", f"{step.name(place)}: {len(found)} sources", end)


def _try_again(step: SearchStep, place: int, end: AttemptState, context: DecisionContext) -> None:
    """After an attempt at a search that gave nothing: another source at once, the same one after a delay, or its end.

    A source that has failed is not asked again while another one can be.
    """
    policy, retry, now = _policy(step.state, context), context.policy.retry, context.now
    search = step.research.searches[place]
    search = replace(search, attempts=(*search.attempts[:-1], end), wake_at=None)
    step.change(place, search)
    code = "" if end.failure is None else end.failure.code
    if policy is None or len(search.attempts) >= retry.attempts:
        step.change(place, replace(search, ended=True))
        step.note(now, "searched", f"{step.name(place)}: nothing, {code}", end)
        return
    last = NotNow(f"{end.provider}/{end.model}", "it has just failed")
    if _choice(step.state, search, policy, context, last).chosen is not None:
        step.not_now[place] = last
        step.note(now, "fell_back", f"{step.name(place)}: {code}", end)
        return
    tried = max(1, tries(search.attempts, end.provider, end.model))
    wait = backoff(task_of(step.state).task_id, end.number, tried, retry)
    wait = max(wait, 0 if end.failure is None else end.failure.retry_after_ms or 0)
    until = step.research.until
    if end.outcome is Outcome.FAILED_PERMANENT or tried >= retry.attempts_per_model:
        # Whoever else there may be is not there now.
        return
    if until is not None and now + wait >= until:
        step.change(place, replace(search, ended=True))
        step.note(now, "searched", f"{step.name(place)}: nothing, {code}", end)
        return
    step.change(place, replace(search, wake_at=now + wait))
    step.note(now, "retried", f"{step.name(place)}: {code}; retry in {wait} ms", end)


def _no_candidate(step: SearchStep, place: int, choice: Choice, context: DecisionContext) -> None:
    """End a search that no source can run now."""
    search = step.research.searches[place]
    step.reject(choice.rejected, context.now)
    step.change(place, replace(search, wake_at=None, ended=True))


def _give_up_rest(step: SearchStep, context: DecisionContext) -> None:
    for place, search in enumerate(step.research.searches):
        if search.ended:
            continue
        attempts = search.attempts
        if runs(search):
            attempts = (*attempts[:-1], expired(attempts[-1], _ENOUGH))
        step.change(place, replace(search, attempts=attempts, wake_at=None, ended=True))
        step.note(context.now, "searched", f"{step.name(place)}: nothing, {_ENOUGH}")


def _resting(step: SearchStep, context: DecisionContext) -> Decision:
    """Until the next search has to be looked at."""
    times = [search.wake_at for search in step.research.searches if not search.ended]
    due = [at for at in (*times, step.research.until, step.state.deadline_at) if at is not None]
    state = replace(step.state, wake_at=min(due, default=None))
    return Decision(state, tuple(step.commands), tuple(step.rejected))


def _waiting(step: SearchStep, before: TaskState, choice: Choice, context: DecisionContext) -> Decision | Ignored:
    """No source is there, and the task needs one: it waits, as for a model."""
    if before.phase is TaskPhase.WAITING and before.wake_at is not None and before.work_topic is None:
        return Ignored("no_capacity")
    # They are not over: whoever comes may still run them.
    reopened = tuple(
        search if has_answered(search) or len(search.attempts) >= context.policy.retry.attempts
        else replace(search, ended=False)
        for search in step.research.searches
    )  # fmt: skip
    state = replace(step.state, research=replace(step.research, searches=reopened, until=None))
    return step.decided(without_candidate(state, replace(choice, rejected=()), context))


def _concluded(
    step: SearchStep, policy: ResearchPolicy | None, why: str, context: DecisionContext, missed: Choice | None = None
) -> Decision:
    """All is found that will be: a model answers, or the task fails."""
    research, state = step.research, step.state
    answered = sum(map(has_answered, research.searches))
    words = f"{len(research.sources)} sources; {answered} of {len(research.searches)} searches answered"
    step.note(context.now, "researched", f"{words}{f'; {why}' if why else ''}")
    if not research.sources and policy is not None and policy.without_sources == "fail":
        return step.decided(fail(step.state, context, _nothing_found(research, missed)))
    waits = state.phase is TaskPhase.WAITING
    # With the phase of one that has attempts out: a task that waits may be left as it is, and this one has news.
    state = replace(
        step.state,
        phase=TaskPhase.SEARCHING,
        wake_at=None,
        work_topic=None if waits else step.state.work_topic,
        research=replace(research, ended=True),
    )
    return step.decided(answer(state, context))


def _nothing_found(research: ResearchState, missed: Choice | None) -> Failure:
    """Why a task has no sources: the rule that kept it from searching, or what became of its searches."""
    ends = [search.attempts[-1] for search in research.searches if search.attempts]
    if not ends and missed is not None:
        return missed.failure()
    codes = [end.failure.code if end.failure is not None else "nothing found" for end in ends]
    told = ", ".join(f"{code} ({codes.count(code)})" for code in dict.fromkeys(codes))
    return Failure(code=NO_SOURCES, message=f"the searches found nothing: {told}")


def _choice(
    state: TaskState,
    search: SearchState,
    policy: ResearchPolicy,
    context: DecisionContext,
    not_now: NotNow | None = None,
) -> Choice:
    """The source for a search, by the rules for the models of a task; but what reaches the web counts as the web."""
    task = task_of(state)
    rules = replace(rules_of(task, context, floor=state.privacy), searching=True)
    asked = replace(
        task, model=None, messages=search_messages(search), options=None, sampling=Sampling(),
        budget_nanodollars=left_of_budget(state), routing=_of_sources(task.routing),
    )  # fmt: skip
    choice = choose(asked, policy.as_role, None, rules, search.attempts, context, not_now)
    return at_site(choice, replace(state, attempts=search.attempts), context)


def _of_sources(routing: Routing | None) -> Routing | None:
    """What a task asks of the choice among models, as far as it concerns search engines: which models answer, how fast
    and for how much, says nothing of who searches."""
    if routing is None:
        return None
    return Routing(
        ignore=routing.ignore, deny_data_collection=routing.deny_data_collection, zero_retention=routing.zero_retention
    )


def _policy(state: TaskState, context: DecisionContext) -> ResearchPolicy | None:
    role = role_of(task_of(state), context)
    return None if role is None else role.research


def _searches(state: TaskState) -> tuple[SearchState, ...]:
    return () if state.research is None else state.research.searches


def _place_of(state: TaskState, number: int) -> int | None:
    """The search whose newest attempt has this number."""
    places = [
        place
        for place, search in enumerate(_searches(state))
        if search.attempts and search.attempts[-1].number == number
    ]
    return places[0] if places else None


def _must_wait(step: SearchStep, policy: ResearchPolicy) -> bool:
    """Whether a task without sources waits for one to come: as long as none has been asked."""
    tried = any(attempt.asked for attempt in search_attempts(step.state))
    return not tried and policy.without_sources == "fail"


def _found(ended: AttemptFinished) -> list[FoundSource]:
    content = ended.content
    if content is None or len(content.data) > LARGEST_ANSWER:
        raise Unreadable("there is none, or more than a search answers")
    return sources_in(text_of(content))
