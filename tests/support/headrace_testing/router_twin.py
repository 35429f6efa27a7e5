"""Routers, a worker and clients on the log's in-memory twin, with crashes on demand."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from headrace_contracts.codec import Codec, Registry
from headrace_contracts.errors import Origin
from headrace_contracts.events import (
    AttemptFinished,
    AttemptRequested,
    JournalEntry,
    NodeStatus,
    Outcome,
    Place,
    TaskCancelled,
    TaskCompleted,
    TaskReply,
    TaskSubmitted,
)
from headrace_contracts.ids import route_key
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.reply_tokens import ReplyTokens
from headrace_contracts.topics import (
    TASKS_CANCELLED,
    TASKS_COMPLETED,
    TASKS_JOURNAL,
    TASKS_REPLIES,
    TASKS_SUBMITTED,
    TOPICS,
    TopicSpec,
    outcome_topic,
)
from headrace_models.prices import load_price_book
from headrace_router.adapters.policy_file import load_policy
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.adapters.stored_answers import StoredAnswers
from headrace_router.decide.attempt_windows import DEFAULT_WINDOW, AttemptWindow
from headrace_router.decide.policy import Policy
from headrace_router.decide.publications import all_equal
from headrace_router.decide.tenant_quota import DEFAULT_QUOTA, TenantQuota
from headrace_router.in_flight_limiter import InFlightLimiter
from headrace_router.live_bytes import LiveBytes
from headrace_router.metrics import RouterMetrics
from headrace_router.partition import RouterContext
from headrace_router.service import RouterLimits, RouterService
from headrace_runtime.metrics import Metrics
from headrace_runtime.producers import ProducerVerification
from headrace_runtime.tenants import NO_TENANTS, Tenants
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import AppendUncertain, StreamsError, TransientError
from headrace_streams.memory import MemoryCluster, MemoryLog, NetworkRequest, Operation
from headrace_streams.ports import Log
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record, TopicPartition
from headrace_streams.topic_limits import TopicLimits
from headrace_streams.watching import OnDiscontinuity
from prometheus_client import CollectorRegistry

from headrace_testing.routing import LOCAL, finished

PREFIX = "headrace."
WORK = tuple(spec for name, spec in TOPICS.items() if name.startswith("work.") and not name.endswith(".dlq"))
T = TypeVar("T")
Answer = Callable[[AttemptRequested], AttemptFinished | None]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Wire:
    """A client's connection to the cluster, which a test can disturb.

    Attributes:
        appends: Partitions appended to so far, in order.
        crash_at: Number of the append (from 0) at which the process dies: before it, or after it with `crash_after`.
        crash_on: Topic at whose first append the process dies, before it.
        freeze_on: Topic before whose next append the process freezes, until `thaw`.
        freeze_at: Number of the append (from 0) before which the process freezes, until `thaw`.
        fail: By topic, errors for the next appends to it; AppendUncertain is raised after the append.
        delay: By topic, seconds by which the acknowledgement of the next append is delayed.
        slow: By topic, seconds that the next append takes to arrive.
        sick: Topics and partitions, with their prefix, whose appends time out after `sick_seconds`, without effect.
        silent: Those whose appends are not answered at all until they are taken out, and then performed.
    """

    appends: list[TopicPartition] = field(default_factory=list)
    crash_at: int | None = None
    crash_after: bool = False
    crash_on: str | None = None
    freeze_on: str | None = None
    freeze_at: int | None = None
    fail: dict[str, list[StreamsError]] = field(default_factory=lambda: defaultdict(list))
    delay: dict[str, float] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    sick: set[str | TopicPartition] = field(default_factory=set)
    sick_seconds: float = 0.2
    silent: set[str | TopicPartition] = field(default_factory=set)
    crashed: asyncio.Event = field(default_factory=asyncio.Event)
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._open.set()

    def freeze(self) -> None:
        """Block all traffic, as if the process were frozen, until `thaw`."""
        self._open.clear()

    def thaw(self) -> None:
        self.freeze_at = self.freeze_on = None
        self._open.set()

    @property
    def frozen(self) -> bool:
        return not self._open.is_set()

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        await self._open.wait()
        if self.crashed.is_set():
            await asyncio.Future()
        if request.operation is not Operation.APPEND:
            return perform()
        place = request.partitions[0]
        if self.sick & {place, place.topic}:
            await asyncio.sleep(self.sick_seconds)
            raise AppendUncertain(f"{place}: timed out")
        while self.silent & {place, place.topic}:  # noqa: ASYNC110 - a plain set is easier for tests to change
            await asyncio.sleep(0.01)
        number = len(self.appends)
        if number == self.freeze_at or request.partitions[0].topic == self.freeze_on:
            self.freeze()
            await self._open.wait()
        self.appends.extend(request.partitions)
        dies = request.partitions[0].topic == self.crash_on or (self.crash_at is not None and number >= self.crash_at)
        if dies and not self.crash_after:
            self.crashed.set()
            await asyncio.Future()
        errors = self.fail[request.partitions[0].topic]
        error = errors.pop(0) if errors else None
        if isinstance(error, TransientError):
            raise error
        await asyncio.sleep(self.slow.pop(request.partitions[0].topic, 0))
        done = perform()
        await asyncio.sleep(self.delay.pop(request.partitions[0].topic, 0))
        if error is not None:
            raise error
        if dies:
            self.crashed.set()
            await asyncio.Future()
        return done


@dataclass
class Router:
    """One router process."""

    service: RouterService
    log: MemoryLog
    wire: Wire
    world: RoutingView
    running: asyncio.Task[None]
    limits: TopicLimits

    async def stop(self) -> None:
        await self.service.drain()
        await self.running

    async def kill(self) -> None:
        """As kill -9."""
        self.wire.crashed.set()
        self.log.kill()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


def router_service(
    name: str,
    log: Log,
    codec: Codec,
    world: RoutingView,
    *,
    metrics: RouterMetrics,
    monotonic: Callable[[], float],
    publish_within: float,
    in_flight: int,
    static: bool,
    limits: RouterLimits,
    settle_seconds: float = 0.0,
    topic_limits: TopicLimits | None = None,
    on_discontinuity: OnDiscontinuity = lambda partition, verdict: None,
    producers: ProducerVerification | None = None,
    reply_tokens: ReplyTokens | None = None,
    weight_of: Callable[[str], int] = all_equal,
    live_bytes: int = 2**30,
    stored_answers: StoredAnswers | None = None,
) -> RouterService:
    """The real router on a log, as its wiring builds it. Two with the same name are one static member, if `static`."""
    publisher = Publisher(log.producer(), codec, f"headrace/router/{name}")
    return RouterService(
        log=log,
        codec=codec,
        dead_letters=DeadLetters(publisher, "router", codec.topic_prefix, world.clock),
        router_context=RouterContext(
            view=world,
            publisher=publisher,
            others=Publisher(log.producer(), codec, f"headrace/router/{name}"),
            topic_limits=topic_limits or TopicLimits(log.admin(), ()),
            metrics=metrics,
            limiter=InFlightLimiter(in_flight),
            publish_within=publish_within,
            monotonic=monotonic,
            settle_seconds=settle_seconds,
            reply_tokens=reply_tokens,
            weight_of=weight_of,
            live_bytes=LiveBytes(live_bytes),
            stored_answers=stored_answers,
        ),
        owner=name,
        instance_id=name if static else None,
        limits=limits,
        on_discontinuity=on_discontinuity,
        producers=producers,
    )


class Twin:
    """A cluster with all topics, and a test's operations on it."""

    def __init__(
        self,
        *,
        partitions: int = 2,
        session_timeout: float = 0.3,
        policy: Policy | None = None,
        clock: Callable[[], int] = now_ms,
        registry: Registry | None = None,
    ) -> None:
        self.clock = clock
        self.cluster = MemoryCluster(session_timeout=session_timeout, rebalance_timeout=2.0)
        for spec in TOPICS.values():
            self.cluster.create_topic(PREFIX + spec.name, partitions if spec.partitions > 1 else 1)
        self.codec = Codec(registry or MemoryRegistry())
        self.policy = policy or quick_policy()
        self.log = MemoryLog(self.cluster, client="test")
        self.publisher = Publisher(self.log.producer(), self.codec, "test")
        self.requests: list[AttemptRequested] = []
        self.nodes: dict[str, NodeStatus] = {"workstation": LOCAL}
        self.routers: list[Router] = []
        self.on_discontinuity: OnDiscontinuity = lambda partition, verdict: None
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Twin:
        await self.codec.prepare(TOPICS.values(), register=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for router in self.routers:
            await router.kill()
        self.log.kill()

    def router(
        self,
        name: str = "r1",
        *,
        wire: Wire | None = None,
        static: bool = True,
        publish_within: float = 60.0,
        in_flight: int = 1000,
        settle_seconds: float = 0.0,
        skew_ms: int = 0,
        producers: ProducerVerification | None = None,
        reply_tokens: ReplyTokens | None = None,
        quota: TenantQuota = DEFAULT_QUOTA,
        tenants: Tenants = NO_TENANTS,
        window: AttemptWindow = DEFAULT_WINDOW,
        live_bytes: int = 2**30,
        stored_answers: StoredAnswers | None = None,
        **limits: Any,
    ) -> Router:
        """Start a router. Two with the same name are one static member, unless `static` is False.

        `skew_ms` is how far the wall clock of its host is ahead of the others'.
        """
        wire = wire or Wire()

        def clock() -> int:
            return self.clock() + skew_ms

        log = MemoryLog(self.cluster, clock, client=name, network=wire)
        world = RoutingView(self.policy, load_price_book(), clock, quota, tenants, window)
        for key, status in self.nodes.items():
            world.node_changed(key, status)
        topic_limits = TopicLimits(log.admin(), [PREFIX + name for name in TOPICS])
        service = router_service(
            name,
            log,
            self.codec,
            world,
            metrics=RouterMetrics(Metrics("router", CollectorRegistry())),
            monotonic=time.monotonic,
            publish_within=publish_within,
            in_flight=in_flight,
            static=static,
            limits=RouterLimits(**{"tick_seconds": 0.05, "rejoin_seconds": 0.02, "largest_entry": 1_000_000, **limits}),
            settle_seconds=settle_seconds,
            on_discontinuity=lambda partition, verdict: self.on_discontinuity(partition, verdict),
            topic_limits=topic_limits,
            producers=producers,
            reply_tokens=reply_tokens,
            weight_of=lambda tenant: tenants.of(tenant).weight,
            live_bytes=live_bytes,
            stored_answers=stored_answers,
        )
        router = Router(service, log, wire, world, asyncio.create_task(service.run()), topic_limits)
        self.routers.append(router)
        return router

    def work(self, answer: Answer | None = None) -> None:
        """Start a worker. Without `answer` every attempt succeeds; where that returns None, no result is produced."""
        self._worker = asyncio.create_task(self._work(answer or _succeed))

    async def _work(self, answer: Answer) -> None:
        consumer = self.log.consumer("worker")
        await consumer.subscribe([PREFIX + spec.name for spec in WORK], _Anything())
        while True:
            for record in await consumer.poll(100, 5.0):
                request = self.decode(AttemptRequested, record)
                self.requests.append(request)
                result = answer(request)
                if result is not None:
                    await self.result(request, result, record.key)

    async def result(
        self, request: AttemptRequested, result: AttemptFinished, key: bytes | None, *, worker: Place | None = None
    ) -> None:
        """As a worker of this kind; None: of the kind that was asked."""
        asked = Place.LOCAL if request.provider == "ollama" else Place.CLOUD
        spec = outcome_topic(worker or asked)
        await self.publish(spec, result, f"{request.attempt_id}/{result.execution_id}", key, request.home_partition)

    async def submit(self, *tasks: TaskSubmitted) -> None:
        await asyncio.gather(*(self.publish(TASKS_SUBMITTED, task, task.task_id, key_of(task)) for task in tasks))

    async def cancel(self, task: TaskSubmitted) -> None:
        cancellation = TaskCancelled(task_id=task.task_id, tenant=task.tenant, requested_at=now_ms())
        await self.publish(TASKS_CANCELLED, cancellation, f"{task.task_id}/cancelled", key_of(task))

    async def publish(
        self, spec: TopicSpec, event: Any, event_id: str, key: bytes | None, partition: int | None = None
    ) -> None:
        await self.publisher.send(
            Publication(
                spec=spec, event=event, event_id=event_id, key=key, partition=partition, tenant=event.tenant,
                time_ms=now_ms(),
            )
        )  # fmt: skip

    def decode(self, kind: type[Any], record: Record) -> Any:
        return self.codec.decode(kind, record.value, Origin(record.topic, record.partition, record.offset))

    def written(self, spec: TopicSpec) -> Sequence[Any]:
        """All events of a topic."""
        records = self.cluster.records(PREFIX + spec.name)
        return [self.decode(spec.record, record) for record in records if record.value is not None]

    def completed(self) -> Mapping[str, list[TaskCompleted]]:
        """The terminal states by task."""
        found: dict[str, list[TaskCompleted]] = defaultdict(list)
        for event in self.written(TASKS_COMPLETED):
            found[event.task_id].append(event)
        return found

    def replies(self) -> Sequence[TaskReply]:
        return self.written(TASKS_REPLIES)

    def journal(self) -> Sequence[JournalEntry]:
        return self.written(TASKS_JOURNAL)

    async def until(self, holds: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until a condition holds. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not holds():  # noqa: ASYNC110 - the condition has no event of its own
                await asyncio.sleep(0.002)

    async def until_completed(self, tasks: Iterable[TaskSubmitted], seconds: float = 60.0) -> None:
        wanted = {task.task_id for task in tasks}
        await self.until(lambda: wanted <= self.completed().keys(), seconds)

    async def quiet(self, seconds: float = 0.1) -> None:
        """Wait until nothing has been written for a while."""
        while True:
            before = self.count()
            await asyncio.sleep(seconds)
            if before == self.count():
                return

    def count(self) -> int:
        """Number of records in all topics but the journal."""
        return sum(len(self.cluster.records(PREFIX + name)) for name in TOPICS if name != TASKS_JOURNAL.name)


class _Anything:
    async def assigned(self, partitions: object) -> Mapping[TopicPartition, int]:
        return {}

    async def revoked(self, partitions: object) -> None: ...

    async def lost(self, partitions: object) -> None: ...


def _succeed(request: AttemptRequested) -> AttemptFinished:
    return end_of(request)


def end_of(request: AttemptRequested, outcome: Outcome = Outcome.ANSWERED, **fields: Any) -> AttemptFinished:
    """How an attempt ended."""
    return finished(
        outcome,
        request.number,
        task_id=request.task_id,
        **{
            "tenant": request.tenant,
            "home_partition": request.home_partition,
            "provider": request.provider,
            "model": request.model,
            **fields,
        },
    )


def key_of(task: TaskSubmitted) -> bytes:
    messages = [(message.role, message.content.data) for message in task.messages]
    return route_key(
        tenant=task.tenant, session=task.session, role=task.role, model=task.model, messages=messages
    ).encode()


def quick_policy(**retry: int) -> Policy:
    """The shipped policy with short waits."""
    shipped = load_policy(None)
    return shipped.model_copy(update={"retry": shipped.retry.model_copy(update={"base": 4, "cap": 10, **retry})})
