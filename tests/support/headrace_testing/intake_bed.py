"""A complete intake on the log's in-memory twin, with a stand-in for the router that answers as the test specifies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import aiohttp
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain, text_of
from headrace_contracts.errors import Origin
from headrace_contracts.events import (
    Privacy,
    ReplyKind,
    ServedFrom,
    TaskCancelled,
    TaskCompleted,
    TaskReply,
    TaskStatus,
    TaskSubmitted,
    TrailStep,
    Usage,
)
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.reply_tokens import ReplyTokens
from headrace_contracts.topics import (
    TASKS_CANCELLED,
    TASKS_COMPLETED,
    TASKS_REPLIES,
    TASKS_SUBMITTED,
    TOPICS,
    TopicSpec,
)
from headrace_intake.settings import IntakeSettings
from headrace_intake.wiring import Bus, assemble
from headrace_runtime.access import make_key
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.connections import wall_clock_ms
from headrace_runtime.health import Health
from headrace_runtime.lifecycle import Service
from headrace_runtime.lifecycle import run as live
from headrace_runtime.metrics import Metrics
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.memory import MemoryCluster, MemoryLog, Network, NetworkRequest, Operation
from headrace_streams.ports import Log
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import NewTopic, Record, TopicPartition
from multidict import CIMultiDictProxy
from prometheus_client import CollectorRegistry

T = TypeVar("T")

NO_DATABASE = "postgresql://unused@127.0.0.1:1/nothing"
BOOTSTRAP_KEY = str(make_key(bytes(range(40))))
PEPPER = "a pepper for tests"
TOKENS = ReplyTokens(PEPPER)


@dataclass
class Seen:
    """A task as the stand-in received it."""

    task: TaskSubmitted
    record: Record


Answer = Callable[["StandIn", Seen], Coroutine[Any, Any, None]]


class StandIn:
    """Stands in for router and workers: reads submitted tasks and answers them with `answer`."""

    def __init__(self, log: Log, codec: Codec) -> None:
        self._log = log
        self._codec = codec
        self._producer = log.producer()
        self._publisher = Publisher(self._producer, codec, "headrace/router/test")
        self.answer: Answer = echo
        self.tasks: list[Seen] = []
        self.cancelled: list[tuple[TaskCancelled, Record]] = []
        self._answering: set[asyncio.Task[None]] = set()
        self.came = asyncio.Condition()

    async def run(self) -> None:
        reader = self._log.reader()
        start: dict[TopicPartition, int] = {}
        for spec in (TASKS_SUBMITTED, TASKS_CANCELLED):
            for partition in await reader.partitions_of(self._codec.topic_prefix + spec.name):
                start[partition] = 0
        await reader.assign(start)
        try:
            while True:
                for record in await reader.poll(100, 1.0):
                    await self._take(record)
        finally:
            await reader.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._producer.close()

    async def _take(self, record: Record) -> None:
        origin = Origin(record.topic, record.partition, record.offset)
        if record.topic.endswith(TASKS_CANCELLED.name):
            self.cancelled.append((await self._codec.read(TaskCancelled, record.value, origin), record))
        else:
            seen = Seen(await self._codec.read(TaskSubmitted, record.value, origin), record)
            self.tasks.append(seen)
            answering = asyncio.create_task(self.answer(self, seen))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)
        async with self.came:
            self.came.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a task that was read makes the condition true."""
        async with asyncio.timeout(30), self.came:
            await self.came.wait_for(condition)

    async def say(self, seen: Seen, text: str, sequence: int, *, attempt: int = 1, execution: str = "e1") -> None:
        await self.reply(
            seen,
            ReplyKind.DELTA,
            text=plain(text),
            sequence=sequence,
            attempt=attempt,
            execution_id=execution,
        )

    async def reply(self, seen: Seen, kind: ReplyKind, **fields: Any) -> None:
        task = seen.task
        event = TaskReply(
            task_id=task.task_id, tenant=task.tenant, kind=kind, emitted_at=wall_clock_ms(),
            **{"reply_token": token_of(task, kind, fields.get("attempt", 0)), **fields},
        )  # fmt: skip
        await self._send(TASKS_REPLIES, event, task.task_id.encode(), task.reply_partition, f"{task.task_id}/{kind}")

    async def finish(self, seen: Seen, **changes: Any) -> TaskCompleted:
        end = completion(seen, **changes)
        await self._send(TASKS_COMPLETED, end, seen.record.key, seen.record.partition, f"{end.task_id}/completed")
        if seen.task.reply_partition is not None:
            await self.reply(seen, ReplyKind.FINISHED, result=end)
        return end

    async def _send(self, spec: TopicSpec, event: Any, key: bytes | None, partition: int | None, event_id: str) -> None:
        await self._publisher.send(
            Publication(
                spec=spec, event=event, event_id=event_id, key=key, partition=partition, tenant=event.tenant, time_ms=1
            )
        )


def token_of(task: TaskSubmitted, kind: ReplyKind, attempt: int) -> bytes:
    """The token that a worker, or the router, puts into such a reply."""
    if kind is ReplyKind.DELTA:
        return TOKENS.of_attempt(task.tenant, task.task_id, attempt)
    return TOKENS.of_router(task.tenant, task.task_id)


