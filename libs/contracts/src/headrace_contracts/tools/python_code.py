"""Generates typed, slotted Python classes from the schemas."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from headrace_contracts.tools.schemas import PYTHON_NAME, SchemaSet, references, without_docs

_HEADER = '"""{doc}\n\nGenerated from schemas/ by `make generate`; edit the schemas instead.\n"""\n'
_PYTHON_PRIMITIVES = {
    "boolean": "bool",
    "int": "int",
    "long": "int",
    "float": "float",
    "double": "float",
    "bytes": "bytes",
    "string": "str",
}


def modules(schemas: SchemaSet, released: Mapping[str, Mapping[int, dict[str, Any]]]) -> dict[str, str]:
    """Maps file names to sources of the package `headrace_contracts.events`."""
    domains: dict[str, list[str]] = {}
    for full_name in schemas.types:
        domains.setdefault(full_name.split(".")[1], []).append(full_name)
    files = {f"{domain}.py": _domain_module(domain, names, schemas) for domain, names in sorted(domains.items())}
    files["__init__.py"] = _package_module(domains)
    files["_schemas.py"] = _schema_module(schemas)
    files["_released.py"] = _released_module(schemas, released)
    return files


def _package_module(domains: Mapping[str, list[str]]) -> str:
    lines = [_HEADER.format(doc="All event classes.")]
    names: list[str] = []
    for domain, full_names in sorted(domains.items()):
        short = sorted(name.split(".")[2] for name in full_names)
        names += short
        lines.append(f"from headrace_contracts.events.{domain} import {', '.join(short)}")
    lines.append("\n__all__ = [")
    lines += [f'    "{name}",' for name in sorted(names)]
    lines.append("]\n")
    return "\n".join(lines)


def _schema_module(schemas: SchemaSet) -> str:
    lines = [_HEADER.format(doc="The schemas as registered, with every referenced type inlined."), ""]
    lines.append("SCHEMAS: dict[str, str] = {")
    for name in schemas.records():
        compact = json.dumps(schemas.resolved(name), separators=(",", ":"), ensure_ascii=False)
        lines.append(f"    {name!r}: {compact!r},")
    lines.append("}\n")
    return "\n".join(lines)


def _released_module(schemas: SchemaSet, released: Mapping[str, Mapping[int, dict[str, Any]]]) -> str:
    lines = [_HEADER.format(doc="Released versions of schemas that differ from the present one, by number."), ""]
    lines.append("RELEASED: dict[str, dict[int, str]] = {")
    for name, versions in sorted(released.items()):
        present = without_docs(schemas.resolved(name)) if name in schemas.types else None
        former = {number: each for number, each in sorted(versions.items()) if without_docs(each) != present}
        if former:
            lines.append(f"    {name!r}: {{")
            for number, schema in former.items():
                compact = json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
                lines.append(f"        {number}: {compact!r},")
            lines.append("    },")
    lines.append("}\n")
    return "\n".join(lines)


def _domain_module(domain: str, names: list[str], schemas: SchemaSet) -> str:
    ordered = _in_order_of_use(names, schemas)
    records = frozenset(schemas.records())
    body = [_class(schemas.types[name], records) for name in ordered]
    text = "\n\n".join(body)
    imports = ["from __future__ import annotations", ""]
    if "Mapping[" in text:
        imports.append("from collections.abc import Mapping")
    has_records = any(schemas.types[name]["type"] == "record" for name in names)
    if has_records:
        imports.append("from dataclasses import dataclass" + (", field" if "= field(" in text else ""))
    if any(schemas.types[name]["type"] == "enum" for name in names):
        imports.append("from enum import StrEnum")
    if has_records:
        imports.append("from typing import Any, ClassVar")
    foreign: dict[str, set[str]] = {}
    for name in names:
        for reference in references(schemas.types[name]):
            if reference.split(".")[1] != domain:
                foreign.setdefault(reference.split(".")[1], set()).add(reference.split(".")[2])
    imports.append("")
    imports += [
        f"from headrace_contracts.events.{other} import {', '.join(sorted(used))}"
        for other, used in sorted(foreign.items())
    ]
    if has_records:
        imports.append("from headrace_contracts.frozen import cheaply_made")
    return _HEADER.format(doc=f"Events of the domain {domain}.") + "\n" + "\n".join(imports) + "\n\n\n" + text


def _in_order_of_use(names: list[str], schemas: SchemaSet) -> list[str]:
    ordered: list[str] = []

    def visit(name: str) -> None:
        if name in ordered or name not in names:
            return
        for reference in references(schemas.types[name]):
            visit(reference)
        ordered.append(name)

    for name in sorted(names):
        visit(name)
    return ordered


def _class(schema: dict[str, Any], records: frozenset[str]) -> str:
    if schema["type"] == "enum":
        lines = [f"class {schema['name']}(StrEnum):", f'    """{schema["doc"]}"""', ""]
        renamed = schema.get(PYTHON_NAME, {})
        lines += [f'    {renamed.get(symbol, symbol.upper())} = "{symbol}"' for symbol in schema["symbols"]]
        return "\n".join(lines) + "\n"
    fields = schema["fields"]
    doc = [f'    """{schema["doc"]}', "", "    Attributes:"]
    for field in fields:
        unit = " Milliseconds since the epoch, UTC." if _is_timestamp(field["type"]) else ""
        doc += textwrap.wrap(
            f"{_name(field)}: {field['doc']}{unit}", 112, initial_indent=" " * 8, subsequent_indent=" " * 12
        )
    lines = ["@cheaply_made", "@dataclass(frozen=True, slots=True, kw_only=True)"]
    lines += [f"class {schema['name']}:", *doc, '    """', ""]
    lines.append(f'    FULL_NAME: ClassVar[str] = "{schema["namespace"]}.{schema["name"]}"')
    lines.append("")
    lines += [f"    {_name(field)}: {_type(field['type'])}{_default(field)}" for field in fields]
    lines += ["", "    def to_avro(self, named: bool = False) -> dict[str, Any]:", "        return {"]
    lines += [
        f'            "{field["name"]}": {_encode(field["type"], "self." + _name(field), records)},' for field in fields
    ]
    lines += ["        }", "", "    @classmethod", f"    def from_avro(cls, data: dict[str, Any]) -> {schema['name']}:"]
    lines += ["        return cls("]
    for field in fields:
        name = _name(field)
        value = f'data["{field["name"]}"]'
        lines.append(f"            {name}={_decode(field['type'], value, f'value_{name}', records)},")
    lines += ["        )"]
    return "\n".join(lines) + "\n"


