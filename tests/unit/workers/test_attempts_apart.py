"""Attempts of one task at one model run at different endpoints, where there are several."""

from __future__ import annotations

import asyncio

import pytest
from headrace_contracts import topics
from headrace_testing.workers import ScriptedProvider, WorkerBench, attempt, healthy


async def ran_at(slots: list[int], *, away: int = 0, attempts: int = 2) -> list[str]:
    """The nodes that attempts of one task have run at, begun at once at so many nodes with slots, in order."""
    bench = WorkerBench()
    await bench.prepare()
    providers = [ScriptedProvider(node=f"node-{number}") for number in range(len(slots))]
    endpoints = [healthy(provider, number) for provider, number in zip(providers, slots, strict=True)]
    for endpoint in endpoints[:away]:
        endpoint.withheld["test"] = "away"
    # By itself the first one would get them all, one after another if need be.
    runner = bench.runner(endpoints, choose=lambda views, _model: min(views, key=lambda one: one.name, default=None))
    gate = asyncio.Event()
    for provider in providers:
        provider.script = [gate] * attempts
    work = [bench.submit(attempt(number=number + 1)) for number in range(attempts)]
    calls = [asyncio.create_task(runner.handle(record)) for record in work]
    for _ in range(200):
        await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*calls)
    ends = bench.read(topics.ATTEMPTS_FINISHED)
    assert all(end.outcome == "answered" for end in ends)
    return sorted(end.node for end in ends)


@pytest.mark.parametrize(
    ("slots", "away", "expected"),
    [
        # The first has by far the most room.
        ([9, 1], 0, ["node-0", "node-1"]),
        ([1, 1], 0, ["node-0", "node-1"]),
        # Nowhere else: beside each other is better than not at all.
        ([9], 0, ["node-0", "node-0"]),
        ([1, 9], 1, ["node-1", "node-1"]),
    ],
)
async def test_where_they_run(slots: list[int], away: int, expected: list[str]) -> None:
    assert await ran_at(slots, away=away) == expected


async def test_a_third_one_goes_beside_another() -> None:
    assert len(set(await ran_at([4, 4], attempts=3))) == 2
