"""Assembles the local worker."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.events import Place
from headrace_contracts.groups import LOCAL_WORKER, local_worker_of, placements_of
from headrace_contracts.ids import new_id
from headrace_contracts.topics import (
    ATTEMPTS_CANCELLED_LOCAL,
    ATTEMPTS_FINISHED,
    FLEET_STATUS,
    NODES_ANNOUNCED,
    NODES_DRAINED,
    PLACEMENTS_REQUESTED,
    SWITCHES,
    TASKS_REPLIES,
    USAGE_RECORDED,
)
from headrace_models.local_servers import INSIDE, OPENAI_COMPATIBLE_SERVERS, SEARXNG
from headrace_models.ollama import OllamaNode
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import Provider
from headrace_models.searxng import SearXNG
from headrace_models.upstream.node_certificates import CertificatesUnusable, NodeCertificates
from headrace_models.worker.assembly import assemble_worker
from headrace_models.worker.displacing import SOON_SECONDS
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.metrics import WorkerMetrics
from headrace_models.worker.pool import Pool
from headrace_models.worker.warm_prefixes import WarmPrefixes
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.connections import Connections, wall_clock_ms
from headrace_runtime.handling import current_traceparent, in_its_trace
from headrace_runtime.health import Health
from headrace_runtime.lifecycle import Part, Service
from headrace_runtime.metrics import Metrics, discontinuities, suspensions
from headrace_runtime.tables import tables_part
from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.handling import EngineOptions, TopicLane
from headrace_streams.parallel import ParallelConsumer
from headrace_streams.ports import Log
from headrace_streams.publishing import Publisher
from pydantic import SecretStr

from headrace_local_worker.announced_nodes import AnnouncedNodes
from headrace_local_worker.cluster_nodes import ClusterNodes
from headrace_local_worker.decide.balancing import choose_node
from headrace_local_worker.decide.merging import SourceName
from headrace_local_worker.decide.nodes import NodeSpec
from headrace_local_worker.decide.privacy import forbid
from headrace_local_worker.discovery import Discovery, NodeSource, StaticNodes
from headrace_local_worker.drained_nodes import DrainedNodes
from headrace_local_worker.placements import Placements
from headrace_local_worker.settings import LocalWorkerSettings, TokenMissing

WRITES = (ATTEMPTS_FINISHED, USAGE_RECORDED, TASKS_REPLIES, FLEET_STATUS)
_READS_OF_ALL_SITES = (
    ATTEMPTS_CANCELLED_LOCAL, USAGE_RECORDED, NODES_ANNOUNCED, NODES_DRAINED, PLACEMENTS_REQUESTED,
    SWITCHES,
)  # fmt: skip
READS = (*LOCAL_WORKER.topics, *_READS_OF_ALL_SITES)

_PLACEMENT_DRAIN_SECONDS: Final = 1.0
_CERTIFICATES_SECONDS: Final = 60.0
"""Between two looks at the files of certificates."""


def build(settings: LocalWorkerSettings) -> Service:
    """The service and its parts; opens no connection."""
    metrics = Metrics("local_worker")
    health = Health()
    reads = (*local_worker_of(settings.site).topics, *_READS_OF_ALL_SITES)
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
    pool, membership = _pool_of_nodes(settings, metrics, health, log, codec)
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
        forbid=forbid,
        site=settings.site,
        interruptions=settings.batch_interruptions,
    )
    metrics.documents["work"] = worker.workload.document
    placements = ParallelConsumer(
        log,
        settings.topic_prefix + placements_of(settings.site).name,
        [TopicLane(settings.topic_prefix + PLACEMENTS_REQUESTED.name)],
        in_its_trace("place a model", Placements(pool, codec, wall_clock_ms).handle),
        dead_letters=dead_letters,
        # What is not finished when the worker stops, the next one begins again.
        options=EngineOptions(drain_seconds=_PLACEMENT_DRAIN_SECONDS),
    )
    fleet, cancellations, consumer = worker.fleet, worker.cancellations, worker.consumer
    return [
        *membership,
        tables_part({"switches": worker.switches.table}, "switches"),
        Part("fleet", start=fleet.start, run=fleet.run),
        Part("cancellations", start=cancellations.start, run=cancellations.run, stop=cancellations.close),
        Part("attempts", run=consumer.run, drain=consumer.stop),
        Part("placements", run=placements.run, drain=placements.stop),
        # Drained first: the fleet learns of the departure before the attempts in flight are finished.
        Part("leave", drain=fleet.leave),
    ]


def _pool_of_nodes(
    settings: LocalWorkerSettings, metrics: Metrics, health: Health, log: Log, codec: Codec
) -> tuple[Pool, list[Part]]:
    """The pool, and the parts that decide which nodes are in it, and which of them are drained."""
    certificates = settings.node_certificates()

    def endpoint(spec: NodeSpec) -> Endpoint:
        try:
            token = settings.token_of(spec)
            health.degrade(f"token of {spec.name}", None)
        except TokenMissing as error:
            token = None
            health.degrade(f"token of {spec.name}", str(error))
        context = None if certificates is None else certificates.context
        server = _server(spec, settings, token, context)
        return Endpoint(server, spec.slots, spec.hardware, parallel=spec.defaults.parallel, slots_told=spec.slots_told)

    soon = SOON_SECONDS if settings.batch_interruptions else None
    pool = Pool((), choose_node, displaces_above=soon, warm=WarmPrefixes())
    drained = DrainedNodes(log, codec, pool)
    sources = _sources(settings, metrics, health, log, codec)
    discovery = Discovery(sources, pool, settings.instance_id, endpoint)
    parts = [
        tables_part({"nodes.drained": drained.table}, "drained nodes"),
        Part("nodes", start=discovery.start, run=discovery.run, stop=discovery.stop, waits=discovery.waits),
    ]
    if certificates is not None:
        parts.append(Part("certificates of nodes", run=partial(_keep_reading, certificates, health)))
    return pool, parts


def _sources(
    settings: LocalWorkerSettings, metrics: Metrics, health: Health, log: Log, codec: Codec
) -> list[NodeSource]:
    failing = metrics.gauge("discovery_failing", "1 while a source of nodes does not answer.", ("source",))

    def teller(source: SourceName) -> Callable[[str | None], None]:
        failing.labels(source).set(0)

        def tell(problem: str | None) -> None:
            failing.labels(source).set(0 if problem is None else 1)
            health.note(f"discovery by {source}", problem or "answers")
            health.degrade(f"discovery by {source}", problem)

        return tell

    sources: list[NodeSource] = []
    if "static" in settings.discovery:
        sources.append(StaticNodes(settings.nodes()))
    if "kubernetes" in settings.discovery:
        # Importing the client takes half a second and 60 MB, so it is imported only where needed.
        from headrace_local_worker.adapters.cluster import KubernetesCluster

        cluster = KubernetesCluster(
            namespace=settings.discovery_namespace,
            selector=settings.discovery_selector,
            peers=settings.discovery_peers,
            labels=bool(settings.discovery_labels),
            tell=teller("kubernetes"),
        )
        sources.append(ClusterNodes(cluster, settings.rules()))
    if "announced" in settings.discovery and settings.key_pepper is not None:
        authenticity = Authenticity(settings.key_pepper, "refuse", metrics)
        secret = settings.key_pepper.get_secret_value()
        sources.append(AnnouncedNodes(log, codec, secret, site=settings.site, tell=authenticity.tell))
    if "dns" in settings.discovery:
        from headrace_local_worker.adapters.dns import DnsNodes

        sources.append(DnsNodes(settings.srv_names(), settings.node_slots, teller("dns")))
    return sources


def _server(
    spec: NodeSpec, settings: LocalWorkerSettings, token: SecretStr | None, certificates: ssl.SSLContext | None
) -> Provider:
    if spec.server == SEARXNG:
        inside = spec.reach == INSIDE
        return SearXNG(spec.name, spec.url, inside=inside, token=token, certificates=certificates)
    dialect = OPENAI_COMPATIBLE_SERVERS.get(spec.server)
    if dialect is None:
        return OllamaNode(
            spec.name, spec.url, keep_alive=settings.node_keep_alive(), defaults=spec.defaults, token=token,
            certificates=certificates,
        )  # fmt: skip
    key = token or SecretStr("")
    return OpenAICompatible(
        spec.server, spec.url, key, dialect=dialect, node=spec.name, certificates=certificates, defaults=spec.defaults
    )


async def _keep_reading(certificates: NodeCertificates, health: Health) -> None:
    """Use certificates that are renewed while this runs."""
    while True:
        await asyncio.sleep(_CERTIFICATES_SECONDS)
        try:
            certificates.reload()
            health.degrade("certificates of nodes", None)
        except CertificatesUnusable as error:
            health.degrade("certificates of nodes", f"{error}; those read before are used")
