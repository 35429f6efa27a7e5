"""A router, a worker and the machines of a plan in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_contracts import topics
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin
from headrace_contracts.events import Message, NodeStatus, Place, TaskCompleted, TaskSubmitted
from headrace_local_worker.decide.balancing import choose_node
from headrace_local_worker.settings import LocalWorkerSettings
from headrace_models.prices import load_price_book
from headrace_models.worker.assembly import assemble_worker
from headrace_models.worker.displacing import SOON_SECONDS
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.metrics import WorkerMetrics
from headrace_models.worker.pool import Pool
from headrace_router.adapters.policy_file import load_policy
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.metrics import RouterMetrics
from headrace_router.service import RouterLimits
from headrace_runtime.metrics import Metrics, discontinuities, suspensions
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.memory import MemoryCluster
from headrace_streams.memory.network import PerfectNetwork
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record
from headrace_streams.tables import Table
from prometheus_client import CollectorRegistry

from headrace_testing.fleet_day.machines import Ledger, Machine, work_of
from headrace_testing.fleet_day.plan import KINDS, Change, DayPlan, Kind
from headrace_testing.router_twin import PREFIX, key_of, router_service
from headrace_testing.simulation.log import SimulatedCodec, SimulatedLog
from headrace_testing.simulation.loop import T, VirtualLoop

EPOCH_MS: Final = 1_790_000_000_000
INTERRUPTIONS: Final = 2
"""How often the worker interrupts a batch attempt, as shipped."""
_PARTITIONS: Final = 2
_AFTER_SECONDS: Final = 5_400.0
"""How long the last tasks may take: the longest deadline of the shipped policy's lanes, and a half more."""
_TENANTS: Final = ("acme", "bolt", "crux")
_PRUNE_EACH: Final = 50_000


@dataclass(slots=True)
class Asked:
    """A task and what became of it; times in seconds."""

    task_id: str
    kind: Kind
    at: float
    deadline: float
    ends: list[tuple[float, str, str]]
    """When it ended, how, and with which code of a failure: one entry, if all is well."""
    attempts: int = 0

    @property
    def in_time(self) -> bool:
        return len(self.ends) == 1 and self.ends[0][1] == "succeeded" and self.ends[0][0] <= self.deadline


class DayLoop(VirtualLoop):
    """Forgets tasks that have ended: a day has millions."""

    def create_task(self, coro: Coroutine[Any, Any, T], **more: Any) -> asyncio.Task[T]:  # type: ignore[override]
        task = super().create_task(coro, **more)
        if len(self._tasks) > _PRUNE_EACH:
            self._tasks = [one for one in self._tasks if not one.done()]
        return task


@dataclass(frozen=True, slots=True)
class DayResult:
    """What became of a day's tasks and calls."""

    plan: DayPlan
    asked: Sequence[Asked]
    ledger: Ledger
    failures: Sequence[str]


