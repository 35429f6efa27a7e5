"""Checks that every version of every schema reads what any other version wrote (FULL_TRANSITIVE), without a registry.

The current schemas are checked against each version under `schemas/released/<full name>/<n>.avsc`, in both directions.
Avro's own package decides what resolves; further rules reject what Avro permits but our readers cannot handle. Exits
with 1 if a rule is broken, naming file, field and rule. `schemas/README.md` explains the rules.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import avro.compatibility
import avro.errors
import avro.schema
from avro.compatibility import SchemaCompatibilityType, lookup_writer_field

from headrace_contracts.tools.schemas import (
    PRIMITIVES,
    SchemaFileInvalid,
    SchemaSet,
    load,
    load_released,
    references,
    repository,
)

# avro does not annotate it.
_Checker: Any = avro.compatibility.ReaderWriterCompatibilityChecker

Released = Mapping[str, Mapping[int, dict[str, Any]]]
"""Released schemas by full name and version, as registered (with types inlined)."""


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """A rule that a schema breaks.

    Attributes:
        file: The schema file, below schemas/.
        field: The field, or the type itself if no field is concerned.
        rule: Short name of the rule, as in schemas/README.md.
        text: The problem, and what to do.
    """

    file: str
    field: str
    rule: str
    text: str

    def __str__(self) -> str:
        return f"schemas/{self.file}: {self.field}: {self.rule}: {self.text}"


def violations(current: SchemaSet, released: Released) -> list[Violation]:
    """All violations, each once, in order of files. Raises SchemaFileInvalid for an invalid Avro schema."""
    found = set(_bad_defaults(current))
    for name, versions in released.items():
        if name not in current.types:
            found.add(
                Violation(_file(name), name, "type_removed", "it was released, so keep it for consumers of its events")
            )
            continue
        for number, schema in versions.items():
            what = f"version {number} of {name}"
            former = SchemaSet(_named_types(schema))
            between = set(_between(current, former, what))
            if not between and not _mutual(current, former, name):
                between = {
                    Violation(_file(name), name, "not_resolvable", f"this one and {what} cannot read each other")
                }
            found |= between
    return sorted(found)


def _between(current: SchemaSet, former: SchemaSet, what: str) -> Iterator[Violation]:
    shared = [name for name in former.types if name in current.types]
    backward = {name: _unreadable(current, former, name) for name in shared}
    forward = {name: _unreadable(former, current, name) for name in shared}
    for name in shared:
        for field, (rule, detail) in backward[name].items():
            yield Violation(_file(name), field, rule, f"cannot read what {what} wrote: {detail}")
        for field, (rule, detail) in forward[name].items():
            yield Violation(_file(name), field, rule, f"{what} cannot read what this one writes: {detail}")
        for field, before, after in _changed_logical_types(former.types[name], current.types[name]):
            yield Violation(
                _file(name), field, "logical_type_changed",
                f"{what} has {before or 'none'}, this one {after or 'none'}: the same number would mean something else",
            )  # fmt: skip


def _unreadable(reader: SchemaSet, writer: SchemaSet, name: str) -> dict[str, tuple[str, str]]:
    """Fields of a type whose values the reader's version cannot read, with rule and detail.

    Problems within another named type are reported for that type.
    """
    read, written = _parse(reader, name), _parse(writer, name)
    if _resolves(read, written):
        return {}
    if not isinstance(read, avro.schema.RecordSchema) or not isinstance(written, avro.schema.RecordSchema):
        return {name: _explain(read, written)}
    found: dict[str, tuple[str, str]] = {}
    for field in read.fields:
        counterpart = lookup_writer_field(written, field)
        if counterpart is None:
            if not field.has_default:
                found[field.name] = ("default_missing", "a field that only one version has needs a default")
        elif not _resolves(field.type, counterpart.type) and not _left_to_others(reader, writer, name, field.name):
            found[field.name] = _explain(field.type, counterpart.type)
    return found


def _left_to_others(reader: SchemaSet, writer: SchemaSet, name: str, field: str) -> bool:
    """Whether the field refers to the same types in both versions: then one of these is what does not resolve."""
    nodes = [
        next((each["type"] for each in version.types[name]["fields"] if each["name"] == field), None)
        for version in (reader, writer)
    ]
    return nodes[0] is not None and nodes[0] == nodes[1] and any(references(nodes[0]))


def _mutual(current: SchemaSet, former: SchemaSet, name: str) -> bool:
    one, other = _parse(current, name), _parse(former, name)
    return _resolves(one, other) and _resolves(other, one)


def _resolves(reader: avro.schema.Schema, writer: avro.schema.Schema) -> bool:
    result = _Checker().get_compatibility(reader, writer)
    return result.compatibility is SchemaCompatibilityType.compatible


def _explain(reader: avro.schema.Schema, writer: avro.schema.Schema) -> tuple[str, str]:
    result = _Checker().get_compatibility(reader, writer)
    rule = result.incompatibilities[0].value if result.incompatibilities else "not_resolvable"
    return rule, "; ".join(sorted(result.messages))


def _parse(schemas: SchemaSet, name: str) -> avro.schema.Schema:
    try:
        return avro.schema.parse(json.dumps(schemas.resolved(name)))
    except avro.errors.AvroException as error:
        raise SchemaFileInvalid(f"schemas/{_file(name)}: not a valid Avro schema: {error}") from error


def _named_types(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The named types of a schema with inlined types, each referring to the others by name."""
    types: dict[str, dict[str, Any]] = {}

    def refer(node: Any) -> Any:
        if isinstance(node, str):
            return node
        if isinstance(node, list):
            return [refer(branch) for branch in node]
        if node["type"] == "array":
            return {**node, "items": refer(node["items"])}
        if node["type"] == "map":
            return {**node, "values": refer(node["values"])}
        if node["type"] not in ("record", "enum"):
            return node
        name = f"{node['namespace']}.{node['name']}"
        types[name] = node
        if node["type"] == "record":
            fields = [{**field, "type": refer(field["type"])} for field in node["fields"]]
            types[name] = {**node, "fields": fields}
        return name

    refer(schema)
    return types


