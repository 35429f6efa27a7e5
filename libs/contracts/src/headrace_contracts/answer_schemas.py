"""JSON Schemas that come from outside: those that answers and the arguments of tools must fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

_MOST_SAID: Final = 300


class SchemaUnusable(Exception):
    """The schema of a request is no JSON Schema of the draft 2020-12, or points outside itself."""


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises SchemaUnusable, worded for the caller."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise SchemaUnusable(f"it is no JSON Schema: {error.message[:_MOST_SAID]}") from None
    except RecursionError:
        raise SchemaUnusable("it is nested too deeply") from None
    if _points_outside(schema):
        raise SchemaUnusable("a $ref must point into the schema itself (#/$defs/…)")


def _points_outside(node: object) -> bool:
    """Whether a reference would have to be fetched: nothing is fetched for a schema from outside."""
    if isinstance(node, dict):
        reference = node.get("$ref", node.get("$dynamicRef"))
        if isinstance(reference, str) and not reference.startswith("#"):
            return True
        return any(map(_points_outside, node.values()))
    return isinstance(node, list) and any(map(_points_outside, node))
