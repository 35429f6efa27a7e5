"""The agent's work: look at Ollama and the machine, announce what is seen, and take it back at the end.

Ollama and Kafka may be away for any time, together or one after the other. Without Ollama the node is announced as not
healthy; without Kafka nothing is announced, and workers stop sending calls when the last announcement has expired.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import aiohttp
from headrace_contracts.errors import ContractError
from headrace_contracts.events import NodeAnnounced
from headrace_contracts.node_keys import NodeKey
from headrace_contracts.topics import NODES_ANNOUNCED
from headrace_streams.errors import StreamsError
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record
from headrace_streams.tables import Table

from headrace.connecting import Cluster
from headrace.errors import Misconfigured
from headrace.node.announcing import HeardAnnouncement, Identity, announcement, rival
from headrace.node.call_queue import CallQueue
from headrace.node.hardware import HardwareReader
from headrace.node.ollama_look import look_at
from headrace.node.serving_tls import ServingTls

_log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 5.0
_SAY_AGAIN_SECONDS: Final = 60.0
_ACKNOWLEDGED_SECONDS: Final = 10.0
"""How long an announcement is waited for before Kafka is said to be away."""
_LAST_WORD_SECONDS: Final = 3.0


class Told:
    """Says what is wrong once, again now and then while it lasts, and when it is over."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, float]] = {}

    def tell(self, matter: str, problem: str | None) -> None:
        """What is wrong with a matter now; None for nothing."""
        now = time.monotonic()
        before = self._said.get(matter)
        if problem is None:
            if self._said.pop(matter, None) is not None:
                _log.info("%s: well again", matter)
        elif before is None or before[0] != problem or now - before[1] >= _SAY_AGAIN_SECONDS:
            self._said[matter] = problem, now
            _log.warning("%s: %s", matter, problem)

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong now, by matter."""
        return {matter: problem for matter, (problem, _) in self._said.items()}


class NodeAgent:
    """Announces one node.

    Args:
        key: Signs its announcements.
        ollama: Base URL of its Ollama.
        queue: That of its proxy; None without one.
        tls: Of its proxy, to be renewed.
    """

    def __init__(
        self,
        identity: Identity,
        key: NodeKey,
        cluster: Cluster,
        ollama: str,
        *,
        queue: CallQueue | None = None,
        tls: ServingTls | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._identity = identity
        self._signer = key.signer()
        self._cluster = cluster
        self._ollama = ollama
        self._queue = queue
        self._tls = tls
        self._clock_ms = clock_ms
        self._hardware = HardwareReader()
        self._heard: tuple[NodeAnnounced, float] | None = None
        self._listening = asyncio.Event()
        """Set once all that was announced of this node has been heard."""
        self._stopping: str | None = None
        self._has_announced = False
        self._has_schema = False
        self.told = Told()
        self._producer = cluster.log.producer()
        self._publisher = Publisher(self._producer, cluster.codec, f"headrace/node/{identity.node}", self._signer)

    async def run(self) -> None:
        """Announce until cancelled. Trouble is told, not raised."""
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._keep_listening())
            tasks.create_task(self._keep_announcing(session))

    async def leave(self, drain_seconds: float) -> None:
        """Take no new calls, let those of the proxy end for so long, and take the announcement back."""
        self._stopping = "its agent stops"
        if self._queue is not None:
            self._queue.close("its agent stops")
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session:
            if self._has_announced:
                with suppress(StreamsError, ContractError, TimeoutError):
                    async with asyncio.timeout(_LAST_WORD_SECONDS):
                        await self._announce(session)
            if self._queue is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(drain_seconds):
                        await self._queue.idle()
        if self._has_announced and self._rival() is None:
            try:
                async with asyncio.timeout(_LAST_WORD_SECONDS):
                    await self._publisher.send_tombstone(NODES_ANNOUNCED, self._identity.node.encode())
            except (StreamsError, TimeoutError) as error:
                _log.warning(
                    "the announcement could not be taken back, and expires by itself (%s)", type(error).__name__
                )

    async def close(self) -> None:
        """Close the connections."""
        self._hardware.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                await self._producer.close()

    async def _keep_listening(self) -> None:
        """Follow what is announced of this node."""
        while True:
            table: Table[NodeAnnounced] = Table(
                self._cluster.log, self._cluster.codec, NODES_ANNOUNCED, self._hear, admits=self._is_of_this_node
            )
            try:
                await table.start()
                self._listening.set()
                await asyncio.wait([table.failure])
                table.failure.result()
            except (StreamsError, ContractError) as error:
                self.told.tell("listening for another agent of this name", str(error))
            finally:
                await table.close()
            await asyncio.sleep(_AGAIN_SECONDS)

    def _is_of_this_node(self, record: Record) -> bool:
        if record.key != self._identity.node.encode():
            return False
        return self._signer.fits(record.topic, record.key, record.value, record.headers)

    def _hear(self, _node: str, said: NodeAnnounced | None) -> None:
        if said is None or said.agent != self._identity.agent:
            self._heard = None if said is None else (said, time.monotonic())

    def _rival(self) -> str | None:
        heard = self._heard
        return rival(
            self._identity, None if heard is None else HeardAnnouncement(heard[0], time.monotonic() - heard[1])
        )

    async def _keep_announcing(self, session: aiohttp.ClientSession) -> None:
        waiting = asyncio.create_task(self._listening.wait())
        done, _ = await asyncio.wait([waiting], timeout=_ACKNOWLEDGED_SECONDS)
        if not done:
            self.told.tell("Kafka", "it does not answer yet; the node is not announced")
            await waiting
        while True:
            began = time.monotonic()
            await self._announce_or_tell(session)
            await asyncio.sleep(max(0.0, self._identity.interval_seconds - (time.monotonic() - began)))

    async def _announce_or_tell(self, session: aiohttp.ClientSession) -> None:
        if self._tls is not None:
            try:
                self._tls.reload()
                self.told.tell("certificate", None)
            except Misconfigured as error:
                self.told.tell("certificate", f"{error}; the former one stays in use")
        problem = self._rival()
        self.told.tell("name", problem)
        if problem is not None:
            return
        try:
            async with asyncio.timeout(_ACKNOWLEDGED_SECONDS):
                await self._announce(session)
        except TimeoutError:
            self.told.tell("Kafka", "it takes no announcements; workers stop sending calls here meanwhile")
        except (StreamsError, ContractError) as error:
            self.told.tell("Kafka", str(error))
        else:
            self.told.tell("Kafka", None)
            if not self._has_announced:
                _log.info("node %s is announced at %s", self._identity.node, self._identity.url)
            self._has_announced = True

    async def _announce(self, session: aiohttp.ClientSession) -> None:
        """Raises StreamsError, ContractError."""
        seen = await look_at(session, self._ollama)
        self.told.tell("Ollama", seen.trouble or None)
        hardware = await asyncio.to_thread(self._hardware.read)
        queue = None if self._queue is None else self._queue.state
        now_ms = self._clock_ms()
        said = announcement(self._identity, seen, hardware, queue, stopping=self._stopping, now_ms=now_ms)
        if not self._has_schema:
            await self._cluster.codec.prepare([NODES_ANNOUNCED])
            self._has_schema = True
        await self._publisher.send(
            Publication(
                spec=NODES_ANNOUNCED,
                event=said,
                event_id=f"{said.node}/{said.agent}/{said.announced_at}",
                key=said.node.encode(),
                tenant="",
                time_ms=said.announced_at,
                subject=said.node,
            )
        )
