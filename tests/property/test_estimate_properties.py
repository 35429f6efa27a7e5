"""Estimates stay finite and calls get slots, whatever providers say of tokens and times."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from headrace_contracts.events import Lane
from headrace_local_worker.decide.balancing import choose_node
from headrace_models.errors import RetrySameProvider
from headrace_models.ports import CallUsage, ChatResult
from headrace_models.worker.estimates import CallSize, ModelSpeed, OutputLengths, seconds_left
from headrace_models.worker.parallel_limit import UNLIMITED, after_answer, after_refusal, waited_inside
from headrace_models.worker.pool import Pool
from headrace_testing.simulation.loop import VirtualLoop
from headrace_testing.workers import ScriptedProvider, healthy
from hypothesis import example, given, settings
from hypothesis import strategies as st

figures = st.one_of(
    st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e300, 1e-300, 2.0**70]),
    st.floats(0.0, 1e6, allow_nan=False),
)
tokens = st.one_of(st.sampled_from([0, 1, -5, 2**70, 10**30]), st.integers(0, 10_000))
sizes = st.builds(CallSize, tokens, st.none() | tokens)


def is_sound(*values: float) -> bool:
    return all(math.isfinite(value) and value >= 0.0 for value in values)


@given(
    st.lists(st.tuples(st.floats(0, 1e5), sizes, figures, figures, figures, st.booleans(), st.booleans()), max_size=20),
    sizes,
    st.floats(0.0, 1e6),
)
@example([(0.0, CallSize(), 3.0, 0.0, 1e-300, False, False)], CallSize(), 21.0)
def test_estimates_are_finite_whatever_is_observed(calls: list[Any], asked: CallSize, since: float) -> None:
    speed, lengths = ModelSpeed(), OutputLengths()
    for now, size, output, first, total, cold, queued in calls:
        speed.observe(now, size, output, first, total, cold=cold, queued=queued)
        lengths.observe(output)
    usual = lengths.usual(asked.max_output_tokens)
    assert is_sound(usual, speed.seconds(asked, usual), speed.seconds_per_token, speed.load_seconds)
    assert is_sound(seconds_left(speed, lengths, asked, speed.load_seconds, since))


@given(st.lists(st.tuples(st.integers(1, 1_000), figures, figures, figures, st.booleans()), max_size=30))
def test_some_call_may_always_be_sent(calls: list[Any]) -> None:
    limit = UNLIMITED
    for number, (sent, first, usual, total, refused) in enumerate(calls):
        now = 10.0 * number
        if refused:
            limit = after_refusal(limit, sent, now)
        else:
            limit = after_answer(limit, sent, waited_inside(first, usual, total), now)
        assert limit.at(now) >= 1


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(sizes, figures, figures, tokens, st.booleans(), st.sampled_from(list(Lane))), min_size=1, max_size=40
    )
)
def test_every_call_gets_a_slot_and_gives_it_back(calls: list[Any]) -> None:
    async def scenario() -> None:
        endpoints = [healthy(ScriptedProvider(node=name), slots) for name, slots in (("a", 1), ("b", 3))]
        pool = Pool(endpoints, choose_node)

        async def call(size: CallSize, first: float, total: float, output: int, fails: bool, lane: Lane) -> None:
            got = await pool.acquire("ollama", "gemma2:2b", lane, None, size=size)
            await asyncio.sleep(1.0)
            end: Any = RetrySameProvider("overloaded", "full", provider="ollama") if fails else ChatResult(
                "x", "stop", CallUsage(output, output), "gemma2:2b", first, total, False, ""
            )  # fmt: skip
            pool.release(got, end, "gemma2:2b", size=size)

        async def probe() -> None:
            while True:
                await asyncio.sleep(3.0)
                for one in endpoints:
                    pool.update(one.name, one.status)

        probing = asyncio.create_task(probe())
        await asyncio.gather(*(call(*one) for one in calls))
        probing.cancel()
        assert ([one.busy for one in endpoints], pool.waiting) == ([0, 0], 0)

    # Far less than a minute passes if nothing is held back without need: a call takes a second.
    loop = VirtualLoop(max_steps=1_000_000, max_seconds=200.0)  # type: ignore[abstract]
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()
