"""A service as built for production, with its real dependencies, within the test's own process."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from headrace_contracts.codec import Codec
from headrace_contracts.events import AccessKey
from headrace_contracts.record_mac import RecordMac
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import ACCESS_KEYS, TOPICS, TopicSpec
from headrace_runtime.access import ApiKey, hash_secret, make_key
from headrace_runtime.lifecycle import EXIT_CLEAN, Service
from headrace_runtime.lifecycle import run as live
from headrace_streams.kafka import KafkaLog
from headrace_streams.publishing import Publication, Publisher

from headrace_testing.provisioned import provision_patiently
from headrace_testing.waiting import eventually

PEPPER = "pepper-of-the-tests"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Topics:
    """All topics of a separate installation on the session's Kafka, and a foreign client that produces to them."""

    def __init__(self, kafka: str, registry: SchemaRegistry, prefix: str, pepper: str = PEPPER) -> None:
        self.pepper = pepper
        self.log = KafkaLog({"bootstrap.servers": kafka})
        self.codec = Codec(registry, prefix)
        self.producer = self.log.producer()
        self._publisher = Publisher(self.producer, self.codec, "headrace/test", RecordMac(pepper))

    async def publish(self, spec: TopicSpec, tenant: str, keyed: Sequence[tuple[str, str, Any]]) -> None:
        """Append events, each given with its key and id."""
        now_ms = time.time_ns() // 1_000_000
        await asyncio.gather(
            *(
                self._publisher.send(
                    Publication(
                        spec=spec, event=event, event_id=event_id, key=key.encode(), tenant=tenant, time_ms=now_ms
                    )
                )
                for key, event_id, event in keyed
            )
        )

    async def key(self, tenant: str, *scopes: str) -> ApiKey:
        """A new API key, stored as intake stores it."""
        made = make_key(f"{tenant}/{','.join(scopes)}".encode().ljust(40, b".")[:40])
        stored = AccessKey(
            key_id=made.key_id,
            tenant=tenant,
            secret_hash=hash_secret(self.pepper, made.secret),
            scopes=scopes,
            created_at=0,
        )
        await self.publish(ACCESS_KEYS, tenant, [(made.key_id, made.key_id, stored)])
        return made


@asynccontextmanager
async def topics_on_kafka(kafka: str, registry_url: str, prefix: str) -> AsyncIterator[Topics]:
    """Topics and schemas, provisioned."""
    async with SchemaRegistry(registry_url) as registry:
        topics = Topics(kafka, registry, prefix)
        await provision_patiently(topics.log.admin(), topics.codec, list(TOPICS.values()))
        try:
            yield topics
        finally:
            await topics.producer.close()


@asynccontextmanager
async def living(service: Service) -> AsyncIterator[None]:
    """Run the service while the block lasts; it must stop cleanly."""
    stop = asyncio.Event()
    life = asyncio.create_task(live(service, drain_seconds=10.0, stop_requested=stop))

    async def serves() -> bool:
        assert not life.done(), "the service did not start; its log says why"
        verdict = service.health.ready()
        return bool(verdict.reasons) and verdict.ok

    try:
        await eventually(serves, 60)
        yield
    finally:
        stop.set()
        code = await life
    assert code == EXIT_CLEAN


@asynccontextmanager
async def client_of(port: int, key: ApiKey) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP session with the service on this port."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}) as session:
        yield session
