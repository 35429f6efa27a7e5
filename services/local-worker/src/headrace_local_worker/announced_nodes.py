"""The nodes that agents announce (`headrace node`), as far as their announcements are signed and still hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from headrace_contracts.codec import Codec
from headrace_contracts.events import NodeAnnounced
from headrace_contracts.node_keys import is_of_its_node
from headrace_contracts.topics import NODES_ANNOUNCED
from headrace_streams.ports import Log
from headrace_streams.records import Record
from headrace_streams.tables import Table

from headrace_local_worker.decide.announced import announced_node
from headrace_local_worker.decide.nodes import NodeSpec

_log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
_FORGOTTEN_SECONDS: Final = 600.0
"""How long after its last announcement an agent's node is kept, without calls: it may come back."""
_LONGEST_VALID_SECONDS: Final = 300.0


class AnnouncedNodes:
    """The table of nodes.announced as a source of nodes.

    An announcement holds for `valid_for_ms` from when it came here, by this worker's own clock. After that its node
    gets no new calls: its address may be another machine's by now.

    Args:
        secret: The installation's, under which announcements are signed.
        site: Only nodes of this site.
        tell: What to tell the operator about announcements that nobody of this installation has signed.
    """

    name: Final = "announced"
    peers: Final[Collection[str]] = ()

    def __init__(
        self,
        log: Log,
        codec: Codec,
        secret: str,
        *,
        site: str = "",
        tell: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self._secret = secret
        self._site = site
        self._tell = tell
        # Its rows are as many as nodes have ever been given keys, and the topic forgets those that are gone.
        self._table: Table[NodeAnnounced] = Table(log, codec, NODES_ANNOUNCED, self._take, admits=self._admits)
        self.nodes: Mapping[str, NodeSpec] | None = None
        self._heard: dict[str, tuple[NodeAnnounced, float]] = {}
        self._newest_at: dict[str, int] = {}
        """Times of the newest announcements by the agents' clocks, also of nodes that have gone."""
        self._news = asyncio.Event()
        self._objections: dict[str, str] = {}

    async def follow(self, changed: Callable[[], None]) -> None:
        """See `NodeSource`. Raises what ends a table."""
        try:
            await self._table.start()
            while True:
                self._news.clear()
                nodes = self._current(asyncio.get_running_loop().time())
                if nodes != self.nodes:
                    self.nodes = nodes
                    changed()
                news = asyncio.create_task(self._news.wait())
                try:
                    either: list[asyncio.Future[Any]] = [news, self._table.failure]
                    await asyncio.wait(either, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
                if self._table.failure.done():
                    self._table.failure.result()
        finally:
            await self._table.close()

    async def close(self) -> None:
        """The table is closed with `follow`."""

    def _admits(self, record: Record) -> bool:
        if is_of_its_node(self._secret, record.topic, record.key, record.value, record.headers):
            return True
        self._tell(record)
        return False

    def _take(self, node: str, said: NodeAnnounced | None) -> None:
        if said is None or said.node != node:
            self._heard.pop(node, None)
        elif self._is_old(said):
            _log.warning("an old announcement of %s, of another address, is ignored: somebody has sent it again", node)
        else:
            self._newest_at[node] = max(said.announced_at, self._newest_at.get(node, 0))
            self._heard[node] = said, asyncio.get_running_loop().time()
        self._news.set()

    def _is_old(self, said: NodeAnnounced) -> bool:
        """Whether it would bring back an address that its node has left: signatures do not expire."""
        if said.announced_at >= self._newest_at.get(said.node, 0):
            return False
        known = self._heard.get(said.node)
        return known is None or known[0].url != said.url

    def _current(self, now: float) -> dict[str, NodeSpec]:
        nodes: dict[str, NodeSpec] = {}
        for node, (said, heard_at) in tuple(self._heard.items()):
            silent_seconds = now - heard_at - min(said.valid_for_ms / 1000, _LONGEST_VALID_SECONDS)
            if silent_seconds > _FORGOTTEN_SECONDS:
                del self._heard[node]
                continue
            found = announced_node(said, self._site)
            if isinstance(found, str):
                if self._objections.get(node) != found:
                    _log.warning("%s", found)
                self._objections[node] = found
            elif found is not None:
                self._objections.pop(node, None)
                nodes[node] = replace(found, silent=silent_seconds > 0)
        return nodes
