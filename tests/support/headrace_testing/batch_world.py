"""Workers that use batches, in virtual time: one is killed at any point of its work, and another goes on.

Points are what reaches the world outside a worker: each record that it appends, each commit, each request to the
provider, and each time once before it has its effect and once after.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Final, Literal, TypeVar
from unittest import mock

from headrace_contracts import events, topics
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin
from headrace_contracts.events import AttemptRequested, Outcome, Place
from headrace_contracts.groups import CLOUD_WORKER
from headrace_contracts.headers import header
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TOPICS
from headrace_models.batch_calls import BatchLook, BatchState, FoundBatch, ResultKind, ResultLine
from headrace_models.errors import RetrySameProvider
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, OnPiece, OnText, no_pieces
from headrace_models.worker.assembly import Worker, assemble_worker
from headrace_models.worker.batches import settling, steps
from headrace_models.worker.batches.assembling import BatchSetup
from headrace_models.worker.batches.batch_log import BatchLog
from headrace_models.worker.batches.choosing import BatchOptions
from headrace_models.worker.batches.steps import TABLE, BatchAction, BatchInput, BatchStep
from headrace_models.worker.batches.taking import BatchClient
from headrace_models.worker.metrics import WorkerMetrics
from headrace_models.worker.paid_calls import NOTHING_EARLIER, PaidCalls, SettledAttempt
from headrace_models.worker.pool import Pool
from headrace_runtime.metrics import Metrics
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.memory import MemoryCluster, MemoryLog, NetworkRequest, Operation
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record

from headrace_testing.simulation.loop import FATE, Fate, SimulationStuck, VirtualLoop
from headrace_testing.workers import PREFIX, ScriptedProvider, attempt, first_of, healthy

T = TypeVar("T")

_EPOCH_MS = 1_800_000_000_000
_POINTS = (Operation.APPEND, Operation.COMMIT)
SECRET = "the content of"
"""Stands in every prompt."""


@dataclass(slots=True)
class _Job:
    name: str
    calls: list[dict[str, str]]
    created_ms: int
    ends_at: float
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What happens.

    Attributes:
        kill_at: The point at which the first worker dies; None for never.
        named: Whether the provider's batches carry our name while they run, as at OpenAI.
        answered: How many of the calls are answered before the batch ends.
        seconds: Time that the provider's batch takes.
        patience_seconds: From the attempts' start to their deadline.
    """

    kill_at: int | None = None
    named: bool = True
    attempts: int = 3
    answered: int = 3
    seconds: float = 150.0
    patience_seconds: float = 10_000.0
    cancel_at: float | None = None
    cancelled: int = 0


