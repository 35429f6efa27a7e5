"""Computes figures from the observations. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from headrace_contracts.events import ServedFrom, TaskCompleted

from headrace_devstack.demo.agent_figures import FindingsRow, LoopFigures, findings_rows, loop_figures
from headrace_devstack.demo.outcomes import JobOutcome, RunEvidence, SkillExchange, TaskRound
from headrace_devstack.demo.spreads import Spread, spread
from headrace_devstack.demo.tool_loops import calls_in


@dataclass(frozen=True, slots=True)
class RoleRow:
    """Results of the jobs of one role. `latency` is that of answered jobs, all their tasks included."""

    role: str
    jobs: int
    tasks: int
    answered: int
    sensitive: int
    latency: Spread


@dataclass(frozen=True, slots=True)
class PlaceRow:
    """Where tasks ran, and the reason they ran there."""

    provider: str
    model: str
    node: str
    simulated: bool
    tasks: int
    sensitive: int
    reason: str


@dataclass(frozen=True, slots=True)
class LatencyShares:
    """Shares of the total time of the tasks that a model answered.

    Attributes:
        total: From the agent's submission of the task until it has its answer.
        model: The model call.
        waiting: From the router's decision to the start at the worker: mostly for a free slot at a node.
        own: The rest: total minus model and waiting.
        outside_model: Total minus model.
    """

    total: Spread
    model: Spread
    waiting: Spread
    own: Spread
    outside_model: Spread


@dataclass(frozen=True, slots=True)
class TenantRow:
    """The cost of a tenant's tasks in nano-dollars: according to the tasks, and to the ledger."""

    tenant: str
    tasks: int
    input_tokens: int
    output_tokens: int
    tasks_nanodollars: int
    ledger_nanodollars: int | None


@dataclass(frozen=True, slots=True)
class SkillFigures:
    """Figures of the skill exchange."""

    published: int
    deliveries: int
    expected: int
    publish_call: Spread
    after_call: Spread
    after_publishing: Spread


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task, as seen by its agent and according to its terminal state; None if it has none.

    Attributes:
        job: Number of its job.
        round: Its place among the tasks of the job, from 1.
        tool_calls: Number of tools that its answer calls.
    """

    task_id: str | None
    job: int
    round: int
    tenant: str
    agent: str
    way: str
    role: str
    subject: str
    privacy: str
    priority: str
    repeat: bool
    total_ms: float
    answered: bool
    problem: str
    status: str | None = None
    served_from: str | None = None
    provider: str | None = None
    model: str | None = None
    node: str | None = None
    simulated: bool | None = None
    model_ms: float | None = None
    attempts: int | None = None
    cost_nanodollars: int | None = None
    reason: str = ""
    tool_calls: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a run.

    Attributes:
        tasks: What was submitted; a job with tools has several.
        by_way: Jobs by API.
        repeats: Jobs that repeat another one word for word.
        shared: Tasks answered by an equal one.
    """

    jobs: int
    tasks: int
    seconds: float
    by_way: Mapping[str, int]
    roles: tuple[RoleRow, ...]
    places: tuple[PlaceRow, ...]
    shares: LatencyShares
    served: Mapping[str, int]
    served_latency: Mapping[str, Spread]
    repeats: int
    shared: int
    loops: LoopFigures
    findings: tuple[FindingsRow, ...]
    skills: SkillFigures
    tenants: tuple[TenantRow, ...]


def figures(outcomes: Sequence[JobOutcome], evidence: RunEvidence, exchange: SkillExchange, seconds: float) -> Figures:
    """All figures; `seconds` is the duration of the team's work."""
    ends = {end.task_id: end for end in evidence.completions}
    by_source: dict[str, list[float]] = defaultdict(list)
    for _, _, seen in _rounds(outcomes):
        end = ends.get(seen.task_id or "")
        if end is not None:
            by_source[end.served_from.value].append(seen.total_ms)
    return Figures(
        jobs=len(outcomes),
        tasks=sum(len(outcome.rounds) for outcome in outcomes),
        seconds=seconds,
        by_way=dict(Counter(outcome.agent.way.value for outcome in outcomes)),
        roles=_roles(outcomes),
        places=_places(outcomes, ends),
        shares=_shares(outcomes, ends, evidence),
        served={source: len(values) for source, values in sorted(by_source.items())},
        served_latency={source: spread(values) for source, values in sorted(by_source.items())},
        repeats=sum(outcome.job.twin_of is not None for outcome in outcomes),
        shared=sum(len(by_source[source.value]) for source in (ServedFrom.CACHE, ServedFrom.COALESCED)),
        loops=loop_figures(outcomes),
        findings=findings_rows(outcomes),
        skills=SkillFigures(
            published=len(exchange.publish_ms),
            deliveries=len(exchange.deliveries),
            expected=len(exchange.expected),
            publish_call=spread(exchange.publish_ms),
            after_call=spread(delivery.after_call_ms for delivery in exchange.deliveries),
            after_publishing=spread(delivery.after_publishing_ms for delivery in exchange.deliveries),
        ),
        tenants=_tenants(outcomes, evidence),
    )


def task_rows(outcomes: Sequence[JobOutcome], evidence: RunEvidence) -> tuple[TaskRow, ...]:
    """One row per task, those of a job in their order, the jobs in the order in which they ended."""
    ends = {end.task_id: end for end in evidence.completions}
    return tuple(
        _task_row(outcome, number, seen, ends.get(seen.task_id or "")) for outcome, number, seen in _rounds(outcomes)
    )


