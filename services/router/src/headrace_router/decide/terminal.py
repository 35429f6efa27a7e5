"""How a task ends: its one terminal state, and the records to produce with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headrace_contracts.events import (
    AnswerChoice,
    AttemptState,
    CascadeSummary,
    Command,
    CommandKind,
    Content,
    EnsembleSummary,
    Failure,
    LostExecution,
    Outcome,
    Rejection,
    ResearchState,
    ResearchSummary,
    SearchState,
    ServedFrom,
    TaskCompleted,
    TaskPhase,
    TaskState,
    TaskStatus,
    TaskSubmitted,
    TrailStep,
)
from headrace_contracts.floors import BELOW_FLOOR, CONTRADICTION
from headrace_contracts.frozen import changed
from headrace_contracts.ids import attempt_id, completion_id
from headrace_contracts.limits import LARGEST_KEY, LONGEST_NAME
from headrace_contracts.topics import AUDIT_RECORDED, TASKS_COMPLETED, TASKS_REPLIES, cancelled_topic

from headrace_router.decide.costs import dollars, total
from headrace_router.decide.model import Decision, DecisionContext
from headrace_router.decide.panel_summary import PanelVerdict, cascade_of, ensemble_of
from headrace_router.decide.retry import all_attempts, next_number

_CONSENT_CODES = frozenset({"privacy", "no_consent", BELOW_FLOOR, CONTRADICTION})
_TRAIL_OF_SHRUNK = 8
RECORD_TOO_LARGE = "record_too_large"
"""Code of a task whose request or answer is larger than a record may be."""
BREACHED = "breached"
"""The step of a trail that says that content of an attempt has left to another host."""
EXECUTION_LOST = "execution_lost"
"""The step of a trail that says that a worker died in the middle of a call, which its provider may have billed."""
BREACH_SUFFIX = "/breach"
"""After the attempt's id, the id of the audit record of a breach."""


def task_of(state: TaskState) -> TaskSubmitted:
    """The task of a state that is not finished. Raises ValueError for one that is."""
    if state.task is None:
        raise ValueError(f"the state of a {state.phase} task holds no task")
    return state.task


def rejected_steps(state: TaskState, rejected: tuple[Rejection, ...], now: int) -> list[TrailStep]:
    """Steps for candidates that may not run the task, but for those that its trail has already."""
    if not rejected:
        return []
    said = {(step.provider, step.model, step.reason) for step in state.trail if step.step == "rejected"}
    steps = [
        TrailStep(at=now, step="rejected", provider=r.provider, model=r.model, reason=f"{r.code}: {r.detail}")
        for r in rejected
    ]
    return [step for step in steps if (step.provider, step.model, step.reason) not in said]


def finish(
    state: TaskState,
    context: DecisionContext,
    status: TaskStatus,
    *,
    failure: Failure | None = None,
    answer: Content | None = None,
    finish_reason: str | None = None,
    choices: tuple[AnswerChoice, ...] = (),
    embeddings: tuple[Content, ...] = (),
    provider: str | None = None,
    model: str | None = None,
    node: str | None = None,
    simulated: bool = False,
    served_from: ServedFrom = ServedFrom.NOTHING,
    source_task_id: str | None = None,
    model_ms: float = 0.0,
    rejected: tuple[Rejection, ...] = (),
    research: ResearchSummary | None = None,
    ensemble: EnsembleSummary | None = None,
    cascade: CascadeSummary | None = None,
    verdict: PanelVerdict | None = None,
    saved_nanodollars: int = 0,
) -> Decision:
    """The last decision about a task.

    Args:
        research, ensemble, cascade: Those of another task which has made the answer.
        verdict: What was decided about the answers of several models.
        saved_nanodollars: What the answer of that other task cost.
    """
    task, attempts = task_of(state), all_attempts(state)
    reason = str(status) if failure is None else f"{status}: {failure.code}"
    step = TrailStep(at=context.now, step="finished", provider=provider, model=model, reason=reason)
    result = TaskCompleted(
        task_id=task.task_id,
        tenant=task.tenant,
        user=task.user,
        key_id=task.key_id,
        kind=task.kind,
        role=task.role,
        session=task.session,
        subject=task.subject,
        labels=task.labels,
        privacy=state.privacy,
        lane=state.lane,
        status=status,
        answer=answer,
        finish_reason=finish_reason,
        choices=choices,
        embeddings=embeddings,
        failure=failure,
        provider=provider,
        model=model,
        node=node,
        simulated=simulated,
        served_from=served_from,
        source_task_id=source_task_id,
        usage=total([attempt.usage for attempt in attempts]),
        cost_nanodollars=sum(attempt.cost_nanodollars for attempt in attempts),
        attempts=next_number(state) - 1,
        research=summary_of(state.research) if research is None else research,
        ensemble=ensemble_of(state.panel, verdict) if ensemble is None else ensemble,
        cascade=cascade_of(state.panel, verdict) if cascade is None else cascade,
        model_ms=model_ms,
        trail=(*state.trail, step),
        policy_version=context.policy.version,
        home_partition=state.home_partition,
        submitted_at=task.submitted_at,
        completed_at=context.now,
        saved_nanodollars=saved_nanodollars,
    )
    return _ended(state, result, rejected)


