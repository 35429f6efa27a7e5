"""The skill broadcaster on the log's in-memory twin: several processes on one cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from headrace_contracts.codec import Codec, Registry
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin
from headrace_contracts.events import AccessKey, DeadLetter, SkillAction, SkillChanged, SkillPublished, SkillSubmitted
from headrace_contracts.ids import new_id
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.record_mac import RecordMac
from headrace_contracts.topics import (
    SKILLS_CATALOG,
    SKILLS_FEED,
    SKILLS_SUBMITTED,
    TOPICS,
    TopicSpec,
    dead_letters_of,
)
from headrace_runtime.access import ApiKey, hash_secret, make_key
from headrace_runtime.authentication import authentication
from headrace_runtime.health import Health
from headrace_runtime.http import DRAINING, new_app
from headrace_runtime.metrics import Metrics
from headrace_runtime.producers import ProducerVerification
from headrace_skill_broadcaster.adapters.feed_api import FeedApi, FeedLimits
from headrace_skill_broadcaster.adapters.search_index import SearchIndex
from headrace_skill_broadcaster.adapters.skills_api import ApiTools, SkillsApi
from headrace_skill_broadcaster.decide.rules import SkillLimits
from headrace_skill_broadcaster.feed import Feed
from headrace_skill_broadcaster.keeper import Tools
from headrace_skill_broadcaster.metrics import SkillMetrics
from headrace_skill_broadcaster.replay import Replay
from headrace_skill_broadcaster.service import SubmissionService
from headrace_skill_broadcaster.view import CatalogView
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.memory import MemoryCluster, MemoryLog, Network
from headrace_streams.partitioning import partition_of
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record
from headrace_streams.tables import Table
from pydantic import SecretStr

PEPPER = SecretStr("pepper-of-the-tests")
PARTITIONS = 3

ApiClient = TestClient[web.Request, web.Application]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Process:
    """One skill broadcaster."""

    def __init__(
        self,
        installation: Installation,
        name: str,
        network: Network | None = None,
        *,
        memory_bytes: int,
        buffer_bytes: int,
        rules: SkillLimits,
        producers: ProducerVerification | None = None,
        sweep_seconds: float = 3600.0,
    ) -> None:
        self.name = name
        self.log = MemoryLog(installation.cluster, client=name, network=network)
        codec = installation.codec
        self.metrics = Metrics("test")
        self.measures = SkillMetrics(self.metrics)
        self.health = Health()
        mac = RecordMac(PEPPER.get_secret_value())
        self.publisher = Publisher(self.log.producer(), codec, f"headrace/test/{name}", mac)
        self.rules = rules
        self.view = CatalogView(SearchIndex())
        self.catalog: Table[SkillPublished] = Table(self.log, codec, SKILLS_CATALOG, self.view.apply)
        self.submissions = SubmissionService(
            Tools(
                log=self.log,
                codec=codec,
                publisher=self.publisher,
                dead_letters=DeadLetters(self.publisher, "skill-broadcaster", codec.topic_prefix, now_ms),
                limits=self.rules,
                measures=self.measures,
                clock=installation.clock,
                elsewhere=self.view.by_key,
                held_by=self.view.held_by,
                forgotten_version=self.view.forgotten_version,
                sweep_seconds=sweep_seconds,
                producers=producers,
            ),
            self.health,
        )
        self.feed = Feed(
            self.log,
            codec,
            self.measures,
            partition_of=partition_of,
            memory_bytes=memory_bytes,
            clock=now_ms,
        )
        self.replay = Replay(self.feed, self.log, codec.topic_prefix)
        self.buffer_bytes = buffer_bytes
        self._keys = installation.keys
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[ApiClient] = []

    async def start(self) -> Process:
        await self.catalog.start()
        await self.feed.start()
        await self.submissions.start()
        runs = (self.view.run, self.feed.run, self.submissions.run)
        self._tasks = [asyncio.create_task(run()) for run in runs]
        return self

    async def api(self, key: ApiKey, *, heartbeat_seconds: float = 30.0) -> ApiClient:
        """A client of this process's HTTP API."""
        app = new_app(
            metrics=Metrics("api"), body_limit_bytes=1_000_000, middlewares=(authentication(self._keys, PEPPER),)
        )
        feed_api = FeedApi(
            self.feed,
            self.replay,
            FeedLimits(heartbeat_seconds=heartbeat_seconds, interests=5, buffer_bytes=self.buffer_bytes),
            self.rules,
            self.measures,
        )
        tools = ApiTools(
            view=self.view,
            publisher=self.publisher,
            limits=self.rules,
            measures=self.measures,
            wait_seconds=2.0,
            clock=now_ms,
            new_id=new_id,
        )
        SkillsApi(tools, feed_api).add_to(app)
        server = TestServer(app)
        await server.start_server(auto_decompress=False)  # as HttpServer serves it
        client: ApiClient = TestClient(server, headers={"Authorization": f"Bearer {key}"})
        await client.start_server()
        self._clients.append(client)
        return client

    async def drain_agents(self) -> None:
        for client in self._clients:
            assert client.app is not None
            client.app[DRAINING].set()
        await self.feed.drain()

    def kill(self) -> None:
        """End it as `kill -9` would, at any point."""
        self.log.kill()
        for task in self._tasks:
            task.cancel()

    async def stop(self) -> None:
        await self.feed.drain()
        for client in self._clients:
            await client.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.catalog.close()
        await self.feed.close()
        await self.view.close()
        self.log.kill()


