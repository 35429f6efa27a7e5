"""Keeps the pool in step with the nodes that several sources tell of: merge, decide what changed, apply it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.pool import Pool

from headrace_local_worker.decide.membership import changes, shared
from headrace_local_worker.decide.merging import SourceName, merged
from headrace_local_worker.decide.nodes import NodeSpec

_log = logging.getLogger(__name__)

_OTHERS_SECONDS: Final = 5.0
"""How long a starting worker that knows of nodes waits for sources which have told nothing yet."""


class NodeSource(Protocol):
    """Tells of nodes."""

    @property
    def name(self) -> SourceName:
        """What it is."""
        ...

    @property
    def nodes(self) -> Mapping[str, NodeSpec] | None:
        """Its nodes by name, as last known; None as long as nothing is known, which is not the same as none."""
        ...

    @property
    def peers(self) -> Collection[str]:
        """The workers that share the nodes' slots with this one, as far as it knows."""
        ...

    async def follow(self, changed: Callable[[], None]) -> None:
        """Keep `nodes` and `peers` current, and call `changed` for every change. Trouble of the source is its own: it
        goes on with what it knew, and tells the service's health. Returns only if nothing can change; raises what no
        waiting mends."""

    async def close(self) -> None:
        """Release what it holds."""


class StaticNodes:
    """The nodes of a list that does not change."""

    name: Final = "static"
    peers: Final[Collection[str]] = ()

    def __init__(self, specs: Sequence[NodeSpec]) -> None:
        self.nodes: Final[Mapping[str, NodeSpec]] = {spec.name: spec for spec in specs}

    async def follow(self, changed: Callable[[], None]) -> None:
        """They are known from the beginning."""

    async def close(self) -> None:
        """Nothing is held."""


class Discovery:
    """Lets nodes join and leave the pool as its sources tell.

    `start` returns when every source has told its nodes, or some have and the others were given time; `run` continues
    until it is cancelled. What a source told last remains while it is in trouble.

    Args:
        worker: Name of this worker among the peers.
        make_endpoint: Makes the endpoint of a node.
    """

    def __init__(
        self, sources: Sequence[NodeSource], pool: Pool, worker: str, make_endpoint: Callable[[NodeSpec], Endpoint]
    ) -> None:
        self._sources = sources
        self._pool = pool
        self._worker = worker
        self._make_endpoint = make_endpoint
        self._nodes: Mapping[str, NodeSpec] = {}
        self._renamed: Mapping[str, str] = {}
        self._feeds: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()

    def waits(self) -> str | None:
        """What `start` waits for; None if for nothing."""
        silent = self._silent()
        return f"nodes by {', '.join(silent)} are not known yet" if silent else None

    async def start(self) -> None:
        """Wait for the sources and add their nodes. Raises what ended a source."""
        for source in self._sources:
            following = source.follow(self._changed.set)
            self._feeds.append(asyncio.create_task(following, name=f"nodes by {source.name}"))
        patient_until = asyncio.get_running_loop().time() + _OTHERS_SECONDS
        while silent := self._silent():
            left = patient_until - asyncio.get_running_loop().time()
            if left <= 0 and any(source.nodes for source in self._sources):
                _log.warning("starting without the nodes by %s, which are not known yet", ", ".join(silent))
                break
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            try:
                feeds = [feed for feed in self._feeds if not feed.done()]
                await asyncio.wait([changed, *feeds], timeout=max(left, 0.1), return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            self._raise_ended()
        self._settle()

    async def run(self) -> None:
        """Apply changes as they come. Raises the error that ended a source."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_settling())
            for feed in self._feeds:
                tasks.create_task(self._watch(feed))

    async def stop(self) -> None:
        """Close the sources and release every node."""
        for task in [*self._feeds, *self._leaving]:
            task.cancel()
        await asyncio.gather(*self._feeds, *self._leaving, return_exceptions=True)
        for source in self._sources:
            await source.close()
        for endpoint in self._pool.endpoints.values():
            await endpoint.provider.close()

    async def _keep_settling(self) -> None:
        while True:
            await self._changed.wait()
            self._settle()

    async def _watch(self, feed: asyncio.Task[None]) -> None:
        # Not the feed itself: when the life cycle cancels this part, `stop` is still to come.
        await asyncio.wait([feed])
        self._raise_ended()

    def _settle(self) -> None:
        """Bring the pool in line with what the sources tell."""
        self._changed.clear()
        found = merged({source.name: source.nodes or {} for source in self._sources})
        for name, other in found.renamed.items():
            if self._renamed.get(name) != other:
                _log.warning("two nodes are named %s: one is used as %s; give them different names", name, other)
        self._renamed = found.renamed
        peers = {peer for source in self._sources for peer in source.peers}
        nodes = shared(found.nodes, self._worker, peers)
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
        for spec in (*steps.joined, *steps.resized):
            self._pool.withhold(spec.name, "agent", spec.withheld)

    def _see_off(self, endpoint: Endpoint) -> None:
        async def close_when_idle() -> None:
            try:
                await endpoint.idle.wait()
            finally:
                await endpoint.provider.close()

        task = asyncio.create_task(close_when_idle(), name=f"last calls of {endpoint.name}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _silent(self) -> list[SourceName]:
        return [source.name for source in self._sources if source.nodes is None]

    def _raise_ended(self) -> None:
        for feed in self._feeds:
            if feed.done():
                feed.result()
