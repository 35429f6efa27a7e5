"""The journal and the router on real Kafka: what the twin cannot vouch for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import AttemptRequested, EntryKind, JournalEntry, Position, TaskCompleted, TaskSubmitted
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import (
    ATTEMPTS_FINISHED,
    TASKS_COMPLETED,
    TASKS_JOURNAL,
    TASKS_SUBMITTED,
    TOPICS,
    WORK_LOCAL_BATCH,
)
from headrace_models.prices import load_price_book
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.decide.attempt_windows import DEFAULT_WINDOW, AttemptWindow
from headrace_router.decide.tenant_quota import size_of
from headrace_router.in_flight_limiter import InFlightLimiter
from headrace_router.live_bytes import LiveBytes
from headrace_router.metrics import RouterMetrics
from headrace_router.partition import RouterContext
from headrace_router.service import RouterLimits, RouterService
from headrace_runtime.metrics import Metrics
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import Fenced
from headrace_streams.journal import Journal, Recovered
from headrace_streams.kafka import KafkaLog
from headrace_streams.ports import Log, Producer
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import TopicPartition
from headrace_streams.topic_limits import TopicLimits
from headrace_testing.provisioned import provision_patiently
from headrace_testing.router_twin import end_of, key_of, now_ms, quick_policy
from headrace_testing.routing import LOCAL, task
from prometheus_client import CollectorRegistry

pytestmark = pytest.mark.stack


class Bed:
    """Topics of its own on a real broker, with a client that submits, works and counts."""

    def __init__(self, bootstrap_servers: str, prefix: str) -> None:
        self._properties: dict[str, str | int | bool] = {
            "bootstrap.servers": bootstrap_servers,
            "heartbeat.interval.ms": 100,
        }
        self.codec = Codec(MemoryRegistry(), prefix)
        self.prefix = prefix
        self.log: Log = KafkaLog(self._properties)
        self.producer: Producer = self.log.producer()
        self.publisher = Publisher(self.producer, self.codec, "test")
        self.completed: Counter[str] = Counter()
        self.requested: list[str] = []
        self._running: list[asyncio.Task[None]] = []
        self._services: list[tuple[RouterService, Producer, asyncio.Task[None]]] = []

    async def start(self) -> None:
        await provision_patiently(self.log.admin(), self.codec, list(TOPICS.values()))
        for name, handle in ((WORK_LOCAL_BATCH.name, self._work), (TASKS_COMPLETED.name, self._count)):
            self._running.append(asyncio.create_task(self._follow(self.prefix + name, handle)))

    async def close(self) -> None:
        for service, producer, running in self._services:
            await service.drain()
            await running
            await producer.close()
        for following in self._running:
            following.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.producer.close()

    def router(
        self, name: str, *, static: bool = False, live_bytes: int = 2**30, window: AttemptWindow = DEFAULT_WINDOW
    ) -> RouterService:
        log: Log = KafkaLog(self._properties)
        producer = log.producer()
        publisher = Publisher(producer, self.codec, f"headrace/router/{name}")
        world = RoutingView(quick_policy(), load_price_book(), now_ms, window=window)
        world.node_changed("workstation", LOCAL)
        service = RouterService(
            log=log,
            codec=self.codec,
            dead_letters=DeadLetters(publisher, "router", self.prefix, now_ms),
            router_context=RouterContext(
                view=world,
                publisher=publisher,
                others=publisher,
                topic_limits=TopicLimits(log.admin(), ()),
                metrics=RouterMetrics(Metrics("router", CollectorRegistry())),
                limiter=InFlightLimiter(1000),
                publish_within=4.0,
                monotonic=time.monotonic,
                live_bytes=LiveBytes(live_bytes),
            ),
            owner=name,
            instance_id=name if static else None,
            limits=RouterLimits(tick_seconds=0.2),
        )
        self._services.append((service, producer, asyncio.create_task(service.run())))
        return service

    async def _follow(self, topic: str, handle: Callable[[Any], None]) -> None:
        reader = self.log.reader()
        try:
            await reader.assign(dict.fromkeys(await reader.partitions_of(topic), 0))
            while True:
                for record in await reader.poll(500, 5.0):
                    handle(record)
        finally:
            await reader.close()

    def _work(self, record: Any) -> None:
        origin = Origin(record.topic, record.partition, record.offset)
        request: AttemptRequested = self.codec.decode(AttemptRequested, record.value, origin)
        self.requested.append(request.task_id)
        result = end_of(request)
        self.send(ATTEMPTS_FINISHED, result, request.attempt_id, record.key, request.home_partition)

    def _count(self, record: Any) -> None:
        origin = Origin(record.topic, record.partition, record.offset)
        self.completed[self.codec.decode(TaskCompleted, record.value, origin).task_id] += 1

    def send(self, spec: Any, event: Any, event_id: str, key: bytes | None, partition: int | None = None) -> Any:
        return self.publisher.send(
            Publication(
                spec=spec, event=event, event_id=event_id, key=key, partition=partition, tenant=event.tenant,
                time_ms=now_ms(),
            )
        )  # fmt: skip

    async def submit(self, submitted: TaskSubmitted) -> None:
        await self.send(TASKS_SUBMITTED, submitted, submitted.task_id, key_of(submitted))

    async def until(self, holds: Callable[[], bool], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not holds():  # noqa: ASYNC110 - what is waited for is in another process
                await asyncio.sleep(0.01)

    async def take_over(self, owner: str) -> tuple[Journal, Recovered, list[str]]:
        reader = self.log.reader()
        folded: list[str] = []
        journal, recovered = await Journal.take_over(
            publisher=self.publisher,
            reader=reader,
            codec=self.codec,
            partition=0,
            owner=owner,
            now_ms=now_ms(),
            fold=lambda entry: folded.append(entry.task_id),
        )
        await reader.close()
        return journal, recovered, folded


@pytest.fixture
async def bed(kafka: str, topic_prefix: str) -> AsyncIterator[Bed]:
    built = Bed(kafka, topic_prefix)
    await built.start()
    yield built
    await built.close()


def entry(task_id: str, next_offset: int) -> JournalEntry:
    position = Position(topic="tasks.submitted", partition=0, next_offset=next_offset)
    return JournalEntry(kind=EntryKind.DECISION, task_id=task_id, positions=(position,), decided_at=now_ms())


async def test_a_journal_on_kafka_has_one_owner(bed: Bed) -> None:
    first, recovered, _ = await bed.take_over("a")
    assert recovered.entries == 0
    acks = [first.append(entry(f"t{number}", number + 1)) for number in range(1000)]
    assert await asyncio.gather(*acks) == list(range(1, 1001))
    second, recovered, folded = await bed.take_over("b")
    assert (second.epoch, len(folded)) == (1001, 1000)
    assert recovered.positions == {("tasks.submitted", 0): 1000}
    with pytest.raises(Fenced):
        await first.append(entry("evil", 5000))
    with pytest.raises(Fenced):
        await second.append(entry("disturbed", 5001))
    third, recovered, folded = await bed.take_over("b")
    assert (len(folded), recovered.positions) == (1000, {("tasks.submitted", 0): 1000})
    assert await third.append(entry("next", 1001)) == third.epoch + 1


async def test_a_router_with_little_memory_and_small_windows_runs_everything_in_order(bed: Bed) -> None:
    size = size_of(task(text="1000?"))
    service = bed.router("r1", live_bytes=8 * size, window=AttemptWindow(attempts=2))
    await bed.until(lambda: len(service.partitions) == 6)
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, sum(status.task_bytes or 0 for status in service.statuses()))
        return len(bed.completed) == 300

    sent = [
        task(f"{bed.prefix}{number:03}", f"{number:03}?", session=f"{number % 3}", submitted_at=now_ms())
        for number in range(300)
    ]
    for submitted in sent:
        await bed.submit(submitted)
    await bed.until(done)
    assert most <= 9 * size
    assert set(bed.completed.values()) == {1}
    for session in range(3):
        mine = [name for name in bed.requested if int(name[-3:]) % 3 == session]
        assert mine == sorted(mine)


async def test_tasks_survive_routers_that_come_and_go(bed: Bed) -> None:
    first = bed.router("r1")
    await bed.until(lambda: len(first.partitions) == 6)
    sent = [task(f"{bed.prefix}{number}", f"{number}?", submitted_at=now_ms()) for number in range(120)]
    for submitted in sent[:40]:
        await bed.submit(submitted)
    second = bed.router("r2")
    for submitted in sent[40:80]:
        await bed.submit(submitted)
    await bed.until(lambda: {len(first.partitions), len(second.partitions)} == {3})
    await first.drain()
    for submitted in sent[80:]:
        await bed.submit(submitted)
    await bed.until(lambda: len(second.partitions) == 6)
    await bed.until(lambda: len(bed.completed) == len(sent))
    await asyncio.sleep(0.3)
    assert bed.completed == Counter({submitted.task_id: 1 for submitted in sent})


async def test_a_journal_survives_compaction_and_retention_on_kafka(bed: Bed, kafka: str) -> None:
    topic = f"{bed.prefix}{TASKS_JOURNAL.name}"
    admin = AdminClient({"bootstrap.servers": kafka})
    eager = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.001", "min.compaction.lag.ms": "0"}
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in eager.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    for altered in admin.incremental_alter_configs([resource]).values():
        await asyncio.wrap_future(altered)
    first, _, _ = await bed.take_over("a")
    for number in range(600):
        first.published(await first.append(entry(f"t{number % 20}", number + 1)))
    # Only segments that are no longer written to are compacted.
    await asyncio.sleep(0.2)
    first.published(await first.append(entry("last", 601)))
    where = TopicPartition(topic, 0)
    reader = bed.log.reader()

    async def left() -> int:
        await reader.assign({where: 0})
        end = (await reader.bounds([where]))[where][1]
        count = 0
        while reader.positions()[where] < end:
            count += len(await reader.poll(1000, 1.0))
        return count

    async with asyncio.timeout(90):
        while await left() > 100:  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(1)
    second, recovered, folded = await bed.take_over("b")
    assert sorted(folded, key=lambda name: (len(name), name))[-1] == "last"
    assert set(folded) == {*(f"t{number}" for number in range(20)), "last"}
    assert recovered.positions == {("tasks.submitted", 0): 601}
    assert second.epoch == 602
    # Retention takes the rest; what is written now and then is enough to know where to go on.
    await second.checkpoint((), now_ms())
    beyond = KafkaPartition(topic, 0, second.epoch + 1)
    for deleted in admin.delete_records([beyond]).values():
        await asyncio.wrap_future(deleted)
    third, recovered, folded = await bed.take_over("c")
    assert (folded, recovered.positions) == ([], {("tasks.submitted", 0): 601})
    assert await third.append(entry("next", 602)) == third.epoch + 1
    await reader.close()


async def test_a_static_router_that_comes_back_routes_partitions_added_meanwhile(bed: Bed) -> None:
    """Under its former instance id it would get its former partitions, without a rebalance."""
    first = bed.router("r1", static=True)
    await bed.until(lambda: len(first.partitions) == TASKS_SUBMITTED.partitions)
    await first.drain()
    more = TASKS_SUBMITTED.partitions + 2
    for spec in TOPICS.values():
        if spec.copartitioned:
            await bed.log.admin().add_partitions({bed.prefix + spec.name: more})
    again = bed.router("r1", static=True)
    await bed.until(lambda: len(again.partitions) == more)
