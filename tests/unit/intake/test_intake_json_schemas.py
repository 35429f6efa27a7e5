"""Schemas of callers are checked as the library of those who check answers would check them, and quickly."""

from __future__ import annotations

import time
from typing import Any

import pytest
from headrace_intake.decide.json_schemas import SchemaUnusable, check_schema
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

KEYWORDS = (
    "type", "properties", "items", "$defs", "anyOf", "allOf", "minimum", "pattern", "patternProperties", "enum",
    "const", "required", "additionalProperties", "minLength", "$schema", "$id", "$anchor", "multipleOf", "format",
)  # fmt: skip
TEXTS = st.sampled_from(["string", "object", "a b", "([", "(?P<n>a)", "#", "http://[", "email"]) | st.text(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(-1e9, 1e9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=4))
def test_a_schema_is_usable_if_it_is_one_of_the_draft(schema: dict[str, Any]) -> None:
    try:
        Draft202012Validator.check_schema(schema)
        is_one = True
    except SchemaError:
        is_one = False

    if is_one:
        check_schema(schema)
    else:
        with pytest.raises(SchemaUnusable, match="it is no JSON Schema: "):
            check_schema(schema)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "strin"}, "it is no JSON Schema: "),
        ({"pattern": "(["}, "it is no JSON Schema: "),
        ({"items": {"$ref": "https://example.com/a"}}, r"a $ref must point into the schema itself"),
        ({"$dynamicRef": "other"}, r"a $ref must point into the schema itself"),
        (nested(100_000), "it is nested too deeply"),
    ],
)
def test_what_is_none_is_refused_with_a_reason(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(SchemaUnusable) as refused:
        check_schema(schema)
    assert str(refused.value).startswith(told)
    assert len(str(refused.value)) < 400


def test_references_within_it_are_followed_nowhere() -> None:
    check_schema({"$ref": "#/$defs/a b", "$defs": {"a b": {"type": "string", "pattern": "^a"}}})


def test_as_many_as_a_body_can_hold_do_not_occupy_the_process() -> None:
    schema = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(110)}}
    check_schema(schema)
    began = time.process_time()
    for _ in range(100):
        check_schema(schema)

    # 20 ms on a quiet machine; it was 3.8 s.
    assert time.process_time() - began < 0.5
