"""Schemas that others registered, checked once before anything is decoded with them.

fastavro decodes in C, as deep and for as long as schema and bytes say. Nine bytes could otherwise end a process (a
recursive type overflows the stack) or occupy it for hours (an array of items that take no bytes may state any length).
With a schema that passes, every step of decoding consumes at least one byte, and the depth has a limit.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import fastavro
from fastavro.schema import to_parsing_canonical_form
from fastavro.types import Schema

from headrace_contracts.errors import UnusableSchema

MAX_SCHEMA_CHARACTERS: Final = 1024 * 1024
_MAX_JSON_DEPTH: Final = 200
_MAX_DECODING_DEPTH: Final = 100
_RECORDS: Final = ("record", "error")
_GIVEN_LENGTH: Final = ("boolean", "float", "double", "fixed")
_NAMED: Final = (*_RECORDS, "enum", "fixed")


@dataclass(frozen=True, slots=True)
class WriterSchema:
    """A schema that values may be decoded with.

    Attributes:
        schema: As fastavro parsed it.
        name: Full name of its record; empty if it is not a record.
        fingerprint: See `fingerprint_of`.
        overruns: Whether fastavro would skip items of an array beyond the end of the value, as many as it states. Give
            it a `StrictBytes` then.
    """

    schema: Schema
    name: str
    fingerprint: str
    overruns: bool


class StrictBytes(io.BytesIO):
    """Ends with EOFError where a value is shorter than it says, even if it is only skipped."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Exactly so many bytes. Raises EOFError."""
        data = super().read(size)
        if size is None or size < 0 or len(data) < size:
            raise EOFError
        return data


def writer_schema(text: str) -> WriterSchema:
    """Parse an Avro schema, whoever wrote it. Raises UnusableSchema, and nothing else."""
    tree = parsed_json(text)
    try:
        schema = fastavro.parse_schema(without_logical_types(tree))
        is_record = isinstance(schema, dict) and schema.get("type") in _RECORDS
        name = str(schema["name"]) if is_record else ""  # type: ignore[call-overload, index]
        check = _Check(schema)
        check.run()
        fingerprint = fingerprint_of(schema)
    except UnusableSchema:
        raise
    # fastavro reports a malformed schema with whatever exception its parsing runs into.
    except Exception as error:
        raise UnusableSchema(f"not an Avro schema that can be read ({type(error).__name__})") from error
    return WriterSchema(schema, name, fingerprint, check.overruns)


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


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from node.values()
    elif isinstance(node, list):
        yield from node


class _Check:
    """One pass over a parsed schema, in which named types stand in full where they first occur."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._named: dict[str, Any] = dict(_named_types(schema))
        self._depths: dict[str, int] = {}
        self._open: set[str] = set()
        self.overruns = False

    def run(self) -> None:
        if self._depth(self._schema) > _MAX_DECODING_DEPTH:
            raise UnusableSchema(f"its values are nested more than {_MAX_DECODING_DEPTH} levels deep")

    def _depth(self, node: Any) -> int:
        """Levels of nesting of a value."""
        if isinstance(node, list):
            # A branch may take no bytes: its number takes one.
            return 1 + max((self._depth(branch) for branch in node if not _is_null(branch)), default=0)
        if _is_null(node):
            raise UnusableSchema("a null outside a union takes no bytes, so bytes do not limit how many there are")
        if isinstance(node, str):
            return self._depth_of_named(node) if node in self._named else 1
        kind = node["type"]
        if kind in _NAMED:
            return self._depth_of_named(node["name"])
        if kind == "array":
            depth = self._depth(node["items"])
            self.overruns = self.overruns or self._has_given_length(node["items"])
            return 1 + depth
        if kind == "map":
            return 1 + self._depth(node["values"])
        # A primitive type, written as an object or in place.
        return 1 if isinstance(kind, str) and kind not in self._named else 1 + self._depth(kind)

    def _has_given_length(self, node: Any) -> bool:
        """Whether all values take equally many bytes: fastavro skips these without a look at them."""
        if isinstance(node, str) and node in self._named:
            node = self._named[node]
        kind = node["type"] if isinstance(node, dict) else node
        if kind in _RECORDS:
            return all(self._has_given_length(field["type"]) for field in node["fields"])
        if isinstance(kind, dict):
            return self._has_given_length(kind)
        return isinstance(kind, str) and (kind in _GIVEN_LENGTH or kind in self._named)

    def _depth_of_named(self, name: str) -> int:
        known = self._depths.get(name)
        if known is not None:
            return known
        if name in self._open:
            raise UnusableSchema(f"{name} contains itself, so bytes could nest it as deep as they like")
        self._open.add(name)
        node = self._named[name]
        found = 1
        if node["type"] == "fixed" and not 0 < node["size"] <= MAX_SCHEMA_CHARACTERS:
            raise UnusableSchema(f"{name} has {node['size']} bytes")
        if node["type"] in _RECORDS:
            if not node["fields"]:
                raise UnusableSchema(f"{name} has no fields, so bytes do not limit how many there are")
            found += max(self._depth(field["type"]) for field in node["fields"])
        self._open.remove(name)
        self._depths[name] = found
        return found


def _is_null(node: Any) -> bool:
    return node == "null" or (isinstance(node, dict) and node.get("type") == "null")


def _named_types(node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, list):
        for branch in node:
            yield from _named_types(branch)
    elif isinstance(node, dict):
        kind = node.get("type")
        if kind in _NAMED:
            yield node["name"], node
        if kind in _RECORDS:
            for field in node["fields"]:
                yield from _named_types(field["type"])
        elif kind == "array":
            yield from _named_types(node["items"])
        elif kind == "map":
            yield from _named_types(node["values"])
        elif isinstance(kind, (dict, list)):
            yield from _named_types(kind)
