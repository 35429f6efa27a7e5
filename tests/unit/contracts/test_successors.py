"""A schema of another release is read if all versions and it read each other; what only shares a name is not."""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable
from typing import Any

import avro.compatibility
import avro.errors
import avro.schema
import fastavro
import pytest
from headrace_contracts import successors
from headrace_contracts.codec import Codec, schema_text
from headrace_contracts.errors import Origin, UnknownSchema, UnusableSchema
from headrace_contracts.events import SkillAction, SkillSubmitted
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.released import versions_of
from headrace_contracts.schema_texts import Types, fingerprint_of, without_logical_types
from headrace_contracts.topics import TOPICS
from headrace_contracts.writer_schemas import own_schema, writer_schema
from headrace_testing.schema_changes import changed, records

ORIGIN = Origin("test.skills.submitted", 4, 17)
NAMES = sorted({spec.record.FULL_NAME for spec in TOPICS.values()})
EVENT = SkillSubmitted(
    submission_id="s1", tenant="acme", name="plan", action=SkillAction.REVOKE, submitted_at=1_700_000_000_123
)
Change = Callable[[dict[str, Any]], None]


def with_change(name: str, change: Change) -> str:
    tree = json.loads(SCHEMAS[name])
    change(tree)
    return json.dumps(tree)


def add(kind: Any, **more: Any) -> Change:
    return lambda tree: tree["fields"].append({"name": "extra", "type": kind, **more})


def drop_all_with_defaults(tree: dict[str, Any]) -> None:
    """As far as no other field refers to a type that they define."""
    tree["fields"] = [each for each in tree["fields"] if "default" not in each or '"name"' in json.dumps(each["type"])]


def add_symbols(tree: dict[str, Any]) -> None:
    text = json.dumps(tree)
    for symbols in {json.dumps(node["symbols"]) for node in _enums(tree)}:
        text = text.replace(symbols, symbols[:-1] + ', "NEW_SYMBOL"]')
    tree.clear()
    tree.update(json.loads(text))


def _enums(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for each in node for found in _enums(each)]
    if not isinstance(node, dict):
        return []
    here = [node] if node.get("type") == "enum" else []
    return here + [found for each in node.values() for found in _enums(each)]


def strip(tree: dict[str, Any]) -> None:
    tree.pop("doc", None)
    tree["name"] = f"{tree.pop('namespace')}.{tree['name']}"
    for record in records(tree):
        for field in record["fields"]:
            field.pop("doc", None)