def _name(field: dict[str, Any]) -> str:
    return str(field.get(PYTHON_NAME, field["name"]))


def _is_timestamp(node: Any) -> bool:
    if isinstance(node, list):
        return any(_is_timestamp(branch) for branch in node)
    return isinstance(node, dict) and node.get("logicalType") == "timestamp-millis"


def _short(name: str) -> str:
    return name.split(".")[-1]


def _type(node: Any) -> str:
    if isinstance(node, str):
        return _PYTHON_PRIMITIVES.get(node) or _short(node)
    if isinstance(node, list):
        return f"{_type(node[1])} | None"
    if node["type"] == "array":
        return f"tuple[{_type(node['items'])}, ...]"
    if node["type"] == "map":
        return f"Mapping[str, {_type(node['values'])}]"
    return _PYTHON_PRIMITIVES[node["type"]]


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return ""
    default, node = field["default"], field["type"]
    if isinstance(node, list) or default is None:
        return " = None"
    if isinstance(node, dict) and node["type"] == "array":
        return " = ()"
    if isinstance(node, dict) and node["type"] == "map":
        return " = field(default_factory=dict)"
    if isinstance(node, str) and node not in _PYTHON_PRIMITIVES:
        if isinstance(default, str):
            return f" = {_short(node)}.{default.upper()}"
        return f" = {_short(node)}()"
    return f" = {default!r}"


def _is_named(node: Any) -> bool:
    return isinstance(node, str) and node not in _PYTHON_PRIMITIVES


def _encode(node: Any, value: str, records: frozenset[str]) -> str:
    if isinstance(node, list):
        inner = _encode(node[1], value, records)
        # Naming the branch spares fastavro from validating the whole record in order to find it.
        if _is_named(node[1]) and node[1] in records:
            inner = f'("{node[1]}", {inner}) if named else {inner}'
        return value if inner == value else f"None if {value} is None else {inner}"
    if isinstance(node, dict) and node["type"] == "array":
        inner = _encode(node["items"], "item", records)
        return f"list({value})" if inner == "item" else f"[{inner} for item in {value}]"
    if isinstance(node, dict) and node["type"] == "map":
        inner = _encode(node["values"], "item", records)
        return f"dict({value})" if inner == "item" else f"{{key: {inner} for key, item in {value}.items()}}"
    if _is_named(node) and node in records:
        return f"{value}.to_avro(named)"
    return value


def _decode(node: Any, value: str, name: str, records: frozenset[str]) -> str:
    if isinstance(node, list):
        inner = _decode(node[1], name, name, records)
        if inner == name:
            return value
        return f"None if ({name} := {value}) is None else {inner}"
    if isinstance(node, dict) and node["type"] == "array":
        inner = _decode(node["items"], "item", "item", records)
        return f"tuple({value})" if inner == "item" else f"tuple([{inner} for item in {value}])"
    if isinstance(node, dict) and node["type"] == "map":
        inner = _decode(node["values"], "item", "item", records)
        return value if inner == "item" else f"{{key: {inner} for key, item in {value}.items()}}"
    if _is_named(node):
        return f"{_short(node)}.from_avro({value})" if node in records else f"{_short(node)}({value})"
    return value
