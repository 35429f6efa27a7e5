"""Assembles the local worker."""

from __future__ import annotations

from headrace_contracts.codec import Codec
from headrace_contracts.events import Place
from headrace_contracts.groups import LOCAL_WORKER, local_worker_of
from headrace_contracts.ids import new_id
from headrace_contracts.topics import (
    ATTEMPTS_CANCELLED_LOCAL,
    ATTEMPTS_FINISHED,
    FLEET_STATUS,
    TASKS_REPLIES,
    USAGE_RECORDED,
)
from headrace_models.local_servers import OPENAI_COMPATIBLE_SERVERS
from headrace_models.ollama import OllamaNode
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import Provider
from headrace_models.worker.assembly import assemble_worker
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.metrics import WorkerMetrics
from headrace_models.worker.pool import Pool
from headrace_runtime.connections import Connections, wall_clock_ms
from headrace_runtime.handling import current_traceparent, in_its_trace
from headrace_runtime.health import Health
from headrace_runtime.lifecycle import Part, Service
from headrace_runtime.metrics import Metrics, discontinuities, suspensions
from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.ports import Log
from headrace_streams.publishing import Publisher
from pydantic import SecretStr

from headrace_local_worker.decide.balancing import choose_node
from headrace_local_worker.decide.nodes import NodeSpec
from headrace_local_worker.discovery import Discovery
from headrace_local_worker.settings import LocalWorkerSettings

WRITES = (ATTEMPTS_FINISHED, USAGE_RECORDED, TASKS_REPLIES, FLEET_STATUS)
READS = (*LOCAL_WORKER.topics, ATTEMPTS_CANCELLED_LOCAL, USAGE_RECORDED)


def build(settings: LocalWorkerSettings) -> Service:
    """The service and its parts; opens no connection."""
    metrics = Metrics("local_worker")
    health = Health()
    reads = (*local_worker_of(settings.site).topics, ATTEMPTS_CANCELLED_LOCAL, USAGE_RECORDED)
    connections = Connections(settings, health, metrics, writes=WRITES, reads=reads)
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
    settings: LocalWorkerSettings,
    metrics: Metrics,
    *,
    log: Log,
    codec: Codec,
    publisher: Publisher,
    dead_letters: DeadLetterSink,
    health: Health,
) -> list[Part]:
    """The parts that use the connections, on any log."""
    pool, membership = _nodes(settings, metrics, health)
    worker = assemble_worker(
        settings,
        group=local_worker_of(settings.site).name,
        place=Place.LOCAL,
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
        site=settings.site,
    )
    metrics.documents["work"] = worker.workload.document
    fleet, cancellations, consumer = worker.fleet, worker.cancellations, worker.consumer
    return [
        membership,
        Part("fleet", start=fleet.start, run=fleet.run),
        Part("cancellations", start=cancellations.start, run=cancellations.run, stop=cancellations.close),
        Part("attempts", run=consumer.run, drain=consumer.stop),
        # Drained first: the fleet learns of the departure before the attempts in flight are finished.
        Part("leave", drain=fleet.leave),
    ]


def _nodes(settings: LocalWorkerSettings, metrics: Metrics, health: Health) -> tuple[Pool, Part]:
    """The pool, and the part that decides which nodes are in it."""

    def endpoint(spec: NodeSpec) -> Endpoint:
        return Endpoint(_server(spec, settings), spec.slots, spec.hardware)

    if settings.discovery == "kubernetes":
        # Importing the client takes half a second and 60 MB, so it is imported only where needed.
        from headrace_local_worker.adapters.cluster import KubernetesCluster

        pool = Pool((), choose_node)
        failing = metrics.gauge("discovery_failing", "1 while the Kubernetes API is unavailable.")

        def tell(problem: str | None) -> None:
            failing.set(0 if problem is None else 1)
            health.note("discovery", problem or "following the cluster")
            health.degrade("discovery", problem)

        cluster = KubernetesCluster(
            namespace=settings.discovery_namespace,
            selector=settings.discovery_selector,
            peers=settings.discovery_peers,
            labels=bool(settings.discovery_labels),
            tell=tell,
        )
        discovery = Discovery(cluster, pool, settings.rules(), settings.instance_id, endpoint)
        return pool, Part("nodes", start=discovery.start, run=discovery.run, stop=discovery.stop)
    pool = Pool([endpoint(spec) for spec in settings.nodes()], choose_node)

    async def close_nodes() -> None:
        for one in pool.endpoints.values():
            await one.provider.close()

    return pool, Part("nodes", stop=close_nodes)


def _server(spec: NodeSpec, settings: LocalWorkerSettings) -> Provider:
    dialect = OPENAI_COMPATIBLE_SERVERS.get(spec.server)
    if dialect is None:
        return OllamaNode(spec.name, spec.url, keep_alive=settings.node_keep_alive())
    return OpenAICompatible(spec.server, spec.url, SecretStr(""), dialect=dialect, node=spec.name)
