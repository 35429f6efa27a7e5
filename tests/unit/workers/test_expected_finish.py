"""Which endpoint of several a call gets, and which it waits for, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from headrace_contracts.events import Lane
from headrace_local_worker.decide.balancing import choose_node
from headrace_models.errors import RetrySameProvider
from headrace_models.ports import CallUsage, ChatResult, ProviderStatus
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.estimates import CallSize
from headrace_models.worker.pool import Pool
from headrace_testing.simulation.loop import VirtualLoop
from headrace_testing.workers import ScriptedProvider, healthy

MODEL = "gemma2:2b"
SPEEDS = {"fast": 250.0, "slow": 10.0}
"""Tokens a second."""


def run(doing: Coroutine[Any, Any, None]) -> None:
    loop = VirtualLoop(max_steps=1_000_000, max_seconds=5_000.0)  # type: ignore[abstract]
    try:
        loop.run_until_complete(doing)
    finally:
        loop.close()


class Fleet:
    """Endpoints that write tokens at their own speed; one call after the other where `serial`."""

    def __init__(self, *, serial: bool = False, slots: int = 4, **speeds: float) -> None:
        self.speeds = speeds or SPEEDS
        self.endpoints = {name: healthy(ScriptedProvider(node=name), slots) for name in self.speeds}
        self.pool = Pool(list(self.endpoints.values()), choose_node)
        self.given: Counter[str] = Counter()
        self._inside = {name: asyncio.Semaphore(1 if serial else slots) for name in self.speeds}

    async def call(self, tokens: int, lane: Lane = Lane.INTERACTIVE) -> tuple[str, float]:
        """Where it ran, and how long it took with its wait."""
        now = asyncio.get_running_loop().time
        asked, size = now(), CallSize(20)
        got = await self.pool.acquire("ollama", MODEL, lane, None, size=size)
        self.given[got.name] += 1
        began = now()
        async with self._inside[got.name]:
            await asyncio.sleep(0.05)
            first = now() - began
            await asyncio.sleep(tokens / self.speeds[got.name])
        usage = CallUsage(20, tokens)
        total = now() - began
        self.pool.release(
            got, ChatResult("x", "stop", usage, MODEL, first * 1000, total * 1000, False, ""), MODEL, size=size
        )
        return got.name, now() - asked

    async def known(self) -> None:
        """Each endpoint has run a few short calls."""
        for _ in range(4):
            for one in self.endpoints.values():
                held = [other for other in self.endpoints.values() if other is not one]
                await self._alone(one, held)
        self.given.clear()

    async def _alone(self, one: Endpoint, others: list[Endpoint]) -> None:
        before = [other.status for other in others]
        for other in others:
            other.status = ProviderStatus(False, "held back")
        await self.call(20)
        for other, status in zip(others, before, strict=True):
            other.status = status


def test_short_calls_after_a_long_one_go_to_the_fast_node() -> None:
    async def scenario() -> None:
        fleet = Fleet()
        await fleet.known()
        assert (await fleet.call(3_000))[0] == "fast"
        for _ in range(20):
            await fleet.call(20)
        assert fleet.given["slow"] == 0

    run(scenario())


def test_a_call_waits_for_a_full_fast_node_while_that_is_better() -> None:
    async def scenario() -> None:
        fleet = Fleet()
        await fleet.known()
        found = await asyncio.gather(*(fleet.call(20) for _ in range(20)))
        assert fleet.given["slow"] == 0
        assert max(seconds for _, seconds in found) < 1.0, "five times four calls of 0.13 s"

    run(scenario())


def test_it_takes_another_slot_as_soon_as_that_is_better() -> None:
    async def scenario() -> None:
        fleet = Fleet(slots=1)
        await fleet.known()
        long = asyncio.create_task(fleet.call(10_000))
        await asyncio.sleep(0)
        short = asyncio.create_task(fleet.call(20))
        await asyncio.sleep(0.02)
        # The long one seemed short: it waits at first.
        assert fleet.given == {"fast": 1}
        for _ in range(40):
            await asyncio.sleep(1.0)
            fleet.pool.update("slow", fleet.endpoints["slow"].status)
        assert short.done()
        assert (await short)[0] == "slow"
        await long

    run(scenario())


def test_with_a_backlog_all_nodes_are_busy() -> None:
    async def scenario() -> None:
        fleet = Fleet()
        await fleet.known()
        calls = [asyncio.create_task(fleet.call(20)) for _ in range(200)]
        await asyncio.sleep(4.0)
        assert fleet.endpoints["slow"].busy == 4
        assert fleet.endpoints["fast"].busy == 4
        await asyncio.gather(*calls)
        # The slow one has as many as it does in the time of the others.
        assert 2 <= fleet.given["slow"] <= 12

    run(scenario())


def test_a_server_that_queues_inside_keeps_its_calls_in_our_queue() -> None:
    async def scenario() -> None:
        fleet = Fleet(serial=True, fast=50.0)
        await asyncio.gather(*(fleet.call(50) for _ in range(12)))
        assert fleet.endpoints["fast"].room(MODEL, asyncio.get_running_loop().time(), alone=True) == 1
        batch = [asyncio.create_task(fleet.call(50, Lane.BATCH)) for _ in range(6)]
        await asyncio.sleep(0.5)
        _, seconds = await fleet.call(50)
        assert seconds < 2.3, "it waits for one call at most"
        await asyncio.gather(*batch)

    run(scenario())


def test_a_node_that_comes_back_starts_with_one_call() -> None:
    async def scenario() -> None:
        fleet = Fleet(a=20.0, b=20.0)
        await fleet.known()
        up = fleet.endpoints["a"].status
        fleet.pool.update("a", ProviderStatus(False, "down"))
        fleet.pool.update("a", up)
        calls = [asyncio.create_task(fleet.call(20)) for _ in range(6)]
        await asyncio.sleep(0.01)
        assert fleet.given == {"a": 1, "b": 4}
        await asyncio.gather(*calls)
        calls = [asyncio.create_task(fleet.call(20)) for _ in range(8)]
        await asyncio.sleep(0.01)
        assert fleet.endpoints["a"].busy > 1
        await asyncio.gather(*calls)

    run(scenario())


def test_a_node_that_fails_every_second_call_is_left_out() -> None:
    async def scenario() -> None:
        fleet = Fleet(a=20.0, b=20.0)
        await fleet.known()
        lost = RetrySameProvider("connection_lost", "lost", provider="ollama")
        flaky, now = fleet.endpoints["a"], asyncio.get_running_loop().time
        for _ in range(6):
            size = CallSize(20)
            got = await fleet.pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None, size=size, without=frozenset({"b"}))
            fleet.pool.release(got, lost, MODEL, size=size)
            await asyncio.sleep(2.0)
            await fleet._alone(flaky, [fleet.endpoints["b"]])
        assert flaky.is_avoided(MODEL, now())
        fleet.given.clear()
        await asyncio.gather(*(fleet.call(20) for _ in range(4)))
        assert fleet.given == {"b": 4}
        fleet.pool.update("b", ProviderStatus(False, "down"))
        assert (await fleet.call(20))[0] == "a", "rather than nobody"

    run(scenario())


def test_interactive_calls_are_next_where_batch_has_all_slots() -> None:
    async def scenario() -> None:
        fleet = Fleet(slots=2, fast=250.0)
        await fleet.known()
        first = [asyncio.create_task(fleet.call(5_000, Lane.BATCH)) for _ in range(2)]
        waiting = [asyncio.create_task(fleet.call(20, Lane.BATCH)) for _ in range(4)]
        # So long that they count as having come before any interactive call.
        await asyncio.sleep(15.0)
        urgent = asyncio.create_task(fleet.call(20))
        await asyncio.gather(*first)
        assert not any(one.done() for one in waiting)
        await urgent
        assert sum(one.done() for one in waiting) <= 1
        await asyncio.gather(*waiting)

    run(scenario())
