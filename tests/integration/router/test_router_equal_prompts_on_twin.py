"""Equal prompts from the router to the models, on the twin: side by side, unless a session orders them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from headrace_contracts import topics
from headrace_contracts.events import Privacy, Sampling, TaskStatus, TaskSubmitted
from headrace_models.ports import ChatRequest, ChatResult, OnText
from headrace_models.worker.pool import Pool
from headrace_models.worker.runner import AttemptRunner, RunnerOptions
from headrace_streams.handling import EngineOptions, TopicLane
from headrace_streams.parallel import ParallelConsumer
from headrace_streams.records import Record
from headrace_testing.engine import Letters
from headrace_testing.router_twin import PREFIX, Twin, now_ms
from headrace_testing.routing import task
from headrace_testing.workers import ScriptedProvider, first_of, healthy

TASKS = 16


class HeldProvider(ScriptedProvider):
    """Answers when `hold` lets it."""

    def __init__(self, hold: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self.hold = hold
        self.most = 0

    async def _chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        self.most = max(self.most, self.running)
        await self.hold()
        return await super()._chat(request, on_text)


@asynccontextmanager
async def worker(twin: Twin, provider: HeldProvider) -> AsyncIterator[list[str]]:
    """A local worker with a slot for each task; the ids of the tasks in the order in which their attempts began."""
    begun: list[str] = []
    runner = AttemptRunner(
        codec=twin.codec,
        publisher=twin.publisher,
        pool=Pool([healthy(provider, TASKS)], first_of),
        options=RunnerOptions(worker="worker-1"),
        outcomes_to=topics.ATTEMPTS_FINISHED,
        clock_ms=now_ms,
        new_id=iter(f"execution-{number}" for number in range(1_000)).__next__,
    )

    async def handle(record: Record) -> None:
        begun.append(twin.decode(topics.WORK_LOCAL_INTERACTIVE.record, record).task_id)
        await runner.handle(record)

    lanes = [TopicLane(PREFIX + spec.name) for spec in (topics.WORK_LOCAL_INTERACTIVE, topics.WORK_LOCAL_BATCH)]
    engine = ParallelConsumer(
        twin.log,
        PREFIX + "local-worker",
        lanes,
        handle,
        dead_letters=Letters(),
        options=EngineOptions(max_in_flight=64),
    )
    running = asyncio.create_task(engine.run())
    try:
        yield begun
    finally:
        await engine.stop()
        await running


def best_of(session: str | None) -> list[TaskSubmitted]:
    """One prompt, asked several times for different answers."""
    asked = task(
        role=None,
        model="gemma2:2b",
        privacy=Privacy.SENSITIVE,
        sampling=Sampling(temperature=1.0),
        allow_cached=False,
        session=session,
        submitted_at=now_ms(),
    )
    return [replace(asked, task_id=f"00000000-0000-7000-8000-{number:012d}") for number in range(TASKS)]


async def test_equal_prompts_without_a_session_are_answered_side_by_side() -> None:
    begun, all_of_them = 0, asyncio.Event()

    async def until_all_have_begun() -> None:
        nonlocal begun
        begun += 1
        if begun == TASKS:
            all_of_them.set()
        await all_of_them.wait()

    provider = HeldProvider(until_all_have_begun)
    async with Twin(session_timeout=5.0) as twin, worker(twin, provider):
        twin.router()
        tasks = best_of(None)
        await twin.submit(*tasks)
        await twin.until_completed(tasks)

        ended = [end for ends in twin.completed().values() for end in ends]
        name = PREFIX + topics.TASKS_COMPLETED.name
        keys = {record.key for partition in range(2) for record in twin.cluster.records(name, partition)}
    assert [end.status for end in ended] == [TaskStatus.SUCCEEDED] * TASKS
    assert len(keys) == 1, "they share a partition, for coalescing and the cache"
    assert provider.most == TASKS


async def test_equal_prompts_of_a_session_are_answered_one_after_another() -> None:
    provider = HeldProvider(lambda: asyncio.sleep(0.002))
    async with Twin(session_timeout=5.0) as twin, worker(twin, provider) as begun:
        twin.router()
        tasks = best_of("chat-1")
        for one in tasks:
            await twin.submit(one)
        await twin.until_completed(tasks)

    assert provider.most == 1
    assert begun == [one.task_id for one in tasks]