def completion(seen: Seen, **changes: Any) -> TaskCompleted:
    """The end of a successful task, with `changes` applied."""
    task = seen.task
    end = TaskCompleted(
        task_id=task.task_id,
        tenant=task.tenant,
        user=task.user,
        key_id=task.key_id,
        kind=task.kind,
        role=task.role,
        session=task.session,
        subject=task.subject,
        labels=task.labels,
        privacy=task.privacy or Privacy.INTERNAL,
        status=TaskStatus.SUCCEEDED,
        answer=plain("Echo: " + text_of(task.messages[-1].content)) if task.messages else None,
        finish_reason="stop",
        provider="ollama",
        model="phi3",
        node="n1",
        simulated=True,
        served_from=ServedFrom.ATTEMPT,
        usage=Usage(input_tokens=11, output_tokens=5),
        cost_nanodollars=1_500,
        attempts=1,
        trail=(TrailStep(at=wall_clock_ms(), step="dispatched", provider="ollama", model="phi3", reason="test"),),
        home_partition=seen.record.partition,
        submitted_at=task.submitted_at,
        completed_at=wall_clock_ms(),
    )
    return replace(end, **changes)


async def echo(router: StandIn, seen: Seen) -> None:
    """Answers at once with the prompt; in pieces if a caller waits for replies."""
    if seen.task.stream:
        for number, piece in enumerate(("Echo: ", text_of(seen.task.messages[-1].content))):
            await router.say(seen, piece, number)
    await router.finish(seen)


async def silence(router: StandIn, seen: Seen) -> None:
    """Never answers."""


class FaultyNetwork:
    """A connection to the cluster on which appending raises `error`, if set, with or without having been applied."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.performs = False

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if request.operation is Operation.APPEND and self.error is not None:
            if self.performs:
                perform()
            raise self.error
        return perform()


@dataclass
class Running:
    """A running intake."""

    url: str
    http: aiohttp.ClientSession
    metrics: CollectorRegistry
    health: Health

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str = BOOTSTRAP_KEY, **headers: str
    ) -> tuple[int, Any, CIMultiDictProxy[str]]:
        """Status, JSON (None for an empty body) and headers."""
        told = {"Authorization": f"Bearer {key}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.http.request(method, self.url + path, json=body, headers=told) as response:
            raw = await response.read()
            return response.status, await response.json(content_type=None) if raw else None, response.headers


@dataclass
class Bed:
    """A cluster, its stand-in router, and the intakes that a test starts."""

    cluster: MemoryCluster
    log: MemoryLog
    codec: Codec
    router: StandIn
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def intake(self, *, network: Network | None = None, **settings: Any) -> Running:
        """Start an intake; it stops with the test."""
        return await self.stack.enter_async_context(self.running(network=network, **settings))

    @asynccontextmanager
    async def running(self, *, network: Network | None = None, **changes: Any) -> AsyncIterator[Running]:
        """An intake for as long as the block lasts."""
        settings = IntakeSettings(
            **{
                "database_url": NO_DATABASE,
                "key_pepper": PEPPER,
                "bootstrap_key": BOOTSTRAP_KEY,
                "api_port": 0,
                "instance_id": "intake-a",
                "drain_seconds": 2.0,
                "kafka_properties": {},
                **changes,
            }
        )
        log = MemoryLog(self.cluster, client=settings.instance_id, network=network)
        health, registry = Health(), CollectorRegistry()
        metrics = Metrics("intake", registry)
        authenticity = Authenticity(settings.key_pepper, settings.unsigned_records, metrics)
        source = f"headrace/intake/{settings.instance_id}"
        publisher = Publisher(log.producer(), self.codec, source, authenticity.mac)
        dead_letters = DeadLetters(publisher, "intake", self.codec.topic_prefix, wall_clock_ms)
        bus = Bus(log, self.codec, publisher, dead_letters, authenticity)
        parts, server = assemble(settings, bus, health, metrics, wall_clock_ms)
        stop = asyncio.Event()
        life = asyncio.create_task(
            live(Service(parts, metrics, health), drain_seconds=settings.drain_seconds, stop_requested=stop)
        )
        try:
            async with asyncio.timeout(20):
                while server.port == 0 and not life.done():  # noqa: ASYNC110 - a service does not signal its start
                    await asyncio.sleep(0.01)
            assert not life.done(), "intake did not start; its log says why"
            async with aiohttp.ClientSession() as http:
                yield Running(f"http://127.0.0.1:{server.port}", http, registry, health)
        finally:
            stop.set()
            assert await life == 0


@asynccontextmanager
async def open_bed() -> AsyncIterator[Bed]:
    """An empty cluster with all topics, and a stand-in router that echoes."""
    cluster = MemoryCluster()
    log = MemoryLog(cluster, client="router")
    codec = Codec(MemoryRegistry())
    topics = [NewTopic(codec.topic_prefix + spec.name, spec.partitions, 1) for spec in TOPICS.values()]
    await log.admin().create_topics(topics)
    await codec.prepare(TOPICS.values(), register=True)
    made = Bed(cluster, log, codec, StandIn(log, codec))
    routing = asyncio.create_task(made.router.run())
    try:
        async with made.stack:
            yield made
    finally:
        routing.cancel()
        await asyncio.gather(routing, return_exceptions=True)
