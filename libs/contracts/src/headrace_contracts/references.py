"""Avro schemas that refer to types of other subjects: the definitions are put where they are first used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from headrace_contracts.errors import UnusableSchema

_NAMED: Final = ("record", "error", "enum", "fixed")
_MAX_NODES: Final = 100_000


def inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema, complete in itself.

    Args:
        schema: As JSON values.
        definitions: Definitions of the types it may refer to, by full name, and of those they refer to.

    Raises UnusableSchema if it becomes too large.
    """
    return _Inlining(definitions).walk(schema, "")


def full_name(node: Mapping[str, Any], namespace: str) -> str:
    """Full name of a named type within a namespace."""
    name = str(node.get("name", ""))
    inside = node.get("namespace", namespace)
    return name if "." in name or not inside else f"{inside}.{name}"


class _Inlining:
    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._defined: set[str] = set()
        self._nodes = 0

    def walk(self, node: Any, namespace: str) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise UnusableSchema(f"with its references it has more than {_MAX_NODES} parts")
        if isinstance(node, list):
            return [self.walk(branch, namespace) for branch in node]
        if isinstance(node, str):
            return self._named(node, namespace)
        if not isinstance(node, dict):
            return node
        kind = node.get("type")
        if kind in _NAMED:
            name = full_name(node, namespace)
            self._defined.add(name)
            inside = name.rpartition(".")[0]
            # The full name, since the place where a definition is put has a namespace of its own.
            node = {**node, "name": name, "namespace": inside}
            if isinstance(node.get("fields"), list):
                node["fields"] = [self._field(field, inside) for field in node["fields"]]
            return node
        whole = dict(node)
        for part in ("type", "items", "values"):
            if part in whole:
                whole[part] = self.walk(whole[part], namespace)
        return whole

    def _field(self, field: Any, namespace: str) -> Any:
        if not isinstance(field, dict) or "type" not in field:
            return field
        return {**field, "type": self.walk(field["type"], namespace)}

    def _named(self, name: str, namespace: str) -> Any:
        for candidate in (name,) if "." in name or not namespace else (f"{namespace}.{name}", name):
            if candidate in self._defined:
                return candidate
            if candidate in self._definitions:
                definition = self._definitions[candidate]
                return self.walk({**definition, "name": candidate}, candidate.rpartition(".")[0])
        return name
