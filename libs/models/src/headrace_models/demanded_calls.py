"""Tool calls that a model must make, where the API cannot demand them and can hold the answer to a JSON Schema.

Ollama's API has no tool choice. Its grammar, though, lets a model write nothing but what fits a schema: here, that of
calls of the tools. What the model then writes is read as calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from headrace_models.conversation import ToolSpec

TITLE: Final = "tool_calls"
"""Title of the schema."""


def schema_of_calls(tools: Sequence[ToolSpec], *, parallel: bool) -> dict[str, Any]:
    """The schema of a list of calls, or of one call unless they may be made in parallel."""
    one: dict[str, Any] = {
        "anyOf": [
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": {"$ref": f"#/$defs/{number}"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for number, tool in enumerate(tools)
        ]
    }
    arguments = {
        # References within a tool's schema are meant from its own root.
        str(number): {"type": "object", **_moved(tool.parameters, f"#/$defs/{number}")}
        for number, tool in enumerate(tools)
    }
    asked = {"type": "array", "minItems": 1, "items": one} if parallel else one
    return {"title": TITLE, **asked, "$defs": arguments}


def _moved(schema: Any, root: str) -> Any:
    if isinstance(schema, Mapping):
        return {
            key: root + value.removeprefix("#")
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, root)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_moved(value, root) for value in schema]
    return schema


def calls_in(text: str) -> list[tuple[str, str]] | None:
    """Names and arguments, as JSON, of the calls in an answer that was held to the schema; None if it holds none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = []
    for call in value if isinstance(value, list) else [value]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return None
        found.append((call["name"], json.dumps(call.get("arguments"), ensure_ascii=False)))
    return found or None
