"""Which of several models that may run a task runs it: strategies, and what a task asks of the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from headrace_contracts.events import (
    ModelObserved,
    ModelStatus,
    NodeStatus,
    Options,
    Outcome,
    Place,
    Privacy,
    Routing,
    Sampling,
    TaskPhase,
)
from headrace_contracts.narrowing import STRATEGIES, routing_objections
from headrace_router.adapters.policy_file import parse_policy
from headrace_router.decide.measures import Measures
from headrace_router.decide.policy import DataHandling, DataRules, Policy
from headrace_router.decide.strategies import ranked
from headrace_testing.routing import Desk, node, task
from hypothesis import given
from hypothesis import strategies as st

LOCAL, SMALL, BIG = "ollama/gemma2:2b", "groq/llama-3.1-8b-instant", "anthropic/claude-haiku-4-5"

POLICY = """\
defaults: {role: r, privacy_level: low}
deadlines: {default: {interactive: 120_000, batch: 3_600_000}}
attempts: {timeout: {interactive: 45_000, batch: 1_500_000}}
strategy: STRATEGY
throughput: 100
providers:
  ollama: {place: local}
  groq:
    place: cloud
    data: {collects: false, retention_days: 0, region: us}
    models: {llama-3.1-8b-instant: {quality: 0.6}}
  anthropic:
    place: cloud
    data: {collects: false, retention_days: 30, region: eu}
    models: {claude-haiku-4-5: {quality: 0.9}}
models: {"gemma2:2b": {size_gb: 1.6, quality: 0.3}}
roles:
  r: {models: [ollama/gemma2:2b, anthropic/claude-haiku-4-5, groq/llama-3.1-8b-instant]}
