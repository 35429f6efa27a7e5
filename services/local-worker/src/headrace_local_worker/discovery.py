"""Keeps the pool in step with the nodes in the cluster: load the slices, decide what changed, apply it to the pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.pool import Pool

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
from headrace_local_worker.decide.membership import changes, shared
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


class Discovery:
    """Lets nodes join and leave the pool as the cluster changes.

    `start` returns when the nodes of the first list are in the pool; `run` continues until it is cancelled. Until it is
    ready, the worker waits for the cluster; later, the last known nodes remain while the cluster does not answer.

    Args:
        worker: Name of this worker's pod.
        make_endpoint: Makes the endpoint of a node.
    """

    def __init__(
        self,
        cluster: SliceSource,
        pool: Pool,
        rules: NodeRules,
        worker: str,
        make_endpoint: Callable[[NodeSpec], Endpoint],
    ) -> None:
        self._cluster = cluster
        self._pool = pool
        self._rules = rules
        self._worker = worker
        self._make_endpoint = make_endpoint
        self._slices: Mapping[str, Slice] = {}
        self._peers: Mapping[str, Slice] = {}
        self._nodes: Mapping[str, NodeSpec] = {}
        self._labels: LabelSource | None = None
        self._objections: tuple[str, ...] = ()
        self._feeds: list[asyncio.Task[None]] = []
        self._listed = asyncio.Event()
        self._changed = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Wait for the first list and add its nodes. Raises ConfigureCluster."""
        sources = await self._cluster.open()
        self._labels = sources.labels
        self._feeds = [asyncio.create_task(self._follow_nodes(sources.nodes), name="slices of nodes")]
        if sources.peers is not None:
            self._feeds.append(asyncio.create_task(self._follow_peers(sources.peers), name="slices of workers"))
        listed = asyncio.create_task(self._listed.wait())
        try:
            await asyncio.wait([listed, *self._feeds], return_when=asyncio.FIRST_COMPLETED)
        finally:
            listed.cancel()
        self._raise_ended()
        await self._settle()

    async def run(self) -> None:
        """Apply changes as they come. Raises the error that ended a feed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_settling())
            if self._labels is not None:
                tasks.create_task(self._refresh_labels(self._labels))
            await asyncio.wait(self._feeds, return_when=asyncio.FIRST_COMPLETED)
            self._raise_ended()

    async def stop(self) -> None:
        """Close the connection to the cluster and release every node."""
        for task in [*self._feeds, *self._leaving]:
            task.cancel()
        await asyncio.gather(*self._feeds, *self._leaving, return_exceptions=True)
        await self._cluster.close()
        for endpoint in self._pool.endpoints.values():
            await endpoint.provider.close()

    async def _follow_nodes(self, events: AsyncIterator[SliceEvent]) -> None:
        async for event in events:
            self._slices = after(self._slices, event)
            self._listed.set()
            self._changed.set()

    async def _follow_peers(self, events: AsyncIterator[SliceEvent]) -> None:
        async for event in events:
            self._peers = after(self._peers, event)
            self._changed.set()

    async def _keep_settling(self) -> None:
        while True:
            await self._changed.wait()
            await self._settle()

    async def _refresh_labels(self, labels: LabelSource) -> None:
        while True:
            await asyncio.sleep(_LABELS_STAND_SECONDS)
            labels.forget()
            self._changed.set()

    async def _settle(self) -> None:
        """Bring the pool in line with the newest slices."""
        self._changed.clear()
        machines: Mapping[str, Mapping[str, str]] = {}
        if self._labels is not None:
            await self._labels.learn(machines_of(self._slices.values()))
            machines = self._labels.known
        found = nodes_of(self._slices.values(), machines, self._rules)
        self._object(found)
        nodes = shared(found.nodes, self._worker, pods_of(self._peers.values()))
        steps = changes(self._nodes, nodes)
        self._nodes = nodes
        for name in steps.left:
            _log.info("node %s has left: it gets no more work", name)
            self._see_off(self._pool.leave(name))
        for spec in steps.joined:
            _log.info("node %s has joined at %s with %d slots", spec.name, spec.url, spec.slots)
            self._pool.join(self._make_endpoint(spec))
        for spec in steps.resized:
            self._pool.resize(spec.name, spec.slots, spec.hardware)

    def _object(self, found: DiscoveredNodes) -> None:
        for objection in found.objections:
            if objection not in self._objections:
                _log.warning("%s", objection)
        self._objections = found.objections

    def _see_off(self, endpoint: Endpoint) -> None:
        async def close_when_idle() -> None:
            try:
                await endpoint.idle.wait()
            finally:
                await endpoint.provider.close()

        task = asyncio.create_task(close_when_idle(), name=f"last calls of {endpoint.name}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _raise_ended(self) -> None:
        for feed in self._feeds:
            if feed.done():
                feed.result()