INNER = {"type": "record", "name": "new.Inner", "fields": [{"name": "a", "type": "int"}]}
SUCCESSORS: dict[str, Change] = {
    "the same": lambda tree: None,
    "without documentation": strip,
    "a nullable field": add(["null", "string"], default=None),
    "a list of records": add({"type": "array", "items": INNER}, default=[]),
    "a list of flags": add({"type": "array", "items": "boolean"}, default=[]),
    "a map of lists": add({"type": "map", "values": {"type": "array", "items": "bytes"}}, default={}),
    "no field with a default": drop_all_with_defaults,
    "another order": lambda tree: tree["fields"].sort(key=lambda field: '"name"' not in json.dumps(field["type"])),
    "more symbols": add_symbols,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", SUCCESSORS)
def test_what_a_newer_release_may_write_is_read(name: str, change: str) -> None:
    assert writer_schema(with_change(name, SUCCESSORS[change])).name == name


@pytest.mark.parametrize("name", NAMES)
def test_released_versions_are_read(name: str) -> None:
    for version in versions_of(name):
        found = writer_schema(version.text)
        assert (found.name, found.fingerprint, found.released) == (name, version.fingerprint, True)
    assert writer_schema(SCHEMAS[name]) is own_schema(name), "read without schema resolution"


def keep_first(tree: dict[str, Any]) -> None:
    tree["fields"] = tree["fields"][:1]


STRANGERS: dict[str, Change] = {
    "one field only": keep_first,
    "other fields": lambda tree: tree.update(fields=[{"name": "f0", "type": "int"}]),
    "another type": lambda tree: tree["fields"][0].update(type="double"),
    "a nullable field": lambda tree: tree["fields"][0].update(type=["null", "string"]),
    "a field without default": add("string"),
    "a nested field without default": add({"type": "array", "items": INNER}),
    "another case": lambda tree: tree["fields"][0].update(name=tree["fields"][0]["name"].upper()),
    "a list of nulls": add({"type": "array", "items": "null"}, default=[]),
    "a null in disguise": add({"type": "array", "items": {"type": {"type": "null"}}}, default=[]),
    "a map of nulls": add({"type": "map", "values": "null"}, default={}),
    "a list of empty records": add({"type": "array", "items": {**INNER, "fields": []}}, default=[]),
    "a list of nothing": add({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, default=[]),
    "a record in itself": add(
        ["null", {**INNER, "fields": [{"name": "a", "type": ["null", "new.Inner"]}]}], default=None
    ),
    "itself": lambda tree: add(["null", f"{tree['namespace']}.{tree['name']}"], default=None)(tree),
}  # fmt: skip


REASONS = r"FULL_TRANSITIVE|takes no bytes|no fields|contains itself|has 0 bytes|not an Avro schema"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", STRANGERS)
def test_what_only_shares_the_name_is_not_read(name: str, change: str) -> None:
    with pytest.raises(UnusableSchema, match=REASONS):
        writer_schema(with_change(name, STRANGERS[change]))


def deep(levels: int) -> Any:
    tree: Any = "int"
    for _ in range(levels):
        tree = {"type": "array", "items": tree}
    return tree


def doubling(levels: int) -> Any:
    """Records that hold the one before them twice: two to the power of so many values in one value."""
    tree: Any = {"type": "record", "name": "d.R0", "fields": [{"name": "a", "type": "boolean"}]}
    for number in range(levels):
        fields = [{"name": "a", "type": tree}, {"name": "b", "type": f"d.R{number}"}]
        tree = {"type": "record", "name": f"d.R{number + 1}", "fields": fields}
    return tree


EXCESSES: dict[str, Change] = {
    "many fields": lambda tree: tree["fields"].extend(
        {"name": f"f{number}", "type": ["null", "int"], "default": None} for number in range(1_001)
    ),
    "many records": lambda tree: tree["fields"].extend(
        {"name": f"f{n}", "type": ["null", {**INNER, "name": f"R{n}"}], "default": None} for n in range(201)
    ),
    "deep": add(deep(33), default=[]),
    "deeper than Python": add(deep(150), default=[]),
    "many symbols": add({"type": "enum", "name": "E", "symbols": [f"S{n}" for n in range(1_001)], "default": "S0"}),
    "many branches": add(["null", *({**INNER, "name": f"R{n}"} for n in range(32))], default=None),
    "a long fixed": add(["null", {"type": "fixed", "name": "F", "size": 2**20}], default=None),
    "a large default": add("string", default="x" * 200_000),
    "long documentation": lambda tree: tree.update(doc="x" * 200_000),
    "a mebibyte": lambda tree: tree.update(doc="x" * 2**20),
    "doubled deep": add({"type": "array", "items": doubling(60)}, default=[]),
}


@pytest.mark.parametrize(
    "name", [SkillSubmitted.FULL_NAME, "headrace.tasks.JournalEntry", "headrace.usage.UsageRecorded"]
)
@pytest.mark.parametrize("change", EXCESSES)
def test_what_is_too_large_is_refused_at_once(name: str, change: str) -> None:
    text = with_change(name, EXCESSES[change])
    began = time.process_time()
    with pytest.raises(UnusableSchema):
        writer_schema(text)
    assert time.process_time() - began < 5, "a hang, not a measurement"


def test_a_schema_whose_values_double_is_examined_at_once() -> None:
    """Within the limits of depth it is a successor, and its items say no more than the bytes that they take."""
    found = writer_schema(
        with_change(SkillSubmitted.FULL_NAME, add({"type": "array", "items": doubling(28)}, default=[]))
    )
    assert found.overruns
    assert found.limits.unscanned > 10_000


def as_avro(tree: Any) -> avro.schema.Schema:
    return avro.schema.parse(json.dumps(tree))


def test_avro_itself_comes_to_the_same_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Avro's own package decides for hundreds of changed schemas whether they and all versions read each other."""
    monkeypatch.setattr(successors, "check_bounds", lambda types: None)
    checker: Any = avro.compatibility.ReaderWriterCompatibilityChecker
    compatible = avro.compatibility.SchemaCompatibilityType.compatible
    seen = {True: 0, False: 0}
    for seed in range(600):
        rng = random.Random(seed)
        name = rng.choice(NAMES)
        tree = changed(SCHEMAS[name], rng, rng.randint(1, 4))
        try:
            other = as_avro(tree)
            fingerprint_of(fastavro.parse_schema(without_logical_types(tree)))
        except (avro.errors.AvroException, fastavro.schema.SchemaParseException, KeyError):
            continue  # not every change leaves a schema
        versions = [as_avro(json.loads(version.text)) for version in versions_of(name)]
        expected = all(
            checker().get_compatibility(*pair).compatibility is compatible
            for version in versions
            for pair in ((version, other), (other, version))
        )
        try:
            writer_schema(json.dumps(tree))
            found, why = True, ""
        except UnusableSchema as error:
            found, why = False, str(error)
            if "takes no bytes" in why:
                continue
        assert found == expected, f"seed {seed}, {name}: {why}"
        seen[expected] += 1
    assert min(seen.values()) > 100, seen


@pytest.mark.parametrize("change", SUCCESSORS)
async def test_values_of_a_newer_release_are_read(change: str) -> None:
    registry = MemoryRegistry()
    text = with_change(SkillSubmitted.FULL_NAME, SUCCESSORS[change])
    schema_id = await registry.register("test.skills.submitted-value", text)
    codec = Codec(registry, "test.")
    data = EVENT.to_avro(named=True)
    written = fastavro.parse_schema(without_logical_types(json.loads(text)))
    if change.startswith("a "):
        data["extra"] = {"array": [{"a": 1}] * 3, "map": {"k": [b"v"] * 3}}.get(_kind(text), "more")
        if change == "a list of flags":
            data["extra"] = [True] * 9
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, written, data)
    value = b"\x00" + schema_id.to_bytes(4, "big") + buffer.getvalue()
    if change == "no field with a default":
        assert (await codec.read(SkillSubmitted, value, ORIGIN)).tenant == "acme"
    else:
        assert await codec.read(SkillSubmitted, value, ORIGIN) == EVENT
    assert codec.first_fields(SkillSubmitted, value, ORIGIN, ("tenant",))["tenant"] == "acme"


def _kind(text: str) -> str:
    kind = json.loads(text)["fields"][-1]["type"]
    return str(kind["type"]) if isinstance(kind, dict) else ""


async def test_a_stranger_is_examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = MemoryRegistry()
    schema_id = await registry.register("s", with_change(SkillSubmitted.FULL_NAME, keep_first))
    examined: list[Any] = []

    def check(types: Types, versions: Any) -> None:
        examined.append(types)
        successors.check_successor(types, versions)

    monkeypatch.setattr("headrace_contracts.writer_schemas.check_successor", check)
    monkeypatch.setattr("headrace_contracts.writer_schemas._remembered", {})
    for _ in range(3):
        codec = Codec(registry, "test.")
        for _ in range(3):
            with pytest.raises(UnknownSchema, match="FULL_TRANSITIVE"):
                await codec.read(SkillSubmitted, b"\x00" + schema_id.to_bytes(4, "big") + b"\x00", ORIGIN)
    assert len(examined) == 1


def test_text_of_the_present_release_is_its_own() -> None:
    assert writer_schema(schema_text(SkillSubmitted)).name == SkillSubmitted.FULL_NAME
