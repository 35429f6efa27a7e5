"""Every event class survives the way into bytes and back, whatever it holds; no bytes bring the codec down."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, SchemaNotCached, UnreadableValue
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.tools.schemas import SchemaSet, load
from headrace_contracts.topics import TOPICS, TopicSpec
from hypothesis import given
from hypothesis import strategies as st

ORIGIN = Origin("test.topic", 3, 14)
# One topic for each class is enough.
SPECS = list({spec.record: spec for spec in TOPICS.values()}.values())


@cache
def _schemas() -> SchemaSet:
    return load(Path(__file__).parents[2] / "schemas")


@cache
def _codec() -> Codec:
    codec = Codec(MemoryRegistry(), "test.")
    asyncio.run(codec.prepare(SPECS, register=True))
    return codec


def _values(node: Any) -> st.SearchStrategy[Any]:
    """What a schema allows, in fastavro's terms."""
    if isinstance(node, list):
        return st.one_of([_values(branch) for branch in node])
    kind = node if isinstance(node, str) else node["type"]
    primitives: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "double": st.floats(allow_nan=False),
        "bytes": st.binary(max_size=40),
        "string": st.text(max_size=40),
    }
    if kind in primitives:
        return primitives[kind]
    if kind == "array":
        return st.lists(_values(node["items"]), max_size=3)
    if kind == "map":
        return st.dictionaries(st.text(max_size=10), _values(node["values"]), max_size=3)
    return _named(kind)


@cache
def _named(name: str) -> st.SearchStrategy[Any]:
    schema = _schemas().types[name]
    if schema["type"] == "enum":
        return st.sampled_from(schema["symbols"])
    return st.fixed_dictionaries({field["name"]: _values(field["type"]) for field in schema["fields"]})


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.record.__name__)
@given(data=st.data())
def test_what_goes_in_comes_out(spec: TopicSpec, data: st.DataObject) -> None:
    content = data.draw(_named(spec.record.FULL_NAME))
    event = spec.record.from_avro(content)
    assert event.to_avro() == content
    value = _codec().encode(spec, event)
    assert _codec().decode(spec.record, value, ORIGIN) == event


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.record.__name__)
@given(data=st.data())
def test_damaged_bytes_are_unreadable_or_another_event(spec: TopicSpec, data: st.DataObject) -> None:
    codec = _codec()
    value = bytearray(codec.encode(spec, spec.record.from_avro(data.draw(_named(spec.record.FULL_NAME)))))
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(value[: data.draw(st.integers(0, len(value)))])
    _expect_an_event_or_a_typed_error(spec, damaged)


@given(value=st.binary(max_size=60))
def test_any_bytes_are_unreadable_or_an_event(value: bytes) -> None:
    _expect_an_event_or_a_typed_error(SPECS[0], value)


def _expect_an_event_or_a_typed_error(spec: TopicSpec, value: bytes) -> None:
    try:
        outcome: Any = _codec().decode(spec.record, value, ORIGIN)
    except (UnreadableValue, SchemaNotCached) as error:
        outcome = error
    assert isinstance(outcome, spec.record) or str(ORIGIN) in str(outcome)
