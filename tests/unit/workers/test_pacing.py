"""What becomes ready together passes a few at a time."""

from __future__ import annotations

import asyncio
from collections import Counter

from headrace_contracts import events
from headrace_models.worker.outcomes import ExecutionOutcome
from headrace_models.worker.pacing import Pacing
from headrace_models.worker.runner import RunObserver
from headrace_testing.waiting import eventually
from headrace_testing.workers import ScriptedProvider, WorkerBench, attempt, healthy

MANY = 60


class LoopTurns:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.number = 0
        self._next()

    def _next(self) -> None:
        self.number += 1
        asyncio.get_running_loop().call_soon(self._next)


async def test_some_pass_in_each_turn_of_the_loop_in_the_order_in_which_they_came() -> None:
    pacing, turns = Pacing(3), LoopTurns()
    passed: list[tuple[int, int]] = []

    async def come(number: int) -> None:
        await pacing.turn()
        passed.append((number, turns.number))

    await asyncio.gather(*map(come, range(20)))

    assert [number for number, _ in passed] == list(range(20))
    assert max(Counter(turn for _, turn in passed).values()) == 3


async def test_who_comes_alone_does_not_wait() -> None:
    pacing, turns = Pacing(3), LoopTurns()
    for _ in range(3):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        before = turns.number
        await pacing.turn()
        assert turns.number == before


async def test_those_who_are_cancelled_hold_up_nobody() -> None:
    pacing = Pacing(1)
    await pacing.turn()
    waiting = [asyncio.create_task(pacing.turn()) for _ in range(50)]
    await asyncio.sleep(0)
    for one in waiting[:-1]:
        one.cancel()

    async with asyncio.timeout(5.0):
        await waiting[-1]
        # Nor does it go on for nothing.
        await pacing.turn()


class Reports(RunObserver):
    def __init__(self) -> None:
        self.turns: list[int] = []
        self._loop = LoopTurns()

    def reported(self, request: events.AttemptRequested, ended: ExecutionOutcome, queued_seconds: float) -> None:
        self.turns.append(self._loop.number)


async def test_calls_that_end_together_are_reported_one_after_the_other() -> None:
    """The first of the next calls begin before the last of these has been reported."""
    bench = WorkerBench()
    await bench.prepare()
    node = ScriptedProvider()
    end = asyncio.Event()
    node.script = [end] * MANY
    reports = Reports()
    runner = bench.runner([healthy(node, MANY)], observer=reports)
    running = [asyncio.create_task(runner.handle(bench.submit(attempt(f"task-{one}")))) for one in range(MANY)]

    async def all_asked() -> bool:
        return len(node.asked) == MANY

    await eventually(all_asked)
    end.set()
    await asyncio.gather(*running)

    assert len(reports.turns) == MANY
    assert max(Counter(reports.turns).values()) <= 8
