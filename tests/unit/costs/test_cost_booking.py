"""From usage events to rows of the ledger."""

from dataclasses import replace

import pytest
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_cost_accountant.decide.booking import MOST_UNITS, Basis, Implausible, cost_of, entry_of
from headrace_models.prices import parse_price_book

BOOK = parse_price_book(
    """
version: "test-1"
effective: 2026-01-01
providers:
  groq:
    small: {input: 50_000_000, output: 80_000_000, cached_input: 25_000_000}
    "*": {input: 1_000_000_000, output: 3_000_000_000}
    halved: {input: 100_000_000, output: 200_000_000, batch_percent: 50}
  anthropic:
    claude:
      input: 1_000_000_000
      output: 5_000_000_000
      cached_input: 100_000_000
      cache_write_5m: 1_250_000_000
      cache_write_1h: 2_000_000_000
  tavily:
    "*": {search: 10_000_000}
  ollama:
    "*": {input: 0, output: 0}
internal:
  - {up_to_parameters: 4_000_000_000, per_million_tokens: 1_000_000_000}
"""
)
EVENT = UsageRecorded(
    event_id="t-1/1/x-1",
    tenant="acme",
    user="ada",
    task_id="t-1",
    attempt_id="t-1/1",
    execution_id="x-1",
    provider="groq",
    model="small",
    outcome=Outcome.ANSWERED,
    usage=Usage(input_tokens=1_000, output_tokens=500, cached_input_tokens=400),
    recorded_at=1_780_000_000_000,
)


def test_the_model_s_own_price() -> None:
    cost = cost_of(EVENT, BOOK)
    assert cost.nanodollars == 600 * 50 + 400 * 25 + 500 * 80
    assert (cost.basis, cost.internal_value) == (Basis.MODEL, 0)


def test_a_call_in_a_batch_is_booked_at_the_batch_price_and_says_so() -> None:
    event = replace(EVENT, model="halved", batch=True, usage=Usage(input_tokens=1_000, output_tokens=500))
    row = entry_of(event, BOOK, 0)
    assert (row.batch, row.cost_nanodollars) == (True, 1_000 * 50 + 500 * 100)
    assert entry_of(replace(event, batch=False), BOOK, 0).cost_nanodollars == 2 * row.cost_nanodollars


def test_the_provider_s_price_for_a_model_that_is_not_listed() -> None:
    cost = cost_of(replace(EVENT, model="large"), BOOK)
    assert cost.nanodollars == 1_000 * 1_000 + 500 * 3_000
    assert cost.basis is Basis.PROVIDER


def test_without_any_price_the_row_says_so_and_is_not_lost() -> None:
    cost = cost_of(replace(EVENT, provider="novel"), BOOK)
    assert (cost.nanodollars, cost.basis) == (0, Basis.UNPRICED)
    entry = entry_of(replace(EVENT, provider="novel"), BOOK, 1)
    assert (entry.price_basis, entry.price_version) == ("unpriced", "test-1")


def test_our_own_nodes_bill_nothing_and_show_what_the_work_is_worth() -> None:
    cost = cost_of(replace(EVENT, provider="ollama", model="phi3:3.8b"), BOOK)
    assert (cost.nanodollars, cost.internal_value) == (0, 1_500_000)


@pytest.mark.parametrize(
    ("usage", "nanodollars"),
    [
        (Usage(input_tokens=1_000, cache_write_5m_tokens=1_000), 1_250_000),
        (Usage(input_tokens=1_000, cache_write_1h_tokens=1_000), 2_000_000),
        (
            Usage(
                input_tokens=1_000,
                output_tokens=10,
                cached_input_tokens=500,
                cache_write_5m_tokens=200,
                cache_write_1h_tokens=100,
            ),
            200 * 1_000 + 500 * 100 + 200 * 1_250 + 100 * 2_000 + 10 * 5_000,
        ),
        (Usage(input_tokens=10, cached_input_tokens=10, cache_write_5m_tokens=10, cache_write_1h_tokens=10), 20_000),
    ],
)
def test_reads_from_and_writes_to_the_prompt_cache_have_their_own_prices(usage: Usage, nanodollars: int) -> None:
    entry = entry_of(replace(EVENT, provider="anthropic", model="claude", usage=usage), BOOK, 1)
    assert entry.cost_nanodollars == nanodollars
    booked = (entry.input_tokens, entry.cached_input_tokens, entry.cache_write_5m_tokens, entry.cache_write_1h_tokens)
    # As the provider told them, contradictions included.
    assert booked == (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
    )


def test_searches_cost_by_the_piece() -> None:
    event = replace(EVENT, provider="tavily", model="search", usage=Usage(searches=3))
    assert cost_of(event, BOOK).nanodollars == 30_000_000


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=-1),
        Usage(output_tokens=MOST_UNITS + 1),
        Usage(searches=-5),
        Usage(cached_input_tokens=-1),
        Usage(cache_write_5m_tokens=-1),
        Usage(cache_write_1h_tokens=-1),
        Usage(cache_write_1h_tokens=MOST_UNITS + 1),
    ],
)
def test_numbers_that_cannot_be_are_not_booked(usage: Usage) -> None:
    with pytest.raises(Implausible):
        entry_of(replace(EVENT, usage=usage), BOOK, 1)


@pytest.mark.parametrize("field", ["event_id", "tenant"])
def test_what_nobody_could_find_again_is_not_booked(field: str) -> None:
    with pytest.raises(Implausible):
        entry_of(replace(EVENT, **{field: ""}), BOOK, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("recorded_at", [0, -5, 10**15])
def test_a_time_that_cannot_be_meant_gives_way_to_the_log_s(recorded_at: int) -> None:
    assert entry_of(replace(EVENT, recorded_at=recorded_at), BOOK, 1_780_000_000_001).recorded_at == 1_780_000_000_001
    assert entry_of(EVENT, BOOK, 5).recorded_at == EVENT.recorded_at


def test_null_characters_do_not_reach_postgres() -> None:
    entry = entry_of(replace(EVENT, user="a\0b", role="\0"), BOOK, 1)
    assert (entry.user_name, entry.role) == ("a\ufffdb", "\ufffd")
