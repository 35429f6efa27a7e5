"""More work than a worker's nodes can do, in virtual time: the worker's own engine, pool and runner, and in place of
the router something that sends an attempt to the end of the queue again while its task has time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from headrace_contracts import events, topics
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
    """Tasks that arrive at random, on average every 1 / `rate` seconds.

    Attributes:
        seconds: What a call takes on average; each takes up to `spread` of that more or less.
        deadline: Seconds that a task has.
        until: When the last one comes.
    """

    model: str
    rate: float
    seconds: float
    deadline: float
    spread: float = 0.0
    tenant: str = "acme"
    lane: events.Lane = events.Lane.INTERACTIVE
    until: float = 400.0


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

    def number(self, model: str, since: float, until: float, tenant: str | None = None) -> int:
        """Answers in a span of time."""
        return sum(
            since <= at < until
            for (of, name), times in self.answered.items()
            if name == model and tenant in (None, of)
            for at in times
        )


class _Node(ScriptedProvider):
    """Each call takes its time, or is cut off."""

    def __init__(self, name: str, demands: Sequence[Demand], models: Sequence[str], rng: random.Random) -> None:
        super().__init__(node=name, models=models)
        self._demands = {demand.model: demand for demand in demands}
        self._rng = rng

    async def _chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        demand = self._demands[request.model]
        took = demand.seconds * self._rng.uniform(1 - demand.spread, 1 + demand.spread)
        if took > request.timeout_seconds:
            await asyncio.sleep(request.timeout_seconds)
            raise RetrySameProvider("timeout", "too slow", provider="ollama", usage=CallUsage(7, 1))
        await asyncio.sleep(took)
        return ChatResult("x", "stop", CallUsage(7, 3), request.model, took * 300, took * 1000, False, "")


class Overloaded(RunObserver):
    """A worker, and what sends it work."""

    def __init__(
        self,
        nodes: Mapping[str, tuple[int, Sequence[str]]],
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
            [
                healthy(_Node(name, self._demands, models, self._rng), slots)
                for name, (slots, models) in self._nodes.items()
            ],
            first_of,
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
        self._loop.call_later(self._rng.expovariate(demand.rate), self._arrives, demand)

    def _arrives(self, demand: Demand) -> None:
        if self._loop.time() > demand.until:
            return
        self._tasks += 1
        task_id, now = f"task-{self._tasks}", self._loop.time()
        self._deadlines[task_id] = (now, now + demand.deadline)
        self._send(demand, task_id, 1)
        self._next(demand)

    def _send(self, demand: Demand, task_id: str, number: int) -> None:
        now = self._loop.time()
        due = min(now + self._attempt_seconds, self._deadlines[task_id][1])
        request = attempt(
            task_id, number, model=demand.model, tenant=demand.tenant, lane=demand.lane,
            deadline_at=_EPOCH_MS + round(due * 1000), requested_at=_EPOCH_MS + round(now * 1000),
        )  # fmt: skip
        self._bench.submit(request, work_topic(events.Place.LOCAL, demand.lane), key=task_id.encode())

    def reported(self, request: events.AttemptRequested, ended: ExecutionOutcome, queued_seconds: float) -> None:
        now, (began, deadline) = self._loop.time(), self._deadlines[request.task_id]
        code = ended.outcome.value if ended.failure is None else ended.failure.code
        self.answers.ends[request.model, code] += 1
        if ended.outcome is events.Outcome.ANSWERED and now <= deadline:
            self.answers.answered[request.tenant, request.model].append(now)
            self.answers.waits[request.tenant, request.model].append(now - began)
            return
        (demand,) = [one for one in self._demands if (one.tenant, one.model) == (request.tenant, request.model)]
        of_task = request.deadline_at == _EPOCH_MS + round(deadline * 1000)
        if not ended.asked and of_task:
            self.answers.told.append(deadline - now)
        if now + 0.5 < deadline and not (of_task and code == "too_little_time"):
            again: Any = partial(self._send, demand, request.task_id, request.number + 1)
            self._loop.call_later(0.25, again)
