"""Programs that were built with a released version read what this version writes: by the released schemas, and by the
classes that were generated from them."""

from __future__ import annotations

import importlib
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro.utils import generate_many
from headrace_contracts import events
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.tools import python_code
from headrace_contracts.tools.schemas import SchemaSet, load_released, repository

RELEASED = load_released(repository() / "schemas" / "released")
VERSIONS = [(name, number) for name, versions in sorted(RELEASED.items()) for number in sorted(versions)]
PACKAGE = "classes_of_release"

Types = dict[str, dict[str, Any]]


def _named_types(node: Any, found: Types) -> Any:
    """The schema with named types by their name alone; the types themselves are put into `found`."""
    if isinstance(node, list):
        return [_named_types(branch, found) for branch in node]
    if not isinstance(node, dict):
        return node
    if node["type"] in ("record", "enum"):
        full = f"{node['namespace']}.{node['name']}"
        fields = [{**field, "type": _named_types(field["type"], found)} for field in node.get("fields", ())]
        found[full] = {**node, "fields": fields} if fields else node
        return full
    inner = "items" if node["type"] == "array" else "values"
    return {**node, inner: _named_types(node[inner], found)} if inner in node else node


@pytest.fixture(params=VERSIONS, ids=[f"{name}-{number}" for name, number in VERSIONS])
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Types, Any]]:
    """Name of a record, the types of a released schema of it, and the class that was generated from that."""
    name, number = request.param
    schema = RELEASED[name][number]
    types: Types = {}
    _named_types(schema, types)
    folder = tmp_path / PACKAGE
    folder.mkdir()
    for file, source in python_code.modules(SchemaSet(types), {}).items():
        (folder / file).write_text(source.replace(events.__name__, PACKAGE), encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    try:
        package = importlib.import_module(PACKAGE)
        yield name, types, getattr(package, name.split(".")[-1])
    finally:
        sys.path.remove(str(tmp_path))
        for module in [each for each in sys.modules if each.split(".")[0] == PACKAGE]:
            del sys.modules[module]


def test_everything_that_is_written_now_is_read_by_the_classes_of_a_release(
    release: tuple[str, Types, Any],
) -> None:
    name, types, former = release
    random.seed(name)
    current = fastavro.parse_schema(json.loads(SCHEMAS[name]))
    reader = fastavro.parse_schema(SchemaSet(types).resolved(name))
    for value in generate_many(current, 50):
        written = io.BytesIO()
        fastavro.schemaless_writer(written, current, value)
        whole = fastavro.schemaless_reader(io.BytesIO(written.getvalue()), current, None)
        read = fastavro.schemaless_reader(io.BytesIO(written.getvalue()), current, reader)
        assert former.from_avro(read).to_avro() == _known(whole, name, types)


def _known(value: Any, schema: Any, types: Types) -> Any:
    """What a reader with this schema should have of a value; symbols that it does not know are its default."""
    if isinstance(schema, list):
        return None if value is None else _known(value, schema[1], types)
    if isinstance(schema, str):
        schema = types.get(schema, {"type": schema})
    match schema["type"]:
        case "record":
            return {
                name: _known(value[name], field["type"], types) if name in value else field["default"]
                for field in schema["fields"]
                for name in [field["name"]]
            }
        case "enum":
            return value if value in schema["symbols"] else schema["default"]
        case "array":
            return [_known(item, schema["items"], types) for item in value]
        case "map":
            return {key: _known(item, schema["values"], types) for key, item in value.items()}
        case _:
            return value
