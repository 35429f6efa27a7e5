"""The price book and its arithmetic."""

from __future__ import annotations

import datetime
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest
from headrace_models.conversation import ChatMessage
from headrace_models.ports import CallUsage
from headrace_models.prices import (
    NANODOLLARS_PER_DOLLAR,
    BatchDiscount,
    Price,
    PriceBook,
    PriceBookInvalid,
    PriceUnknown,
    TokenPrices,
    cost,
    estimated_tokens,
    load_price_book,
    most_tokens,
    parameters_of,
    parse_price_book,
    worst_case,
)
from headrace_models.simulator.catalog import ANTHROPIC, GROQ
from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.integers(0, 2_000_000)
TOKEN_PRICES = st.builds(TokenPrices, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
ABOVE = st.one_of(st.none(), st.integers(1, 100_000))
PRICES = st.builds(Price, TOKEN_PRICES, NUMBERS, NUMBERS, ABOVE, st.one_of(st.none(), TOKEN_PRICES))
ANY_COUNT = st.one_of(NUMBERS, st.integers(0, 5), st.integers(-(10**12), 10**12))
COUNTS = tuple(field.name for field in fields(CallUsage))
READS_AND_WRITES = ("cached_input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
PARTS = st.fixed_dictionaries(dict.fromkeys(READS_AND_WRITES, ANY_COUNT))


def _ordered(numbers: list[int]) -> TokenPrices:
    cached, plain, for_5m, for_1h, output = numbers
    return TokenPrices(plain, output, cached, for_5m, for_1h)


def _ordered_price(numbers: list[int], extra: list[int], above: int | None, request: int, search: int) -> Price:
    tokens, longer = sorted(numbers[:4]), [a + b for a, b in zip(sorted(numbers[:4]), sorted(extra[:4]), strict=True)]
    return Price(_ordered([*tokens, numbers[4]]), request, search, above, _ordered([*longer, numbers[4] + extra[4]]))


FIVE = st.lists(NUMBERS, min_size=5, max_size=5)
ORDERED = st.builds(_ordered_price, FIVE, FIVE, ABOVE, NUMBERS, NUMBERS)
"""As providers price: reads from the cache cost at most what other input does, writes at least that, long prompts
more."""
SHIPPED = [price for models in load_price_book().providers.values() for price in models.values()]
MINIMAL = "version: '1'\neffective: 2026-01-01\nproviders: {p: {m: {input: 3, output: 5}}}\n"


@pytest.fixture
def book() -> PriceBook:
    return load_price_book()


def test_the_shipped_book_has_the_published_prices(book: PriceBook) -> None:
    dollar = NANODOLLARS_PER_DOLLAR
    sonnet = book.price("anthropic", "claude-sonnet-4-6")
    assert sonnet.tokens == TokenPrices(
        input=3 * dollar,
        output=15 * dollar,
        cached_input=3 * dollar // 10,
        cache_write_5m=3 * dollar * 5 // 4,
        cache_write_1h=6 * dollar,
    )
    assert cost(CallUsage(input_tokens=1_000_000), sonnet) == 3 * dollar
    assert cost(CallUsage(searches=1), book.price("tavily", "tavily-search")) == dollar // 100
    assert cost(CallUsage(10**6, 10**6), book.price("ollama", "phi3:3.8b")) == 0
    assert cost(CallUsage(10**6, 10**6), book.price("groq", "llama-3.1-8b-instant")) == 130_000_000
    assert book.effective == datetime.date(2026, 11, 1)
    assert len(book.digest) == 64


def test_every_simulated_cloud_model_has_a_price_of_its_own(book: PriceBook) -> None:
    assert set(ANTHROPIC) <= set(book.providers["anthropic"])
    assert set(GROQ) <= set(book.providers["groq"])


def test_a_dated_name_has_the_price_of_the_undated_one(book: PriceBook) -> None:
    assert book.price("anthropic", "claude-haiku-4-5-20251001") == book.price("anthropic", "claude-haiku-4-5")


def test_an_unknown_model_pays_the_providers_dearest_and_an_unknown_provider_has_no_price(book: PriceBook) -> None:
    unknown = book.price("anthropic", "claude-of-tomorrow").tokens
    assert all(unknown.input >= price.tokens.input for price in book.providers["anthropic"].values())
    assert all(unknown.output >= price.tokens.output for price in book.providers["anthropic"].values())
    assert all(unknown.dearest_input >= price.tokens.dearest_input for price in book.providers["anthropic"].values())
    assert book.knows("groq")
    assert not book.knows("nobody")
    with pytest.raises(PriceUnknown, match="no price for model 'm' of provider 'nobody'"):
        book.price("nobody", "m")


def test_a_long_prompt_pays_its_own_prices_for_all_tokens(book: PriceBook) -> None:
    haiku = book.price("anthropic", "claude-haiku-5-5")
    assert cost(CallUsage(100_000, 1_000), haiku) == 100_000 * 100 + 1_000 * 500
    assert cost(CallUsage(100_001, 1_000), haiku) == 100_001 * 500 + 1_000 * 2_500
    cached = CallUsage(
        100_001, 1_000, cached_input_tokens=50_000, cache_write_5m_tokens=30_000, cache_write_1h_tokens=20_000
    )
    assert cost(cached, haiku) == 1 * 500 + 50_000 * 50 + 30_000 * 625 + 20_000 * 1_000 + 1_000 * 2_500


@pytest.mark.parametrize(
    ("model", "usage", "nanodollars"),
    [
        ("claude-sonnet-4-6", CallUsage(1_000, cache_write_5m_tokens=1_000), 1_000 * 3_750),
        ("claude-sonnet-4-6", CallUsage(1_000, cache_write_1h_tokens=400), 600 * 3_000 + 400 * 6_000),
        (
            "claude-opus-4-6",
            CallUsage(1_000, 10, cached_input_tokens=500, cache_write_5m_tokens=200, cache_write_1h_tokens=100),
            200 * 5_000 + 500 * 500 + 200 * 6_250 + 100 * 10_000 + 10 * 25_000,
        ),
        (
            "claude-of-tomorrow",
            CallUsage(100, cache_write_5m_tokens=40, cache_write_1h_tokens=60),
            40 * 12_500 + 60 * 20_000,
        ),
        ("claude-haiku-4-5-20251001", CallUsage(100, cache_write_1h_tokens=100), 100 * 2_000),
    ],
)
def test_a_write_to_the_prompt_cache_costs_by_how_long_it_is_kept(
    book: PriceBook, model: str, usage: CallUsage, nanodollars: int
) -> None:
    assert cost(usage, book.price("anthropic", model)) == nanodollars


def test_all_claude_models_bill_writes_at_the_published_multiples_of_input(book: PriceBook) -> None:
    for price in book.providers["anthropic"].values():
        for tokens in (price.tokens, *([price.long_prompt] if price.long_prompt else [])):
            assert (tokens.cache_write_5m * 4, tokens.cache_write_1h) == (tokens.input * 5, tokens.input * 2)


def test_without_prices_of_their_own_reads_and_writes_cost_what_input_costs(book: PriceBook) -> None:
    for provider, model in (("groq", "llama-3.3-70b-versatile"), ("groq", "unheard-of"), ("ollama", "phi3:3.8b")):
        price = book.price(provider, model)
        written = CallUsage(1_000, 10, 200, cache_write_5m_tokens=300, cache_write_1h_tokens=400)
        assert cost(written, price) == cost(CallUsage(1_000, 10), price)


@pytest.mark.parametrize(
    ("usage", "nanodollars"),
    [
        (CallUsage(100, cached_input_tokens=300), 100 * 300),
        (CallUsage(100, cached_input_tokens=80, cache_write_5m_tokens=80), 80 * 3_750 + 20 * 300),
        (
            CallUsage(100, cached_input_tokens=10, cache_write_5m_tokens=90, cache_write_1h_tokens=70),
            70 * 6_000 + 30 * 3_750,
        ),
        (CallUsage(0, cache_write_1h_tokens=10**9), 0),
        (CallUsage(-5, -1, -7, -2, -3, -4), 0),
        (CallUsage(100, cached_input_tokens=-50, cache_write_1h_tokens=-50), 100 * 3_000),
    ],
)
def test_of_counts_that_contradict_the_input_holds_and_the_dearest_kinds_come_first(
    book: PriceBook, usage: CallUsage, nanodollars: int
) -> None:
    assert cost(usage, book.price("anthropic", "claude-sonnet-4-6")) == nanodollars


def test_a_fraction_of_a_nanodollar_is_rounded_up_once() -> None:
    price = Price(TokenPrices(1, 1, 1, 1, 1))
    assert cost(CallUsage(0, 0), price) == 0
    assert cost(CallUsage(1, 0), price) == 1
    assert cost(CallUsage(500_000, 500_000), price) == 1
    assert cost(CallUsage(500_000, 500_001), price) == 2


@given(PRICES, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 3))
def test_a_cost_is_exact_to_less_than_one_nanodollar_above(
    price: Price, plain: int, cached: int, for_5m: int, for_1h: int, output_tokens: int, searches: int
) -> None:
    input_tokens = plain + cached + for_5m + for_1h
    long = price.long_prompt if input_tokens > (price.long_prompt_above or 10**12) else None
    tokens = long or price.tokens
    exact = Fraction(
        plain * tokens.input
        + cached * tokens.cached_input
        + for_5m * tokens.cache_write_5m
        + for_1h * tokens.cache_write_1h
        + output_tokens * tokens.output,
        10**6,
    )
    exact += price.request + searches * price.search
    charged = cost(CallUsage(input_tokens, output_tokens, cached, searches, for_5m, for_1h), price)
    assert exact <= charged < exact + 1


def any_price(data: st.DataObject) -> Price:
    """One of the book, or any other."""
    return data.draw(st.one_of(st.sampled_from(SHIPPED), PRICES))


@given(NUMBERS, NUMBERS, st.data())
def test_no_call_costs_more_than_its_worst_case(most_in: int, most_out: int, data: st.DataObject) -> None:
    price = any_price(data)
    usage = CallUsage(
        data.draw(st.integers(0, most_in)),
        data.draw(st.integers(0, most_out)),
        searches=data.draw(st.integers(0, 1)),
        **data.draw(PARTS),
    )
    assert cost(usage, price) <= worst_case(most_in, most_out, price)


@given(NUMBERS, NUMBERS, st.data())
def test_the_worst_case_is_what_a_call_with_the_dearest_kind_of_input_costs(
    tokens: int, output: int, data: st.DataObject
) -> None:
    price = data.draw(st.sampled_from(SHIPPED))
    prompts = [{}, *({kind: tokens} for kind in READS_AND_WRITES)]
    dearest = max(cost(CallUsage(tokens, output, searches=1, **prompt), price) for prompt in prompts)
    assert worst_case(tokens, output, price) == dearest


@given(st.fixed_dictionaries(dict.fromkeys(COUNTS, ANY_COUNT)), st.data())
def test_no_cost_is_negative_whatever_the_counts(counts: dict[str, int], data: st.DataObject) -> None:
    assert cost(CallUsage(**counts), any_price(data)) >= 0


@given(st.fixed_dictionaries(dict.fromkeys(COUNTS, ANY_COUNT)), st.sampled_from(COUNTS), ANY_COUNT, st.data())
def test_more_of_anything_costs_more_but_reads_from_the_cache_less(
    counts: dict[str, int], name: str, other: int, data: st.DataObject
) -> None:
    price = data.draw(ORDERED)
    less, more = sorted((counts[name], other))
    few, many = (cost(CallUsage(**{**counts, name: count}), price) for count in (less, more))
    if name == "cached_input_tokens":
        assert few >= many
    else:
        assert few <= many


@given(st.lists(st.text(), max_size=5))
def test_a_prompt_has_at_least_a_token_of_room_per_byte(texts: list[str]) -> None:
    messages = [ChatMessage("user", text) for text in texts]
    assert most_tokens(messages) >= sum(len(text.encode()) for text in texts) + 4 * len(texts)


def test_tokens_are_estimated_by_bytes() -> None:
    assert [estimated_tokens(text) for text in ("", "a", "abcd", "abcde", "ääää")] == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("gemma2:2b", 2_000_000_000),
        ("qwen2.5-coder:1.5b", 1_500_000_000),
        ("phi3:3.8b", 3_800_000_000),
        ("llama-3.3-70b-versatile", 70_000_000_000),
        ("llama3:8b-instruct-q4_0", 8_000_000_000),
        ("nomic-embed-text", None),
    ],
)
def test_a_models_size_is_read_off_its_name(model: str, parameters: int | None) -> None:
    assert parameters_of(model) == parameters


