"""A worker's metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from headrace_contracts.events import AttemptRequested, Outcome
from headrace_streams.handling import Ending, EngineSnapshot, Observer
from headrace_streams.log_identity import Broken
from headrace_streams.parallel import ParallelConsumer
from headrace_streams.records import Record, TopicPartition
from headrace_streams.suspending import OnSuspension
from headrace_streams.watching import OnDiscontinuity

from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.outcomes import ExecutionOutcome
from headrace_models.worker.paid_calls import PaidCallObserver
from headrace_models.worker.pool import Pool
from headrace_models.worker.runner import ModelName, RunObserver
from headrace_models.worker.workload import ServiceTimes, Workload


class MetricFactory(Protocol):
    """Makes Prometheus metrics with the service's name prefix; durations are in seconds, and their names say so."""

    def counter(self, what: str, help: str, labels: Sequence[str] = ()) -> Any: ...

    def gauge(self, what: str, help: str, labels: Sequence[str] = ()) -> Any: ...

    def latency(self, what: str, help: str, labels: Sequence[str] = ()) -> Any: ...

    def before_scrape(self, refresh: Callable[[], None]) -> None: ...


class WorkerMetrics(RunObserver, Observer):
    """Counts attempts and the engine's activity; gauges are computed when scraped."""

    def __init__(
        self,
        metrics: MetricFactory,
        pool: Pool,
        on_discontinuity: OnDiscontinuity = lambda partition, verdict: None,
        on_suspension: OnSuspension = lambda partition, reason: None,
    ) -> None:
        self._on_discontinuity = on_discontinuity
        self._on_suspension = on_suspension
        self._metrics = metrics
        self._attempts = metrics.counter(
            "attempts", "Attempts reported.", ("provider", "model", "outcome", "failure", "simulated")
        )
        self._model = metrics.latency("model", "Time of a call of a model.", ("provider", "model"))
        self._first = metrics.latency("first_output", "Time from a call to its first text.", ("provider", "model"))
        self._queued = metrics.latency("queued", "From the router's decision to the call.", ("lane",))
        self._records = metrics.counter("records", "Records handled, by how that ended.", ("ending",))
        self._displaced = metrics.counter(
            "interrupted", "Batch calls interrupted for interactive ones, which begin anew.", ("node", "model")
        )
        self.times = ServiceTimes()
        metrics.gauge("slot_waiters", "Attempts waiting for a free slot.").set_function(lambda: pool.waiting)
        self._of_endpoints = {
            metrics.gauge("slots_busy", "Calls running.", ("node",)): _busy_of,
            metrics.gauge("slots", "Maximum concurrent calls.", ("node",)): _slots_of,
            metrics.gauge("node_healthy", "Whether a node is healthy.", ("node",)): _health_of,
        }
        pool.follow(self)

    def discontinued(self, partition: TopicPartition, verdict: Broken) -> None:
        self._on_discontinuity(partition, verdict)

    def suspended(self, partition: TopicPartition, reason: str | None) -> None:
        self._on_suspension(partition, reason)

    def joined(self, endpoint: Endpoint) -> None:
        for gauge, value_of in self._of_endpoints.items():
            gauge.labels(endpoint.name).set_function(partial(value_of, endpoint))

    def left(self, endpoint: Endpoint) -> None:
        for gauge in self._of_endpoints:
            gauge.remove(endpoint.name)

    def paid_calls(self) -> PaidCallObserver:
        """Counts what becomes of calls that cost money from now on; call it once."""
        return _PaidCallMetrics(self._metrics)

    def watch(self, engine: ParallelConsumer, workload: Callable[[], Workload], topics: Sequence[str]) -> None:
        """Export the engine's state and backlog from now on; call it once."""
        state = engine.state
        gauge = self._metrics.gauge
        gauge("in_flight", "Attempts in flight.").set_function(lambda: state().in_flight)
        gauge("parked", "Records waiting for a retry.").set_function(lambda: state().parked)
        gauge("partitions", "Partitions assigned.").set_function(lambda: state().partitions)
        gauge("partitions_paused", "Partitions paused by backpressure.").set_function(lambda: state().paused)
        gauge("longest_span", "Most offsets from a committed offset to the last record received.").set_function(
            lambda: state().longest_span
        )
        waiting = gauge("waiting", "Records received and not started.", ("topic",))
        for topic in topics:
            waiting.labels(topic).set_function(partial(_waiting_in, state, topic))
        held = gauge("held_bytes", "Bytes of records received and not finished.", ("topic",))
        limit = gauge("held_bytes_limit", "Most bytes of a topic's records received and not finished.", ("topic",))
        full = gauge("held_bytes_full", "Whether a topic is paused because it holds as much as it may.", ("topic",))
        for topic in topics:
            held.labels(topic).set_function(partial(_held_of, state, topic))
            limit.labels(topic).set_function(partial(_held_limit, state))
            full.labels(topic).set_function(partial(_is_full, state, topic))
        gauge("oldest_waiting_seconds", "Longest time that a received record has been waiting.").set_function(
            engine.oldest_waiting_seconds
        )

        def refresh() -> None:
            lag.clear()
            for name, partition in state().assigned.items():
                lag.labels(name.topic, name.partition).set(partition.lag)
            found = workload()
            service.clear()
            outstanding.clear()
            # The model of records still in the log is unknown.
            outstanding.labels("", "").set(found.backlog_seconds)
            for model, work in found.models.items():
                service.labels(*model).set(work.service)
                outstanding.labels(*model).set(work.outstanding)

        self._metrics.before_scrape(refresh)
        lag = gauge("consumer_lag", "Offsets from the committed offset to the log's end.", ("topic", "partition"))
        service = gauge("service_time_seconds", "Usual time of a call.", ("provider", "model"))
        outstanding = gauge(
            "outstanding_work_seconds",
            "Time that unfinished attempts are expected to need; without a model for those still in the log.",
            ("provider", "model"),
        )

    def reported(self, request: AttemptRequested, ended: ExecutionOutcome, queued_seconds: float) -> None:
        self._count(request, ended)
        self._queued.labels(request.lane.value).observe(queued_seconds)
        if not ended.asked:
            return
        seconds = ended.model_ms / 1000
        self._model.labels(request.provider, request.model).observe(seconds)
        if ended.first_output_ms is not None:
            self._first.labels(request.provider, request.model).observe(ended.first_output_ms / 1000)
        if ended.outcome is not Outcome.CANCELLED:
            self.times.observe(ModelName(request.provider, request.model), seconds)

    def reported_of_batch(self, request: AttemptRequested, ended: ExecutionOutcome) -> None:
        self._count(request, ended)

    def _count(self, request: AttemptRequested, ended: ExecutionOutcome) -> None:
        code = ended.failure.code if ended.failure is not None else ""
        simulated = "yes" if ended.simulated else "no"
        self._attempts.labels(request.provider, request.model, ended.outcome.value, code, simulated).inc()

    def displaced(self, request: AttemptRequested, node: str) -> None:
        self._displaced.labels(node, request.model).inc()

    def ended(self, record: Record, ending: Ending, seconds: float) -> None:
        self._records.labels(ending.value).inc()