def serve(state: TaskState, context: DecisionContext, source: TaskCompleted, served_from: ServedFrom) -> Decision:
    """Finish with the answer of an equal task."""
    step = "cached" if served_from is ServedFrom.CACHE else "coalesced"
    said = TrailStep(
        at=context.now, step=step, provider=source.provider, model=source.model,
        reason=f"the answer to the equal task {source.task_id}",
    )  # fmt: skip
    return finish(
        replace(state, trail=(*state.trail, said)),
        context,
        source.status,
        failure=source.failure,
        answer=source.answer,
        finish_reason=source.finish_reason,
        choices=source.choices,
        embeddings=source.embeddings,
        provider=source.provider,
        model=source.model,
        node=source.node,
        simulated=source.simulated,
        served_from=served_from,
        source_task_id=source.task_id,
        research=source.research,
        ensemble=source.ensemble,
        cascade=source.cascade,
        saved_nanodollars=source.cost_nanodollars,
    )


def summary_of(research: ResearchState | None) -> ResearchSummary | None:
    """The searches of a task in numbers; None if it has none."""
    if research is None:
        return None
    return ResearchSummary(
        searches=len(research.searches),
        answered=sum(has_answered(search) for search in research.searches),
        sources=len(research.sources),
    )


def has_answered(search: SearchState) -> bool:
    """Whether a source has answered this search, if only that there is nothing."""
    return any(attempt.outcome is Outcome.ANSWERED for attempt in search.attempts)


def breach(state: TaskState, sent: AttemptState, failure: Failure, now: int) -> tuple[TaskState, Command]:
    """The state that says that content of an attempt has left to another host, and the command to audit it."""
    step = TrailStep(at=now, step=BREACHED, provider=sent.provider, model=sent.model, reason=failure.message)
    name = attempt_id(task_of(state).task_id, sent.number)
    return replace(state, trail=(*state.trail, step)), _audit(f"{name}{BREACH_SUFFIX}", sent.number)


def with_lost(state: TaskState, sent: AttemptState, lost: Sequence[LostExecution], now: int) -> TaskState:
    """The state whose trail says that executions of an attempt were lost, each of which may have been billed."""
    if not lost:
        return state
    most = f"up to {dollars(sent.worst_case_nanodollars)}" if sent.worst_case_nanodollars else "at an unknown price"
    steps = [
        TrailStep(
            at=now,
            step=EXECUTION_LOST,
            provider=sent.provider,
            model=sent.model,
            reason=f"execution {one.execution_id} at {one.worker or '?'} was lost, and may have been billed {most}",
        )
        for one in lost
    ]
    return replace(state, trail=(*state.trail, *steps))