class BatchWorld:
    """The cluster, the provider, and the workers of one run."""

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan
        self.loop = VirtualLoop(max_seconds=14_000.0)  # type: ignore[abstract]  # what is left out is never called here
        self.cluster = MemoryCluster(session_timeout=6.0)
        self.codec = Codec(MemoryRegistry(), PREFIX)
        self.jobs: dict[str, _Job] = {}
        self.files: set[str] = set()
        self.called: Counter[str] = Counter()
        """Ordinary calls by attempt."""
        self.points: list[str] = []
        """Those that the first worker came to."""
        self.killed_at: str | None = None
        self._first = Fate("first")
        self._failures: list[str] = []
        self._ids = 0

    def now_ms(self) -> int:
        return _EPOCH_MS + round(self.loop.time() * 1000)

    def new_id(self) -> str:
        self._ids += 1
        return f"00000000-0000-7000-8000-{self._ids:012x}"

    async def point(self, name: str) -> None:
        """The first worker is about to do something, or has just done it."""
        if FATE.get() is not self._first:
            return
        if len(self.points) == self.plan.kill_at:
            self.killed_at = name
            self._first.alive = False
            # Never woken again.
            await self.loop.create_future()
        self.points.append(name)

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        """The network of a worker."""
        await asyncio.sleep(0)
        counts = request.operation in _POINTS
        topic = request.partitions[0].topic if request.partitions else ""
        if counts:
            await self.point(f"before {request.operation.value} {topic}")
        done = perform()
        if counts:
            await self.point(f"after {request.operation.value} {topic}")
        return done

    def run(self) -> BatchWorld:
        """Run to the end of all attempts."""
        try:
            self.loop.run_until_complete(self._prepare())
            self.loop.as_process(self._first, lambda: self._start("first"))
            self.loop.run_until(lambda: self._is_over() or not self._first.alive)
            if not self._first.alive:
                second = Fate("second")
                self.loop.as_process(second, lambda: self._start("second"))
            self.loop.run_until(self._is_over)
            # What was repeated comes within the next commits and sessions.
            until = self.loop.time() + 30.0
            self.loop.outside(30.0, lambda: None)
            self.loop.run_until(lambda: self.loop.time() >= until)
        finally:
            self._failures += self.loop.failures
            self.loop.close()
        return self

    async def _prepare(self) -> None:
        for spec in TOPICS.values():
            self.cluster.create_topic(PREFIX + spec.name, spec.partitions)
        await self.codec.prepare(TOPICS.values(), register=True)
        publisher = Publisher(MemoryLog(self.cluster, self.now_ms).producer(), self.codec, "headrace/test")
        for number in range(self.plan.attempts):
            request = self.request(number)
            publication = Publication(
                spec=topics.WORK_CLOUD_BATCH, event=request, event_id=request.attempt_id, key=f"p:{number}".encode(),
                tenant=request.tenant, time_ms=request.requested_at, subject=request.task_id, ordered=False,
            )  # fmt: skip
            await publisher.send(publication)
        if self.plan.cancel_at is not None:
            self.loop.outside(self.plan.cancel_at, lambda: self.loop.create_task(self._cancel(publisher)))

    async def _cancel(self, publisher: Publisher) -> None:
        for number in range(self.plan.cancelled):
            task = f"task-{number}"
            stop = events.AttemptsCancelled(task_id=task, tenant="acme", number=0, cancelled_at=self.now_ms())
            await publisher.send(
                Publication(
                    spec=topics.ATTEMPTS_CANCELLED_CLOUD, event=stop, event_id=f"{task}/stop", key=task.encode(),
                    tenant="acme", time_ms=self.now_ms(), subject=task,
                )
            )  # fmt: skip

    def request(self, number: int) -> events.AttemptRequested:
        task = f"task-{number}"
        return attempt(
            task, provider="groq", model="m", lane=events.Lane.BATCH, requested_at=self.now_ms(),
            deadline_at=self.now_ms() + round(self.plan.patience_seconds * 1000),
            messages=(events.Message(role="user", content=plain(f"{SECRET} {task}")),),
        )  # fmt: skip

    def _start(self, name: str) -> None:
        log = MemoryLog(self.cluster, self.now_ms, client=name, network=self)

        async def live() -> None:
            worker = self.worker(name, log)
            assert worker.batches is not None
            await worker.switches.table.start()
            await worker.cancellations.start()
            await asyncio.gather(
                worker.cancellations.run(),
                worker.consumer.run(),
                worker.batches.consumer.run(),
            )

        self.loop.create_task(live())

    def worker(self, name: str, log: MemoryLog) -> Worker:
        settings: Any = SimpleNamespace(
            instance_id=name, topic_prefix=PREFIX, static_member=False, drain_seconds=20.0, held_records_bytes=1 << 26,
            look_seconds=60.0, report_seconds=60.0, call_seconds=300.0, first_token_seconds=60.0,
            between_tokens_seconds=30.0, delta_milliseconds=10.0, cancel_history_seconds=3600.0, max_in_flight=64,
            interactive_weight=4,
        )  # fmt: skip
        provider = _Chats(self)
        metrics = Metrics("cloud_worker")
        publisher = Publisher(log.producer(), self.codec, f"headrace/cloud-worker/{name}")
        pool = Pool([healthy(provider, 8)], first_of)
        return assemble_worker(
            settings, group=CLOUD_WORKER.name, place=Place.CLOUD, pool=pool, metrics=WorkerMetrics(metrics, pool),
            log=log, codec=self.codec, publisher=publisher,
            dead_letters=DeadLetters(publisher, "cloud-worker", PREFIX, self.now_ms),
            clock_ms=self.now_ms, new_id=self.new_id, traced=lambda _name, handler: handler,
            traceparent_of=lambda _record: None,
            batches=BatchSetup(
                clients={"groq": BatchClient(provider, _Batches(self))}, switched_on={"groq"},
                options=BatchOptions(
                    gather_seconds=5.0, unheard_seconds=60.0, least_seconds=400.0, reserve_seconds=100.0
                ), chance=lambda: 0.5,
            ),
        )  # fmt: skip

    def call_of(self, task: str) -> None:
        """An ordinary call begins."""
        self.called[task] += 1
        # What may have been billed is marked, and called again.
        known = [event for _, event in self.read(topics.USAGE_RECORDED) if event.outcome is not Outcome.LOST]
        if any(event.task_id == task for event in known):
            self._failures.append(f"{task} is called though its usage was on record")

    # What came of it

    def read(self, spec: topics.TopicSpec) -> list[tuple[str, Any]]:
        """Event id and event of each record of a topic."""
        return [
            (
                header(record.headers, "ce_id") or "",
                self.codec.decode(spec.record, record.value, Origin(record.topic, record.partition, record.offset)),
            )
            for record in self.cluster.records(PREFIX + spec.name)
            if record.value is not None
        ]

    def open_batches(self) -> set[bytes | None]:
        """Keys without a tombstone at their end."""
        newest = {record.key: record.value for record in self.cluster.records(PREFIX + topics.PROVIDER_BATCHES.name)}
        return {key for key, value in newest.items() if value is not None}

    def _is_over(self) -> bool:
        ended = {event.attempt_id for _, event in self.read(topics.ATTEMPTS_FINISHED_CLOUD)}
        return len(ended) == self.plan.attempts and not self.open_batches()

    def billed(self) -> Counter[str]:
        """How many jobs have answered each attempt."""
        return Counter(
            call["text"].removeprefix(f"{SECRET} ") for job in self.jobs.values() for call in self.answered(job)
        )

    def answered(self, job: _Job) -> list[dict[str, str]]:
        """The calls that were made, once the batch has ended."""
        return job.calls[: self.plan.answered] if self.has_ended(job) else []

    def has_ended(self, job: _Job) -> bool:
        return job.cancelled or self.loop.time() >= job.ends_at

    def violations(self) -> list[str]:
        """What must not be, whatever died when."""
        found = list(self._failures)
        finished, used = self.read(topics.ATTEMPTS_FINISHED_CLOUD), self.read(topics.USAGE_RECORDED)
        if len(self.jobs) > 1:
            found.append(f"{len(self.jobs)} batches were submitted")
        if self.files:
            found.append(f"files stay at the provider: {self.files}")
        if any(SECRET.encode() in (record.value or b"") for record in
               self.cluster.records(PREFIX + topics.PROVIDER_BATCHES.name)):  # fmt: skip
            found.append("a batch holds content")
        billed = self.billed()
        for number in range(self.plan.attempts):
            task = f"task-{number}"
            ends = {event_id: event for event_id, event in finished if event.task_id == task}
            rows = {event_id: event for event_id, event in used if event.task_id == task}
            if len({event.outcome for event in ends.values()}) != 1:
                found.append(f"{task} ended as {[event.outcome.value for event in ends.values()]}")
            of_batches = sum(event.batch for event in rows.values())
            if of_batches != billed[task]:
                found.append(f"{task}: {billed[task]} results were billed, {of_batches} booked")
            # One that was in flight when its worker died is made again.
            if self.called[task] > 1 + (self.killed_at is not None) or (billed[task] and self.called[task]):
                found.append(f"{task} was called {self.called[task]} times besides {billed[task]} results")
        return found