@dataclass
class Installation:
    """A cluster with the topics of skills, and the records in them."""

    cluster: MemoryCluster
    codec: Codec
    keys: dict[str, AccessKey]
    processes: list[Process] = field(default_factory=list)
    ahead_ms: int = 0

    def clock(self) -> int:
        """Milliseconds since the epoch, as long ahead of the real time as the test says."""
        return now_ms() + self.ahead_ms

    def make(
        self,
        name: str,
        network: Network | None = None,
        *,
        memory_bytes: int = 10_000_000,
        buffer_bytes: int = 1_000_000,
        rules: SkillLimits | None = None,
        producers: ProducerVerification | None = None,
        sweep_seconds: float = 3600.0,
    ) -> Process:
        """A process that has not started."""
        process = Process(
            self, name, network, memory_bytes=memory_bytes, buffer_bytes=buffer_bytes, rules=rules or SkillLimits(),
            producers=producers, sweep_seconds=sweep_seconds,
        )  # fmt: skip
        self.processes.append(process)
        return process

    async def run(
        self,
        name: str = "one",
        *,
        memory_bytes: int = 10_000_000,
        buffer_bytes: int = 1_000_000,
        rules: SkillLimits | None = None,
        sweep_seconds: float = 3600.0,
    ) -> Process:
        """A process that has started."""
        return await self.make(
            name, memory_bytes=memory_bytes, buffer_bytes=buffer_bytes, rules=rules, sweep_seconds=sweep_seconds
        ).start()

    def key(self, tenant: str = "acme", *scopes: str) -> ApiKey:
        """A new API key."""
        made = make_key(str(len(self.keys)).encode() * 40 if len(self.keys) < 10 else b"k" * 40)
        self.keys[made.key_id] = AccessKey(
            key_id=made.key_id,
            tenant=tenant,
            secret_hash=hash_secret(PEPPER.get_secret_value(), made.secret),
            scopes=scopes or ("skills",),
            created_at=0,
        )
        return made

    async def submit(self, name: str, body: str | None = "body", **changes: Any) -> SkillSubmitted:
        """Produce a submission directly to the topic, as any producer may."""
        submission = SkillSubmitted(
            submission_id=changes.pop("submission_id", new_id()),
            tenant=changes.pop("tenant", "acme"),
            name=name,
            action=SkillAction.PUBLISH if body is not None else SkillAction.REVOKE,
            body=None if body is None else plain(body),
            submitted_at=self.clock(),
            **changes,
        )
        publisher = Publisher(MemoryLog(self.cluster, client="outsider").producer(), self.codec, "test")
        await publisher.send(
            Publication(
                spec=SKILLS_SUBMITTED,
                event=submission,
                event_id=submission.submission_id,
                key=f"{submission.tenant}/{name}".encode(),
                tenant=submission.tenant,
                time_ms=submission.submitted_at,
            )
        )
        return submission

    def records(self, spec: TopicSpec) -> Sequence[Record]:
        return self.cluster.records(self.codec.topic_prefix + spec.name)

    def events(self, spec: TopicSpec) -> list[Any]:
        """All events in a topic, partition by partition, without tombstones."""
        return [
            self.codec.decode(spec.record, record.value, Origin(record.topic, record.partition, record.offset))
            for record in self.records(spec)
            if record.value is not None
        ]

    def catalog(self) -> Mapping[str, SkillPublished]:
        """The state of a reader of the whole catalog, with the last record of each key."""
        last = {(record.key or b"").decode(): record for record in self.records(SKILLS_CATALOG)}
        return {
            key: self.codec.decode(SkillPublished, record.value, Origin(record.topic, record.partition, record.offset))
            for key, record in last.items()
            if record.value is not None
        }

    def feed(self) -> list[SkillChanged]:
        return self.events(SKILLS_FEED)

    def dead_letters(self) -> list[DeadLetter]:
        return self.events(dead_letters_of(SKILLS_SUBMITTED))


@asynccontextmanager
async def skill_installation(registry: Registry | None = None) -> AsyncIterator[Installation]:
    """A cluster with all topics, and the processes that the test makes; they are stopped at the end."""
    cluster = MemoryCluster(session_timeout=2.0, rebalance_timeout=20.0, record_limit=300_000)
    codec = Codec(registry or MemoryRegistry(), "t.")
    await codec.prepare(TOPICS.values(), register=True)
    for spec in TOPICS.values():
        cluster.create_topic("t." + spec.name, PARTITIONS)
    installation = Installation(cluster, codec, {})
    try:
        yield installation
    finally:
        for process in installation.processes:
            await process.stop()
