"""Which topics hold what people wrote and models answered, derived from the schemas of their records."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from headrace_contracts.events import Content
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.topics import TopicSpec

_OPAQUE: Final = "bytes"
"""Nothing says what is in them: a dead letter's are a whole record, as it came from whoever wrote it."""


def holds_content(spec: TopicSpec) -> bool:
    """Whether records of the topic may hold such text: a `Content` at any depth, or bytes that no schema describes."""
    return _record_holds_content(spec.record.FULL_NAME)


@cache
def _record_holds_content(full_name: str) -> bool:
    return _mentions(json.loads(SCHEMAS[full_name]), frozenset({Content.FULL_NAME, _OPAQUE}))


def _mentions(node: Any, types: frozenset[str], namespace: str = "") -> bool:
    """Whether one of the types stands anywhere in a schema, defined or referred to."""
    if isinstance(node, str):
        return node in types or f"{namespace}.{node}" in types
    if isinstance(node, list):
        return any(_mentions(branch, types, namespace) for branch in node)
    namespace = node.get("namespace", namespace)
    if f"{namespace}.{node.get('name', '')}" in types:
        return True
    inner = [node["type"], node.get("items", []), node.get("values", [])]
    inner += [field["type"] for field in node.get("fields", ())]
    return any(_mentions(each, types, namespace) for each in inner)
