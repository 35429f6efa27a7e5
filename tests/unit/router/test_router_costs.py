"""Usage on its way from a model call to a task's cost: no count is lost, and each has its price."""

from __future__ import annotations

from dataclasses import fields
from typing import Final

import pytest
from headrace_contracts.events import Outcome, Usage
from headrace_models.ports import CallUsage
from headrace_models.prices import load_price_book
from headrace_models.worker.outcomes import Execution, ExecutionOutcome, finished_event, usage_event
from headrace_router.decide.costs import cost, dollars, total, worst_case
from headrace_testing.workers import attempt
from hypothesis import given
from hypothesis import strategies as st

BOOK: Final = load_price_book()
COUNTS: Final = tuple(field.name for field in fields(Usage))
usages = st.builds(Usage, **dict.fromkeys(COUNTS, st.integers(0, 10**9)))


def test_calls_and_events_count_the_same_things() -> None:
    assert set(COUNTS) == {field.name for field in fields(CallUsage)}


@given(st.lists(usages, max_size=4))
def test_a_task_has_used_what_its_attempts_used(attempts: list[Usage]) -> None:
    summed = total(attempts)
    for name in COUNTS:
        assert getattr(summed, name) == sum(getattr(usage, name) for usage in attempts), name


@pytest.mark.parametrize(
    ("usage", "nanodollars"),
    [
        (Usage(input_tokens=1_000, cached_input_tokens=400), 600 * 3_000 + 400 * 300),
        (Usage(input_tokens=1_000, cache_write_5m_tokens=400), 600 * 3_000 + 400 * 3_750),
        (Usage(input_tokens=1_000, output_tokens=5, cache_write_1h_tokens=400), 600 * 3_000 + 400 * 6_000 + 5 * 15_000),
    ],
)
def test_each_kind_of_token_has_its_price(usage: Usage, nanodollars: int) -> None:
    assert cost(BOOK, "anthropic", "claude-sonnet-4-6", usage) == nanodollars


@given(usages)
def test_a_lease_that_covers_the_worst_case_covers_any_kinds_of_input(usage: Usage) -> None:
    for model in ("claude-haiku-5-5", "claude-sonnet-4-6", "unheard-of"):
        most = worst_case(BOOK.price("anthropic", model), usage.input_tokens, usage.output_tokens)
        assert most is not None
        assert cost(BOOK, "anthropic", model, usage) <= most


def test_a_worker_passes_on_every_count() -> None:
    usage = CallUsage(**{name: number for number, name in enumerate(COUNTS, start=1)})
    ended = ExecutionOutcome(outcome=Outcome.ANSWERED, usage=usage)
    execution = Execution(execution_id="x", worker="w", node="n", queued_ms=0.0, finished_at=1)
    for event in (finished_event(attempt(), execution, ended), usage_event(attempt(), execution, ended, "e")):
        assert event.usage == Usage(**{name: number for number, name in enumerate(COUNTS, start=1)})


@pytest.mark.parametrize(
    ("nanodollars", "said"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (10_000_000, "$0.01"),
        (1_500_000_000, "$1.50"),
        (12_345_678_900, "$12.3456789"),
    ],
)
def test_people_read_dollars(nanodollars: int, said: str) -> None:
    assert dollars(nanodollars) == said
