"""What must hold for every decision about a task, whatever the state, the event and the context: the laws of
routing, stated independently of the code that follows them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace

from headrace_contracts.events import (
    AttemptState,
    Command,
    CommandKind,
    Mode,
    Outcome,
    Place,
    Preferences,
    Privacy,
    PrivacyLevel,
    Rejection,
    ServedFrom,
    TaskCompleted,
    TaskPhase,
    TaskState,
    TaskStatus,
    TaskSubmitted,
    Usage,
)
from headrace_models import ports
from headrace_models import prices as pricing
from headrace_models.prices import PriceUnknown
from headrace_router.decide.model import (
    AttemptEnded,
    Cancelled,
    Decision,
    DecisionContext,
    Disbelieved,
    Ignored,
    LeaderFinished,
    Noted,
    RouterEvent,
    Submitted,
    Unrecordable,
    WakeUp,
)
from headrace_router.decide.policy import ModelRef, RolePolicy

LEVELS = [Privacy.PUBLIC, Privacy.INTERNAL, Privacy.SENSITIVE]
MODES = [Mode.CLOUD, Mode.HYBRID, Mode.LOCAL]
_BY_NAME = {PrivacyLevel.LOW: 0, PrivacyLevel.STANDARD: 1, PrivacyLevel.HIGH: 2}


def check(
    before: TaskState | None,
    event: RouterEvent,
    result: Decision | Noted | Ignored | Disbelieved,
    context: DecisionContext,
) -> None:
    """Check one decision. Raises AssertionError if it violates a law."""
    assert isinstance(result, Disbelieved) == _is_forged(before, event), "a cloud worker speaks of its attempts only"
    if isinstance(result, Disbelieved):
        return
    if not isinstance(result, Decision):
        _check_inaction(before, event, result, context)
        return
    after = result.state
    known = before if before is not None else None
    task = event.task if isinstance(event, Submitted) else None if known is None else known.task
    assert task is not None or isinstance(event, Unrecordable), "a decision was made about a task that has ended"
    breaches = [command for command in result.commands if command.event_id.endswith("/breach")]
    taken_back = [command for command in result.commands if command.kind is CommandKind.CANCEL and command.attempt]
    commands = [command for command in result.commands if command not in (*breaches, *taken_back)]
    if taken_back:
        _check_taken_back(before, event, after, taken_back, context)
    assert bool(breaches) == _is_breach(before, event), "what left to another host is audited, once"
    _check_commands(before, after, event, commands, breaches)
    _check_rejections(after, result.rejected, context)
    if task is None:
        return
    _check_identity(before, after, task, event)
    attempts_before = () if before is None else before.attempts
    history = after.attempts if after.phase is not TaskPhase.FINISHED else None
    if history is not None:
        _check_attempts(attempts_before, history, after, commands, _number_of(event) if breaches else 0, context)
        if before is None or before.phase is not TaskPhase.BACKING_OFF or after.phase is not TaskPhase.BACKING_OFF:
            _check_times(after, context)
        if after.phase is TaskPhase.BACKING_OFF:
            _check_patience(before, after, task, context)
        if _last_number(history) > _last_number(attempts_before):
            _check_dispatch(before, after, task, history[-1], event, result, context)
    else:
        assert after.result is not None
        _check_end(before, after, after.result, task, event, context)
    if not isinstance(event, Unrecordable):
        level = LEVELS.index(_least_level(task, context) if before is None else before.privacy)
        assert LEVELS.index(after.privacy) >= level, "the level was lowered"


def _is_forged(before: TaskState | None, event: RouterEvent) -> bool:
    """Whether a cloud worker reports an attempt of a live task that ran, or runs, on our own nodes."""
    if before is None or not isinstance(event, AttemptEnded) or event.worker is Place.LOCAL:
        return False
    return [event.attempt.number] == [
        attempt.number
        for attempt in before.attempts
        if attempt.number == event.attempt.number and attempt.place is Place.LOCAL
    ]


def _check_inaction(
    before: TaskState | None, event: RouterEvent, result: Noted | Ignored, context: DecisionContext
) -> None:
    if isinstance(result, Noted):
        assert before is None
        assert isinstance(event, Cancelled)
        return
    if before is None:
        assert not isinstance(event, Submitted | Cancelled)
        return
    if before.phase is TaskPhase.FINISHED:
        assert not isinstance(event, Unrecordable)
        return
    task = before.task
    assert task is not None
    late = before.deadline_at is not None and context.now >= before.deadline_at
    due = before.wake_at is not None and context.now >= before.wake_at
    match event:
        case Cancelled(cancellation=cancellation):
            assert cancellation.tenant != task.tenant, "a cancellation request was ignored"
        case AttemptEnded(attempt=ended):
            current = (
                before.phase is TaskPhase.RUNNING
                and ended.number == before.attempts[-1].number
                and ended.tenant == task.tenant
            )
            assert not current, "the end of the running attempt was ignored"
            assert not _is_breach(before, event), "content left to another host, and nobody is told"
        case WakeUp():
            assert not late, "the deadline passed without effect"
            assert not (due and before.phase in (TaskPhase.RUNNING, TaskPhase.BACKING_OFF)), "a wake-up was missed"
        case LeaderFinished():
            assert before.phase is not TaskPhase.FOLLOWING
        case Unrecordable():
            raise AssertionError("a state that cannot be recorded must shrink")
        case Submitted():
            pass


def _check_identity(before: TaskState | None, after: TaskState, task: TaskSubmitted, event: RouterEvent) -> None:
    """The fields that never change."""
    if before is not None:
        assert before.phase is not TaskPhase.FINISHED or isinstance(event, Unrecordable), "an end was changed"
        assert (after.route_key, after.home_partition, after.digest, after.lane, after.deadline_at) == (
            before.route_key, before.home_partition, before.digest, before.lane, before.deadline_at,
        )  # fmt: skip
        assert (after.reply_partition, after.traceparent) == (before.reply_partition, before.traceparent)
        assert not isinstance(event, Submitted), "a task was started twice"
        if isinstance(event, Cancelled):
            assert event.cancellation.tenant == task.tenant, "another tenant's cancellation request was applied"
        if isinstance(event, AttemptEnded):
            assert event.attempt.tenant == task.tenant, "another tenant's result was applied"
            newest = [event.attempt.number] == [a.number for a in before.attempts[-1:]]
            assert newest or _is_breach(before, event) or _is_uncounted(before, after, event), (
                "a late result was applied"
            )
    if after.phase is not TaskPhase.FINISHED:
        assert after.task == task
        assert (after.leader_task_id is not None) == (after.phase is TaskPhase.FOLLOWING)
        assert after.result is None


def _number_of(event: RouterEvent) -> int:
    return event.attempt.number if isinstance(event, AttemptEnded) else 0


def _is_breach(before: TaskState | None, event: RouterEvent) -> bool:
    """Whether the event is the first that says that content of an attempt of this live task left to another host."""
    if before is None or before.task is None or not isinstance(event, AttemptEnded):
        return False
    said = event.attempt
    remote = said.failure is not None and said.failure.code == "answered_remotely"
    known = [a for a in before.attempts if a.number == said.number]
    told = any(a.failure is not None and a.failure.code == "answered_remotely" for a in known)
    return remote and said.tenant == before.task.tenant and bool(known) and not told


def _is_uncounted(before: TaskState, after: TaskState, event: AttemptEnded) -> bool:
    """Whether a report about an attempt that the router had abandoned says that it was no try, and nothing else."""
    said = event.attempt
    (sent,) = [attempt for attempt in before.attempts if attempt.number == said.number]
    clean = said.node is None and said.usage == Usage() and said.outcome not in (Outcome.ANSWERED, Outcome.REFUSED)
    return _is_abandoned(sent) and clean and _last_number(before.attempts) == _last_number(after.attempts)


def _check_commands(
    before: TaskState | None,
    after: TaskState,
    event: RouterEvent,
    commands: Sequence[Command],
    breaches: Sequence[Command],
) -> None:
    kinds = Counter(command.kind for command in commands)
    if after.phase is TaskPhase.FINISHED:
        result = after.result
        assert result is not None
        assert kinds[CommandKind.COMPLETE] == 1
        assert kinds[CommandKind.DISPATCH] == 0
        assert kinds[CommandKind.REPLY] == (after.reply_partition is not None)
        served = result.served_from in (ServedFrom.CACHE, ServedFrom.COALESCED)
        refused = result.failure is not None and result.failure.code in (
            "privacy", "no_consent", "below_floor", "contradiction",
        )  # fmt: skip
        assert kinds[CommandKind.AUDIT] == (served or refused)
        asked = {attempt.place.value for attempt in before.attempts} if before is not None else set()
        told = [command.topic for command in commands if command.kind is CommandKind.CANCEL]
        expected = sorted(f"attempts.cancelled.{place}" for place in asked) if isinstance(event, Cancelled) else []
        assert sorted(told) == expected, "workers were told of a cancellation that is none of theirs, or not told"
    elif after.phase is TaskPhase.WAITING:
        waits_anew = (
            after.trail[-1:] != (() if before is None else before.trail[-1:]) and after.trail[-1].step == "waited"
        )
        assert len(commands) == (waits_anew and after.reply_partition is not None), "a caller is told of each wait once"
        assert {command.kind for command in commands} <= {CommandKind.REPLY}
    elif commands:
        assert after.phase is TaskPhase.RUNNING
        assert (kinds[CommandKind.DISPATCH], kinds[CommandKind.AUDIT], kinds[CommandKind.COMPLETE]) == (1, 1, 0)
        assert {command.attempt for command in commands} == {after.attempts[-1].number}
        task = after.task
        assert task is not None
        restarted = after.attempts[-1].number > 1 and task.stream and after.reply_partition is not None
        assert kinds[CommandKind.REPLY] == restarted
        # A reader of the stream is told of the restart before the new text arrives.
        assert not restarted or commands[0].kind is CommandKind.REPLY
    else:
        uncounted = (
            before is not None
            and isinstance(event, AttemptEnded)
            and before.phase is TaskPhase.RUNNING
            and event.attempt.number != before.attempts[-1].number
        )
        assert breaches or uncounted or after.phase is not TaskPhase.RUNNING, (
            "an attempt was counted but not dispatched"
        )


def _check_taken_back(
    before: TaskState | None, event: RouterEvent, after: TaskState, commands: list[Command], context: DecisionContext
) -> None:
    """An attempt is taken back only where no worker is there to begin it, and another site of ours can."""
    assert before is not None
    assert before.phase is TaskPhase.RUNNING
    assert isinstance(event, WakeUp)
    last = before.attempts[-1]
    assert [(c.topic, c.attempt) for c in commands] == [("attempts.cancelled.local", last.number)]
    assert last.place is Place.LOCAL
    assert not any(
        node.site == last.site and node.place is Place.LOCAL and context.now < node.reported_at + node.valid_for_ms
        for node in context.fleet.nodes
    ), "its worker is there"
    assert after.work_topic is not None
    assert after.work_topic.startswith("work.local.")
    assert after.work_topic != before.work_topic


def _check_rejections(after: TaskState, rejected: Sequence[Rejection], context: DecisionContext) -> None:
    for rejection in rejected:
        ours = context.policy.place(rejection.provider) is Place.LOCAL
        if ours:
            assert rejection.code not in ("privacy", "no_consent", "no_capacity"), "local nodes may receive everything"
            assert after.privacy is not Privacy.SENSITIVE or rejection.code != "mode", "local nodes are always allowed"
        else:
            assert rejection.code != "no_local_capacity"


def _check_attempts(
    before: Sequence[AttemptState],
    after: Sequence[AttemptState],
    state: TaskState,
    commands: Sequence[Command],
    breached: int,
    context: DecisionContext,
) -> None:
    numbers = [attempt.number for attempt in after]
    assert numbers == sorted(set(numbers))
    asked_before = {attempt.number for attempt in before if attempt.asked}
    sent = sum(command.kind is CommandKind.DISPATCH for command in commands)
    assert _last_number(before) + sent == _last_number(after), "an attempt has the number of another"
    unasked = Counter((attempt.provider, attempt.model) for attempt in after if not attempt.asked)
    sites = len({node.site for node in context.fleet.nodes} | {attempt.site for attempt in after})
    assert max(unasked.values(), default=0) <= context.policy.retry.attempts_per_model + sites, (
        "attempts that asked nobody pile up"
    )
    assert [number for number in numbers if number in asked_before] == sorted(asked_before), "a try was forgotten"
    known = {attempt.number: attempt for attempt in after}
    for old in before[:-1]:
        new = known.get(old.number)
        uncounted = new == replace(old, asked=False) and old.asked and _is_abandoned(old)
        dropped = new is None and not old.asked
        assert new == old or old.number == breached or uncounted or dropped, "the past was changed"
    for attempt in after[:-1] if state.phase is TaskPhase.RUNNING else after:
        assert attempt.outcome is not None, "an attempt was left open"
        assert attempt.outcome not in (Outcome.ANSWERED, Outcome.REFUSED), "an attempt was made after an answer"
    for attempt in after:
        booked = _cost(context, attempt.provider, attempt.model, attempt.usage)
        assert attempt.usage == _possible(attempt.usage)
        assert attempt.cost_nanodollars in (booked, max(booked, attempt.worst_case_nanodollars))
    retry = context.policy.retry
    # That an attempt asked somebody after all may be learnt late, when its content has left: then others were made.
    asked = [attempt for attempt in after if attempt.asked and attempt.number != breached]
    assert len(asked) <= retry.attempts
    tries = Counter((attempt.provider, attempt.model) for attempt in asked)
    assert max(tries.values(), default=0) <= retry.attempts_per_model
    final = [(a.provider, a.model) for a in after if a.outcome is Outcome.FAILED_PERMANENT]
    for name in final if sent else ():
        assert (after[-1].provider, after[-1].model) != name or after[-1].outcome is not None, "tried again in vain"


def _check_times(after: TaskState, context: DecisionContext) -> None:
    assert after.wake_at is not None
    assert after.deadline_at is not None
    assert after.deadline_at <= context.now + context.policy.deadlines.longest
    assert context.now < after.deadline_at, "an attempt was started after the deadline"
    assert after.wake_at <= after.deadline_at
    if after.phase is TaskPhase.BACKING_OFF:
        retry, last = context.policy.retry, after.attempts[-1]
        wait = after.wake_at - context.now
        if not last.asked:
            assert wait >= min(retry.base // 2, after.deadline_at - context.now), "asked in a loop"
            return
        asked = 0 if last.failure is None or last.failure.retry_after_ms is None else last.failure.retry_after_ms
        tries = sum(a.asked and (a.provider, a.model) == (last.provider, last.model) for a in after.attempts)
        full = min(retry.cap, retry.base * 2 ** (tries - 1))
        assert wait >= asked
        assert full // 2 <= wait <= max(full, asked)
        assert tries < retry.attempts_per_model
        assert sum(attempt.asked for attempt in after.attempts) < retry.attempts
    elif after.phase in (TaskPhase.WAITING, TaskPhase.FOLLOWING):
        assert after.wake_at == after.deadline_at
    elif after.attempts[-1].dispatched_at == context.now:
        timeout = context.policy.attempts.timeout.of(after.lane)
        assert after.wake_at == min(context.now + timeout, after.deadline_at)


def _asked_in_vain(attempt: AttemptState) -> bool:
    """Whether it took its time, or an answer, and gave nothing."""
    code = "" if attempt.failure is None else attempt.failure.code
    return attempt.asked and (attempt.outcome is Outcome.EXPIRED or (
        attempt.outcome in (Outcome.FAILED_RETRYABLE, Outcome.FAILED_PERMANENT)
        and code
        in ("timeout", "attempt_timeout", "connection_lost", "empty_answer", "unknown_finish", "deadline_passed")
    ))  # fmt: skip


def _is_abandoned(attempt: AttemptState) -> bool:
    return attempt.failure is not None and attempt.failure.code == "attempt_timeout"


def _last_number(attempts: Sequence[AttemptState]) -> int:
    return attempts[-1].number if attempts else 0


def _check_patience(before: TaskState | None, after: TaskState, task: TaskSubmitted, context: DecisionContext) -> None:
    """A model that gave nothing is asked again only if no other candidate could be asked at that moment."""
    if (before is not None and before.phase is TaskPhase.BACKING_OFF) or not _asked_in_vain(after.attempts[-1]):
        return
    role = _role(task, context)
    if task.model is not None or role is None or task.budget_nanodollars is not None:
        return
    asked = {(attempt.provider, attempt.model) for attempt in after.attempts}
    for ref in (*role.models, *(context.policy.ladder if role.ladder is None else role.ladder)):
        local = context.policy.place(ref.provider) is Place.LOCAL
        level = LEVELS[max(LEVELS.index(after.privacy), LEVELS.index(_least_level(task, context)))]
        mode = Mode.LOCAL if level is Privacy.SENSITIVE else _mode(task, context)
        allowed = mode is not Mode.CLOUD if local else mode is not Mode.LOCAL and (
            level is Privacy.PUBLIC or (level is Privacy.INTERNAL and ref.provider in _named(context))
        )  # fmt: skip
        there = any(
            node.provider == ref.provider
            and node.healthy
            and any(_same(model.name, ref.model, node.place) for model in node.models)
            for node in context.fleet.nodes
        )
        if (ref.provider, ref.model) not in asked:
            assert not (allowed and there), f"{ref.provider}/{ref.model} was not asked"


def _check_dispatch(
    before: TaskState | None,
    after: TaskState,
    task: TaskSubmitted,
    sent: AttemptState,
    event: RouterEvent,
    result: Decision,
    context: DecisionContext,
) -> None:
    assert (sent.outcome, sent.dispatched_at) == (None, context.now)
    place = context.policy.place(sent.provider)
    assert sent.place is place
    (dispatch,) = [command for command in result.commands if command.kind is CommandKind.DISPATCH]
    assert dispatch.topic == f"work.{place}.{f'{sent.site}.' if sent.site else ''}{after.lane}"
    assert place is Place.LOCAL or not sent.site
    assert dispatch.event_id == f"{task.task_id}/{sent.number}"
    _check_privacy(after, task, sent, context)
    _check_budget(after, task, context)
    _check_order(before, after, task, sent, result, context)
    nodes = [
        node
        for node in context.fleet.nodes
        if node.provider == sent.provider
        and node.site == sent.site
        and node.healthy
        and context.now < node.reported_at + node.valid_for_ms
        and any(_same(offered.name, sent.model, place) for offered in node.models)
    ]
    assert nodes, "it was dispatched where no node is available"
    if isinstance(event, AttemptEnded):
        said = event.attempt
        assert said.outcome is not Outcome.REFUSED, "a refusal was routed around"
        remote = said.failure is not None and said.failure.code == "answered_remotely"
        empty = said.content is None or not said.content.data.strip()
        assert said.outcome is not Outcome.ANSWERED or remote or empty, "an answer was thrown away"
        failed = after.attempts[-2]
        if failed.outcome is Outcome.FAILED_RETRYABLE and not failed.asked:
            unasked = {(one.provider, one.model, one.site) for one in after.attempts[:-1] if not one.asked}
            assert (sent.provider, sent.model, sent.site) not in unasked, "where nobody was asked, it was asked at once"


def _check_privacy(after: TaskState, task: TaskSubmitted, sent: AttemptState, context: DecisionContext) -> None:
    assert LEVELS.index(after.privacy) >= LEVELS.index(_least_level(task, context))
    assert not _asks_for_less(task, context), "a task ran that asks for less than is demanded"
    if sent.place is not Place.CLOUD:
        mode = _mode(task, context)
        assert mode is not Mode.CLOUD or after.privacy is Privacy.SENSITIVE
        return
    assert after.privacy is not Privacy.SENSITIVE, "sensitive content went to the cloud"
    assert _mode(task, context) is not Mode.LOCAL
    if after.privacy is Privacy.INTERNAL:
        assert sent.provider in _named(context), "internal content went to a provider without consent"


def _check_budget(after: TaskState, task: TaskSubmitted, context: DecisionContext) -> None:
    """The budget holds even if every attempt that may still be running costs its worst case."""
    last = after.attempts[-1]
    tokens = sum(len(message.content.data) for message in task.messages)
    tokens += len((after.system_prompt or "").encode())
    limit = last.max_output_tokens or 0
    if last.place is Place.CLOUD:
        assert limit > 0, "an unbounded answer has no worst case"
    if task.budget_nanodollars is None:
        return
    most = 0
    for attempt in after.attempts:
        given_up = attempt.failure is not None and attempt.failure.code == "attempt_timeout"
        if attempt.outcome is None or given_up:
            most += attempt.worst_case_nanodollars
        else:
            most += attempt.cost_nanodollars
    assert most <= task.budget_nanodollars, "the budget may be overspent"
    worst = _cost(context, last.provider, last.model, Usage(input_tokens=tokens, output_tokens=limit))
    assert last.worst_case_nanodollars >= worst, "the worst case is too low"


def _check_order(
    before: TaskState | None,
    after: TaskState,
    task: TaskSubmitted,
    sent: AttemptState,
    result: Decision,
    context: DecisionContext,
) -> None:
    """Every candidate before the chosen one was checked and rejected, in the order of the lists; those that were asked
    in vain come after all others, and those whose attempts asked nobody take turns after those without such ones."""
    role = _role(task, context)
    looked_at = [(rejection.provider, rejection.model) for rejection in result.rejected]
    looked_at.append((sent.provider, sent.model))
    assert len(set(looked_at)) == len(looked_at)
    if task.model is None and role is not None:
        refs = (*role.models, *(context.policy.ladder if role.ladder is None else role.ladder))
        expected = _preferred_first(refs, task, context)
        vain = {(a.provider, a.model) for a in after.attempts[:-1] if _asked_in_vain(a)}
        unasked = Counter((a.provider, a.model) for a in after.attempts if not a.asked)
        turns = {(a.provider, a.model): a.number for a in after.attempts if not a.asked
                 and unasked[a.provider, a.model] >= context.policy.retry.attempts_per_model}  # fmt: skip
        expected = [name for name in expected if name not in vain] + [name for name in expected if name in vain]
        expected.sort(key=lambda name: (name in vain, turns.get(name, 0)))
        assert looked_at == expected[: len(looked_at)], "the order of the candidates was not kept"
    attempts = () if before is None else before.attempts
    for rejection in result.rejected:
        if rejection.code == "failed_before":
            assert any((a.provider, a.model) == (rejection.provider, rejection.model) for a in attempts)
        if rejection.code == "no_local_capacity":
            assert not any(
                node.provider == rejection.provider
                and node.healthy
                and any(_same(model.name, rejection.model, Place.LOCAL) for model in node.models)
                for node in context.fleet.nodes
            ), "a node was available"


def _check_end(
    before: TaskState | None,
    after: TaskState,
    result: TaskCompleted,
    task: TaskSubmitted,
    event: RouterEvent,
    context: DecisionContext,
) -> None:
    assert (after.task, after.attempts, after.wake_at, after.trail) == (None, (), None, ())
    assert (result.task_id, result.tenant, result.user) == (task.task_id, task.tenant, task.user)
    assert (result.lane, result.home_partition) == (after.lane, after.home_partition)
    assert result.privacy == after.privacy
    assert result.completed_at == context.now
    attempts = () if before is None else before.attempts
    assert result.attempts == _last_number(attempts)
    if not isinstance(event, Unrecordable):
        asked = sum(attempt.asked for attempt in attempts)
        told = sum(step.step == "dispatched" for step in result.trail)
        assert told == asked or (isinstance(event, AttemptEnded) and told == asked - 1)
        assert result.trail[-1].step == "finished"
    usages = [attempt.usage for attempt in attempts]
    costs = [attempt.cost_nanodollars for attempt in attempts]
    if isinstance(event, AttemptEnded):
        last, usages[-1] = attempts[-1], _possible(event.attempt.usage)
        costs[-1] = _cost(context, last.provider, last.model, usages[-1])
        if usages[-1] != event.attempt.usage:
            costs[-1] = max(costs[-1], last.worst_case_nanodollars)
    assert result.cost_nanodollars == sum(costs)
    assert result.usage.input_tokens == sum(usage.input_tokens for usage in usages)
    assert result.usage.output_tokens == sum(usage.output_tokens for usage in usages)
    assert all(len(text or "") <= 200 for text in (result.provider, result.model, result.node, result.finish_reason))
    assert result.model_ms >= 0
    late = after.deadline_at is not None and context.now >= after.deadline_at
    assert (result.failure is None) == (result.status is TaskStatus.SUCCEEDED) or result.status is TaskStatus.REFUSED
    if late and isinstance(event, LeaderFinished | WakeUp):
        assert result.status is TaskStatus.EXPIRED, "a late task must expire"
    match result.status:
        case TaskStatus.SUCCEEDED | TaskStatus.REFUSED:
            _check_answer(before, result, event, context)
        case TaskStatus.CANCELLED:
            assert isinstance(event, Cancelled | Submitted), "only its own tenant's request ends a task as cancelled"
            cancellation = event.cancellation if isinstance(event, Cancelled) else event.cancelled
            assert cancellation is not None
            assert cancellation.tenant == task.tenant
        case TaskStatus.EXPIRED:
            code = "" if result.failure is None else result.failure.code
            assert late or (code == "too_little_time" and before is not None and before.attempts), (
                "it expired before its deadline"
            )
            assert not isinstance(event, Cancelled)
        case TaskStatus.FAILED:
            assert not isinstance(event, Cancelled)
            if result.failure is not None and result.failure.code == "below_floor":
                assert _asks_for_less(task, context), "a task was refused that asks for enough"
    if result.status not in (TaskStatus.SUCCEEDED, TaskStatus.REFUSED):
        assert result.answer is None
        assert result.served_from is ServedFrom.NOTHING
    if isinstance(event, Cancelled) or (isinstance(event, Submitted) and _requested(event)):
        assert result.status is TaskStatus.CANCELLED


def _requested(event: Submitted) -> bool:
    return event.cancelled is not None and event.cancelled.tenant == event.task.tenant


def _check_answer(
    before: TaskState | None, result: TaskCompleted, event: RouterEvent, context: DecisionContext
) -> None:
    source: TaskCompleted | None
    match event:
        case AttemptEnded(attempt=ended):
            assert result.served_from is ServedFrom.ATTEMPT
            refused = ended.outcome is Outcome.REFUSED
            assert ended.outcome in (Outcome.ANSWERED, Outcome.REFUSED)
            assert (result.status is TaskStatus.REFUSED) == refused
            assert result.answer == ended.content
            assert before is not None
            sent = before.attempts[-1]
            assert result.provider == sent.provider, "the report does not decide who was asked"
            assert result.model == (ended.model[:200] or sent.model)
            assert refused or (ended.content is not None and ended.content.data.strip()), "an answer says something"
            return
        case LeaderFinished(result=source):
            assert before is not None
            assert before.phase is TaskPhase.FOLLOWING
            assert result.served_from is ServedFrom.COALESCED
        case Submitted(task=task):
            assert task.allow_cached
            assert result.served_from is ServedFrom.CACHE
            # A task that is no longer remembered may be submitted again, and find its own answer.
            assert result.source_task_id is not None
            assert (result.attempts, result.cost_nanodollars) == (0, 0)
            assert (result.status, result.finish_reason) == (TaskStatus.SUCCEEDED, "stop"), (
                "only whole answers are kept"
            )
            assert result.answer is not None
            assert result.answer.data
            return
        case _:
            raise AssertionError(f"an answer resulted from {event}")
    assert source is not None
    assert (result.status, result.answer, result.source_task_id) == (source.status, source.answer, source.task_id)
    assert source.status in (TaskStatus.SUCCEEDED, TaskStatus.REFUSED)
    if source.status is TaskStatus.SUCCEEDED:
        assert source.finish_reason in ("stop", "length"), "an end of unknown meaning serves only its own task"
        assert source.answer is not None
        assert source.answer.data


def _cost(context: DecisionContext, provider: str, model: str, usage: Usage) -> int:
    try:
        price = context.prices.price(provider, model)
    except PriceUnknown:
        return 0
    return pricing.cost(
        ports.CallUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            searches=usage.searches,
            cache_write_5m_tokens=usage.cache_write_5m_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
        ),
        price,
    )


def _possible(usage: Usage) -> Usage:
    """A count that cannot be counts for nothing."""
    most = 100_000_000
    counts = {field.name: getattr(usage, field.name) for field in fields(usage)}
    return Usage(**{name: count if 0 <= count <= most else 0 for name, count in counts.items()})


def _preferences(context: DecisionContext) -> list[Preferences]:
    return [
        preferences for preferences in (context.user_preferences, context.tenant_preferences) if preferences is not None
    ]


def _role(task: TaskSubmitted, context: DecisionContext) -> RolePolicy | None:
    name = task.role or (None if task.model is not None else context.policy.defaults.role)
    return None if name is None else context.policy.roles.get(name)


def _demanded_level(task: TaskSubmitted, context: DecisionContext) -> int:
    """The level that tenant, user and role demand; 0 if none of them demands anything."""
    role = _role(task, context)
    of_role = 0 if role is None or role.privacy is None else LEVELS.index(role.privacy)
    if role is not None and role.always_local:
        of_role = 2
    return max([of_role, *(_BY_NAME[p.privacy_level] for p in _preferences(context) if p.privacy_level)])


def _least_level(task: TaskSubmitted, context: DecisionContext) -> Privacy:
    """The lowest level allowed for a task by its own field, its role and the preferences."""
    demanded = _demanded_level(task, context)
    if task.privacy is not None:
        return LEVELS[max(demanded, LEVELS.index(task.privacy))]
    of_tenant = context.tenant_preferences.privacy_level if context.tenant_preferences else None
    return LEVELS[max(demanded, _BY_NAME[of_tenant or context.policy.defaults.privacy_level])]


def _demanded_mode(context: DecisionContext) -> int:
    return max([0, *(MODES.index(p.ai_mode) for p in _preferences(context) if p.ai_mode)])


def _mode(task: TaskSubmitted, context: DecisionContext) -> Mode:
    demanded = _demanded_mode(context)
    if task.mode is not None:
        return MODES[max(demanded, MODES.index(task.mode))]
    of_tenant = context.tenant_preferences.ai_mode if context.tenant_preferences else None
    return MODES[max(demanded, MODES.index(of_tenant or context.policy.defaults.mode))]


def _asks_for_less(task: TaskSubmitted, context: DecisionContext) -> bool:
    """Whether a task asks for less than is demanded of it: it must not run."""
    level, mode = _demanded_level(task, context), _demanded_mode(context)
    return (
        (task.privacy is not None and LEVELS.index(task.privacy) < level)
        or (task.mode is not None and MODES.index(task.mode) < mode)
        or (task.mode is Mode.CLOUD and _least_level(task, context) is Privacy.SENSITIVE)
    )


def _named(context: DecisionContext) -> set[str]:
    """Providers that the tenant's preferences name, and those of the user not leave out."""
    tenant, user = context.tenant_preferences, context.user_preferences
    named = set() if tenant is None else {*tenant.allowed_providers, tenant.preferred_provider}
    if user is not None and user.allowed_providers:
        named &= {*user.allowed_providers, user.preferred_provider}
    return {name for name in named if name}


def _preferred_first(refs: Sequence[ModelRef], task: TaskSubmitted, context: DecisionContext) -> list[tuple[str, str]]:
    first = task.preferred_provider or next(
        (p.preferred_provider for p in _preferences(context) if p.preferred_provider), None
    )
    names = [(ref.provider, ref.model) for ref in refs]
    return [name for name in names if name[0] == first] + [name for name in names if name[0] != first]


def _same(offered: str, asked: str, place: Place) -> bool:
    def full(name: str) -> str:
        return name if place is Place.CLOUD or ":" in name else f"{name}:latest"

    return full(offered) == full(asked)
