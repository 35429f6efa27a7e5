"""What becomes of a task next: an attempt, a retry after a delay, the next candidate, a wait, or its end."""

from __future__ import annotations

from dataclasses import replace

from headrace_contracts.events import (
    AttemptState,
    Command,
    CommandKind,
    Failure,
    Outcome,
    Place,
    Privacy,
    Rejection,
    TaskPhase,
    TaskState,
    TaskStatus,
    TaskSubmitted,
    TrailStep,
)
from headrace_contracts.floors import Objection
from headrace_contracts.frozen import changed
from headrace_contracts.ids import attempt_id
from headrace_contracts.topics import AUDIT_RECORDED, TASKS_REPLIES, cancelled_topic, work_topic

from headrace_router.decide.attempt_windows import NOTHING_OUT
from headrace_router.decide.candidates import Candidate, Choice, NotNow, choose, spent
from headrace_router.decide.kinds import MOST_KINDS
from headrace_router.decide.model import Decision, DecisionContext, Ignored
from headrace_router.decide.policy import Policy, RolePolicy
from headrace_router.decide.raising import session_floor
from headrace_router.decide.reports import SITE_SILENT, came_too_late, in_vain
from headrace_router.decide.retry import backoff, closed, next_number, search_attempts, tries
from headrace_router.decide.rules import TaskRules, rules_for
from headrace_router.decide.sites import at_site, has_place
from headrace_router.decide.sources import with_sources
from headrace_router.decide.tenant_quota import size_of
from headrace_router.decide.terminal import finish, rejected_steps, task_of

BEHIND_OTHERS = "behind_others"
"""Word of a trail for a task that waits for other attempts of its tenant to end."""


def after_failure(state: TaskState, failure: Failure, retryable: bool, context: DecisionContext) -> Decision | Ignored:
    """Retry the same model after a delay, try the next candidate, or finish.

    A model that was asked in vain is not asked again while another candidate can be: two time-outs in a row would use
    up the deadline, and the next candidate would never be asked.
    """
    retry, now = context.policy.retry, context.now
    last = state.attempts[-1]
    if late(state, context):
        return expire(state, context)
    if not last.asked and retryable:
        return _after_nobody_was_asked(state, failure, context)
    if tries(state.attempts) >= retry.attempts:
        return fail(state, context, failure)
    tried = tries(state.attempts, last.provider, last.model)
    if not retryable or tried >= retry.attempts_per_model:
        return route(_fallen_back(state, failure, now), context)
    asked = failure.retry_after_ms or 0
    wait = max(backoff(task_of(state).task_id, last.number, tried, retry), asked)
    in_time = state.deadline_at is None or now + wait < state.deadline_at
    rejected: tuple[Rejection, ...] = ()
    passed_over = _passed_over(state, failure, context)
    if passed_over is not None or not in_time:
        reason = passed_over or "its next attempt would come after the deadline"
        choice = choose_for(state, context, NotNow(f"{last.provider}/{last.model}", reason))
        if choice.objection is not None:
            return refuse(state, context, choice.objection)
        if choice.chosen is not None:
            return _send(_fallen_back(state, failure, now), choice, choice.chosen, context)
        if not in_time:
            return fail(state, context, failure, choice.rejected)
        rejected = choice.rejected
    step = TrailStep(
        at=now, step="retried", provider=last.provider, model=last.model,
        reason=f"{failure.code}; retry in {wait} ms",
    )  # fmt: skip
    return Decision(
        replace(state, phase=TaskPhase.BACKING_OFF, wake_at=now + wait, trail=(*state.trail, step)),
        rejected=rejected,
    )


def _after_nobody_was_asked(state: TaskState, failure: Failure, context: DecisionContext) -> Decision | Ignored:
    """The attempt was no try: a wait for capacity, the same model again after a delay, at another site
    without one, or another candidate.

    Without the delay, a worker that goes on saying so while its node counts as usable would be asked in a loop.
    """
    choice = choose_for(state, context)
    chosen = choice.chosen
    before = {(one.provider, one.model, one.site) for one in state.attempts if not one.asked}
    if chosen is None or (chosen.provider, chosen.model, chosen.site) not in before:
        return route(state, context)
    return Decision(_held_back(state, failure.retry_after_ms or 0, context), rejected=choice.rejected)