"""


def policy(strategy: str = "listed", more: str = "") -> Policy:
    return parse_policy(POLICY.replace("STRATEGY", strategy) + more, "test")


def observed(name: str, first_ms: float, speed: float | None, *, calls: int = 10) -> ModelStatus:
    return ModelStatus(
        name=name,
        observed=ModelObserved(
            calls=calls, first_output_p50_ms=first_ms, first_output_p95_ms=first_ms * 2, tokens_per_second_p50=speed,
            tokens_per_second_p5=speed,
        ),
    )  # fmt: skip


FLEET: Sequence[NodeStatus] = (
    node("workstation", slots=4, models=[]),
    node("groq", "groq", [], slots=64),
    node("anthropic", "anthropic", [], slots=64),
)
FLEET = (
    replace(FLEET[0], models=(observed("gemma2:2b", 50, 15),)),
    replace(FLEET[1], models=(observed("llama-3.1-8b-instant", 150, 500),)),
    replace(FLEET[2], models=(observed("claude-haiku-4-5", 400, 120),)),
)


def sent(by: str = "listed", fleet: Sequence[NodeStatus] = FLEET, more: str = "", **asked: Any) -> Desk:
    fields: dict[str, Any] = {
        name: asked.pop(name) for name in ("sampling", "options", "model", "privacy") if name in asked
    }
    desk = Desk(policy=policy(by, more), fleet=fleet)
    routing = Routing(**asked) if asked else None
    desk.submit(task(**{"privacy": Privacy.PUBLIC, "routing": routing, **fields}))
    return desk


def first(*args: Any, **asked: Any) -> str:
    return next(iter(sent(*args, **asked).sent_to), "")


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("listed", LOCAL), ("local-first", LOCAL), ("cheapest", LOCAL), ("fastest", SMALL), ("lowest-latency", LOCAL),
        ("highest-throughput", SMALL), ("quality", BIG), ("throughput-at-least", SMALL), ("balanced", SMALL),
    ],
)  # fmt: skip
def test_each_strategy_has_its_first(strategy: str, expected: str) -> None:
    assert first(strategy) == expected
    assert first("listed", strategy=strategy) == expected, "a task may ask for it too"


def test_all_strategies_are_known_everywhere() -> None:
    for strategy in STRATEGIES:
        assert first(strategy)
        assert list(routing_objections(Routing(strategy=strategy))) == []
    assert next(routing_objections(Routing(strategy="dearest")))[0] == "strategy"


def test_a_role_has_a_strategy_of_its_own() -> None:
    more = "  s: {models: [ollama/gemma2:2b, anthropic/claude-haiku-4-5], strategy: quality}\n"
    desk = Desk(policy=policy("listed", more), fleet=FLEET)
    desk.submit(role="s", privacy=Privacy.PUBLIC)
    assert desk.sent_to == [BIG]


def test_a_fallback_goes_to_the_next_of_the_order() -> None:
    desk = sent("quality")
    desk.end(Outcome.FAILED_PERMANENT)
    desk.end(Outcome.FAILED_PERMANENT)
    assert desk.sent_to == [BIG, SMALL, LOCAL]


def test_a_full_node_takes_longer() -> None:
    busy = (replace(FLEET[0], models=(observed("gemma2:2b", 50, 600),), slots=1, busy=1), *FLEET[1:])
    free = (replace(busy[0], busy=0), *FLEET[1:])
    assert (first("fastest", free), first("fastest", busy)) == (LOCAL, SMALL)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"only": ("anthropic",)}, BIG),
        ({"only": ("groq", "anthropic")}, BIG),
        ({"only": (SMALL,)}, SMALL),
        ({"only": ("groq/other",)}, ""),
        ({"ignore": ("ollama",)}, BIG),
        ({"ignore": ("ollama", BIG)}, SMALL),
        ({"ignore": ("ollama", "anthropic/other")}, BIG),
        ({"order": ("groq", "ollama")}, SMALL),
        ({"order": (BIG, "groq"), "only": ("groq", "ollama")}, SMALL),
        ({"order": ("nobody",)}, LOCAL),
        ({"order": ("groq",), "strategy": "quality"}, SMALL),
        ({"max_output_price": 0}, LOCAL),
        ({"max_output_price": 1_000_000_000, "only": ("groq", "anthropic")}, SMALL),
        ({"max_input_price": 1, "only": ("groq", "anthropic")}, ""),
        ({"min_throughput": 200.0}, SMALL),
        ({"min_throughput": 100.0}, BIG),
        ({"min_throughput": 100.0, "strategy": "throughput-at-least"}, SMALL),
        ({"deny_data_collection": True, "ignore": ("ollama",)}, BIG),
        ({"zero_retention": True, "ignore": ("ollama",)}, SMALL),
        ({"zero_retention": True}, LOCAL),
    ],
)
def test_a_task_narrows_the_choice(asked: dict[str, Any], expected: str) -> None:
    assert first(**asked) == expected


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"only": ("nobody",)}, "not_in_only"),
        ({"ignore": ("ollama", "groq", "anthropic")}, "ignored"),
        ({"max_input_price": 1, "ignore": ("ollama",)}, "over_max_price"),
        ({"min_throughput": 9_000.0}, "too_slow"),
        ({"zero_retention": True, "only": ("anthropic",)}, "data_rules"),
        ({"require_parameters": True, "sampling": Sampling(seed=1), "only": ("anthropic",)}, "parameters_not_taken"),
    ],
)
def test_a_task_that_leaves_none_fails_with_the_reason(asked: dict[str, Any], code: str) -> None:
    desk = sent(**asked)
    assert desk.state is not None
    assert desk.state.result is not None
    assert desk.state.result.failure is not None
    assert desk.state.result.failure.code == code


def test_without_fallbacks_only_the_first_is_asked() -> None:
    desk = sent(order=("groq",), allow_fallbacks=False)
    desk.end(Outcome.FAILED_PERMANENT)
    assert desk.sent_to == [SMALL]
    assert sent(allow_fallbacks=False, fleet=FLEET[1:]).sent_to == [], "the first is not there"
    assert sent(allow_fallbacks=False, ignore=("ollama",)).sent_to == [BIG]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sampling": Sampling(seed=1)}, LOCAL),
        ({"sampling": Sampling(temperature=0.5), "only": ("anthropic", "groq")}, BIG),
        ({"sampling": Sampling(seed=1), "only": ("anthropic", "groq")}, SMALL),
        ({"options": Options(top_k=3), "only": ("groq", "anthropic")}, BIG),
        ({"options": Options(logit_bias={"1": 1.0})}, ""),
    ],
)
def test_parameters_that_would_be_left_out_can_be_demanded(fields: dict[str, Any], expected: str) -> None:
    assert first(require_parameters=True, **fields) == expected


def test_the_installations_data_rules_hold_for_all() -> None:
    assert first(more="data: {regions: [eu]}\n", only=("groq", "anthropic")) == BIG
    assert first(more="data: {regions: [eu], zero_retention: true}\n") == LOCAL
    assert first(more="data: {regions: [eu], zero_retention: true}\n", only=("groq", "anthropic")) == ""


RULES = st.builds(
    DataRules,
    deny_collection=st.booleans(),
    zero_retention=st.booleans(),
    regions=st.none() | st.frozensets(st.sampled_from(["eu", "us"])),
)


@given(RULES, RULES, st.booleans(), st.integers(0, 1), st.sampled_from(["eu", "us", None]))
def test_rules_together_break_where_either_breaks(
    one: DataRules, other: DataRules, collects: bool, days: int, region: str | None
) -> None:
    for handling in (None, DataHandling(collects=collects, retention_days=days, region=region)):
        both = one.and_also(other).broken_by(handling) is not None
        assert both == (one.broken_by(handling) is not None or other.broken_by(handling) is not None)


FIGURES = st.builds(
    Measures,
    nanodollars=st.none() | st.integers(0, 10**12),
    first_seconds=st.floats(0, 100),
    tokens_per_second=st.none() | st.floats(0.1, 10_000),
    seconds=st.floats(0, 1000),
    quality=st.floats(0, 1),
    is_local=st.booleans(),
)


@given(st.lists(FIGURES, max_size=4), st.sampled_from(STRATEGIES))
def test_the_order_depends_on_figures_alone(figures: list[Measures], strategy: Any) -> None:
    order = [figures[place] for place in ranked(strategy, figures, 50.0)]
    assert sorted(map(id, order)) == sorted(map(id, figures))
    if strategy in ("listed", "local-first") or len(set(figures)) < len(figures):
        return
    orders = {tuple(each[place] for place in ranked(strategy, each, 50.0)) for each in permutations(figures)}
    keys = {tuple(sorted(map(repr, each))) for each in orders}
    assert len(keys) <= 1


def test_search_engines_are_asked_as_listed_whatever_is_asked_of_models() -> None:
    more = (
        "  s: {models: [ollama/gemma2:2b, groq/llama-3.1-8b-instant], strategy: fastest,"
        " research: {sources: [tavily/basic, searxng/web]}}\n"
    )
    text = POLICY.replace("STRATEGY", "cheapest").replace(
        "providers:\n", "providers:\n  tavily: {place: cloud}\n  searxng: {place: local}\n"
    )
    engines = (node("search", "tavily", ["basic"]), node("engine", "searxng", ["web"], place=Place.LOCAL))
    desk = Desk(policy=parse_policy(text + more, "test"), fleet=(*FLEET, *engines))
    desk.submit(task(role="s", privacy=Privacy.PUBLIC, routing=Routing(only=("groq",), min_throughput=1.0)))
    assert desk.state is not None
    assert desk.state.phase is TaskPhase.SEARCHING
    assert desk.state.research is not None
    search = desk.state.research.searches[0].attempts[-1]
    assert (search.provider, search.model) == ("tavily", "basic")
    assert desk.context.fleet.rankings == {}
