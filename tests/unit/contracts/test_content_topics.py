"""Which topics hold texts of people and models, derived from the schemas."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content_topics import holds_content
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.topics import SPEND_WINDOWS, TOPICS

WITHOUT = {
    "tasks.cancelled", "usage.recorded", "spend.windows", "fleet.status", "preferences", "access.keys",
    "nodes.announced", "nodes.drained", "placements.requested", "requests.counted", "audit.recorded",
    "policies", "switches",
    "dead-letters.handled", "attempts.cancelled.local", "attempts.cancelled.cloud",
    "provider.batches", "attempts.started",
}  # fmt: skip
NUMBERS = itertools.count()
CONTENT = {
    "type": "record", "name": "Content", "namespace": "headrace.common",
    "fields": [{"name": "data", "type": "string"}],
}  # fmt: skip


@pytest.mark.parametrize("name", TOPICS)
def test_every_topic_but_these_holds_content(name: str) -> None:
    assert holds_content(TOPICS[name]) == (name not in WITHOUT)


@pytest.mark.parametrize(
    ("kind", "holds"),
    [
        (CONTENT, True),
        (["null", CONTENT], True),
        ({"type": "array", "items": CONTENT}, True),
        ({"type": "map", "values": ["null", {"type": "array", "items": CONTENT}]}, True),
        ({"type": "record", "name": "Inner", "fields": [{"name": "deep", "type": ["null", CONTENT]}]}, True),
        ("headrace.common.Content", True),
        # Nothing says what is in them.
        ("bytes", True),
        ({"type": "map", "values": "bytes"}, True),
        ("string", False),
        (["null", "long"], False),
        ({"type": "enum", "name": "Content", "symbols": ["a"]}, False),
        ({"type": "record", "name": "Content", "namespace": "elsewhere", "fields": []}, False),
        ({"type": "string", "logicalType": "uuid"}, False),
    ],
)
def test_content_is_found_at_any_depth(monkeypatch: pytest.MonkeyPatch, kind: Any, holds: bool) -> None:
    name = f"headrace.tests.Made{next(NUMBERS)}"
    fields = [{"name": "first", "type": "string"}, {"name": "second", "type": kind}]
    schema = {"type": "record", "name": name.rpartition(".")[2], "namespace": "headrace.tests", "fields": fields}
    monkeypatch.setitem(SCHEMAS, name, json.dumps(schema))
    spec = replace(SPEND_WINDOWS, record=type("Made", (), {"FULL_NAME": name}))
    assert holds_content(spec) is holds