def _rounds(outcomes: Iterable[JobOutcome]) -> Iterator[tuple[JobOutcome, int, TaskRound]]:
    for outcome in outcomes:
        for number, seen in enumerate(outcome.rounds, start=1):
            yield outcome, number, seen


def _task_row(outcome: JobOutcome, number: int, seen: TaskRound, end: TaskCompleted | None) -> TaskRow:
    job, agent = outcome.job, outcome.agent
    row = TaskRow(
        task_id=seen.task_id,
        job=job.number,
        round=number,
        tenant=agent.tenant,
        agent=agent.name,
        way=agent.way.value,
        role=job.role,
        subject=job.subject,
        privacy=job.privacy.value,
        priority=job.priority,
        repeat=job.twin_of is not None,
        total_ms=round(seen.total_ms, 3),
        answered=seen.answered,
        problem=seen.problem,
    )
    if end is None:
        return row
    return replace(
        row,
        status=end.status.value,
        served_from=end.served_from.value,
        provider=end.provider,
        model=end.model,
        node=end.node,
        simulated=end.simulated,
        model_ms=round(end.model_ms, 3),
        attempts=end.attempts,
        cost_nanodollars=end.cost_nanodollars,
        reason=reason_of(end),
        tool_calls=len(calls_in(end)),
    )


def cost_by_tenant(completions: Iterable[TaskCompleted]) -> dict[str, int]:
    """Sums of the tasks' own costs, in nano-dollars; of several terminal states of a task the first counts."""
    seen: set[str] = set()
    costs: dict[str, int] = defaultdict(int)
    for end in completions:
        if end.task_id not in seen:
            seen.add(end.task_id)
            costs[end.tenant] += end.cost_nanodollars
    return dict(costs)


def _roles(outcomes: Sequence[JobOutcome]) -> tuple[RoleRow, ...]:
    by_role: dict[str, list[JobOutcome]] = defaultdict(list)
    for outcome in outcomes:
        by_role[outcome.job.role].append(outcome)
    return tuple(
        RoleRow(
            role=role,
            jobs=len(rows),
            tasks=sum(len(outcome.rounds) for outcome in rows),
            answered=sum(outcome.answered for outcome in rows),
            sensitive=sum(outcome.job.marker is not None for outcome in rows),
            latency=spread(outcome.total_ms for outcome in rows if outcome.answered),
        )
        for role, rows in sorted(by_role.items(), key=lambda entry: -len(entry[1]))
    )


def reason_of(end: TaskCompleted) -> str:
    """Why a task went to the model that answered it, as given by the router."""
    steps = [step for step in end.trail if step.reason and step.step != "finished"]
    fitting = [step for step in steps if step.model == end.model] or steps
    return fitting[-1].reason if fitting else ""


def _places(outcomes: Sequence[JobOutcome], ends: Mapping[str, TaskCompleted]) -> tuple[PlaceRow, ...]:
    by_place: dict[tuple[str, str, str, bool], list[tuple[JobOutcome, TaskCompleted]]] = defaultdict(list)
    for outcome, _, seen in _rounds(outcomes):
        end = ends.get(seen.task_id or "")
        if end is not None and end.model is not None and end.served_from is ServedFrom.ATTEMPT:
            by_place[(end.provider or "", end.model, end.node or "", end.simulated)].append((outcome, end))
    rows = []
    for (provider, model, node, simulated), found in by_place.items():
        reasons = Counter(reason_of(end) for _, end in found)
        rows.append(
            PlaceRow(
                provider=provider,
                model=model,
                node=node,
                simulated=simulated,
                tasks=len(found),
                sensitive=sum(outcome.job.marker is not None for outcome, _ in found),
                reason=reasons.most_common(1)[0][0],
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.tasks))


def _shares(outcomes: Sequence[JobOutcome], ends: Mapping[str, TaskCompleted], evidence: RunEvidence) -> LatencyShares:
    waits: dict[str, float] = defaultdict(float)
    for attempt in evidence.attempts:
        waits[attempt.task_id] += attempt.queued_ms
    total, model, waiting, own, outside = [], [], [], [], []
    for _, _, seen in _rounds(outcomes):
        end = ends.get(seen.task_id or "")
        # With several attempts, or a shared answer, one model call does not account for the task's time.
        if end is None or not seen.answered or end.served_from is not ServedFrom.ATTEMPT or end.attempts != 1:
            continue
        waited = waits.get(end.task_id, 0.0)
        total.append(seen.total_ms)
        model.append(end.model_ms)
        waiting.append(waited)
        outside.append(seen.total_ms - end.model_ms)
        own.append(max(0.0, seen.total_ms - end.model_ms - waited))
    return LatencyShares(spread(total), spread(model), spread(waiting), spread(own), spread(outside))


def _tenants(outcomes: Sequence[JobOutcome], evidence: RunEvidence) -> tuple[TenantRow, ...]:
    costs = cost_by_tenant(evidence.completions)
    first = {end.task_id: end for end in reversed(evidence.completions)}
    rows = []
    for tenant in dict.fromkeys(outcome.agent.tenant for outcome in outcomes):
        ends = [end for end in first.values() if end.tenant == tenant]
        rows.append(
            TenantRow(
                tenant=tenant,
                tasks=sum(len(outcome.rounds) for outcome in outcomes if outcome.agent.tenant == tenant),
                input_tokens=sum(end.usage.input_tokens for end in ends),
                output_tokens=sum(end.usage.output_tokens for end in ends),
                tasks_nanodollars=costs.get(tenant, 0),
                ledger_nanodollars=evidence.ledger.get(tenant),
            )
        )
    return tuple(rows)