def _changed_logical_types(former: dict[str, Any], current: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Avro resolves milliseconds with microseconds, and a count with a time."""
    before = {field["name"]: field["type"] for field in former.get("fields", ())}
    for field in current.get("fields", ()):
        if field["name"] in before:
            old, new = (", ".join(_logical_types(node)) for node in (before[field["name"]], field["type"]))
            if old != new:
                yield field["name"], old, new


def _logical_types(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for branch in node:
            yield from _logical_types(branch)
    elif isinstance(node, dict):
        if "logicalType" in node:
            yield node["logicalType"]
        yield from _logical_types(node.get("items", node.get("values")))


def _bad_defaults(schemas: SchemaSet) -> Iterator[Violation]:
    """Avro's package accepts any default; readers would fail on the first record without the field."""
    for name, schema in schemas.types.items():
        if schema["type"] == "enum" and "default" not in schema:
            yield Violation(
                _file(name), name, "enum_without_default", "without a default no symbol can ever be added: give it one"
            )
        for field in schema.get("fields", ()):
            if "default" in field and not _fits(field["default"], field["type"], schemas):
                yield Violation(
                    _file(name), field["name"], "default_does_not_fit",
                    f"{json.dumps(field['default'])} is not a value of its type (for a union: of the first type)",
                )  # fmt: skip


def _fits(value: Any, node: Any, schemas: SchemaSet) -> bool:
    if isinstance(node, list):
        return _fits(value, node[0], schemas)
    if isinstance(node, str) and node not in PRIMITIVES:
        return _fits(value, schemas.types[node], schemas)
    kind = node if isinstance(node, str) else node["type"]
    if kind == "record":
        return isinstance(value, dict) and all(
            _fits(value[field["name"]], field["type"], schemas) if field["name"] in value else "default" in field
            for field in node["fields"]
        )
    if kind == "enum":
        return value in node["symbols"]
    if kind == "array":
        return isinstance(value, list) and all(_fits(item, node["items"], schemas) for item in value)
    if kind == "map":
        return isinstance(value, dict) and all(_fits(item, node["values"], schemas) for item in value.values())
    if kind in ("int", "long"):
        bits = 31 if kind == "int" else 63
        return isinstance(value, int) and not isinstance(value, bool) and -(2**bits) <= value < 2**bits
    expected: dict[str, type | tuple[type, ...]] = {
        "null": type(None), "boolean": bool, "float": (int, float), "double": (int, float), "bytes": str, "string": str,
    }  # fmt: skip
    return isinstance(value, expected[kind])


def _file(name: str) -> str:
    _, domain, short = name.split(".")
    return f"{domain}/{short}.avsc"


def report(found: Iterable[Violation]) -> int:
    """Print the violations; returns the exit code."""
    listed = list(found)
    for violation in listed:
        sys.stderr.write(f"{violation}\n")
    if listed:
        sys.stderr.write("schemas/README.md says how to change a schema without breaking others.\n")
    return 1 if listed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m headrace_contracts.tools.compatibility", description=__doc__)
    parser.add_argument("--schemas", type=Path, help="folder of the schemas; by default that of this checkout")
    folder: Path = parser.parse_args().schemas or repository() / "schemas"
    try:
        return report(violations(load(folder), load_released(folder / "released")))
    except SchemaFileInvalid as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
