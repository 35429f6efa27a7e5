"""Avro schemas as text and as JSON values: limits of what is parsed, the fingerprint, the types in a schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastavro.schema import to_parsing_canonical_form

from headrace_contracts.errors import UnusableSchema

MAX_SCHEMA_CHARACTERS: Final = 256 * 1024
RECORDS: Final = ("record", "error")
NAMED: Final = (*RECORDS, "enum", "fixed")
_MAX_JSON_DEPTH: Final = 200


def fingerprint_of(schema: Any) -> str:
    """SHA-256 of a valid schema's parsing canonical form, in hexadecimal.

    Schemas with the same fingerprint write the same bytes, whatever words they are in: registries leave out namespaces
    that repeat, and names with dots are full names.
    """
    return hashlib.sha256(to_parsing_canonical_form(schema).encode("utf-8", "surrogatepass")).hexdigest()


def parsed_json(text: str) -> Any:
    """A schema as JSON values of limited size and depth. Raises UnusableSchema."""
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise UnusableSchema(f"{len(text)} characters long, the limit is {MAX_SCHEMA_CHARACTERS}")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableSchema("not JSON") from error
    level = [tree]
    for _ in range(_MAX_JSON_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return tree
    raise UnusableSchema(f"nested more than {_MAX_JSON_DEPTH} levels deep")


def without_logical_types(node: Any) -> Any:
    """The schema with plain types: converting timestamps to datetime and back costs more than the other decoding.

    Without fastavro's own marks as well: it believes a schema that bears them, and checks nothing.
    """
    if isinstance(node, dict):
        return {
            key: without_logical_types(value)
            for key, value in node.items()
            if key != "logicalType" and not key.startswith("__")
        }
    if isinstance(node, list):
        return [without_logical_types(item) for item in node]
    return node


def record_name(tree: Any) -> str:
    """Full name of the record that a schema defines; empty if it defines none."""
    if not isinstance(tree, dict) or tree.get("type") not in RECORDS or not isinstance(tree.get("name"), str):
        return ""
    name, namespace = tree["name"], tree.get("namespace")
    return name if "." in name or not isinstance(namespace, str) or not namespace else f"{namespace}.{name}"


def named_types(node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The named types of a parsed schema, in which they stand in full where they first occur."""
    if isinstance(node, list):
        for branch in node:
            yield from named_types(branch)
    elif isinstance(node, dict):
        kind = node.get("type")
        if kind in NAMED:
            yield node["name"], node
        if kind in RECORDS:
            for field in node["fields"]:
                yield from named_types(field["type"])
        elif kind == "array":
            yield from named_types(node["items"])
        elif kind == "map":
            yield from named_types(node["values"])
        elif isinstance(kind, (dict, list)):
            yield from named_types(kind)


class Types:
    """A parsed schema and its named types."""

    def __init__(self, schema: Any) -> None:
        self.root = schema
        self.named: Mapping[str, Any] = dict(named_types(schema))

    def plain(self, node: Any) -> Any:
        """The same type as a list (a union), the name of a primitive type, or an object whose `type` is a text."""
        while True:
            if isinstance(node, str) and node in self.named:
                return self.named[node]
            if not isinstance(node, dict):
                return node
            kind = node["type"]
            if isinstance(kind, str) and (kind in NAMED or kind in ("array", "map")):
                return node
            # A primitive type, a name or a union, written as an object.
            node = kind


def kind_of(plain: Any) -> str:
    """What a type is: "union", "record", "int", …"""
    if isinstance(plain, list):
        return "union"
    kind = plain["type"] if isinstance(plain, dict) else plain
    return "record" if kind in RECORDS else str(kind)


def short_name(plain: Mapping[str, Any]) -> str:
    """Name of a named type without its namespace: what Avro compares."""
    return str(plain["name"]).rpartition(".")[2]


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from node.values()
    elif isinstance(node, list):
        yield from node
