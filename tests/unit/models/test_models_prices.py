"""The price book and its arithmetic."""

from __future__ import annotations

import datetime
from fractions import Fraction
from pathlib import Path

import pytest
from headrace_models.ports import CallUsage, ChatMessage
from headrace_models.prices import (
    NANODOLLARS_PER_DOLLAR,
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
PRICES = st.builds(
    Price,
    st.builds(TokenPrices, NUMBERS, NUMBERS, NUMBERS),
    NUMBERS,
    NUMBERS,
    st.one_of(st.none(), st.integers(1, 100_000)),
    st.one_of(st.none(), st.builds(TokenPrices, NUMBERS, NUMBERS, NUMBERS)),
)
MINIMAL = "version: '1'\neffective: 2026-01-01\nproviders: {p: {m: {input: 3, output: 5}}}\n"


@pytest.fixture
def book() -> PriceBook:
    return load_price_book()


def test_the_shipped_book_has_the_published_prices(book: PriceBook) -> None:
    dollar = NANODOLLARS_PER_DOLLAR
    sonnet = book.price("anthropic", "claude-sonnet-4-6")
    assert sonnet.tokens == TokenPrices(3 * dollar, 15 * dollar, 3 * dollar // 10)
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
    assert book.knows("groq")
    assert not book.knows("nobody")
    with pytest.raises(PriceUnknown, match="no price for model 'm' of provider 'nobody'"):
        book.price("nobody", "m")


def test_a_long_prompt_pays_its_own_prices_for_all_tokens(book: PriceBook) -> None:
    haiku = book.price("anthropic", "claude-haiku-5-5")
    assert cost(CallUsage(100_000, 1_000), haiku) == 100_000 * 100 + 1_000 * 500
    assert cost(CallUsage(100_001, 1_000), haiku) == 100_001 * 500 + 1_000 * 2_500


def test_a_fraction_of_a_nanodollar_is_rounded_up_once() -> None:
    price = Price(TokenPrices(1, 1, 1))
    assert cost(CallUsage(0, 0), price) == 0
    assert cost(CallUsage(1, 0), price) == 1
    assert cost(CallUsage(500_000, 500_000), price) == 1
    assert cost(CallUsage(500_000, 500_001), price) == 2


@given(PRICES, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 3))
def test_a_cost_is_exact_to_less_than_one_nanodollar_above(
    price: Price, input_tokens: int, output_tokens: int, cached: int, searches: int
) -> None:
    cached = min(cached, input_tokens)
    long = price.long_prompt if input_tokens > (price.long_prompt_above or 10**12) else None
    tokens = long or price.tokens
    exact = Fraction(
        (input_tokens - cached) * tokens.input + cached * tokens.cached_input + output_tokens * tokens.output, 10**6
    )
    exact += price.request + searches * price.search
    charged = cost(CallUsage(input_tokens, output_tokens, cached, searches), price)
    assert exact <= charged < exact + 1


@given(PRICES, NUMBERS, NUMBERS, st.data())
def test_no_call_costs_more_than_its_worst_case(price: Price, most_in: int, most_out: int, data: st.DataObject) -> None:
    input_tokens = data.draw(st.integers(0, most_in))
    usage = CallUsage(
        input_tokens,
        data.draw(st.integers(0, most_out)),
        data.draw(st.integers(0, input_tokens)),
        data.draw(st.integers(0, 1)),
    )
    assert cost(usage, price) <= worst_case(most_in, most_out, price)


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
    assert mine.price("p", "m").tokens == TokenPrices(3, 5, 3)
    assert mine.digest != load_price_book().digest
    assert mine.digest == load_price_book(file).digest


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[", "not valid YAML"),
        ("", r"\(top\)"),
        (MINIMAL.replace("input: 3", "input: -3"), "providers.p.m.input"),
        (MINIMAL.replace("input: 3", "inputs: 3"), "providers.p.m.inputs"),
        (MINIMAL.replace("input: 3", "input: 0.5"), "providers.p.m.input"),
        (MINIMAL.replace("2026-01-01", "soon"), "effective"),
    ],
)
def test_a_wrong_book_is_refused_with_the_place(text: str, place: str) -> None:
    with pytest.raises(PriceBookInvalid, match=place):
        parse_price_book(text)
