"""JSON Schemas of callers, which answers and the arguments of tools must fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from jsonschema_rs import Draft202012Validator, ValidationError

_MOST_SAID: Final = 300


def _is_pattern(text: str) -> bool:
    """Whether whoever checks answers can use the pattern."""
    try:
        re.compile(text)
    except re.error:
        return False
    return True


# Compiled: a schema of 110 properties is checked in 0.05 ms, and in Python in 35. A body may hold a hundred of them.
_SCHEMAS: Final = Draft202012Validator(
    {"$ref": "https://json-schema.org/draft/2020-12/schema"},
    validate_formats=True,
    # References are looked at below.
    formats={"regex": _is_pattern, "uri": lambda text: True, "uri-reference": lambda text: True},
)


class SchemaUnusable(Exception):
    """The schema of a request is no JSON Schema of the draft 2020-12, or points outside itself."""


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises SchemaUnusable, worded for the caller."""
    try:
        # First: it ends where it is too deep, and the compiled check would overrun its stack.
        points_outside = _points_outside(schema)
        _SCHEMAS.validate(schema)
    except ValidationError as error:
        raise SchemaUnusable(f"it is no JSON Schema: {error.message[:_MOST_SAID]}") from None
    except (RecursionError, ValueError):
        raise SchemaUnusable("it is nested too deeply") from None
    if points_outside:
        raise SchemaUnusable("a $ref must point into the schema itself (#/$defs/…)")


def _points_outside(node: object) -> bool:
    """Whether a reference would have to be fetched: nothing is fetched for a schema from outside."""
    if isinstance(node, dict):
        reference = node.get("$ref", node.get("$dynamicRef"))
        if isinstance(reference, str) and not reference.startswith("#"):
            return True
        return any(map(_points_outside, node.values()))
    return isinstance(node, list) and any(map(_points_outside, node))
