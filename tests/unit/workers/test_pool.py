"""Slots of places: who gets them, who waits, who is told that nobody is left."""

from __future__ import annotations

import asyncio

import pytest
from headrace_contracts.events import Lane
from headrace_models.errors import RetryLater, TryAnother
from headrace_models.ports import ChatResult, ProviderStatus, Usage
from headrace_models.worker import pool as pools
from headrace_models.worker.breaker import BreakerPolicy
from headrace_models.worker.pool import NobodyOffers, Place, Pool
from headrace_testing.workers import ScriptedProvider, first_of, healthy

MODEL = "gemma2:2b"
DOWN = ProviderStatus(False, "it is down")


def result(total_ms: float = 1000.0, tokens: int = 50) -> ChatResult:
    return ChatResult("x", "stop", Usage(1, tokens), MODEL, 500.0, total_ms, False, "")


def pool_of(*places: Place, policy: BreakerPolicy | None = None) -> Pool:
    return Pool(places, first_of, policy)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_handed_out_and_waited_for() -> None:
    place = healthy(ScriptedProvider(), slots=2)
    pool = pool_of(place)
    taken = [await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None) for _ in range(2)]
    waiting = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    assert (place.busy, pool.waiting, waiting.done()) == (2, 1, False)
    pool.release(taken[0], result(), MODEL)
    assert await waiting is place
    assert (place.busy, pool.waiting) == (2, 0)


async def test_urgent_calls_overtake_batch_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    place = healthy(ScriptedProvider(), slots=1)
    pool = pool_of(place)
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
    pool.release(place, result(), MODEL)
    await asyncio.gather(*tasks)
    assert order == ["urgent", "batch"]

    monkeypatch.setattr(pools, "BATCH_HANDICAP_SECONDS", 0.01)
    order.clear()
    await pool.acquire("ollama", MODEL, Lane.BATCH, None)
    tasks = [asyncio.create_task(take("batch", Lane.BATCH))]
    await asyncio.sleep(0.03)
    tasks.append(asyncio.create_task(take("urgent", Lane.INTERACTIVE)))
    await settle()
    pool.release(place, result(), MODEL)
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
    place = healthy(ScriptedProvider(), slots=1)
    pool = pool_of(place)
    await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    with pytest.raises(TimeoutError):
        await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, 0.01)
    cancelled = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    # The slot is handed over, and the waiter is cancelled before it could take notice.
    pool.release(place, result(), MODEL)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert (place.busy, pool.waiting) == (0, 0)


async def test_nobody_offers_what_no_healthy_place_has() -> None:
    place = healthy(ScriptedProvider(), slots=1)
    pool = pool_of(place)
    for provider, model in (("ollama", "other"), ("groq", MODEL)):
        with pytest.raises(NobodyOffers, match="nobody here"):
            await pool.acquire(provider, model, Lane.INTERACTIVE, None)
    await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    waiting = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    pool.update(place.name, DOWN)
    with pytest.raises(NobodyOffers, match="it is down"):
        await waiting
    assert pool.waiting == 0


async def test_a_place_that_comes_back_serves_who_waits() -> None:
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


async def test_a_place_that_cannot_be_reached_is_out_and_looked_at_at_once() -> None:
    place = healthy(ScriptedProvider())
    pool = pool_of(place)
    got = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    pool.release(got, RetryLater("unreachable", "cannot be reached", provider="ollama"), MODEL)
    assert place.doubted.is_set()
    assert pool.changed.is_set()
    assert place.objection(0.0) == "cannot be reached"


async def test_a_place_that_keeps_failing_is_left_alone_for_a_while() -> None:
    place = healthy(ScriptedProvider(), slots=2)
    pool = pool_of(place, policy=BreakerPolicy(lasting_failures=2, lasting_seconds=0.05))
    refusal = TryAnother("not_authorised", "the key is wrong", provider="ollama")
    held = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    for _ in range(2):
        got = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
        pool.release(got, refusal, MODEL)
    with pytest.raises(NobodyOffers, match="the key is wrong"):
        await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    pool.release(held, None, MODEL)
    await asyncio.sleep(0.06)
    got = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    pool.release(got, result(), MODEL)
    assert place.busy == 0


async def test_times_are_observed() -> None:
    place = healthy(ScriptedProvider())
    pool = pool_of(place)
    for total_ms in (1000.0, 2000.0):
        got = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
        pool.release(got, result(total_ms), MODEL)
    assert place.view().seconds[MODEL] == pytest.approx(1.3)
    # 50 tokens in 0.5 s, then in 1.5 s.
    assert place.tokens_per_second == pytest.approx(100 + 0.3 * (50 / 1.5 - 100))


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="same name"):
        pool_of(healthy(ScriptedProvider()), healthy(ScriptedProvider()))


async def test_a_place_that_leaves_gets_no_call_and_those_who_wait_for_it_alone_are_told() -> None:
    first = healthy(ScriptedProvider(node="first"), slots=1)
    second = healthy(ScriptedProvider(node="second", models=("b",)), slots=1)
    pool = pool_of(first, second)
    taken = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    waiting = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    assert pool.leave("first") is first
    with pytest.raises(NobodyOffers):
        await waiting
    with pytest.raises(NobodyOffers):
        await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    assert (first.busy, first.idle.is_set()) == (1, False), "what runs there may finish"
    pool.release(taken, result(), MODEL)
    assert (first.busy, first.idle.is_set()) == (0, True)


async def test_a_place_that_joins_serves_once_it_has_been_looked_at() -> None:
    pool = pool_of()
    place = Place(ScriptedProvider(), 1)
    pool.join(place)
    assert place.doubted.is_set(), "it must be looked at at once"
    with pytest.raises(NobodyOffers, match="not been looked at"):
        await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    pool.update(place.name, ScriptedProvider().current)
    assert await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None) is place
    with pytest.raises(ValueError, match="already"):
        pool.join(Place(ScriptedProvider(), 1))


async def test_more_slots_serve_those_who_wait() -> None:
    place = healthy(ScriptedProvider(), slots=1)
    pool = pool_of(place)
    await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None)
    waiting = asyncio.create_task(pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None))
    await settle()
    pool.resize(place.name, 2, {"gpu": "big"})
    assert await waiting is place
    assert (place.busy, place.hardware, pool.changed.is_set()) == (2, {"gpu": "big"}, True)