class _PaidCallMetrics(PaidCallObserver):
    def __init__(self, metrics: MetricFactory) -> None:
        self._announced = metrics.latency("announced", "Time to write that an execution begins, before its call.")
        self._reused = metrics.counter("attempts_reused", "Attempts read again that were reported, and not run again.")
        self._lost = metrics.counter(
            "executions_lost", "Executions of workers that died, which may have been billed.", ("provider", "model")
        )

    def announced(self, seconds: float) -> None:
        self._announced.observe(seconds)

    def reused(self) -> None:
        self._reused.inc()

    def lost(self, request: AttemptRequested) -> None:
        self._lost.labels(request.provider, request.model).inc()


def _busy_of(endpoint: Endpoint) -> float:
    return endpoint.busy


def _slots_of(endpoint: Endpoint) -> float:
    return endpoint.slots


def _health_of(endpoint: Endpoint) -> float:
    return float(endpoint.status.healthy)


def _held_of(state: Callable[[], EngineSnapshot], topic: str) -> float:
    return state().held_bytes[topic]


def _held_limit(state: Callable[[], EngineSnapshot]) -> float:
    return state().held_bytes_limit


def _is_full(state: Callable[[], EngineSnapshot], topic: str) -> float:
    return float(topic in state().full)


def _waiting_in(state: Callable[[], EngineSnapshot], topic: str) -> float:
    return state().waiting[topic]