def _held_back(state: TaskState, least_wait: int, context: DecisionContext) -> TaskState:
    """The state in which a task rests before its next attempt, after one that asked nobody. It lasts at most until the
    deadline: whoever has nothing but such attempts has not been tried."""
    number = state.attempts[-1].number
    in_vain = max(1, number - max((one.number for one in search_attempts(state)), default=0) - tries(state.attempts))
    wait = max(backoff(task_of(state).task_id, number, in_vain, context.policy.retry), least_wait)
    until = context.now + wait
    return replace(
        state,
        phase=TaskPhase.BACKING_OFF,
        wake_at=until if state.deadline_at is None else min(until, state.deadline_at),
    )


def after_late_word(state: TaskState, context: DecisionContext) -> Decision:
    """The report of an abandoned attempt says that nobody was asked: it was no try. A task that waits because its tries
    seemed used up may now have a candidate."""
    lacks_candidate = state.phase is TaskPhase.WAITING and state.work_topic is None
    return Decision(_held_back(state, 0, context) if lacks_candidate else state)


def _passed_over(state: TaskState, failure: Failure, context: DecisionContext) -> str | None:
    """Why another candidate is better than the same model again; None if there is no reason."""
    last, policy = state.attempts[-1], context.policy
    if (failure.retry_after_ms or 0) > policy.retry.patience:
        return "it asked for a longer wait than the policy allows"
    if in_vain(last):
        return f"it was asked in vain ({failure.code})"
    if 2 * (context.now - last.dispatched_at) >= policy.attempts.timeout.of(state.lane):
        return "it took more than half of an attempt's time to fail"
    return None


def _fallen_back(state: TaskState, failure: Failure, now: int) -> TaskState:
    last = state.attempts[-1]
    step = TrailStep(at=now, step="fell_back", provider=last.provider, model=last.model, reason=failure.code)
    return replace(state, trail=(*state.trail, step))


def route(state: TaskState, context: DecisionContext) -> Decision | Ignored:
    """Dispatch to the best available candidate, wait for one or for the task's turn, or finish."""
    name = role_name(task_of(state), context.policy)
    if name is not None and name not in context.policy.roles:
        # The policy has changed since the task came.
        return fail(state, context, unknown_role(name))
    choice = choose_for(state, context)
    if choice.objection is not None:
        return refuse(state, context, choice.objection)
    if choice.chosen is not None:
        return _send(state, choice, choice.chosen, context)
    if not choice.may_come:
        last = state.attempts[-1] if state.attempts else None
        if last is not None and came_too_late(last):
            steps = rejected_steps(state, choice.rejected, context.now)
            return expire(replace(state, trail=(*state.trail, *steps)), context)
        told = None if last is None else last.failure
        return fail(state, context, told or choice.failure(), choice.rejected)
    if state.phase is TaskPhase.WAITING and state.wake_at is not None and state.work_topic is None:
        return Ignored("no_capacity")
    return without_candidate(state, choice, context)


def without_candidate(state: TaskState, choice: Choice, context: DecisionContext) -> Decision:
    """The wait for a candidate that is available."""
    failure = choice.failure()
    waiting = _waiting(state, f"{failure.code}: {failure.message}", context.now)
    return _told(replace(waiting, work_topic=None), choice, context)


def _told(waiting: TaskState, choice: Choice, context: DecisionContext) -> Decision:
    """The wait, and a word about it to whoever waits for the answer."""
    if waiting.reply_partition is None:
        return Decision(waiting, rejected=choice.rejected)
    name = f"{task_of(waiting).task_id}/waiting/{context.now}/{len(waiting.trail)}"
    word = Command(kind=CommandKind.REPLY, event_id=name, topic=TASKS_REPLIES.name)
    return Decision(waiting, (word,), choice.rejected)


def _waiting(state: TaskState, reason: str, now: int) -> TaskState:
    step = TrailStep(at=now, step="waited", reason=reason)
    # Each wait for the same is told once, the newest: there may be any number of them before the deadline.
    trail = [one for one in state.trail if (one.step, one.reason) != (step.step, step.reason)]
    return replace(state, phase=TaskPhase.WAITING, wake_at=state.deadline_at, leader_task_id=None, trail=(*trail, step))


def _send(state: TaskState, choice: Choice, chosen: Candidate, context: DecisionContext) -> Decision | Ignored:
    """Dispatch to a candidate, or wait for the task's turn if its tenant has too much out.

    No other candidate is asked instead: it would cost money, or quality, that nobody has agreed to for being fast.
    """
    topic = work_topic(chosen.place, state.lane, chosen.site).name
    behind = behind_others(state, choice, topic, context)
    return _dispatch(state, choice, chosen, topic, context) if behind is None else behind