class FleetDay:
    """Runs a plan."""

    def __init__(self, plan: DayPlan) -> None:
        self._plan = plan
        self._rng = random.Random(f"{plan.seed} tasks")
        self._ids = itertools.count(1)
        self._asked: dict[str, Asked] = {}
        self._ledger = Ledger()
        self._machines: dict[str, Machine] = {}
        self._heard: dict[int, int] = {}

    def run(self) -> DayResult:
        """The day from its first to its last task."""
        until = self._plan.seconds + _AFTER_SECONDS
        loop = DayLoop(max_steps=10**12, max_seconds=until + 1_000.0)  # type: ignore[abstract]
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            loop.run_until_complete(self._run(loop))
            failures = tuple(loop.failures)
        finally:
            logging.disable(before)
            loop.close()
        return DayResult(self._plan, tuple(self._asked.values()), self._ledger, failures)

    async def _run(self, loop: DayLoop) -> None:
        self._loop = loop
        self._codec = codec = SimulatedCodec(PREFIX)
        await codec.prepare(topics.TOPICS.values(), register=True)
        cluster = MemoryCluster(session_timeout=45.0, rebalance_timeout=60.0)
        for spec in topics.TOPICS.values():
            cluster.create_topic(PREFIX + spec.name, _PARTITIONS if spec.partitions > 1 else 1)
        self._clients = Publisher(self._log(cluster, "clients").producer(), codec, "headrace/test/clients")
        self._deadlines = load_policy(None).deadlines
        running = [*await self._worker(cluster), *await self._router(cluster)]
        for change in self._plan.changes:
            loop.call_at(change.at, self._change, change)
        for burst in self._plan.bursts:
            for _ in range(burst.number):
                loop.call_at(burst.at, self._arrives, burst.kind, burst.deadline)
        if self._plan.rate:
            self._next()
        while loop.time() < self._plan.seconds + _AFTER_SECONDS:
            await asyncio.sleep(30.0)
            self._hear(cluster)
            if loop.time() > self._plan.seconds and all(one.ends for one in self._asked.values()):
                break
            for one in running:
                if one.done():
                    one.result()
                    raise AssertionError("a part of a service has ended by itself")
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def clock_ms(self) -> int:
        return EPOCH_MS + round(self._loop.time() * 1000)

    def _log(self, cluster: MemoryCluster, client: str) -> SimulatedLog:
        return SimulatedLog(cluster, self.clock_ms, client=client, network=PerfectNetwork())

    async def _router(self, cluster: MemoryCluster) -> list[asyncio.Task[None]]:
        log = self._log(cluster, "router")
        view = RoutingView(load_policy(None), load_price_book(), self.clock_ms)
        fleet: Table[NodeStatus] = Table(
            log, self._codec, topics.FLEET_STATUS, view.node_changed, clock_ms=self.clock_ms
        )
        service = router_service(
            "router", log, self._codec, view, metrics=RouterMetrics(Metrics("router", CollectorRegistry())),
            monotonic=self._loop.time, publish_within=60.0, in_flight=1_000_000, static=True,
            limits=RouterLimits(),
        )  # fmt: skip
        await fleet.start()
        return [asyncio.create_task(service.run())]

    async def _worker(self, cluster: MemoryCluster) -> list[asyncio.Task[None]]:
        log = self._log(cluster, "worker")
        publisher = Publisher(log.producer(), self._codec, "headrace/local-worker/worker")
        self._machines = {spec.name: Machine(spec, self._ledger) for spec in self._plan.machines}
        endpoints = [Endpoint(one, one.spec.slots) for one in self._machines.values()]
        pool = Pool(endpoints, choose_node, displaces_above=SOON_SECONDS)
        metrics = Metrics("local_worker", CollectorRegistry())
        worker = assemble_worker(
            LocalWorkerSettings(instance_id="worker", look_seconds=5.0, report_seconds=30.0),
            group="local-worker",
            place=Place.LOCAL,
            pool=pool,
            metrics=WorkerMetrics(metrics, pool, discontinuities(metrics), suspensions(metrics, lambda *_: None)),
            log=log,
            codec=self._codec,
            publisher=publisher,
            dead_letters=DeadLetters(publisher, "local-worker", PREFIX, self.clock_ms),
            clock_ms=self.clock_ms,
            new_id=lambda: f"execution-{next(self._ids)}",
            traced=_untraced,
            traceparent_of=lambda _record: None,
            interruptions=INTERRUPTIONS,
        )
        await worker.fleet.start()
        await worker.cancellations.start()
        parts = (worker.fleet.run(), worker.cancellations.run(), worker.consumer.run())
        return [asyncio.create_task(part) for part in parts]

    def _change(self, change: Change) -> None:
        machine = self._machines[change.machine]
        if change.slowness is not None:
            machine.slowness = change.slowness
        if change.condition is not None:
            machine.become(change.condition)

    def _next(self) -> None:
        self._loop.call_later(self._rng.expovariate(self._plan.rate), self._maybe_arrives)

    def _maybe_arrives(self) -> None:
        if self._loop.time() < self._plan.seconds:
            if self._rng.random() < self._plan.share_at(self._loop.time()):
                self._arrives(self._rng.choices(KINDS, [one.share for one in KINDS])[0])
            self._next()

    def _arrives(self, kind: Kind, deadline: float | None = None) -> None:
        rng, now, now_ms = self._rng, self._loop.time(), self.clock_ms()
        number = next(self._ids)
        task_id = f"{now_ms:012x}-{number:08x}"
        text = f"{work_of(rng.randint(*kind.answer), rng.randint(*kind.prompt))} ({task_id})"
        task = TaskSubmitted(
            task_id=task_id,
            tenant=rng.choice(_TENANTS),
            role=kind.role or None,
            model=None if kind.role else f"ollama/{kind.model}",
            messages=(Message(role="user", content=plain(text)),),
            privacy=kind.privacy,
            lane=kind.lane,
            deadline_at=None if deadline is None else now_ms + round(deadline * 1000),
            submitted_at=now_ms,
        )
        allowed = self._deadlines.default.of(kind.lane) / 1000 if deadline is None else deadline
        self._asked[task_id] = Asked(task_id, kind, now, now + allowed, [])
        self._clients.send(
            Publication(
                spec=topics.TASKS_SUBMITTED,
                event=task,
                event_id=task_id,
                key=key_of(task),
                tenant=task.tenant,
                time_ms=now_ms,
            )
        )

    def _hear(self, cluster: MemoryCluster) -> None:
        """Read what has ended since the last time."""
        for record in self._unread(cluster):
            done: TaskCompleted = self._codec.decode(
                TaskCompleted, record.value, Origin(record.topic, record.partition, record.offset)
            )
            at = (done.completed_at - EPOCH_MS) / 1000
            code = "" if done.failure is None else done.failure.code
            asked = self._asked[done.task_id]
            asked.ends.append((at, done.status.value, code))
            asked.attempts = done.attempts

    def _unread(self, cluster: MemoryCluster) -> Sequence[Record]:
        found: list[Record] = []
        for partition in range(_PARTITIONS):
            records = cluster.records(PREFIX + topics.TASKS_COMPLETED.name, partition)
            found += records[self._heard.get(partition, 0) :]
            self._heard[partition] = len(records)
        return found


def _untraced(_name: str, handler: Callable[[Record], Awaitable[None]]) -> Callable[[Record], Awaitable[None]]:
    return handler
