"""Schemas that others registered, checked once before anything is decoded with them.

fastavro decodes in C, as deep and for as long as schema and bytes say. Nine bytes could otherwise end a process (a
recursive type overflows the stack) or occupy it for hours (an array of items that take no bytes may state any length).
`successors` says which schemas are used, `decoding_limits` how much a value may become.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import fastavro
from fastavro.types import Schema

from headrace_contracts.decoding_limits import DecodingLimits, limits_of
from headrace_contracts.errors import UnusableSchema
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.released import version_with, versions_of
from headrace_contracts.schema_texts import (
    Types,
    fingerprint_of,
    kind_of,
    parsed_json,
    record_name,
    without_logical_types,
)
from headrace_contracts.successors import MAX_GROWTH, MIN_CHARACTERS, check_bounds, check_successor

_GIVEN_LENGTH: Final = ("boolean", "float", "double", "fixed")
_MAX_REMEMBERED: Final = 128
_NONE: Final[Schema] = "null"
_NO_LIMITS: Final = DecodingLimits(0, 0, lambda data, at, left: at)

_remembered: OrderedDict[bytes, WriterSchema | str] = OrderedDict()
"""What was found out about a text, or why it cannot be used: the same ids are asked about again and again."""


@dataclass(frozen=True, slots=True)
class WriterSchema:
    """A schema that values may be decoded with, if `name` is that of the expected record.

    Attributes:
        schema: As fastavro parsed it; of a record that is none of ours, nothing is parsed.
        name: Full name of its record; empty if it is not a record.
        fingerprint: See `fingerprint_of`; of a record that is none of ours, that of its text.
        overruns: Whether fastavro would skip items of an array beyond the end of the value, as many as it states. Give
            it a `StrictBytes` then.
        limits: How much a value may become when it is read as the record of this program.
        released: Whether it was released with this program.
    """

    schema: Schema
    name: str
    fingerprint: str
    overruns: bool
    limits: DecodingLimits
    released: bool


class StrictBytes(io.BytesIO):
    """Ends with EOFError where a value is shorter than it says, even if it is only skipped."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Exactly so many bytes. Raises EOFError."""
        data = super().read(size)
        if size is None or size < 0 or len(data) < size:
            raise EOFError
        return data


def writer_schema(text: str) -> WriterSchema:
    """Parse and check an Avro schema, whoever wrote it. Raises UnusableSchema, and nothing else."""
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    known = _remembered.get(key)
    if known is None:
        try:
            known = _examined(text)
        except UnusableSchema as error:
            known = str(error)
        _remembered[key] = known
        if len(_remembered) > _MAX_REMEMBERED:
            _remembered.popitem(last=False)
    if isinstance(known, str):
        raise UnusableSchema(known)
    return known


@cache
def own_schema(full_name: str) -> WriterSchema:
    """The schema that this program writes a record with."""
    schema = _parse(SCHEMAS[full_name])
    return WriterSchema(
        schema, full_name, fingerprint_of(schema), overruns=False, limits=limits_of(Types(schema), None), released=True
    )


def _examined(text: str) -> WriterSchema:
    tree = parsed_json(text)
    name = record_name(tree)
    if name not in SCHEMAS:
        # Nothing of ours is read with it, so that it is not worth parsing.
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return WriterSchema(_NONE, name, digest, overruns=False, limits=_NO_LIMITS, released=False)
    longest = max(MIN_CHARACTERS, MAX_GROWTH * max(len(version.text) for version in versions_of(name)))
    if len(text) > longest:
        raise UnusableSchema(f"{len(text)} characters long, the limit for {name} is {longest}")
    try:
        schema = fastavro.parse_schema(without_logical_types(tree))
        fingerprint = fingerprint_of(schema)
        if fingerprint == own_schema(name).fingerprint:
            return own_schema(name)
        types = Types(schema)
        check_bounds(types)
        released = version_with(name, fingerprint) is not None
        if not released:
            check_successor(types, _versions(name))
        return WriterSchema(
            schema,
            name,
            fingerprint,
            overruns=_overruns(types),
            limits=limits_of(types, Types(own_schema(name).schema)),
            released=released,
        )
    except UnusableSchema:
        raise
    # fastavro reports a malformed schema with whatever exception its parsing runs into.
    except Exception as error:
        raise UnusableSchema(f"not an Avro schema that can be read ({type(error).__name__})") from error


@cache
def _versions(full_name: str) -> list[tuple[str, Types]]:
    return [(str(version), Types(_parse(version.text))) for version in versions_of(full_name)]


def _parse(text: str) -> Schema:
    return fastavro.parse_schema(without_logical_types(json.loads(text)))


def _overruns(types: Types) -> bool:
    """Whether there is an array of items that all have the same length: fastavro skips these without looking."""
    given: dict[str, bool] = {}

    def has_given_length(node: Any) -> bool:
        plain = types.plain(node)
        kind = kind_of(plain)
        if kind != "record":
            return kind in _GIVEN_LENGTH
        if plain["name"] not in given:
            given[plain["name"]] = all(has_given_length(field["type"]) for field in plain["fields"])
        return given[plain["name"]]

    def has_such_array(node: Any) -> bool:
        plain = types.plain(node)
        kind = kind_of(plain)
        if kind == "union":
            return any(map(has_such_array, plain))
        if kind == "map":
            return has_such_array(plain["values"])
        return kind == "array" and (has_given_length(plain["items"]) or has_such_array(plain["items"]))

    records = (node for node in types.named.values() if kind_of(node) == "record")
    return any(has_such_array(field["type"]) for node in records for field in node["fields"])