def behind_others(state: TaskState, choice: Choice, topic: str, context: DecisionContext) -> Decision | Ignored | None:
    """The wait for the task's turn, if its tenant has too much out in a topic; None if it may be dispatched."""
    task = task_of(state)
    out = context.peers.out(task.tenant, topic)
    if out is NOTHING_OUT or has_place(state, topic) or out.lets_go(task.task_id, size_of(task), context.window):
        return None
    if state.phase is TaskPhase.WAITING and state.work_topic == topic:
        return Ignored(BEHIND_OTHERS)
    reason = f"{BEHIND_OTHERS}: its turn comes when other attempts of the tenant end that are in {topic}"
    return _told(replace(_waiting(state, reason, context.now), work_topic=topic), choice, context)


def take_back(state: TaskState, context: DecisionContext) -> Decision | Ignored:
    """Send the task of a running attempt to another site, if no worker of the attempt's own is there to begin it.

    Whether a worker has begun it nevertheless is not known: so its workers are told to stop it, should they come back,
    and of two answers the newer attempt's counts. It was no try. Only our own nodes are asked instead: to wait for a
    site to come back is better than what nobody has agreed to, a cost or another quality.
    """
    last = state.attempts[-1]
    if last.place is not Place.LOCAL or context.fleet.hears(last.site, context.now):
        return Ignored("early")
    failure = Failure(code=SITE_SILENT, message=f"no worker of {_site(last)} has reported for so long that it is gone")
    end = replace(last, outcome=Outcome.EXPIRED, failure=failure, asked=False)
    back = closed(state, end, context.now, context.policy.retry)
    choice = choose_for(back, context)
    if choice.chosen is None or choice.chosen.place is not Place.LOCAL:
        return Ignored("early")
    sent = _send(back, choice, choice.chosen, context)
    assert isinstance(sent, Decision), "only a waiting task can go on waiting"
    stop = Command(
        kind=CommandKind.CANCEL,
        event_id=f"{attempt_id(task_of(state).task_id, last.number)}/taken_back",
        topic=cancelled_topic(last.place).name,
        attempt=last.number,
    )
    return replace(sent, commands=(stop, *sent.commands))


def _site(attempt: AttemptState) -> str:
    return f"site {attempt.site}" if attempt.site else "those without a site"


def next_attempt(state: TaskState, chosen: Candidate, now: int) -> AttemptState:
    """The task's next attempt, sent now."""
    return AttemptState(
        number=next_number(state),
        provider=chosen.provider,
        model=chosen.model,
        place=chosen.place,
        site=chosen.site,
        dispatched_at=now,
        max_output_tokens=chosen.max_output_tokens,
        worst_case_nanodollars=chosen.worst_case_nanodollars,
        settings=chosen.settings,
    )


def dispatching(state: TaskState, attempt: AttemptState, topic: str) -> list[Command]:
    """What is written for an attempt that is sent to a topic of work."""
    name, number = attempt_id(task_of(state).task_id, attempt.number), attempt.number
    return [
        Command(kind=CommandKind.DISPATCH, event_id=name, topic=topic, attempt=number),
        Command(kind=CommandKind.AUDIT, event_id=f"{name}/audit", topic=AUDIT_RECORDED.name, attempt=number),
    ]


def _dispatch(state: TaskState, choice: Choice, chosen: Candidate, topic: str, context: DecisionContext) -> Decision:
    task, now = task_of(state), context.now
    attempt = next_attempt(state, chosen, now)
    sent = TrailStep(at=now, step="dispatched", provider=chosen.provider, model=chosen.model, reason=choice.reason)
    wake_at = now + context.policy.attempts.timeout.of(state.lane)
    running = changed(
        state,
        phase=TaskPhase.RUNNING,
        attempts=(*state.attempts, attempt),
        wake_at=wake_at if state.deadline_at is None else min(wake_at, state.deadline_at),
        leader_task_id=None,
        work_topic=topic,
        trail=(*state.trail, *rejected_steps(state, choice.rejected, now), sent),
        privacy=choice.privacy,
    )
    commands = dispatching(state, attempt, topic)
    if state.attempts and task.stream and state.reply_partition is not None:
        restarted = Command(
            kind=CommandKind.REPLY, event_id=f"{attempt_id(task.task_id, attempt.number)}/restarted",
            topic=TASKS_REPLIES.name, attempt=attempt.number,
        )  # fmt: skip
        commands.insert(0, restarted)
    return Decision(running, tuple(commands), choice.rejected)


