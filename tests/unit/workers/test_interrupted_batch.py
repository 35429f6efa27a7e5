"""Batch calls that are interrupted, so that an interactive call has their slot."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from headrace_contracts import events, topics
from headrace_contracts.events import Lane, Outcome
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, OnPiece, OnText, no_pieces
from headrace_models.worker.displacing import SOON_SECONDS, Displaceable, displaced
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.pool import Pool
from headrace_models.worker.runner import AttemptRunner, RunnerOptions, RunObserver
from headrace_testing.workers import ScriptedProvider, WorkerBench, attempt, first_of, healthy, now_ms


class Billing(ScriptedProvider):
    """Tells what was consumed until a call was cancelled, as the real clients do."""

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        try:
            return await super().chat(request, on_text, on_piece)
        except asyncio.CancelledError as cancelled:
            cancelled.args = (*cancelled.args, CallUsage(11, 5))
            raise


class Interruptions(RunObserver):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def displaced(self, request: events.AttemptRequested, node: str) -> None:
        self.seen.append((request.task_id, node))


def slow(seconds: float) -> ChatResult:
    """The answer of a call that has taken so long, as it says."""
    return ChatResult("x", "stop", CallUsage(7, 3), "gemma2:2b", 1.0, seconds * 1000, False, "")


class Fixture:
    """A worker with one node of one slot, whose calls usually take `usual_seconds`."""

    def __init__(self, *, interruptions: int = 2, displaces: bool = True) -> None:
        self.bench = WorkerBench()
        self.provider = Billing()
        self.endpoint: Endpoint = healthy(self.provider, 1)
        self.pool = Pool([self.endpoint], first_of, displaces_above=SOON_SECONDS if displaces else None)
        self.observer = Interruptions()
        numbers = itertools.count(1)
        self.runner = AttemptRunner(
            codec=self.bench.codec, publisher=self.bench.publisher, pool=self.pool,
            options=RunnerOptions(worker="worker-1", interruptions=interruptions),
            outcomes_to=topics.ATTEMPTS_FINISHED, clock_ms=now_ms, new_id=lambda: f"execution-{next(numbers)}",
            observer=self.observer,
        )  # fmt: skip

    async def prepare(self, usual_seconds: float = 60.0) -> None:
        await self.bench.prepare()
        self.provider.script.append(slow(usual_seconds))
        await self.begin("known")

    def begin(self, task: str, lane: Lane = Lane.INTERACTIVE, **more: Any) -> asyncio.Task[None]:
        spec = topics.WORK_LOCAL_BATCH if lane is Lane.BATCH else topics.WORK_LOCAL_INTERACTIVE
        more = {"requested_at": now_ms(), **more}
        record = self.bench.submit(attempt(task, lane=lane, **more), spec, task.encode())
        return asyncio.create_task(self.runner.handle(record))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not holds():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)

    def finished(self, task: str) -> Sequence[events.AttemptFinished]:
        return [one for one in self.bench.read(topics.ATTEMPTS_FINISHED) if one.task_id == task]

    def usage(self, task: str) -> list[tuple[int, int]]:
        events_of = [one for one in self.bench.read(topics.USAGE_RECORDED) if one.task_id == task]
        return [(one.usage.input_tokens, one.usage.output_tokens) for one in events_of]


async def test_a_batch_call_gives_its_slot_to_an_interactive_one_and_begins_anew() -> None:
    worker = Fixture()
    await worker.prepare()
    worker.provider.script += [asyncio.Event(), asyncio.Event()]
    talk = worker.provider.script[1]
    batch = worker.begin("batch", Lane.BATCH)
    await worker.until(lambda: worker.provider.running == 1)
    interactive = worker.begin("interactive")
    await worker.until(lambda: len(worker.provider.asked) == 3)
    assert not worker.finished("batch")
    assert not batch.done(), "it waits in this worker, and keeps its key"
    assert isinstance(talk, asyncio.Event)
    talk.set()
    await asyncio.gather(batch, interactive)
    assert worker.observer.seen == [("batch", "node-1")]
    (end,) = worker.finished("batch")
    assert (end.outcome, end.number, end.execution_id) == (Outcome.ANSWERED, 1, "execution-2")
    assert worker.usage("batch") == [(11 + 7, 5 + 3)], "of both calls"
    assert (worker.endpoint.busy, worker.endpoint.promised) == (0, 0)


async def test_a_batch_attempt_is_interrupted_so_often_and_no_more() -> None:
    worker = Fixture(interruptions=2)
    await worker.prepare()
    last = asyncio.Event()
    worker.provider.script += [asyncio.Event(), slow(60.0), asyncio.Event(), slow(60.0), last]
    batch = worker.begin("batch", Lane.BATCH)
    for number in (1, 2):
        await worker.until(lambda: worker.provider.running == 1)
        await worker.begin(f"interactive-{number}")
        assert len(worker.observer.seen) == number
    await worker.until(lambda: worker.provider.running == 1)
    third = worker.begin("interactive-3")
    await worker.until(lambda: worker.pool.waiting == 1)
    await asyncio.sleep(0.05)
    assert not third.done()
    assert len(worker.observer.seen) == 2
    last.set()
    await asyncio.gather(batch, third)
    assert [one.outcome for one in worker.finished("batch")] == [Outcome.ANSWERED]


async def test_what_was_consumed_counts_if_it_never_begins_again() -> None:
    worker = Fixture()
    await worker.prepare()
    talk = asyncio.Event()
    worker.provider.script += [asyncio.Event(), talk]
    batch = worker.begin("batch", Lane.BATCH, deadline_at=now_ms() + 100_000)
    await worker.until(lambda: worker.provider.running == 1)
    interactive = worker.begin("interactive")
    await worker.until(lambda: len(worker.provider.asked) == 3)
    worker.pool.withhold("node-1", "test", "it is drained")
    await batch
    (end,) = worker.finished("batch")
    assert (end.outcome, end.node) == (Outcome.FAILED_RETRYABLE, None), "no try"
    assert worker.usage("batch") == [(11, 5)]
    talk.set()
    await interactive


@pytest.mark.parametrize(
    ("displaces", "interruptions", "usual", "lane"),
    [
        (False, 2, 60.0, Lane.BATCH),
        (True, 0, 60.0, Lane.BATCH),
        (True, 2, SOON_SECONDS / 2, Lane.BATCH),
        (True, 2, 60.0, Lane.INTERACTIVE),
    ],
)
async def test_nobody_is_interrupted_where_it_is_off_or_soon_over_or_as_urgent(
    displaces: bool, interruptions: int, usual: float, lane: Lane
) -> None:
    worker = Fixture(interruptions=interruptions, displaces=displaces)
    await worker.prepare(usual)
    blocked = asyncio.Event()
    worker.provider.script.append(blocked)
    first = worker.begin("first", lane)
    await worker.until(lambda: worker.provider.running == 1)
    interactive = worker.begin("interactive")
    await worker.until(lambda: worker.pool.waiting == 1)
    await asyncio.sleep(0.05)
    assert worker.observer.seen == []
    blocked.set()
    await asyncio.gather(first, interactive)


async def test_batch_waits_for_batch() -> None:
    worker = Fixture()
    await worker.prepare()
    blocked = asyncio.Event()
    worker.provider.script.append(blocked)
    first = worker.begin("first", Lane.BATCH)
    await worker.until(lambda: worker.provider.running == 1)
    second = worker.begin("second", Lane.BATCH)
    await worker.until(lambda: worker.pool.waiting == 1)
    assert worker.observer.seen == []
    blocked.set()
    await asyncio.gather(first, second)


def test_the_call_that_has_done_least_is_interrupted_one_for_each_that_waits() -> None:
    running = [Displaceable("a", 0, 30.0), Displaceable("b", 0, 2.0), Displaceable("b", 1, 40.0)]
    assert displaced(1, 0, 60.0, running) == ("b", 0, 2.0)
    assert displaced(1, 1, 60.0, running) is None, "one slot is on its way"
    assert displaced(2, 1, 60.0, running) is not None
    assert displaced(1, 0, SOON_SECONDS, running) is None, "one is free soon"
    assert displaced(1, 0, 60.0, []) is None
