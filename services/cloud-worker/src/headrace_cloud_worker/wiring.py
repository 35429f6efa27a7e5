"""Constructs the cloud worker."""

from __future__ import annotations

import os
from functools import partial

from headrace_contracts.codec import Codec
from headrace_contracts.events import Place
from headrace_contracts.ids import new_id
from headrace_contracts.topics import (
    ATTEMPTS_FINISHED,
    FLEET_STATUS,
    TASKS_CANCELLED,
    TASKS_REPLIES,
    USAGE_RECORDED,
    WORK_CLOUD_BATCH,
    WORK_CLOUD_INTERACTIVE,
)
from headrace_models.worker.cancellations import CancellationRequests, Cancellations, is_wanted
from headrace_models.worker.fleet import FleetOptions, FleetReporter
from headrace_models.worker.metrics import WorkerMetrics
from headrace_models.worker.pool import Endpoint, Pool
from headrace_models.worker.runner import AttemptRunner, RunnerOptions
from headrace_models.worker.workload import WorkloadReader
from headrace_runtime.connections import Connections, wall_clock_ms
from headrace_runtime.handling import current_traceparent, in_its_trace
from headrace_runtime.health import Health
from headrace_runtime.lifecycle import Part, Service
from headrace_runtime.metrics import Metrics
from headrace_streams.handling import DeadLetterSink
from headrace_streams.parallel import EngineOptions, ParallelConsumer, TopicLane
from headrace_streams.ports import Log
from headrace_streams.publishing import Publisher

from headrace_cloud_worker.adapters.providers import offered_providers
from headrace_cloud_worker.decide.offers import choose_provider, with_undated_names
from headrace_cloud_worker.decide.privacy import forbid
from headrace_cloud_worker.settings import CloudWorkerSettings

GROUP = "cloud-worker"
WRITES = (ATTEMPTS_FINISHED, USAGE_RECORDED, TASKS_REPLIES, FLEET_STATUS)
READS = (WORK_CLOUD_INTERACTIVE, WORK_CLOUD_BATCH, TASKS_CANCELLED)


def build(settings: CloudWorkerSettings) -> Service:
    """The service and its parts; connects to nothing."""
    metrics = Metrics("cloud_worker")
    health = Health()
    connections = Connections(settings, health, writes=WRITES, reads=READS)
    parts = worker_parts(
        settings,
        metrics,
        log=connections.log,
        codec=connections.codec,
        publisher=connections.publisher,
        dead_letters=connections.dead_letters,
    )
    return Service([connections.part, *parts], metrics, health)


def worker_parts(
    settings: CloudWorkerSettings,
    metrics: Metrics,
    *,
    log: Log,
    codec: Codec,
    publisher: Publisher,
    dead_letters: DeadLetterSink,
) -> list[Part]:
    """What runs on the connections, whatever log they lead to."""
    providers = [Endpoint(provider, settings.provider_slots) for provider in offered_providers(settings, os.environ)]
    pool = Pool(providers, choose_provider)
    measures = WorkerMetrics(metrics, pool)

    def stop_tasks(cancellations: CancellationRequests) -> None:
        consumer.cancel(partial(is_wanted, cancellations))
        runner.interrupt(cancellations)

    cancellations = Cancellations(
        log,
        codec,
        history_seconds=settings.cancel_history_seconds,
        clock_ms=wall_clock_ms,
        on_cancellations=stop_tasks,
    )
    runner = AttemptRunner(
        codec=codec,
        publisher=publisher,
        pool=pool,
        options=RunnerOptions(
            worker=settings.instance_id,
            call_seconds=settings.call_seconds,
            delta_seconds=settings.delta_milliseconds / 1000,
        ),
        clock_ms=wall_clock_ms,
        new_id=new_id,
        forbid=forbid,
        is_cancelled=cancellations.wanted,
        observer=measures,
        traceparent_of=current_traceparent,
    )
    interactive = settings.topic_prefix + WORK_CLOUD_INTERACTIVE.name
    batch = settings.topic_prefix + WORK_CLOUD_BATCH.name
    consumer = ParallelConsumer(
        log,
        settings.topic_prefix + GROUP,
        [
            TopicLane(interactive, weight=settings.interactive_weight),
            # Some room is left for what is urgent, however much batch work is in hand.
            TopicLane(batch, max_in_flight=max(1, settings.max_in_flight * 3 // 4)),
        ],
        in_its_trace("run attempt", runner.handle),
        skip=in_its_trace("skip attempt", runner.skip),
        dead_letters=dead_letters,
        options=EngineOptions(
            max_in_flight=settings.max_in_flight, drain_seconds=max(0.0, settings.drain_seconds - 3.0)
        ),
        observer=measures,
        instance_id=settings.instance_id if settings.static_member else None,
    )
    workload = WorkloadReader(consumer, runner, codec, measures.times)
    measures.watch(consumer, workload, [interactive, batch])
    metrics.documents["work"] = workload.document
    fleet = FleetReporter(
        pool,
        publisher,
        FleetOptions(
            worker=settings.instance_id,
            where=Place.CLOUD,
            look_seconds=settings.look_seconds,
            report_seconds=settings.report_seconds,
            models_of=with_undated_names,
        ),
        wall_clock_ms,
    )

    async def close_providers() -> None:
        for endpoint in providers:
            await endpoint.provider.close()

    return [
        Part("providers", start=fleet.start, run=fleet.run, stop=close_providers),
        Part("cancellations", start=cancellations.start, run=cancellations.run, stop=cancellations.close),
        Part("attempts", run=consumer.run, drain=consumer.stop),
        # Drained first: the fleet hears of the leave before what is in hand is finished.
        Part("leave", drain=fleet.leave),
    ]
