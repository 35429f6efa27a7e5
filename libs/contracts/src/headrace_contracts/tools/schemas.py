"""Reads the schema files: one named type each, referring to one another by full name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
PYTHON_NAME = "python"
"""Property of a field, or of an enum by symbol: its name in Python, where the released name is not a term of the field.

The released name stays on the wire; the registry and other languages never see this property.
"""


def repository() -> Path:
    """The checkout that contains this file. Exits if there is none."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "schemas").is_dir() and (folder / "uv.lock").is_file():
            return folder
    raise SystemExit("no schemas/ folder above this file: run this from a checkout of Headrace")


class SchemaFileInvalid(Exception):
    """A schema file must be corrected; the message names the file and the error."""


@dataclass(frozen=True, slots=True)
class SchemaSet:
    """All named types by full name, each as written in its file."""

    types: Mapping[str, dict[str, Any]]

    def records(self) -> Iterator[str]:
        return (name for name, schema in sorted(self.types.items()) if schema["type"] == "record")

    def resolved(self, name: str) -> dict[str, Any]:
        """The type with every referenced type inlined at its first use, as a registry expects."""
        resolved = self._inline(self.types[name], set())
        assert isinstance(resolved, dict)
        return resolved

    def _inline(self, node: Any, seen: set[str]) -> Any:
        if isinstance(node, str):
            if node in PRIMITIVES or node in seen:
                return node
            return self._inline(self.types[node], seen)
        if isinstance(node, list):
            return [self._inline(branch, seen) for branch in node]
        kind = node["type"]
        if kind == "array":
            return {**node, "items": self._inline(node["items"], seen)}
        if kind == "map":
            return {**node, "values": self._inline(node["values"], seen)}
        if kind in ("record", "enum"):
            seen.add(f"{node['namespace']}.{node['name']}")
        if kind == "record":
            fields = [_on_the_wire({**field, "type": self._inline(field["type"], seen)}) for field in node["fields"]]
            return {**node, "fields": fields}
        return _on_the_wire(node)


def _on_the_wire(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != PYTHON_NAME}


def references(node: Any) -> Iterator[str]:
    """Full names of the types that a schema node refers to."""
    if isinstance(node, str):
        if node not in PRIMITIVES:
            yield node
    elif isinstance(node, list):
        for branch in node:
            yield from references(branch)
    elif node["type"] == "array":
        yield from references(node["items"])
    elif node["type"] == "map":
        yield from references(node["values"])
    elif node["type"] == "record":
        for field in node["fields"]:
            yield from references(field["type"])


def load(folder: Path) -> SchemaSet:
    """Read `folder/<domain>/<Record>.avsc`, except in `released/`.

    Raises SchemaFileInvalid if a file is not JSON, its name and its type disagree, a doc is missing or a reference
    cannot be resolved.
    """
    types: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/*.avsc")):
        if path.parent.name == "released":
            continue
        try:
            schema = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise SchemaFileInvalid(f"{path}: not valid JSON: {error}") from error
        full_name = f"{schema['namespace']}.{schema['name']}"
        if full_name != f"headrace.{path.parent.name}.{path.stem}":
            raise SchemaFileInvalid(f"{path}: contains {full_name}; name and namespace must match folder and file name")
        undocumented = [field["name"] for field in schema.get("fields", ()) if not field.get("doc")]
        if undocumented or not schema.get("doc"):
            raise SchemaFileInvalid(f"{path}: document these in `doc`: {undocumented or [schema['name']]}")
        types[full_name] = schema
    for full_name, schema in types.items():
        missing = sorted(set(references(schema)) - types.keys())
        if missing:
            raise SchemaFileInvalid(f"{full_name}: refers to {', '.join(missing)}, which no schema file defines")
    return SchemaSet(types)


def load_released(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Read `folder/<full name>/<n>.avsc`. Raises SchemaFileInvalid."""
    released: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/*.avsc")):
        try:
            number, schema = int(path.stem), json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SchemaFileInvalid(f"{path}: not a released schema: {error}") from error
        released.setdefault(path.parent.name, {})[number] = schema
    return released


def without_docs(node: Any) -> Any:
    """A schema without its descriptions."""
    if isinstance(node, dict):
        return {key: without_docs(value) for key, value in node.items() if key != "doc"}
    if isinstance(node, list):
        return [without_docs(item) for item in node]
    return node