class _Chats(ScriptedProvider):
    """Ordinary calls."""

    def __init__(self, world: BatchWorld) -> None:
        super().__init__("groq", "groq", ("m",))
        self._world = world

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        await self._world.point("before chat")
        self._world.call_of(request.messages[0].text.removeprefix(f"{SECRET} "))
        await asyncio.sleep(2.0)
        await self._world.point("after chat")
        return ChatResult("called", "stop", CallUsage(7, 3), request.model, 2.0, 5.0, False, "id")


class _Batches:
    """The provider's batch API."""

    provider = "groq"

    def __init__(self, world: BatchWorld) -> None:
        self._world = world

    async def _request(
        self, name: Literal["submit", "find", "look", "results", "cancel", "delete"], effect: Callable[[], T]
    ) -> T:
        await self._world.point(f"before {name}")
        await asyncio.sleep(0.2)
        done = effect()
        await self._world.point(f"after {name}")
        await asyncio.sleep(0.2)
        return done

    def line_of(self, custom_id: str, request: ChatRequest) -> bytes:
        return json.dumps({"custom_id": custom_id, "text": request.messages[0].text}).encode()

    async def submit(self, name: str, lines: Sequence[bytes]) -> str:
        world = self._world

        def create() -> str:
            calls = [json.loads(line) for line in lines]
            world.files.add(name)
            batch_id = f"batch_{len(world.jobs)}"
            world.jobs[batch_id] = _Job(name, calls, world.now_ms(), world.loop.time() + world.plan.seconds)
            return batch_id

        return await self._request("submit", create)

    async def find(self, name: str, count: int, since_ms: int, claimed: Collection[str]) -> FoundBatch:
        world = self._world

        def search() -> FoundBatch:
            unsure = False
            for batch_id, job in world.jobs.items():
                if batch_id in claimed or job.created_ms < since_ms or len(job.calls) != count:
                    continue
                if not world.plan.named and not world.has_ended(job):
                    unsure = True
                elif job.name == name:
                    return FoundBatch(batch_id)
            return FoundBatch(None, unsure)

        return await self._request("find", search)

    async def look(self, batch_id: str) -> BatchLook:
        def state() -> BatchLook:
            job = self._world.jobs[batch_id]
            return BatchLook(BatchState.ENDED if self._world.has_ended(job) else BatchState.RUNNING, (job.name,))

        return await self._request("look", state)

    async def results(self, batch_id: str, look: BatchLook) -> list[ResultLine]:
        def found() -> list[ResultLine]:
            job = self._world.jobs[batch_id]
            if job.name not in self._world.files:
                raise RetrySameProvider("provider_error", "no such file", provider="groq", status=404)
            answered = self._world.answered(job)
            return [
                ResultLine(call["custom_id"], ResultKind.ANSWERED if call in answered else ResultKind.NOT_RUN, call)
                for call in reversed(job.calls)
            ]

        return await self._request("results", found)

    async def answer_of(self, line: ResultLine, request: ChatRequest) -> ChatResult:
        assert line.said["text"] == request.messages[0].text, "the answer of another attempt"
        return ChatResult("answered", "stop", CallUsage(7, 3), request.model, 2.0, 5.0, False, "id")

    async def cancel(self, batch_id: str) -> None:
        self._world.jobs[batch_id].cancelled = await self._request("cancel", lambda: True)

    async def clean_up(self, name: str, look: BatchLook | None) -> None:
        await self._request("delete", lambda: self._world.files.discard(name))


