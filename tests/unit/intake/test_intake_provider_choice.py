"""`provider` of a request: what it asks of the choice among models, as OpenRouter's callers write it."""

from __future__ import annotations

from typing import Any

import pytest
from headrace.kafka_tasks import fields_of
from headrace_contracts.events import Routing
from headrace_contracts.narrowing import STRATEGIES, routing_objections
from headrace_intake.decide.options import SubmitOptions
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError


def routing(document: dict[str, Any]) -> Routing | None:
    choice = SubmitOptions.model_validate({"provider": document}).provider
    assert choice is not None
    return choice.event()


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, None),
        ({"order": ["groq", "a/b"]}, Routing(order=("groq", "a/b"))),
        ({"allow_fallbacks": False}, Routing(allow_fallbacks=False)),
        ({"only": ["groq/llama"], "ignore": ["anthropic"]}, Routing(only=("groq/llama",), ignore=("anthropic",))),
        ({"sort": "price"}, Routing(strategy="cheapest")),
        ({"sort": "latency"}, Routing(strategy="lowest-latency")),
        ({"sort": "throughput"}, Routing(strategy="highest-throughput")),
        ({"strategy": "quality"}, Routing(strategy="quality")),
        ({"max_price": {"prompt": 0.05}}, Routing(max_input_price=50_000_000)),
        ({"max_price": {"completion": 3}}, Routing(max_output_price=3_000_000_000)),
        ({"min_throughput": 50}, Routing(min_throughput=50.0)),
        ({"data_collection": "deny", "zdr": True}, Routing(deny_data_collection=True, zero_retention=True)),
        ({"data_collection": "allow", "require_parameters": True}, Routing(require_parameters=True)),
        ({"allow_fallbacks": True, "zdr": False, "order": []}, None),
    ],
)  # fmt: skip
def test_it_is_read_as_it_is_meant(document: dict[str, Any], expected: Routing | None) -> None:
    assert routing(document) == expected
    if document:
        over_kafka = fields_of({"provider": document}, 0)["routing"]
        assert over_kafka == (expected or Routing()), "tasks that are produced say the same"


@pytest.mark.parametrize(
    "document",
    [
        {"ordr": ["groq"]}, {"order": "groq"}, {"order": [1]}, {"order": [""]}, {"order": ["x"] * 33}, {"sort": "best"},
        {"sort": {"by": "price"}}, {"strategy": "dearest"}, {"max_price": {"prompt": -1}}, {"max_price": {"image": 1}},
        {"max_price": 3}, {"min_throughput": 0}, {"min_throughput": "fast"}, {"data_collection": "no"},
        {"zdr": "maybe"}, {"allow_fallbacks": 7}, {"quantizations": ["fp8"]}, {"max_price": {"prompt": float("inf")}},
    ],
)  # fmt: skip
def test_what_it_cannot_mean_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="provider"):
        SubmitOptions.model_validate({"provider": document})


@pytest.mark.parametrize(
    "document",
    [
        {"ordr": ["groq"]}, {"order": [1]}, {"order": 1}, {"sort": "best"}, {"strategy": "dearest"}, {"max_price": 3},
        {"max_price": {"prompt": "much"}}, {"min_throughput": "fast"}, {"min_throughput": -1},
        {"data_collection": "no"}, {"max_price": {"prompt": float("nan")}},
    ],
)  # fmt: skip
def test_over_kafka_it_is_refused_before_it_is_sent(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="provider"):
        fields_of({"provider": document}, 0)


def test_two_orders_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        routing({"sort": "price", "strategy": "quality"})


DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "order": st.lists(st.sampled_from(["groq", "a/b"]), max_size=3),
        "only": st.lists(st.sampled_from(["groq", "a/b"]), max_size=3),
        "strategy": st.sampled_from(STRATEGIES),
        "max_price": st.fixed_dictionaries({}, optional={"prompt": st.floats(0, 1e6), "completion": st.floats(0, 1e6)}),
        "min_throughput": st.floats(0.001, 1e6),
        "zdr": st.booleans(),
    },
)


@given(DOCUMENTS)
def test_the_router_admits_what_intake_lets_through(document: dict[str, Any]) -> None:
    made = routing(document)
    assert made is None or list(routing_objections(made)) == []