def fail(
    state: TaskState, context: DecisionContext, failure: Failure, rejected: tuple[Rejection, ...] = ()
) -> Decision:
    steps = rejected_steps(state, rejected, context.now)
    return finish(
        replace(state, trail=(*state.trail, *steps)), context, TaskStatus.FAILED, failure=failure, rejected=rejected
    )


def refuse(state: TaskState, context: DecisionContext, objection: Objection) -> Decision:
    """End a task that must not run as it asks to."""
    return fail(state, context, Failure(code=objection.code, message=objection.message))


def expire(
    state: TaskState, context: DecisionContext, choice: Choice | None = None, *, where: str | None = None
) -> Decision:
    """End a task whose deadline has passed; `where` says what became of it until then, if not its phase."""
    missed = choice if choice is not None and choice.chosen is None else None
    rejected = () if missed is None else missed.rejected
    steps = rejected_steps(state, rejected, context.now)
    return finish(
        replace(state, trail=(*state.trail, *steps)), context, TaskStatus.EXPIRED,
        failure=_lateness(state, missed, where), rejected=rejected,
    )  # fmt: skip


def _lateness(state: TaskState, missed: Choice | None, where: str | None) -> Failure:
    """Why a task's time was not enough."""
    last = state.attempts[-1] if state.attempts else None
    if state.phase is TaskPhase.WAITING and state.work_topic is not None:
        where = f"waited for its turn; it comes when other attempts of the tenant end that are in {state.work_topic}"
    elif missed is not None:
        return missed.failure()
    elif last is not None and not last.asked and last.failure is not None:
        return last.failure
    return Failure(
        code="deadline_passed", message=f"the deadline passed while the task {where or f'was {state.phase}'}"
    )


def choose_for(state: TaskState, context: DecisionContext, not_now: NotNow | None = None) -> Choice:
    task = task_of(state)
    rules = rules_of(task, context, floor=state.privacy)
    system_prompt = state.system_prompt
    if state.research is not None:
        system_prompt, messages = with_sources(task, system_prompt, state.research.sources)
        task = replace(task, messages=messages, budget_nanodollars=left_of_budget(state))
    choice = choose(task, role_of(task, context), system_prompt, rules, state.attempts, context, not_now)
    return at_site(choice, state, context)


def left_of_budget(state: TaskState) -> int | None:
    """What a task's searches leave of its budget, in nano-dollars; None without a budget."""
    budget = task_of(state).budget_nanodollars
    return None if budget is None else budget - spent(search_attempts(state))


def rules_of(task: TaskSubmitted, context: DecisionContext, floor: Privacy | None = None) -> TaskRules:
    """The rules for a task as demanded now, by its session too; see `rules_for`."""
    floor = session_floor(task, floor, context.sessions, context.now)
    policy, user, tenant = context.policy, context.user_preferences, context.tenant_preferences
    providers, kept = context.fleet.providers, context.fleet.kinds
    about = (
        "rules", role_name(task, policy), policy.version, task.privacy, task.mode, task.model, task.preferred_provider,
        task.key_id is None, floor, id(user), id(tenant),
    )  # fmt: skip
    found = kept.get(about)
    if found is None or found[0] is not user or found[1] is not tenant or found[2] is not providers:
        rules = rules_for(task, role_of(task, context), policy, user, tenant, floor, providers)
        found = user, tenant, providers, rules
        if len(kept) >= MOST_KINDS:
            kept.clear()
        kept[about] = found
    return found[3]


def unknown_role(name: str) -> Failure:
    """Why a task whose role the policy does not have ends."""
    return Failure(code="unknown_role", message=f"the policy has no role {name!r}")


def role_name(task: TaskSubmitted, policy: Policy) -> str | None:
    return task.role if task.role is not None or task.model is not None else policy.defaults.role


def role_of(task: TaskSubmitted, context: DecisionContext) -> RolePolicy | None:
    name = role_name(task, context.policy)
    return None if name is None else context.policy.roles.get(name)


def late(state: TaskState, context: DecisionContext) -> bool:
    return state.deadline_at is not None and context.now >= state.deadline_at
