"""Changes to a schema, at random: some that a newer release could make, some that nobody should."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

Node = Any


def changed(text: str, rng: random.Random, changes: int) -> Node:
    """The schema as JSON values, after so many changes."""
    tree = json.loads(text)
    for number in range(changes):
        _change(tree, rng, number)
    return tree


def records(node: Node) -> Iterator[dict[str, Any]]:
    """All records in a schema."""
    if isinstance(node, list):
        for branch in node:
            yield from records(branch)
    elif isinstance(node, dict):
        if node.get("type") == "record":
            yield node
            for field in node["fields"]:
                yield from records(field["type"])
        else:
            for part in ("items", "values", "type"):
                yield from records(node.get(part))


def extra_field(rng: random.Random, number: int) -> dict[str, Any]:
    """A field with a default, of any type."""
    name = f"extra_{number}"
    inner = {
        "type": "record", "name": f"added.Inner{number}",
        "fields": [{"name": f"f{each}", "type": ["null", "int"], "default": None} for each in range(rng.randint(1, 9))],
    }  # fmt: skip
    one = {
        "type": "record",
        "name": f"added.One{number}",
        "fields": [{"name": "a", "type": "boolean", "default": False}],
    }
    kinds: list[tuple[Any, Any]] = [
        ("string", ""), (["null", "long"], None), ("double", 0.0), ("bytes", ""),
        ({"type": "array", "items": inner}, []), ({"type": "map", "values": inner}, {}),
        ({"type": "array", "items": one}, []), ({"type": "array", "items": ["null", "int"]}, []),
        ({"type": "array", "items": "boolean"}, []), ({"type": "map", "values": {"type": "array", "items": "int"}}, {}),
        ({"type": "array", "items": {"type": "fixed", "name": f"added.F{number}", "size": 1}}, []),
        ({"type": "enum", "name": f"added.E{number}", "symbols": ["A", "B"], "default": "A"}, "A"),
    ]  # fmt: skip
    kind, default = rng.choice(kinds)
    return {"name": name, "type": kind, "default": default}


def _change(tree: Node, rng: random.Random, number: int) -> None:
    # Only the first place of a type that is used twice: the others are names.
    record = rng.choice(list(records(tree)))
    fields = record["fields"]
    match rng.choice(("add", "add", "add", "drop", "drop", "drop", "move", "strip", "breaking", "breaking")):
        case "add":
            fields.insert(rng.randint(0, len(fields)), extra_field(rng, number))
        case "drop":
            droppable = [field for field in fields if "default" in field and not _defines(field["type"])]
            if droppable and len(fields) > 1:
                fields.remove(rng.choice(droppable))
        case "move":
            plain = [field for field in fields if not _defines(field["type"])]
            if plain:
                moved = rng.choice(plain)
                fields.remove(moved)
                fields.append(moved)
        case "strip":
            record.pop("doc", None)
            for field in fields:
                field.pop("doc", None)
        case "breaking":
            _break(fields, rng, number)


def _break(fields: list[dict[str, Any]], rng: random.Random, number: int) -> None:
    field = rng.choice(fields)
    match rng.choice(("no default", "gone", "other type", "more branches", "renamed", "null", "bytes")):
        case "no default":
            fields.append({"name": f"needed_{number}", "type": "string"})
        case "gone" if len(fields) > 1 and not _defines(field["type"]):
            fields.remove(field)
        case "other type" if not _defines(field["type"]):
            field["type"] = rng.choice(
                ["int", "double", "boolean", ["null", "string"], {"type": "array", "items": "int"}]
            )
            field.pop("default", None)
        case "more branches" if isinstance(field["type"], list):
            field["type"] = [*field["type"], {"type": "map", "values": "int"}]
        case "renamed" if not _defines(field["type"]):
            field["name"] = f"renamed_{number}"
        case "null" if not _defines(field["type"]):
            field["type"] = ["null", copy.deepcopy(field["type"])] if not isinstance(field["type"], list) else "null"
            field["default"] = None
        case "bytes" if field["type"] == "string":
            field["type"] = "bytes"


def _defines(node: Node) -> bool:
    """Whether a named type is defined here, which others may refer to."""
    if isinstance(node, list):
        return any(map(_defines, node))
    if isinstance(node, dict):
        return "name" in node or any(_defines(node.get(part)) for part in ("items", "values", "type"))
    return False
