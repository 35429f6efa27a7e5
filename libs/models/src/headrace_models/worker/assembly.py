"""Assembles a worker. Workers differ in their endpoints, in how one is chosen, and in little else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, cast

from headrace_contracts.codec import Codec
from headrace_contracts.events import AttemptRequested, Lane, Place
from headrace_contracts.sites import NO_SITE
from headrace_contracts.topics import cancelled_topic, outcome_topic, work_topic
from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.handling import EngineOptions, Sharing, TopicLane
from headrace_streams.parallel import ParallelConsumer, ignore_assignment
from headrace_streams.ports import Log
from headrace_streams.publishing import Publisher
from headrace_streams.records import Record

from headrace_models.worker.batches.assembling import BatchSetup, BatchWork, assemble_batches
from headrace_models.worker.cancellations import Cancellations, CancelledTasks, is_cancelled
from headrace_models.worker.ended_attempts import EndedAttempts
from headrace_models.worker.fleet import FleetOptions, FleetReporter, ModelsOf, all_models
from headrace_models.worker.kill_switches import KillSwitches
from headrace_models.worker.metrics import WorkerMetrics
from headrace_models.worker.outcomes import call_of
from headrace_models.worker.paid_calls import PaidCalls
from headrace_models.worker.pool import Pool
from headrace_models.worker.runner import AttemptRunner, Forbid, RunnerOptions, nothing_forbidden
from headrace_models.worker.workload import WorkloadReader, model_of

_BATCH_SHARE: Final = 3 / 4
"""Share of the in-flight attempts that batch work may take: some room is left for interactive work."""
_REPORT_SECONDS: Final = 3.0
"""Share of the drain time reserved for writing the outcomes of the last attempts."""

RecordHandler = Callable[[Record], Awaitable[None]]


class AttemptSettings(Protocol):
    """The settings that a worker's work depends on; their units are in the settings' own help."""

    @property
    def instance_id(self) -> str: ...
    @property
    def topic_prefix(self) -> str: ...
    @property
    def static_member(self) -> bool: ...
    @property
    def drain_seconds(self) -> float: ...
    @property
    def held_records_bytes(self) -> int: ...
    @property
    def look_seconds(self) -> float: ...
    @property
    def report_seconds(self) -> float: ...
    @property
    def call_seconds(self) -> float: ...
    @property
    def first_token_seconds(self) -> float: ...
    @property
    def between_tokens_seconds(self) -> float: ...
    @property
    def delta_milliseconds(self) -> float: ...
    @property
    def cancel_history_seconds(self) -> float: ...
    @property
    def max_in_flight(self) -> int: ...
    @property
    def interactive_weight(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's parts, for the service to place in its life cycle."""

    fleet: FleetReporter
    cancellations: Cancellations
    switches: KillSwitches
    consumer: ParallelConsumer
    workload: WorkloadReader
    batches: BatchWork | None = None


def sharing_of(codec: Codec, pool: Pool) -> Sharing:
    """Attempts of one kind are those that the same endpoints may run."""
    name_of = model_of(codec)

    def kind_of(record: Record) -> Hashable:
        return pool.serving(*name_of(record))

    def room_of(kind: Hashable | None) -> int:
        return pool.useful_calls(cast(AbstractSet[str], kind))

    return Sharing(kind_of=kind_of, room_of=room_of)


