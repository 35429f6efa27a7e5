"""Assembles the cloud worker."""

from __future__ import annotations

from headrace_contracts.codec import Codec
from headrace_contracts.events import Place
from headrace_contracts.groups import CLOUD_WORKER
from headrace_contracts.ids import new_id
from headrace_contracts.topics import (
    ATTEMPTS_CANCELLED_CLOUD,
    ATTEMPTS_FINISHED_CLOUD,
    ATTEMPTS_STARTED,
    FLEET_STATUS,
    PROVIDER_BATCHES,
    SWITCHES,
    TASKS_REPLIES,
    USAGE_RECORDED,
    WORK_CLOUD_BATCH,
    WORK_CLOUD_INTERACTIVE,
)
from headrace_models.worker.assembly import assemble_worker
from headrace_models.worker.batches.observing import BatchMetrics
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.metrics import WorkerMetrics
from headrace_models.worker.pool import Pool
from headrace_runtime.connections import Connections, wall_clock_ms
from headrace_runtime.handling import current_traceparent, in_its_trace
from headrace_runtime.health import Health
from headrace_runtime.lifecycle import Part, Service
from headrace_runtime.metrics import Metrics, discontinuities, suspensions
from headrace_runtime.tables import tables_part
from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.ports import Log
from headrace_streams.publishing import Publisher

from headrace_cloud_worker.adapters.batches import batch_setup
from headrace_cloud_worker.adapters.providers import offered_providers
from headrace_cloud_worker.decide.offers import choose_provider, with_undated_names
from headrace_cloud_worker.decide.privacy import forbid
from headrace_cloud_worker.settings import CloudWorkerSettings

WRITES = (ATTEMPTS_STARTED, ATTEMPTS_FINISHED_CLOUD, USAGE_RECORDED, TASKS_REPLIES, FLEET_STATUS, PROVIDER_BATCHES)
READS = (
    WORK_CLOUD_INTERACTIVE, WORK_CLOUD_BATCH, ATTEMPTS_CANCELLED_CLOUD, ATTEMPTS_STARTED, ATTEMPTS_FINISHED_CLOUD,
    USAGE_RECORDED, PROVIDER_BATCHES, SWITCHES,
)  # fmt: skip


def build(settings: CloudWorkerSettings) -> Service:
    """The service and its parts; opens no connection."""
    metrics = Metrics("cloud_worker")
    health = Health()
    connections = Connections(settings, health, metrics, writes=WRITES, reads=READS)
    parts = worker_parts(
        settings,
        metrics,
        log=connections.log,
        codec=connections.codec,
        publisher=connections.publisher,
        dead_letters=connections.dead_letters,
        health=health,
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
    health: Health,
) -> list[Part]:
    """The parts that use the connections, on any log."""
    providers = offered_providers(settings, settings.environment)
    endpoints = [Endpoint(provider, settings.provider_slots, adapts=False) for provider in providers]
    pool = Pool(endpoints, choose_provider)
    batch_metrics = BatchMetrics(metrics)
    worker = assemble_worker(
        settings,
        group=CLOUD_WORKER.name,
        place=Place.CLOUD,
        pool=pool,
        metrics=WorkerMetrics(metrics, pool, discontinuities(metrics), suspensions(metrics, health.report)),
        log=log,
        codec=codec,
        publisher=publisher,
        dead_letters=dead_letters,
        clock_ms=wall_clock_ms,
        new_id=new_id,
        traced=in_its_trace,
        traceparent_of=current_traceparent,
        forbid=forbid,
        models_of=with_undated_names,
        batches=batch_setup(settings, providers, batch_metrics),
    )
    batches = worker.batches
    assert batches is not None, "it was asked for"
    batch_metrics.watch(batches.runner.phases)
    metrics.documents["work"] = worker.workload.document

    async def close_providers() -> None:
        for endpoint in endpoints:
            await endpoint.provider.close()

    async def close_batches() -> None:
        await batches.gatherer.close()
        await batches.log.close()

    fleet, cancellations, consumer = worker.fleet, worker.cancellations, worker.consumer
    return [
        tables_part({"switches": worker.switches.table}, "switches"),
        Part("providers", start=fleet.start, run=fleet.run, stop=close_providers),
        Part("cancellations", start=cancellations.start, run=cancellations.run, stop=cancellations.close),
        Part("batches", run=batches.consumer.run, drain=batches.consumer.stop, stop=close_batches),
        Part("attempts", run=consumer.run, drain=consumer.stop),
        # Drained before the attempts: these wait for their batch to be recorded.
        Part("gathering", drain=batches.gatherer.flush),
        # Drained first: the fleet learns of the departure before the attempts in flight are finished.
        Part("leave", drain=fleet.leave),
    ]
