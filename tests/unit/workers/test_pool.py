"""Slots of endpoints: which call gets one, which waits, and which is told that none is left."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from headrace_contracts.events import Lane
from headrace_models.errors import RetrySameProvider, TryAnotherProvider
from headrace_models.ports import CallUsage, ChatResult, ProviderStatus
from headrace_models.worker import waiting_calls
from headrace_models.worker.breaker import BreakerPolicy
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.estimates import UNSIZED
from headrace_models.worker.pool import ModelNotOffered, Pool, TooLittleTime
from headrace_models.worker.recent_times import RecentTimes
from headrace_testing.simulation.loop import VirtualLoop
from headrace_testing.workers import ScriptedProvider, first_of, healthy

T = TypeVar("T")

MODEL = "gemma2:2b"
DOWN = ProviderStatus(False, "it is down")


def result(total_ms: float = 1000.0, tokens: int = 50) -> ChatResult:
    return ChatResult("x", "stop", CallUsage(1, tokens), MODEL, 500.0, total_ms, False, "")


def pool_of(*endpoints: Endpoint, policy: BreakerPolicy | None = None) -> Pool:
    return Pool(endpoints, first_of, policy)


def in_virtual_time(doing: Coroutine[Any, Any, T]) -> T:
    loop = VirtualLoop(max_steps=1_000_000, max_seconds=2_000.0)  # type: ignore[abstract]
    try:
        found: T = loop.run_until_complete(doing)
        return found
    finally:
        loop.close()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_handed_out_and_waited_for() -> None:
    endpoint = healthy(ScriptedProvider(), slots=2)
    pool = pool_of(endpoint)
    taken = [await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None) for _ in range(2)]
    waiting = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    assert (endpoint.busy, pool.waiting, waiting.done()) == (2, 1, False)
    pool.release(taken[0], result(), MODEL)
    assert await waiting is endpoint
    assert (endpoint.busy, pool.waiting) == (2, 0)


async def test_urgent_calls_overtake_batch_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = healthy(ScriptedProvider(), slots=1)
    pool = pool_of(endpoint)
    await pool.acquire("ollama", MODEL, Lane.BATCH, None)
    order: list[str] = []

    async def take(name: str, lane: Lane) -> None:
        got = await pool.acquire("ollama", MODEL, lane, None)
        order.append(name)
        pool.release(got, result(), MODEL)

    tasks = [asyncio.create_task(take("batch", Lane.BATCH))]
    await settle()
    tasks.append(asyncio.create_task(take("urgent", Lane.INTERACTIVE)))
    await settle()
    pool.release(endpoint, result(), MODEL)
    await asyncio.gather(*tasks)
    assert order == ["urgent", "batch"]

    monkeypatch.setattr(waiting_calls, "BATCH_HANDICAP_SECONDS", 0.01)
    order.clear()
    await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    tasks = [asyncio.create_task(take("batch", Lane.BATCH))]
    await asyncio.sleep(0.03)
    tasks.append(asyncio.create_task(take("urgent", Lane.INTERACTIVE)))
    await settle()
    pool.release(endpoint, result(), MODEL)
    await asyncio.gather(*tasks)
    assert order == ["batch", "urgent"], "batch work must not wait for ever"


async def test_who_waits_for_one_model_does_not_hold_up_another() -> None:
    small = healthy(ScriptedProvider(node="small", models=("a",)), slots=1)
    large = healthy(ScriptedProvider(node="large", models=("b",)), slots=1)
    pool = pool_of(small, large)
    await pool.acquire("ollama", "a", Lane.INTERACTIVE, None)
    waiting = asyncio.create_task(pool.acquire("ollama", "a", Lane.INTERACTIVE, None))
    await settle()
    assert await pool.acquire("ollama", "b", Lane.BATCH, 1.0) is large
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert pool.waiting == 0


async def test_giving_up_the_wait_leaves_nothing_behind() -> None:
    endpoint = healthy(ScriptedProvider(), slots=1)
    pool = pool_of(endpoint)
    await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    with pytest.raises(TimeoutError):
        await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, 0.01)
    cancelled = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    # The slot is handed over, and the waiter is cancelled before it could take notice.
    pool.release(endpoint, result(), MODEL)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert (endpoint.busy, pool.waiting) == (0, 0)


async def test_nobody_offers_what_no_healthy_endpoint_has() -> None:
    endpoint = healthy(ScriptedProvider(), slots=1)
    pool = pool_of(endpoint)
    for provider, model in (("ollama", "other"), ("groq", MODEL)):
        with pytest.raises(ModelNotOffered, match="no endpoint of this worker"):
            await pool.acquire(provider, model, Lane.INTERACTIVE, None)
    await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    waiting = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    pool.update(endpoint.name, DOWN)
    with pytest.raises(ModelNotOffered, match="it is down"):
        await waiting
    assert pool.waiting == 0


async def test_an_endpoint_that_comes_back_serves_who_waits() -> None:
    first = healthy(ScriptedProvider(node="first"), slots=1)
    second = healthy(ScriptedProvider(node="second"), slots=1)
    pool = pool_of(first, second)
    pool.update("second", DOWN)
    await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    waiting = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    pool.changed.clear()
    pool.update("second", ScriptedProvider().current)
    assert await waiting is second
    assert pool.changed.is_set()


async def test_an_endpoint_that_cannot_be_reached_is_out_and_looked_at_at_once() -> None:
    endpoint = healthy(ScriptedProvider())
    pool = pool_of(endpoint)
    got = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    pool.release(got, RetrySameProvider("unreachable", "cannot be reached", provider="ollama"), MODEL)
    assert endpoint.doubted.is_set()
    assert pool.changed.is_set()
    assert endpoint.objection(0.0) == "cannot be reached"


async def test_an_endpoint_that_keeps_failing_is_left_alone_for_a_while() -> None:
    endpoint = healthy(ScriptedProvider(), slots=2)
    pool = pool_of(endpoint, policy=BreakerPolicy(lasting_failures=2, lasting_seconds=0.05))
    refusal = TryAnotherProvider("not_authorised", "the key is wrong", provider="ollama")
    held = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    for _ in range(2):
        got = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
        pool.release(got, refusal, MODEL)
    with pytest.raises(ModelNotOffered, match="the key is wrong"):
        await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    pool.release(held, None, MODEL)
    await asyncio.sleep(0.06)
    got = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    pool.release(got, result(), MODEL)
    assert endpoint.busy == 0


async def test_times_are_observed() -> None:
    endpoint = healthy(ScriptedProvider())
    pool = pool_of(endpoint)
    for total_ms in (1000.0, 2000.0):
        got = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
        pool.release(got, result(total_ms), MODEL)
    assert endpoint.run_seconds(MODEL, UNSIZED) == pytest.approx(1.5, abs=0.1)
    # 50 tokens in 0.5 s, then in 1.5 s.
    assert endpoint.tokens_per_second == pytest.approx(100 + 0.3 * (50 / 1.5 - 100))


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="same name"):
        pool_of(healthy(ScriptedProvider()), healthy(ScriptedProvider()))


async def test_an_endpoint_that_leaves_gets_no_call_and_those_who_wait_for_it_alone_are_told() -> None:
    first = healthy(ScriptedProvider(node="first"), slots=1)
    second = healthy(ScriptedProvider(node="second", models=("b",)), slots=1)
    pool = pool_of(first, second)
    taken = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    waiting = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    assert pool.leave("first") is first
    with pytest.raises(ModelNotOffered):
        await waiting
    with pytest.raises(ModelNotOffered):
        await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    assert (first.busy, first.idle.is_set()) == (1, False), "what runs there may finish"
    pool.release(taken, result(), MODEL)
    assert (first.busy, first.idle.is_set()) == (0, True)


async def test_an_endpoint_that_joins_serves_once_it_has_been_looked_at() -> None:
    pool = pool_of()
    endpoint = Endpoint(ScriptedProvider(), 1)
    pool.join(endpoint)
    assert endpoint.doubted.is_set(), "it must be looked at at once"
    with pytest.raises(ModelNotOffered, match="not been probed"):
        await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    pool.update(endpoint.name, ScriptedProvider().current)
    assert await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None) is endpoint
    with pytest.raises(ValueError, match="already"):
        pool.join(Endpoint(ScriptedProvider(), 1))


async def test_more_slots_serve_those_who_wait() -> None:
    endpoint = healthy(ScriptedProvider(), slots=1)
    pool = pool_of(endpoint)
    await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    waiting = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    pool.resize(endpoint.name, 2, {"gpu": "big"})
    assert await waiting is endpoint
    assert (endpoint.busy, endpoint.hardware, pool.changed.is_set()) == (2, {"gpu": "big"}, True)


async def order_of(*waiters: tuple[str, str, float | None]) -> list[str]:
    """In which order calls get the slot, in an old queue; each with its name, its tenant and its seconds left."""
    endpoint = healthy(ScriptedProvider(), slots=1)
    endpoint.recent[MODEL] = RecentTimes()
    for seconds in (10.0, 20.0, 30.0, 40.0):
        endpoint.recent[MODEL].observe(asyncio.get_running_loop().time(), seconds)
    pool = pool_of(endpoint)
    await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    order: list[str] = []

    async def take(name: str, tenant: str, left: float | None) -> None:
        try:
            got = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, left, tenant)
        except TooLittleTime:
            order.append(f"told {name}")
            return
        order.append(name)
        await asyncio.sleep(0.02)
        pool.release(got, None, MODEL, tenant)

    tasks = []
    for waiter in waiters:
        tasks.append(asyncio.create_task(take(*waiter)))
        await settle()
    pool.release(endpoint, None, MODEL)
    await asyncio.gather(*tasks)
    assert (endpoint.busy, pool.waiting) == (0, 0)
    return order


LINE = (("relaxed", "a", 900.0), ("any", "a", None), ("unsure", "a", 30.0), ("close", "a", 50.0), ("closer", "a", 45.0))


def test_a_young_queue_is_served_by_age() -> None:
    assert in_virtual_time(order_of(*LINE)) == [name for name, _, _ in LINE]


def test_an_old_queue_is_served_by_slack_and_who_may_not_make_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_calls, "OLD_SECONDS", 0.0)
    assert in_virtual_time(order_of(*LINE)) == ["told unsure", "closer", "close", "relaxed", "any"]


def test_who_has_waited_elsewhere_may_have_a_slot_that_nobody_else_wants() -> None:
    async def acquired(waited: float, *, others: bool) -> str:
        endpoint = healthy(ScriptedProvider(), slots=1)
        endpoint.recent[MODEL] = RecentTimes()
        for seconds in (10.0, 20.0, 30.0, 40.0):
            endpoint.recent[MODEL].observe(0.0, seconds)
        pool = pool_of(endpoint)
        if others:
            await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
        asking = pool.acquire("ollama", MODEL, Lane.INTERACTIVE, 35.0, waited_seconds=waited)
        try:
            async with asyncio.timeout(1.0):
                return (await asking).name
        except (TooLittleTime, TimeoutError) as error:
            return type(error).__name__

    assert in_virtual_time(acquired(60.0, others=False)) == "node-1"
    assert in_virtual_time(acquired(60.0, others=True)) == "TooLittleTime"
    assert in_virtual_time(acquired(1.0, others=True)) == "TimeoutError", "it waits"


def test_of_calls_that_may_not_make_it_the_most_likely_one_is_next() -> None:
    waiting = [replace(call_of("a", 0.0), due=due) for due in (12.0, 14.0, 13.0)]
    found = waiting_calls.next_of(waiting, lambda _tenant: 0.0, 6.0, lambda *_: 10.0)
    assert found.due == 14.0


@pytest.mark.parametrize(
    ("old_seconds", "expected"),
    [(0.0, ["a0", "b1", "a1", "b0", "a2", "a3"]), (5.0, ["a3", "b0", "a2", "b1", "a1", "a0"])],
    ids=["by slack", "by age"],
)
def test_tenants_take_turns(monkeypatch: pytest.MonkeyPatch, old_seconds: float, expected: Sequence[str]) -> None:
    monkeypatch.setattr(waiting_calls, "OLD_SECONDS", old_seconds)
    many = [(f"a{number}", "a", 50.0 + number) for number in (3, 2, 1, 0)]
    assert in_virtual_time(order_of(*many, ("b0", "b", 900.0), ("b1", "b", 800.0))) == expected


def call_of(tenant: str, since: float, lane: Lane = Lane.INTERACTIVE) -> waiting_calls.WaitingCall:
    return waiting_calls.WaitingCall("ollama", MODEL, tenant, 1, since, waiting_calls.rank_of(lane, since), None)


def next_of(waiting: Sequence[waiting_calls.WaitingCall], now: float, **claims: float) -> tuple[str, float]:
    found = waiting_calls.next_of(waiting, lambda tenant: claims.get(tenant, 0.0), now, lambda *_: 0.0)
    return found.tenant, found.since


def test_the_tenant_with_the_lowest_claim_is_next_and_then_who_waits_longest() -> None:
    waiting = [call_of("a", float(number)) for number in range(5)] + [call_of("b", 5.0), call_of("c", 6.0)]
    assert next_of(waiting, 6.5, a=0.7, c=0.3) == ("b", 5.0)
    assert next_of(waiting, 6.5, a=0.7, b=0.8, c=0.3) == ("c", 6.0)
    assert next_of(waiting, 6.5, b=0.8, c=0.3) == ("a", 0.0)
    assert next_of(waiting[3:], 6.5) == ("a", 3.0), "of equal claims the one that has waited longest"


def test_batch_work_waits_for_interactive_work_of_all_tenants() -> None:
    waiting = [call_of("a", 0.0, Lane.BATCH), call_of("b", 1.0), call_of("b", 2.0)]
    assert next_of(waiting, 3.0, b=9.0) == ("b", 1.0)
    assert next_of(waiting[:1], 3.0) == ("a", 0.0)
    assert next_of(waiting, 10.5, b=9.0) == ("a", 0.0)


async def seconds_of(weights: dict[str, int], seconds: dict[str, float], slots: int = 2) -> dict[str, float]:
    """How long each tenant has had slots of a node when all ask for more, in virtual time."""
    endpoint = healthy(ScriptedProvider(), slots=slots)
    pool, had = pool_of(endpoint), defaultdict[str, float](float)
    now = asyncio.get_running_loop().time

    async def ask(tenant: str) -> None:
        while True:
            got = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None, tenant, weights[tenant])
            began = now()
            try:
                await asyncio.sleep(seconds[tenant])
            finally:
                had[tenant] += now() - began
                pool.release(got, result(1000 * seconds[tenant]), MODEL, tenant)

    tasks = [asyncio.create_task(ask(tenant)) for tenant in weights for _ in range(10)]
    await asyncio.sleep(1_000.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return had


@pytest.mark.parametrize(
    ("weights", "seconds", "shares"),
    [
        ({"a": 1, "b": 1}, {"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 0.5}),
        ({"a": 1, "b": 1}, {"a": 1.0, "b": 20.0}, {"a": 0.5, "b": 0.5}),
        ({"a": 4, "b": 1}, {"a": 1.0, "b": 1.0}, {"a": 0.8, "b": 0.2}),
        ({"a": 4, "b": 1}, {"a": 1.0, "b": 20.0}, {"a": 0.8, "b": 0.2}),
        ({"a": 4, "b": 1}, {"a": 20.0, "b": 1.0}, {"a": 0.8, "b": 0.2}),
        ({"a": 1, "b": 2, "c": 5}, {"a": 3.0, "b": 1.0, "c": 7.0}, {"a": 0.125, "b": 0.25, "c": 0.625}),
    ],
)  # fmt: skip
def test_seconds_of_slots_are_shared_by_weight_however_long_calls_take(
    weights: dict[str, int], seconds: dict[str, float], shares: dict[str, float]
) -> None:
    had = in_virtual_time(seconds_of(weights, seconds))
    whole = sum(had.values())
    assert whole >= 1_950.0, "no slot is idle"
    assert {tenant: had[tenant] / whole for tenant in weights} == pytest.approx(shares, abs=0.03)


async def test_endpoints_that_may_run_a_model_are_one_kind_whatever_they_do_now() -> None:
    first = healthy(ScriptedProvider(node="first", models=("a", "both")), slots=4)
    second = healthy(ScriptedProvider(node="second", models=("b", "both")), slots=8)
    pool = pool_of(first, second)
    assert pool.serving("ollama", "a") == {"first"}
    assert pool.serving("ollama", "both") == {"first", "second"}
    before = pool.serving("ollama", "both")
    assert pool.serving("groq", "a") == pool.serving("ollama", "c") == frozenset()
    assert [pool.useful_calls(pool.serving("ollama", name)) for name in ("a", "b", "both", "c")] == [16, 24, 32, 8]
    pool.update("first", replace(first.status, healthy=False, reason="it is down"))
    assert pool.serving("ollama", "a") == {"first"}
    pool.update("second", ScriptedProvider(models=("a",)).current)
    assert pool.serving("ollama", "a") == {"first", "second"}
    pool.leave("first")
    assert (pool.serving("ollama", "a"), pool.useful_calls(before)) == ({"second"}, 24)
    pool.resize("second", 1, {})
    assert pool.useful_calls(before) == 10
    pool.join(healthy(ScriptedProvider(node="third", models=("a",)), slots=2))
    assert pool.serving("ollama", "a") == {"second", "third"}


async def test_names_from_outside_take_no_memory() -> None:
    pool = pool_of(healthy(ScriptedProvider()))
    for number in range(5_000):
        pool.serving("ollama", f"m{number}")
    assert len(pool._kinds) <= 1_000
