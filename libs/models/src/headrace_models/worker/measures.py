"""What a worker tells of itself in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from headrace_contracts.events import AttemptRequested
from headrace_streams.handling import Ending, EngineState, Observer
from headrace_streams.records import Record

from headrace_models.worker.outcomes import Ended
from headrace_models.worker.pool import Place, Pool
from headrace_models.worker.runner import RunObserver

_WEIGHT_OF_NEWEST: Final = 0.05


class MetricFactory(Protocol):
    """Makes Prometheus metrics under the service's names; durations are in seconds, and their names say so."""

    def counter(self, what: str, help: str, labels: Sequence[str] = ()) -> Any: ...

    def gauge(self, what: str, help: str, labels: Sequence[str] = ()) -> Any: ...

    def latency(self, what: str, help: str, labels: Sequence[str] = ()) -> Any: ...


class WorkerMeasures(RunObserver, Observer):
    """Counts attempts and what the engine does; gauges are read when somebody asks for them."""

    def __init__(self, metrics: MetricFactory, pool: Pool) -> None:
        self._metrics = metrics
        self._attempts = metrics.counter(
            "attempts", "Attempts reported.", ("provider", "model", "outcome", "failure", "simulated")
        )
        self._model = metrics.latency("model", "Time of a call of a model.", ("provider", "model"))
        self._first = metrics.latency("first_output", "Time from a call to its first text.", ("provider", "model"))
        self._queued = metrics.latency("queued", "From the router's decision to the call.", ("lane",))
        self._records = metrics.counter("records", "Records handled, by how that ended.", ("ending",))
        self._mean_seconds = 0.0
        metrics.gauge("slot_waiters", "Attempts that wait for a free slot.").set_function(lambda: pool.waiting)
        self._of_places = {
            metrics.gauge("slots_busy", "Calls running.", ("node",)): _busy_of,
            metrics.gauge("slots", "Calls that may run at once.", ("node",)): _slots_of,
            metrics.gauge("node_healthy", "Whether a node answers as it should.", ("node",)): _health_of,
        }
        pool.follow(self)

    def joined(self, place: Place) -> None:
        for gauge, value_of in self._of_places.items():
            gauge.labels(place.name).set_function(partial(value_of, place))

    def left(self, place: Place) -> None:
        for gauge in self._of_places:
            gauge.remove(place.name)

    def watch(self, state: Callable[[], EngineState], topics: Sequence[str]) -> None:
        """Show the engine's state from now on; call it once."""
        gauge = self._metrics.gauge
        gauge("in_flight", "Attempts in hand.").set_function(lambda: state().in_flight)
        gauge("parked", "Records that wait for another try.").set_function(lambda: state().parked)
        gauge("partitions", "Partitions assigned.").set_function(lambda: state().partitions)
        gauge("partitions_paused", "Partitions paused because too much is in hand.").set_function(
            lambda: state().paused
        )
        gauge("longest_span", "Most offsets from a commit position to the last record received.").set_function(
            lambda: state().longest_span
        )
        waiting = gauge("waiting", "Records received and not begun.", ("topic",))
        for topic in topics:
            waiting.labels(topic).set_function(_waiting_in(state, topic))
        # Offset lag cannot show this: ten records may be a second's work, or an hour's.
        gauge("outstanding_work_seconds", "Attempts received and not done, times the usual time of one.").set_function(
            lambda: (state().in_flight + sum(state().waiting.values())) * self._mean_seconds
        )

    def reported(self, request: AttemptRequested, ended: Ended, queued_seconds: float) -> None:
        code = ended.failure.code if ended.failure is not None else ""
        simulated = "yes" if ended.simulated else "no"
        self._attempts.labels(request.provider, request.model, ended.outcome.value, code, simulated).inc()
        self._queued.labels(request.lane.value).observe(queued_seconds)
        if not ended.asked:
            return
        seconds = ended.model_ms / 1000
        self._model.labels(request.provider, request.model).observe(seconds)
        if ended.first_output_ms is not None:
            self._first.labels(request.provider, request.model).observe(ended.first_output_ms / 1000)
        weight = _WEIGHT_OF_NEWEST if self._mean_seconds else 1.0
        self._mean_seconds += weight * (seconds - self._mean_seconds)

    def ended(self, record: Record, ending: Ending, seconds: float) -> None:
        self._records.labels(ending.value).inc()


def _busy_of(place: Place) -> float:
    return place.busy


def _slots_of(place: Place) -> float:
    return place.slots


def _health_of(place: Place) -> float:
    return float(place.status.healthy)


def _waiting_in(state: Callable[[], EngineState], topic: str) -> Callable[[], float]:
    return lambda: state().waiting[topic]
