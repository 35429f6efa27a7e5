"""Estimates how many seconds of work a worker has before it. Consumer lag cannot tell, since one record may take a
thousand times as long as another.

Calls count with what is expected to be left of them, by their size and the speed of their node (`estimates`): those
that run, and those that wait for a slot. Received records that are not started yet count by their model, with the
usual time of a call. Records still in the log have not been read, so they count at the average of all models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, SchemaNotCached, UnreadableValue
from headrace_contracts.events import AttemptRequested
from headrace_streams.handling import Load
from headrace_streams.parallel import ParallelConsumer
from headrace_streams.records import Record

from headrace_models.worker.runner import AttemptRunner, ModelName, WorkInHand

PRIOR_SECONDS: Final = 5.0
"""Assumed for a call before any has been observed: a short answer of a medium-sized model."""
UNKNOWN: Final = ModelName("", "")
"""Stands for the model of records that cannot be decoded, or have not been read."""

_WEIGHT_OF_NEWEST: Final = 0.1


class ServiceTimes:
    """The usual time of a call per model: moving averages of the observed times."""

    def __init__(self, prior_seconds: float = PRIOR_SECONDS) -> None:
        self._prior = prior_seconds
        self._of: dict[ModelName, float] = {}
        self._average: float | None = None

    def observe(self, model: ModelName, seconds: float) -> None:
        """Record the duration of a call."""
        self._of[model] = _moved(self._of.get(model), seconds)
        self._average = _moved(self._average, seconds)

    def of(self, model: ModelName) -> float:
        """Usual seconds of a call: of this model, else of all, else the prior."""
        return self._of.get(model, self.average)

    @property
    def average(self) -> float:
        """Usual seconds of a call of any model."""
        return self._prior if self._average is None else self._average


@dataclass(frozen=True, slots=True)
class ModelWork:
    """Received attempts of one model. Durations in seconds.

    Attributes:
        queued: Not started, or waiting for a free slot.
        running: Being answered.
        service: Usual time of one call.
        outstanding: Time that all of them need, one after the other.
    """

    queued: int
    running: int
    service: float
    outstanding: float


@dataclass(frozen=True, slots=True)
class Workload:
    """All work before a worker.

    Attributes:
        models: The received records, by model.
        to_receive: Records in the log that have not been received.
        service: Usual time of one call of any model, in seconds.
    """

    models: Mapping[ModelName, ModelWork]
    to_receive: int
    service: float

    @property
    def backlog_seconds(self) -> float:
        """Seconds for the records still in the log."""
        return self.to_receive * self.service

    @property
    def outstanding_seconds(self) -> float:
        """Seconds for everything, one call after the other."""
        return self.backlog_seconds + sum(work.outstanding for work in self.models.values())


def workload(
    loads: Mapping[ModelName, Load],
    calls: Iterable[WorkInHand],
    to_receive: int,
    times: ServiceTimes,
) -> Workload:
    """Compute the workload from the received records, and from the calls that run or wait for a slot."""
    in_hand: dict[ModelName, list[WorkInHand]] = {}
    for call in calls:
        in_hand.setdefault(call.model, []).append(call)
    models: dict[ModelName, ModelWork] = {}
    for model in {**loads, **in_hand}:
        service, known = times.of(model), in_hand.get(model, [])
        load = loads.get(model, Load(0, 0))
        running = sum(call.has_begun for call in known)
        queued = load.waiting + max(0, load.running - running)
        others = max(0, queued - (len(known) - running))
        left = sum(service if call.seconds_left is None else call.seconds_left for call in known)
        models[model] = ModelWork(queued, running, service, others * service + left)
    return Workload(models, to_receive, times.average)


def model_of(codec: Codec) -> Callable[[Record], ModelName]:
    """Decodes only the model of the attempt in a record."""

    def read(record: Record) -> ModelName:
        origin = Origin(record.topic, record.partition, record.offset)
        try:
            fields = codec.first_fields(AttemptRequested, record.value, origin, ("provider", "model"))
        except (UnreadableValue, SchemaNotCached):
            return UNKNOWN
        provider, model = fields.get("provider"), fields.get("model")
        # Another version of the schema may lack them, or a foreign one mean something else by them.
        return ModelName(provider, model) if isinstance(provider, str) and isinstance(model, str) else UNKNOWN

    return read


class WorkloadReader:
    """Computes a worker's workload on demand."""

    def __init__(self, engine: ParallelConsumer, runner: AttemptRunner, codec: Codec, times: ServiceTimes) -> None:
        self._engine = engine
        self._runner = runner
        self._model_of = model_of(codec)
        self._times = times

    def __call__(self) -> Workload:
        assigned = self._engine.state().assigned.values()
        to_receive = sum(partition.to_receive for partition in assigned)
        return workload(self._engine.loads(self._model_of), self._runner.calls(), to_receive, self._times)

    def document(self) -> Mapping[str, Any]:
        """The workload as plain data, with each partition's offsets, for autoscalers."""
        found, state = self(), self._engine.state()
        return {
            "outstanding_work_seconds": round(found.outstanding_seconds, 3),
            "backlog_work_seconds": round(found.backlog_seconds, 3),
            "average_service_seconds": round(found.service, 3),
            "in_flight": state.in_flight,
            "waiting": sum(state.waiting.values()),
            "parked": state.parked,
            "oldest_waiting_seconds": round(self._engine.oldest_waiting_seconds(), 3),
            "to_receive": found.to_receive,
            "models": [
                {
                    "provider": name.provider,
                    "model": name.model,
                    "queued": work.queued,
                    "running": work.running,
                    "service_seconds": round(work.service, 3),
                    "outstanding_work_seconds": round(work.outstanding, 3),
                }
                for name, work in found.models.items()
            ],
            "partitions": [
                {
                    "topic": name.topic,
                    "partition": name.partition,
                    "position": partition.position,
                    "log_end": partition.log_end,
                    "lag": partition.lag,
                    "to_receive": partition.to_receive,
                    "paused": partition.paused,
                }
                for name, partition in state.assigned.items()
            ],
        }


def _moved(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT_OF_NEWEST * (newest - before)