@dataclass(frozen=True, slots=True)
class BatchRun:
    """The result of one run. `point` is where the first worker died; `ends` are the outcomes by task."""

    point: str | None
    points: int
    violations: tuple[str, ...]
    ends: tuple[tuple[str, str], ...]
    batch_flags: tuple[bool, ...]
    calls: int
    jobs: int
    seconds: float


def run_plan(plan: BatchPlan, bug: str = "") -> BatchRun:
    """Run a plan, with a planted bug if one is named (see BUGS)."""
    with BUGS[bug]() if bug else nullcontext():
        world = BatchWorld(plan)
        try:
            found = tuple(world.run().violations())
        except SimulationStuck as stuck:
            found = (f"stuck: {stuck}",)
    finished = world.read(topics.ATTEMPTS_FINISHED_CLOUD)
    return BatchRun(
        world.killed_at,
        len(world.points),
        found,
        tuple(sorted({(event.task_id, event.outcome.value) for _, event in finished})),
        tuple(event.batch for _, event in world.read(topics.USAGE_RECORDED)),
        world.called.total(),
        len(world.jobs),
        world.loop.time(),
    )


def run_kills(plan: BatchPlan, first: int, step: int, bug: str = "", *, until_found: bool = False) -> list[BatchRun]:
    """Kill the first worker at every `step`-th point of a plan, from the `first` on."""
    points = run_plan(plan).points
    runs: list[BatchRun] = []
    for at in range(first, points, step):
        runs.append(run_plan(replace(plan, kill_at=at), bug))
        if until_found and runs[-1].violations:
            break
    return runs


@contextmanager
def _submits_without_looking() -> Iterator[None]:
    """Who finds a submission that was interrupted submits the batch again."""
    key = (events.BatchPhase.SUBMITTING, BatchInput.TAKEN)
    planted = {**TABLE, key: BatchStep(events.BatchPhase.SUBMITTING, BatchAction.SUBMIT)}
    with mock.patch.object(steps, "TABLE", planted):
        yield


@contextmanager
def _random_executions() -> Iterator[None]:
    """Each delivery of a result is an execution of its own."""
    numbers = itertools.count()
    with mock.patch.object(settling, "execution_of", side_effect=lambda _batch, _id: f"execution-{next(numbers)}"):
        yield


@contextmanager
def _no_second_look_at_the_log() -> Iterator[None]:
    """An attempt that comes again is put into another batch."""
    with mock.patch.object(BatchLog, "batch_of", return_value=None):
        yield


@contextmanager
def _calls_again() -> Iterator[None]:
    """Who goes on with the ordinary calls of a batch makes all of them."""

    async def nothing(_self: PaidCalls, _record: Record, _request: AttemptRequested) -> SettledAttempt:
        return NOTHING_EARLIER

    with mock.patch.object(PaidCalls, "settle", nothing):
        yield


BUGS: Final[Mapping[str, Callable[[], AbstractContextManager[None]]]] = {
    "submits without looking": _submits_without_looking,
    "random executions": _random_executions,
    "gathers again": _no_second_look_at_the_log,
    "calls again": _calls_again,
}
