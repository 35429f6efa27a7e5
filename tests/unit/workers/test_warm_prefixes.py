"""Which endpoint has read the beginning of a prompt, and when that counts."""

from __future__ import annotations

import asyncio

import pytest
from headrace_contracts.events import Lane
from headrace_local_worker.decide.balancing import choose_node
from headrace_models.ports import CallUsage, ChatResult
from headrace_models.worker.estimates import CallSize
from headrace_models.worker.pool import Pool
from headrace_models.worker.warm_prefixes import (
    BLOCK_BYTES,
    TOKENS_PER_BLOCK,
    WarmPrefixes,
    prefix_of,
    within_bound,
)
from headrace_testing.workers import ScriptedProvider, healthy

MODEL = "gemma2:2b"
LONG = b"You are a helpful agent. " * 400


def test_prompts_have_as_many_blocks_in_common_as_they_begin_alike() -> None:
    one = prefix_of([LONG, b"And now?" * 100])
    other = prefix_of([LONG, b"Or else?" * 100])
    common = [a == b for a, b in zip(one, other, strict=True)]
    assert common.count(True) == (len(LONG) + 8) // BLOCK_BYTES
    # What follows a difference differs, be it the same again.
    assert common == sorted(common, reverse=True)


@pytest.mark.parametrize("texts", [[], [b""], [b"short"], [b"x" * (BLOCK_BYTES - 9)]])
def test_a_short_prompt_has_no_blocks(texts: list[bytes]) -> None:
    assert prefix_of(texts) == ()


def test_where_a_message_ends_counts() -> None:
    assert prefix_of([LONG]) != prefix_of([LONG[:100], LONG[100:]])


def test_a_prompt_of_any_length_has_a_bounded_number_of_blocks() -> None:
    assert len(prefix_of([b"x" * 10_000_000])) == 256


def test_what_was_read_is_known_by_endpoint_and_model_until_it_is_forgotten() -> None:
    warm, prefix = WarmPrefixes(), prefix_of([LONG])
    warm.has_read("a", MODEL, prefix, 8_192, 1)
    assert warm.warm_tokens("a", MODEL, prefix) == len(prefix) * TOKENS_PER_BLOCK
    assert warm.warm_tokens("a", MODEL, prefix_of([b"No. " + LONG])) == 0
    assert warm.warm_tokens("a", "other", prefix) == warm.warm_tokens("b", MODEL, prefix) == 0
    warm.forget("a")
    assert warm.warm_tokens("a", MODEL, prefix) == 0


@pytest.mark.parametrize("context", [None, 1_024, 4_096, 0, -5, 10**12])
def test_about_as_much_is_remembered_as_a_context_holds_and_beginnings_go_last(context: int | None) -> None:
    warm, newest = WarmPrefixes(), prefix_of([b"last" + LONG])
    for number in range(50):
        warm.has_read("a", MODEL, prefix_of([b"%d" % number + LONG]), context, 2)
    warm.has_read("a", MODEL, newest, context, 2)
    held = sum(len(read) for read in warm._read.values())
    assert held * TOKENS_PER_BLOCK <= 2 * max(TOKENS_PER_BLOCK, min(context or 8_192, 2_000_000))
    assert warm.warm_tokens("a", MODEL, newest) > 0


@pytest.mark.parametrize(
    ("busy", "slots", "near"),
    [
        ({"a": 0, "b": 0}, {"a": 4, "b": 4}, "ab"),
        ({"a": 1, "b": 0}, {"a": 4, "b": 4}, "ab"),
        ({"a": 2, "b": 0}, {"a": 4, "b": 4}, "b"),
        ({"a": 4, "b": 3}, {"a": 4, "b": 4}, "ab"),
        ({"a": 6, "b": 1}, {"a": 16, "b": 2}, "ab"),
        ({"a": 9, "b": 0, "c": 0}, {"a": 4, "b": 4, "c": 4}, "bc"),
        ({"a": 0}, {"a": 0}, "a"),
    ],
)
def test_an_endpoint_far_above_the_mean_gets_nothing_for_what_it_has_warm(
    busy: dict[str, int], slots: dict[str, int], near: str
) -> None:
    assert within_bound(busy, slots) == frozenset(near)


async def test_a_prompt_goes_where_its_beginning_was_read_unless_that_has_much_more_to_do() -> None:
    endpoints = [healthy(ScriptedProvider(node=name), slots=4) for name in ("a", "b")]
    pool = Pool(endpoints, choose_node, warm=WarmPrefixes())

    async def sent(text: bytes) -> tuple[str, CallSize]:
        size = CallSize(3_000, 100, prefix_of([text]))
        endpoint = await pool.acquire("ollama", MODEL, Lane.INTERACTIVE, None, size=size)
        return endpoint.name, size

    # Answers of each, so that neither is tried for the first time (`slow_start`).
    for number, name in enumerate(("a", "b") * 8):
        endpoint, known = pool.endpoints[name], CallSize(1_000 + number // 2 * 500, 100)
        endpoint.take("", 1, MODEL, 0.0, known)
        reading = float(known.prompt_tokens)  # a millisecond a token
        answer = ChatResult("x", "stop", CallUsage(3_000, 50), MODEL, reading, reading + 2_000, False, "")
        pool.release(endpoint, answer, MODEL, size=known)
    first, size = await sent(LONG)
    pool.release(pool.endpoints[first], None, MODEL, size=size)
    # Another prompt keeps the warm endpoint a little busier than the other one: it is still the better place.
    where, _ = await sent(LONG + b"And now?" * 100)
    again, _ = await sent(LONG + b"Or else?" * 100)
    assert where == first
    assert again == first
    # Now it has two calls and the other one none: what it has warm counts no more.
    third, now = CallSize(3_000, 100, prefix_of([LONG + b"Or what?" * 100])), asyncio.get_running_loop().time()
    warm = pool._warm_at("ollama", MODEL, third)
    assert warm[first] > 0
    assert pool._prospects("ollama", MODEL, frozenset(), third, now, warm) == pool._prospects(
        "ollama", MODEL, frozenset(), third, now, {}
    )