def test_our_own_nodes_bill_nothing_and_are_worth_something(book: PriceBook) -> None:
    thousand = CallUsage(600, 400)
    dollar = NANODOLLARS_PER_DOLLAR
    assert book.internal_value("gemma2:2b", thousand) == dollar // 1000
    assert book.internal_value("qwen2.5-coder:7b", thousand) == 5 * dollar // 1000
    assert book.internal_value("llama3:70b", thousand) == 20 * dollar // 1000
    assert book.internal_value("nameless", thousand) == 0


def test_a_book_of_ones_own_replaces_the_shipped_one(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(MINIMAL)
    mine = load_price_book(file)
    assert mine.price("p", "m").tokens == TokenPrices(3, 5, 3, 3, 3)
    assert mine.digest != load_price_book().digest
    assert mine.digest == load_price_book(file).digest


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[", "not valid YAML"),
        ("", r"\(top\)"),
        (MINIMAL.replace("input: 3", "input: -3"), "providers.p.m.input"),
        (MINIMAL.replace("input: 3", "inputs: 3"), "providers.p.m.inputs"),
        (MINIMAL.replace("input: 3", "input: 3, cache_write_5m: -1"), "providers.p.m.cache_write_5m"),
        (MINIMAL.replace("input: 3", "input: 3, cache_write_1h: 2.5"), "providers.p.m.cache_write_1h"),
        (
            MINIMAL.replace("input: 3", "input: 3, long_prompt: {above: 9, cache_write_1h: many}"),
            "providers.p.m.long_prompt.cache_write_1h",
        ),
        (MINIMAL.replace("input: 3", "input: 0.5"), "providers.p.m.input"),
        (MINIMAL.replace("2026-01-01", "soon"), "effective"),
    ],
)
def test_a_wrong_book_is_refused_with_the_place(text: str, place: str) -> None:
    with pytest.raises(PriceBookInvalid, match=place):
        parse_price_book(text)