def stop(state: TaskState) -> tuple[Command, ...]:
    """The commands that have workers stop whatever they still do for a task: to each kind of worker that was sent an
    attempt, and to no other.

    An attempt of which a worker has reported the end may run once more elsewhere, so all of them count.
    """
    task_id = task_of(state).task_id
    places = dict.fromkeys(attempt.place for attempt in all_attempts(state))
    return tuple(
        [
            Command(
                kind=CommandKind.CANCEL,
                event_id=f"{task_id}/cancelled/{place.value}",
                topic=cancelled_topic(place).name,
            )
            for place in places
        ]
    )


def must_not_be_lost(command: Command) -> bool:
    """Whether a command is due even if its decision turns out to be too large to be recorded."""
    return command.kind is CommandKind.CANCEL or command.event_id.endswith(BREACH_SUFFIX)


def too_large(
    state: TaskState, context: DecisionContext, size: int, limit: int, owed: tuple[Command, ...] = ()
) -> Decision:
    """End a task whose state does not fit into the journal, with a terminal state that does."""
    what, instead = "its state", "send a smaller request"
    if state.result is not None and _is_answered(state.result):
        what = "its end"
        instead = "send fewer texts" if state.result.embeddings else "ask for a shorter answer"
    failure = Failure(code=RECORD_TOO_LARGE, message=f"{what} takes {size} bytes, a record holds {limit}; {instead}")
    if state.result is None:
        result = finish(state, context, TaskStatus.FAILED, failure=failure).state.result
        assert result is not None
    elif _is_answered(state.result):
        result = replace(
            state.result, status=TaskStatus.FAILED, failure=failure, answer=None, finish_reason=None, choices=(),
            embeddings=(),
            served_from=ServedFrom.NOTHING, source_task_id=None,
        )  # fmt: skip
    else:
        result = state.result
    # The record of a breach follows from its step, so that is kept however long ago it was.
    cut, kept = result.trail[:-_TRAIL_OF_SHRUNK], result.trail[-_TRAIL_OF_SHRUNK:]
    trail = (*[step for step in cut if step.step == BREACHED][-1:], *kept)
    ended = _ended(
        replace(state, route_key=state.route_key[:LARGEST_KEY]),
        replace(_with_short_names(result), labels={}, trail=trail),
        (),
    )
    return replace(ended, commands=(*ended.commands, *owed))


def _is_answered(result: TaskCompleted) -> bool:
    return result.answer is not None or bool(result.embeddings)


def _with_short_names(result: TaskCompleted) -> TaskCompleted:
    """Of a task that an older release has taken without looking at its names."""
    names = {name: getattr(result, name) for name in ("tenant", "user", "key_id", "kind", "role", "session", "subject")}
    return replace(result, **{name: text[:LONGEST_NAME] for name, text in names.items() if text})


def _ended(state: TaskState, result: TaskCompleted, rejected: tuple[Rejection, ...]) -> Decision:
    commands = []
    if state.reply_partition is not None:
        commands.append(
            Command(kind=CommandKind.REPLY, event_id=f"{result.task_id}/reply", topic=TASKS_REPLIES.name),
        )
    commands.append(
        Command(kind=CommandKind.COMPLETE, event_id=completion_id(result.task_id), topic=TASKS_COMPLETED.name)
    )
    if result.served_from in (ServedFrom.CACHE, ServedFrom.COALESCED):
        commands.append(_audit(f"{result.task_id}/serve_cached"))
    elif result.failure is not None and result.failure.code in _CONSENT_CODES:
        commands.append(_audit(f"{result.task_id}/refuse"))
    ended = changed(
        state, phase=TaskPhase.FINISHED, task=None, system_prompt=None, attempts=(), wake_at=None, leader_task_id=None,
        work_topic=None, turn=None, trail=(), result=result, research=None, panel=None,
    )  # fmt: skip
    return Decision(ended, tuple(commands), rejected)


def _audit(event_id: str, attempt: int = 0) -> Command:
    return Command(kind=CommandKind.AUDIT, event_id=event_id, topic=AUDIT_RECORDED.name, attempt=attempt)
