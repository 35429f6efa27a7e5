"""The nodes of an installation as an operator sees them: what workers report, what agents announce, what is drained."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

from headrace_contracts.errors import UnreadableValue
from headrace_contracts.events import NodeAnnounced, NodeDrained, NodeStatus
from headrace_contracts.topics import FLEET_STATUS, NODES_ANNOUNCED, NODES_DRAINED, TopicSpec
from headrace_streams.reading import up_to
from headrace_streams.records import TopicPartition
from headrace_streams.typed import decode

from headrace.connecting import Cluster
from headrace.errors import HeadraceError
from headrace.operating import publish, remove

_BATCH: Final = 500
_WAIT_SECONDS: Final = 0.2


class NodeUnknown(HeadraceError):
    """Choose one of the nodes that `headrace nodes list` shows."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node or provider.

    Attributes:
        node, place, provider: As workers report them.
        site: As its workers report it, else as its agent announces it.
        healthy: Whether a worker gives it calls now.
        reason: Why not, by the workers or the agent; empty if it is.
        workers: Those with a report that still holds.
        models: All that it offers, sorted.
        loaded: Those of them in memory.
        slots, busy: Of all workers together.
        tokens_per_second: Of one call, by the workers that know.
        hardware: Labels.
        drained: The operator's decision, if there is one.
        announced: What its agent says, if that still holds.
    """

    node: str
    place: str = ""
    provider: str = ""
    site: str = ""
    healthy: bool = False
    reason: str = ""
    simulated: bool = False
    workers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    slots: int = 0
    busy: int = 0
    tokens_per_second: float | None = None
    hardware: Mapping[str, str] = field(default_factory=dict)
    drained: NodeDrained | None = None
    announced: NodeAnnounced | None = None

    @property
    def state(self) -> str:
        """In one or a few words."""
        if self.drained is not None:
            return f"drained, {self.busy} running" if self.busy else "drained"
        return "healthy" if self.healthy else self.reason or "not healthy"


def node_views(
    reports: Iterable[NodeStatus],
    announced: Mapping[str, NodeAnnounced],
    drained: Mapping[str, NodeDrained],
    now_ms: int,
) -> tuple[NodeView, ...]:
    """Everything that is known of the nodes, by name. Reports and announcements that have expired count for nothing."""
    current: dict[str, list[NodeStatus]] = {}
    for report in reports:
        if now_ms < report.reported_at + report.valid_for_ms:
            current.setdefault(report.node, []).append(report)
    saying = {name: said for name, said in announced.items() if now_ms < said.announced_at + said.valid_for_ms}
    names = sorted({*current, *saying, *drained})
    return tuple(_view(name, current.get(name, []), saying.get(name), drained.get(name)) for name in names)


def _view(name: str, reports: list[NodeStatus], said: NodeAnnounced | None, drained: NodeDrained | None) -> NodeView:
    speeds = [report.tokens_per_second for report in reports if report.tokens_per_second is not None]
    models = {model.name: model.loaded for report in reports for model in report.models}
    reasons = dict.fromkeys(report.reason for report in reports if not report.healthy)
    if not reports and said is not None:
        models = {model.name: model.loaded for model in said.models}
        reasons = {said.reason or "no worker uses it": None}
    elif not reports:
        reasons = {"unknown to workers and agents": None}
    return NodeView(
        node=name,
        place=reports[0].place.value if reports else "local" if said is not None else "",
        provider=reports[0].provider if reports else "",
        site=reports[0].site if reports else said.site if said is not None else "",
        healthy=any(report.healthy for report in reports),
        reason="; ".join(reasons),
        simulated=any(report.simulated for report in reports),
        workers=tuple(sorted(report.worker for report in reports)),
        models=tuple(sorted(models)),
        loaded=tuple(sorted(model for model, is_loaded in models.items() if is_loaded)),
        slots=sum(report.slots for report in reports) if reports else said.slots if said is not None else 0,
        busy=sum(report.busy for report in reports),
        tokens_per_second=fmean(speeds) if speeds else said.tokens_per_second if said is not None else None,
        hardware=reports[0].hardware if reports else said.labels if said is not None else {},
        drained=drained,
        announced=said,
    )


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


async def read_nodes(cluster: Cluster) -> tuple[NodeView, ...]:
    """All nodes, as the topics have them now. Raises TransientError, RegistryUnavailable."""
    reports, announced, drained = await newest_events(cluster, (FLEET_STATUS, NODES_ANNOUNCED, NODES_DRAINED))
    return node_views(reports.values(), announced, drained, now_ms())


async def read_node(cluster: Cluster, node: str) -> NodeView:
    """One node. Raises NodeUnknown, and as `read_nodes`."""
    views = await read_nodes(cluster)
    for view in views:
        if view.node == node:
            return view
    raise NodeUnknown(f"there is no node {node}; the nodes are {', '.join(view.node for view in views) or '(none)'}")


async def drain_node(cluster: Cluster, node: str, *, reason: str, who: str) -> NodeDrained:
    """Give a node no new calls, from every worker, until `undrain_node`. Raises StreamsError, ContractError."""
    drained = NodeDrained(node=node, reason=reason, drained_by=who, drained_at=now_ms())
    await publish(cluster, NODES_DRAINED, node, drained, drained.drained_at)
    return drained


async def undrain_node(cluster: Cluster, node: str) -> None:
    """Let a node have calls again. Raises StreamsError."""
    await remove(cluster, NODES_DRAINED, node)


async def newest_events(cluster: Cluster, specs: Sequence[TopicSpec]) -> tuple[Mapping[str, Any], ...]:
    """The newest event of each key of these topics, up to their present ends; none of a topic that is not there.

    What cannot be read is left out: a list of nodes must not fail for one of them. Raises TransientError,
    RegistryUnavailable.
    """
    spec_of = {cluster.topic(spec): spec for spec in specs}
    found: dict[str, dict[str, Any]] = {name: {} for name in spec_of}
    counts = await cluster.log.admin().partition_counts(spec_of)
    reader = cluster.log.reader()
    try:
        bounds = await reader.bounds([TopicPartition(name, part) for name in counts for part in range(counts[name])])
        ends = {part: end for part, (first, end) in bounds.items() if first < end}
        await reader.assign({part: bounds[part][0] for part in ends})
        async for records in up_to(reader, ends, most=_BATCH, poll_seconds=_WAIT_SECONDS):
            for record in records:
                key = (record.key or b"").decode("utf-8", "replace")
                if record.value is None:
                    found[record.topic].pop(key, None)
                    continue
                try:
                    found[record.topic][key] = await decode(cluster.codec, spec_of[record.topic].record, record)
                except UnreadableValue:
                    continue
    finally:
        await reader.close()
    return tuple(found.values())