def test_a_call_in_a_batch_costs_its_part_of_every_price_rounded_up() -> None:
    tokens = TokenPrices(input=3, output=7_000_001, cached_input=1, cache_write_5m=5, cache_write_1h=9)
    price = Price(tokens, request=4, search=6, batch=BatchDiscount(percent=50, cached_percent=100))
    usage = CallUsage(
        input_tokens=4_000_000, cached_input_tokens=1_000_000, cache_write_5m_tokens=1_000_000, output_tokens=1_000_000
    )
    # Halves are rounded up: 2 of 3, 3 of 5, and the cache's own price stays.
    assert cost(usage, price, batch=True) == 2 * 2 + 3 + 1 + 3_500_001 + 4
    assert cost(usage, price) == 2 * 3 + 5 + 1 + 7_000_001 + 4


def test_a_batch_without_a_price_of_its_own_costs_what_other_calls_cost() -> None:
    price = Price(TokenPrices(1, 2, 1, 1, 1))
    usage = CallUsage(input_tokens=5_000_000, output_tokens=1_000_000)
    assert cost(usage, price, batch=True) == cost(usage, price)


@pytest.mark.parametrize("provider", ["anthropic", "groq"])
def test_every_shipped_price_of_a_provider_with_batches_has_one_for_them(provider: str) -> None:
    usage = CallUsage(input_tokens=200_000, cached_input_tokens=50_000, output_tokens=10_000)
    for name, price in load_price_book().providers[provider].items():
        ordinary, batch = cost(usage, price), cost(usage, price, batch=True)
        assert ordinary / 2 <= batch < ordinary, name


@pytest.mark.parametrize("entry", ["batch_percent: 101", "batch_percent: -1", "batch_cached_percent: 50"])
def test_a_batch_price_that_cannot_be_is_refused(entry: str) -> None:
    text = f"version: '1'\neffective: 2026-01-01\nproviders: {{p: {{m: {{input: 1, {entry}}}}}}}"
    with pytest.raises(PriceBookInvalid, match="batch"):
        parse_price_book(text)
