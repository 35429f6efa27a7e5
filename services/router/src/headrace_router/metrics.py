"""The router's Prometheus metrics."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_contracts.events import CommandKind, ServedFrom, TaskCompleted, TaskPhase, TaskState
from headrace_contracts.limits import NANODOLLARS_IN_A_DOLLAR
from headrace_runtime.metrics import Metrics

from headrace_router.decide.partition_life import PartitionPhase
from headrace_router.decide.tenant_quota import TOO_MANY_LIVE_TASKS
from headrace_router.decide.waiting_work import WaitingLoad, WorkTarget
from headrace_router.live_bytes import LiveBytes

_LIVE = tuple(phase for phase in TaskPhase if phase is not TaskPhase.FINISHED)


class RouterMetrics:
    """Metrics of one router process."""

    def __init__(self, metrics: Metrics) -> None:
        self._decisions = metrics.counter("decisions", "Decisions recorded, by cause.", ["cause"])
        self._ignored = metrics.counter("ignored", "Events that changed nothing, by reason.", ["reason"])
        self._rejected = metrics.counter("candidates_rejected", "Candidates passed over, by reason.", ["code"])
        self._finished = metrics.counter("tasks_finished", "Tasks that ended, by status.", ["status", "served_from"])
        self._cascades = metrics.counter(
            "cascades",
            "Tasks that a cascade has answered, by rung and whether that was sufficient.",
            ["rung", "passed"],
        )
        self._cascade_dollars = metrics.counter(
            "cascade_dollars", "What cascades have cost, and what their answers would have at the last rung.", ["what"]
        )
        self._ensembles = metrics.counter(
            "ensembles", "Tasks that an ensemble has answered, by how, and how coherence was.", ["by", "coherence"]
        )
        self._saved = metrics.counter(
            "saved_nanodollars",
            "What shared answers cost when they were made, by where they came from.",
            ["served_from"],
        )
        self._over_quota = metrics.counter("tasks_over_quota", "Tasks refused: their tenant had too many live ones.")
        self._errors = metrics.counter("decision_errors", "Events whose decision failed: defects.", ["cause"])
        self._fenced = metrics.counter("partitions_fenced", "Partitions released because it was unsafe to publish.")
        self._left_out = metrics.counter("commands_left_out", "Commands not published, by kind.", ["kind", "reason"])
        self._waiting = metrics.gauge("commands_waiting", "Commands that could not be published yet.", ["kind"])
        self._held = metrics.gauge("partitions_held", "Partitions that take no input until something is published.")
        self._skipped = metrics.counter("dead_letters", "Input records dead-lettered.", ["topic"])
        self._phases = metrics.gauge("tasks", "Tasks in flight, by phase.", ["phase"])
        self._bytes = metrics.gauge("task_bytes", "Bytes that the tasks in flight are counted with.")
        self._limit = metrics.gauge("task_bytes_limit", "Bytes of tasks in flight from which on no more are taken.")
        self._full = metrics.gauge("task_bytes_full", "1 while tasks wait in tasks.submitted for want of memory.")
        self._most = metrics.gauge("most_tasks_of_a_tenant", "Most tasks in flight of one tenant in one partition.")
        self._behind = metrics.gauge("tasks_behind_others", "Tasks that wait for attempts of their tenant to end.")
        by_target = ("place", "provider", "site", "lane", "model")
        self._waiting_tasks = metrics.gauge("waiting_tasks", "Waiting tasks, by who could run them.", by_target)
        self._waiting_seconds = metrics.gauge(
            "waiting_work_seconds", "Estimated seconds of the waiting tasks, by who could run them.", by_target
        )
        self._owned = metrics.gauge("partitions", "Partitions being routed.")
        self._in_phase = metrics.gauge("partitions_in_phase", "Assigned partitions, by phase.", ["phase"])
        self._decision = metrics.latency(
            "decision",
            "Time from an input record's timestamp until its outputs are acknowledged.",
            ["cause"],
        )
        self._append = metrics.latency("journal_append", "Time from a journal append to its acknowledgement.")
        self._recovery = metrics.latency("recovery", "Time from a partition's assignment to its readiness.")

    def decided(self, cause: str, state: TaskState, codes: list[str]) -> None:
        self._decisions.labels(cause).inc()
        for code in codes:
            self._rejected.labels(code).inc()
        if state.result is not None:
            served_from: ServedFrom = state.result.served_from
            self._finished.labels(state.result.status.value, served_from.value).inc()
            if state.result.saved_nanodollars:
                self._saved.labels(served_from.value).inc(state.result.saved_nanodollars)
            if state.result.failure is not None and state.result.failure.code == TOO_MANY_LIVE_TASKS:
                self._over_quota.inc()
            if served_from is ServedFrom.ATTEMPT:
                self._of_several(state.result)

    def _of_several(self, end: TaskCompleted) -> None:
        cascade, ensemble = end.cascade, end.ensemble
        if cascade is not None and cascade.rung:
            self._cascades.labels(str(cascade.rung), str(cascade.sufficient).lower()).inc()
            spent = sum(member.cost_nanodollars for member in cascade.members)
            self._cascade_dollars.labels("spent").inc(spent / NANODOLLARS_IN_A_DOLLAR)
            alone = max(0, spent + cascade.saved_nanodollars)
            self._cascade_dollars.labels("last_rung").inc(alone / NANODOLLARS_IN_A_DOLLAR)
        if ensemble is not None and ensemble.combined_by:
            told = ensemble.coherence is not None and ensemble.goal is not None
            reached = told and ensemble.coherence >= ensemble.goal  # type: ignore[operator]  # as `told` says
            self._ensembles.labels(
                ensemble.combined_by, "unknown" if not told else "at_goal" if reached else "below_goal"
            ).inc()

    def ignored(self, reason: str) -> None:
        self._ignored.labels(reason).inc()

    def failed(self, cause: str) -> None:
        self._errors.labels(cause).inc()

    def fenced(self) -> None:
        self._fenced.inc()

    def dead_letter(self, topic: str) -> None:
        self._skipped.labels(topic).inc()

    def left_out(self, kind: CommandKind, reason: str) -> None:
        self._left_out.labels(kind.value, reason).inc()

    def unpublished(self, waiting: Mapping[CommandKind, int], held: int) -> None:
        for kind in CommandKind:
            self._waiting.labels(kind.value).set(waiting.get(kind, 0))
        self._held.set(held)

    def appended(self, seconds: float) -> None:
        self._append.observe(seconds)

    def published(self, cause: str, seconds: float) -> None:
        self._decision.labels(cause).observe(max(0.0, seconds))

    def recovered(self, seconds: float) -> None:
        self._recovery.observe(seconds)

    def loaded(self, task_bytes: int, live_bytes: LiveBytes, most_tasks_of_a_tenant: int, behind_others: int) -> None:
        self._bytes.set(task_bytes)
        self._limit.set(live_bytes.limit)
        self._full.set(live_bytes.closed)
        self._most.set(most_tasks_of_a_tenant)
        self._behind.set(behind_others)

    def waiting_work(self, loads: Mapping[WorkTarget, WaitingLoad]) -> None:
        self._waiting_tasks.clear()
        self._waiting_seconds.clear()
        for target, load in loads.items():
            self._waiting_tasks.labels(*target).set(load.tasks)
            self._waiting_seconds.labels(*target).set(load.seconds)

    def owning(self, partitions: Mapping[PartitionPhase, int], phases: Mapping[TaskPhase, int]) -> None:
        self._owned.set(partitions.get(PartitionPhase.ROUTING, 0))
        for name in PartitionPhase:
            self._in_phase.labels(name.value).set(partitions.get(name, 0))
        for phase in _LIVE:
            self._phases.labels(phase.value).set(phases.get(phase, 0))
