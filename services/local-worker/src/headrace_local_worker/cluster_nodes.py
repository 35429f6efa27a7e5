"""The nodes of a Kubernetes cluster, as its slices and their changes tell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from headrace_local_worker.decide.endpoints import (
    DiscoveredNodes,
    NodeRules,
    Slice,
    SliceEvent,
    after,
    machines_of,
    nodes_of,
    pods_of,
)
from headrace_local_worker.decide.nodes import NodeSpec

_log = logging.getLogger(__name__)

_LABELS_STAND_SECONDS: Final = 300.0


class LabelSource(Protocol):
    """Source of cluster nodes' labels."""

    @property
    def known(self) -> Mapping[str, Mapping[str, str]]:
        """The labels read so far."""
        ...

    async def learn(self, machines: Collection[str]) -> None:
        """Read those that are not known."""
        ...

    def forget(self) -> None:
        """Read all of them again next time."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """The feeds of an open cluster.

    Attributes:
        nodes: The slices of the nodes: all of them, then every change, without end.
        peers: Those of this worker's own Service, if slots are shared.
        labels: Of cluster nodes, if they are wanted.
    """

    nodes: AsyncIterator[SliceEvent]
    peers: AsyncIterator[SliceEvent] | None = None
    labels: LabelSource | None = None


class SliceSource(Protocol):
    """Where slices and labels come from."""

    async def open(self) -> Sources:
        """Connect."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class ClusterNodes:
    """The nodes of a Kubernetes cluster: load the slices, decide which nodes follow.

    Until it is ready, nothing is known of them; later, the last known nodes remain while the cluster does not answer.
    """

    name: Final = "kubernetes"

    def __init__(self, cluster: SliceSource, rules: NodeRules) -> None:
        self._cluster = cluster
        self._rules = rules
        self.nodes: Mapping[str, NodeSpec] | None = None
        self.peers: frozenset[str] = frozenset()
        """Pods of this worker's own Service."""
        self._slices: Mapping[str, Slice] | None = None
        self._labels: LabelSource | None = None
        self._objections: tuple[str, ...] = ()
        self._told = asyncio.Event()

    async def follow(self, changed: Callable[[], None]) -> None:
        """See `NodeSource`. Raises ConfigureCluster, and what ends a feed."""
        sources = await self._cluster.open()
        self._labels = sources.labels
        feeds = [
            asyncio.create_task(self._follow_nodes(sources.nodes), name="slices of nodes"),
            asyncio.create_task(self._keep_deciding(changed), name="nodes of slices"),
        ]
        if sources.peers is not None:
            feeds.append(asyncio.create_task(self._follow_peers(sources.peers), name="slices of workers"))
        if sources.labels is not None:
            feeds.append(asyncio.create_task(self._refresh_labels(sources.labels), name="labels of machines"))
        try:
            done, _ = await asyncio.wait(feeds, return_when=asyncio.FIRST_COMPLETED)
            for feed in done:
                feed.result()
        finally:
            for feed in feeds:
                feed.cancel()
            await asyncio.gather(*feeds, return_exceptions=True)

    async def close(self) -> None:
        """Close the connection to the cluster."""
        await self._cluster.close()

    async def _follow_nodes(self, events: AsyncIterator[SliceEvent]) -> None:
        async for event in events:
            self._slices = after(self._slices or {}, event)
            self._told.set()

    async def _follow_peers(self, events: AsyncIterator[SliceEvent]) -> None:
        slices: Mapping[str, Slice] = {}
        async for event in events:
            slices = after(slices, event)
            self.peers = pods_of(slices.values())
            self._told.set()

    async def _refresh_labels(self, labels: LabelSource) -> None:
        while True:
            await asyncio.sleep(_LABELS_STAND_SECONDS)
            labels.forget()
            self._told.set()

    async def _keep_deciding(self, changed: Callable[[], None]) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            if self._slices is None:
                continue  # peers only
            machines: Mapping[str, Mapping[str, str]] = {}
            if self._labels is not None:
                await self._labels.learn(machines_of(self._slices.values()))
                machines = self._labels.known
            found = nodes_of(self._slices.values(), machines, self._rules)
            self._object(found)
            self.nodes = found.nodes
            changed()

    def _object(self, found: DiscoveredNodes) -> None:
        for objection in found.objections:
            if objection not in self._objections:
                _log.warning("%s", objection)
        self._objections = found.objections
