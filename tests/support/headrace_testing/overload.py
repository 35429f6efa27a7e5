"""More work than a worker's nodes can do, in virtual time: the worker's own engine, pool and runner, and in place of
the router something that sends an attempt to the end of the queue again while its task has time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from headrace_contracts import events, topics
from headrace_contracts.content import plain
from headrace_contracts.topics import work_topic
from headrace_models.errors import RetrySameProvider
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, OnText
from headrace_models.worker.assembly import sharing_of
from headrace_models.worker.outcomes import ExecutionOutcome
from headrace_models.worker.pool import Pool
from headrace_models.worker.runner import AttemptRunner, RunnerOptions, RunObserver
from headrace_streams.handling import EngineOptions, TopicLane
from headrace_streams.parallel import ParallelConsumer

from headrace_testing.engine import Letters
from headrace_testing.simulation.loop import VirtualLoop
from headrace_testing.workers import PREFIX, ScriptedProvider, WorkerBench, attempt, first_of, healthy

_EPOCH_MS = 1_790_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Tasks of a tenant that arrive at random, on average every 1 / `rate` seconds. Times are in seconds.

    Attributes:
        seconds: What a call takes on average; each takes up to `spread` of that more or less.
        deadline: How long a task has.
        weight: The tenant's.
        until: When the last one comes.
        ramp: From when on the rate is how many times what it is: from the first of these on, none come before.
        bursts: When how many come at once.
    """

    model: str
    rate: float
    seconds: float
    deadline: float
    spread: float = 0.0
    tenant: str = "acme"
    weight: int = 1
    lane: events.Lane = events.Lane.INTERACTIVE
    until: float = 400.0
    ramp: Sequence[tuple[float, float]] = ((0.0, 1.0),)
    bursts: Sequence[tuple[float, int]] = ()

    def rate_at(self, now: float) -> float:
        """Tasks a second."""
        return self.rate * next((factor for since, factor in reversed(self.ramp) if since <= now), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowTime:
    """A span of time in which calls of a node take `factor` times as long."""

    since: float
    until: float
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """A node of the worker."""

    slots: int
    models: Sequence[str]
    slow: Sequence[SlowTime] = ()

    def factor_at(self, now: float) -> float:
        """How many times as long as usual a call takes that begins now."""
        return next((one.factor for one in self.slow if one.since <= now < one.until), 1.0)


@dataclass(slots=True)
class Attempted:
    """One attempt and what became of it: when it was sent, when its call began and when it ended.

    Attributes:
        seconds: What its call takes at the usual speed.
        code: How it ended: the code of the failure, or the outcome.
        in_time: Whether it was answered before its task's deadline.
        time_left: Seconds to the attempt's deadline when it ended.
    """

    demand: Demand
    seconds: float
    sent: float
    began: float | None = None
    node: str | None = None
    ended: float | None = None
    code: str = ""
    in_time: bool = False
    time_left: float = 0.0


@dataclass
class Answers:
    """What became of the tasks, by tenant and model."""

    answered: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """When each answer came."""
    waits: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """How long each of these tasks took."""
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How attempts ended: model, and code of the failure or the outcome."""
    told: list[float] = field(default_factory=list)
    """Seconds before their deadline at which the others were told that there is no time."""
    attempts: dict[str, Attempted] = field(default_factory=dict)
    """All of them, by id."""

    def number(self, model: str, since: float, until: float, tenant: str | None = None) -> int:
        """Answers in a span of time."""
        return sum(
            since <= at < until
            for (of, name), times in self.answered.items()
            if name == model and tenant in (None, of)
            for at in times
        )

    def calls(self, node: str) -> Iterator[Attempted]:
        """The attempts whose calls began at a node."""
        return (one for one in self.attempts.values() if one.node == node)


class _Node(ScriptedProvider):
    """Each call takes its time, or is cut off."""

    def __init__(self, name: str, plan: NodePlan, answers: Answers) -> None:
        super().__init__(node=name, models=plan.models)
        self._plan = plan
        self._answers = answers

    async def _chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        now = asyncio.get_running_loop().time()
        known = self._answers.attempts[request.messages[-1].text]
        known.began, known.node = now, self.node
        took = known.seconds * self._plan.factor_at(now)
        if took > request.timeout_seconds:
            await asyncio.sleep(request.timeout_seconds)
            raise RetrySameProvider("timeout", "too slow", provider="ollama", usage=CallUsage(7, 1))
        await asyncio.sleep(took)
        return ChatResult("x", "stop", CallUsage(7, 3), request.model, took * 300, took * 1000, False, "")


class Overloaded(RunObserver):
    """A worker, and what sends it work."""

    def __init__(
        self,
        nodes: Mapping[str, NodePlan],
        demands: Sequence[Demand],
        *,
        attempt_seconds: float = 45.0,
        max_in_flight: int = 64,
        seed: int = 1,
    ) -> None:
        self._rng = random.Random(seed)
        self._nodes = nodes
        self._demands = demands
        self._attempt_seconds = attempt_seconds
        self._max_in_flight = max_in_flight
        self._tasks = 0
        self.answers = Answers()
        self._deadlines: dict[str, tuple[float, float]] = {}

    def run(self, until: float) -> Answers:
        loop = VirtualLoop(max_steps=20_000_000, max_seconds=until + 100.0)  # type: ignore[abstract]
        try:
            loop.run_until_complete(self._run(loop, until))
        finally:
            loop.close()
        return self.answers

    async def _run(self, loop: VirtualLoop, until: float) -> None:
        self._loop = loop
        self._bench = bench = WorkerBench()
        await bench.prepare()
        pool = Pool(
            [healthy(_Node(name, plan, self.answers), plan.slots) for name, plan in self._nodes.items()], first_of
        )
        runner = AttemptRunner(
            codec=bench.codec,
            publisher=bench.publisher,
            pool=pool,
            options=RunnerOptions(worker="worker-1"),
            outcomes_to=topics.ATTEMPTS_FINISHED,
            clock_ms=lambda: _EPOCH_MS + round(loop.time() * 1000),
            new_id=lambda: f"execution-{next(bench._numbers)}",
            observer=self,
        )
        engine = self.engine(runner, pool)
        running = loop.create_task(engine.run())
        for demand in self._demands:
            self._next(demand)
            for at, number in demand.bursts:
                for _ in range(number):
                    loop.call_at(at, self._arrives, demand)
        await asyncio.sleep(until)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    def engine(self, runner: AttemptRunner, pool: Pool) -> ParallelConsumer:
        lanes = [
            TopicLane(PREFIX + topics.WORK_LOCAL_INTERACTIVE.name, weight=4),
            TopicLane(PREFIX + topics.WORK_LOCAL_BATCH.name, max_in_flight=self._max_in_flight * 3 // 4),
        ]
        options = EngineOptions(max_in_flight=self._max_in_flight, commit_interval_seconds=60.0, drain_seconds=0.0)
        return ParallelConsumer(
            self._bench.log, PREFIX + "local-worker", lanes, runner.handle, dead_letters=Letters(), options=options,
            sharing=sharing_of(self._bench.codec, pool),
        )  # fmt: skip

    def _next(self, demand: Demand) -> None:
        highest = demand.rate * max(factor for _, factor in demand.ramp)
        self._loop.call_later(self._rng.expovariate(highest), self._maybe_arrives, demand, highest)

    def _maybe_arrives(self, demand: Demand, highest: float) -> None:
        now = self._loop.time()
        if now > demand.until:
            return
        if self._rng.random() * highest < demand.rate_at(now):
            self._arrives(demand)
        self._next(demand)

    def _arrives(self, demand: Demand) -> None:
        self._tasks += 1
        task_id, now = f"task-{self._tasks}", self._loop.time()
        self._deadlines[task_id] = (now, now + demand.deadline)
        took = demand.seconds * self._rng.uniform(1 - demand.spread, 1 + demand.spread)
        self._send(demand, took, task_id, 1)

    def _send(self, demand: Demand, seconds: float, task_id: str, number: int) -> None:
        now = self._loop.time()
        due = min(now + self._attempt_seconds, self._deadlines[task_id][1])
        request = attempt(
            task_id, number, model=demand.model, tenant=demand.tenant, lane=demand.lane,
            deadline_at=_EPOCH_MS + round(due * 1000), requested_at=_EPOCH_MS + round(now * 1000),
            messages=(events.Message(role="user", content=plain(f"{task_id}/{number}")),),
        )  # fmt: skip
        self.answers.attempts[request.attempt_id] = Attempted(demand, seconds, now)
        self._bench.submit(
            request, work_topic(events.Place.LOCAL, demand.lane), key=task_id.encode(), weight=demand.weight
        )

    def reported(self, request: events.AttemptRequested, ended: ExecutionOutcome, queued_seconds: float) -> None:
        now, (began, deadline) = self._loop.time(), self._deadlines[request.task_id]
        code = ended.outcome.value if ended.failure is None else ended.failure.code
        self.answers.ends[request.model, code] += 1
        known = self.answers.attempts[request.attempt_id]
        known.ended, known.code = now, code
        known.time_left = ((request.deadline_at or 0) - _EPOCH_MS) / 1000 - now
        if ended.outcome is events.Outcome.ANSWERED and now <= deadline:
            known.in_time = True
            self.answers.answered[request.tenant, request.model].append(now)
            self.answers.waits[request.tenant, request.model].append(now - began)
            return
        of_task = request.deadline_at == _EPOCH_MS + round(deadline * 1000)
        if not ended.asked and of_task:
            self.answers.told.append(deadline - now)
        if now + 0.5 < deadline and not (of_task and code == "too_little_time"):
            again: Any = partial(self._send, known.demand, known.seconds, request.task_id, request.number + 1)
            self._loop.call_later(0.25, again)