def assemble_worker(
    settings: AttemptSettings,
    *,
    group: str,
    place: Place,
    pool: Pool,
    metrics: WorkerMetrics,
    log: Log,
    codec: Codec,
    publisher: Publisher,
    dead_letters: DeadLetterSink,
    clock_ms: Callable[[], int],
    new_id: Callable[[], str],
    traced: Callable[[str, RecordHandler], RecordHandler],
    traceparent_of: Callable[[Record], str | None],
    forbid: Forbid = nothing_forbidden,
    models_of: ModelsOf = all_models,
    site: str = NO_SITE,
    batches: BatchSetup | None = None,
    interruptions: int = 0,
) -> Worker:
    """A worker for both lanes, local or cloud; it is not connected to anything yet.

    Args:
        group: Consumer group, without the prefix.
        traced: Wraps a handler in a trace span of the given name.
        traceparent_of, forbid: As for `AttemptRunner`.
        models_of, site: As in `FleetOptions`.
        batches: How attempts that nobody waits for become batches of their provider; None if they never do.
        interruptions: As in `RunnerOptions`; only in vain if the pool does not interrupt calls.
    """

    def stop_tasks(cancelled: CancelledTasks) -> None:
        # Both, since an attempt is either waiting in the engine or running.
        consumer.cancel(partial(is_cancelled, cancelled))
        runner.interrupt(cancelled)
        if batch_work is not None:
            batch_work.runner.cancelled(cancelled)

    async def hand_over(record: Record, request: AttemptRequested) -> bool:
        return batch_work is not None and await batch_work.taker.take(record, request)

    def may_leave(request: AttemptRequested) -> bool:
        return forbid(request) is None and switches.against(request) is None

    cancellations = Cancellations(
        log,
        codec,
        cancelled_topic(place),
        history_seconds=settings.cancel_history_seconds,
        clock_ms=clock_ms,
        on_cancelled=stop_tasks,
    )
    ended = EndedAttempts(log, settings.topic_prefix, clock_ms)
    paid = None
    if place is Place.CLOUD:
        paid = PaidCalls(
            log, codec, publisher, worker=settings.instance_id, clock_ms=clock_ms, observer=metrics.paid_calls()
        )
    # As `stop_tasks`: the runner is there when the first record comes.
    switches = KillSwitches(log, codec, place, clock_ms, lambda: runner.look_at_switches())
    runner = AttemptRunner(
        codec=codec,
        publisher=publisher,
        pool=pool,
        options=RunnerOptions(
            worker=settings.instance_id,
            call_seconds=settings.call_seconds,
            first_token_seconds=settings.first_token_seconds,
            between_tokens_seconds=settings.between_tokens_seconds,
            delta_seconds=settings.delta_milliseconds / 1000,
            interruptions=interruptions,
        ),
        outcomes_to=outcome_topic(place),
        clock_ms=clock_ms,
        new_id=new_id,
        forbid=forbid,
        switched_off=switches.against,
        is_cancelled=cancellations.has,
        has_ended=ended.has,
        hand_over=hand_over,
        paid=paid,
        observer=metrics,
        traceparent_of=traceparent_of,
    )
    interactive = settings.topic_prefix + work_topic(place, Lane.INTERACTIVE, site).name
    batch = settings.topic_prefix + work_topic(place, Lane.BATCH, site).name
    batch_work = None if batches is None else assemble_batches(
        batches, runner, log=log, codec=codec, publisher=publisher, dead_letters=dead_letters, clock_ms=clock_ms,
        new_id=new_id, may_leave=may_leave, is_cancelled=cancellations.has,
        call_of=partial(
            call_of,
            timeout_seconds=settings.call_seconds,
            first_token_seconds=settings.first_token_seconds,
            between_tokens_seconds=settings.between_tokens_seconds,
        ),
        topic_prefix=settings.topic_prefix, worker=settings.instance_id,
        instance_id=settings.instance_id if settings.static_member else None,
        most_attempts=max(1, int(settings.max_in_flight * _BATCH_SHARE)),
    )  # fmt: skip
    consumer = ParallelConsumer(
        log,
        settings.topic_prefix + group,
        [
            TopicLane(interactive, weight=settings.interactive_weight),
            TopicLane(batch, max_in_flight=max(1, int(settings.max_in_flight * _BATCH_SHARE))),
        ],
        traced("run attempt", runner.handle),
        skip=traced("skip attempt", runner.skip),
        dead_letters=dead_letters,
        options=EngineOptions(
            max_in_flight=settings.max_in_flight,
            max_held_bytes=settings.held_records_bytes,
            drain_seconds=max(0.0, settings.drain_seconds - _REPORT_SECONDS),
        ),
        sharing=sharing_of(codec, pool),
        observer=metrics,
        on_foreign_position=ended.doubt if paid is None else paid.doubt,
        on_assigned=ignore_assignment if paid is None else paid.doubt,
        instance_id=settings.instance_id if settings.static_member else None,
    )
    workload = WorkloadReader(consumer, runner, codec, metrics.times)
    metrics.watch(consumer, workload, [interactive, batch])
    fleet = FleetReporter(
        pool,
        publisher,
        FleetOptions(
            worker=settings.instance_id,
            where=place,
            site=site,
            look_seconds=settings.look_seconds,
            report_seconds=settings.report_seconds,
            models_of=models_of,
        ),
        clock_ms,
    )
    return Worker(fleet, cancellations, switches, consumer, workload, batch_work)
