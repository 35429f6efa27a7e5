"""Schema ids that lead anywhere, and bytes that say anything: the record is unreadable, and nothing else happens."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import fastavro
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from headrace_contracts.codec import Codec, schema_text
from headrace_contracts.errors import Origin, RegistryUnavailable, SchemaNotCached, UnknownSchema, UnreadableValue
from headrace_contracts.events import AttemptRequested, SkillAction, SkillSubmitted
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import SKILLS_SUBMITTED
from headrace_contracts.writer_schemas import writer_schema
from hypothesis import given, settings
from hypothesis import strategies as st

ORIGIN = Origin("test.skills.submitted", 4, 17)
NAME = SkillSubmitted.FULL_NAME
EVENT = SkillSubmitted(
    submission_id="s1", tenant="acme", name="plan", action=SkillAction.REVOKE, submitted_at=1_700_000_000_123
)


def record(*fields: Any, name: str = NAME) -> dict[str, Any]:
    return {
        "type": "record", "name": name,
        "fields": [{"name": f"f{n}", "type": field} for n, field in enumerate(fields)],
    }  # fmt: skip


def nested(levels: int) -> Any:
    tree: Any = "int"
    for _ in range(levels):
        tree = {"type": "array", "items": tree}
    return tree


def chain(length: int) -> Any:
    """Records, each of which holds the one before it, defined side by side."""
    return record("int", *(record(f"n.R{n - 1}" if n else "int", name=f"n.R{n}") for n in range(length)))


TEXTS = {
    "not JSON": "syntax = 'proto3';",
    "nothing": "",
    "a number": "7",
    "a null": "null",
    "a list": "[]",
    "no name": json.dumps({"type": "record", "fields": []}),
    "a name that is no text": json.dumps({"type": "record", "name": 7, "fields": []}),
    "no fields": json.dumps({"type": "record", "name": NAME}),
    "fields that are no list": json.dumps({"type": "record", "name": NAME, "fields": {"a": 1}}),
    "a field without a type": json.dumps({"type": "record", "name": NAME, "fields": [{"name": "a"}]}),
    "an unknown type": json.dumps(record("com.example.Missing")),
    "a type that is a number": json.dumps(record(7)),
    "a type that is null": json.dumps(record(None)),
    "an array without items": json.dumps(record({"type": "array"})),
    "an enum without symbols": json.dumps(record({"type": "enum", "name": "E"})),
    "a fixed type without a size": json.dumps(record({"type": "fixed", "name": "F"})),
    "a fixed type of text size": json.dumps(record({"type": "fixed", "name": "F", "size": "many"})),
    "a vast fixed type": json.dumps(record({"type": "fixed", "name": "F", "size": 2**62})),
    "a name defined twice": json.dumps(record(record("int", name="x.A"), record("int", name="x.A"))),
    "a union in a union": json.dumps(record([["null", "int"], "string"])),
    "a union of equal types": json.dumps(record(["int", "int"])),
    "an absurd decimal": json.dumps(
        record({"type": "bytes", "logicalType": "decimal", "precision": 10**30, "scale": -5})
    ),
    "itself": json.dumps(record(NAME)),
    "itself in a union": json.dumps(record(["null", NAME])),
    "itself in an array": json.dumps(record({"type": "array", "items": NAME})),
    "itself by way of another": json.dumps(record(record({"type": "map", "values": NAME}, name="x.B"))),
    "nested deep": json.dumps(record(nested(150))),
    "nested deeper": json.dumps(record(nested(400))),
    "nested deeper than JSON is read": "[" * 100_000 + "]" * 100_000,
    "a long chain": json.dumps(chain(300)),
    "a longer chain": json.dumps(chain(3_000)),
    "an array of nulls": json.dumps(record({"type": "array", "items": "null"})),
    "an array of empty records": json.dumps(record({"type": "array", "items": record(name="x.E")})),
    "an array of records of nulls": json.dumps(record({"type": "array", "items": record("null", name="x.E")})),
    "an array of empty fixed types": json.dumps(
        record({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}})
    ),
    "the marks of a parsed schema": json.dumps({
        **record("x.Self"), "__fastavro_parsed": True,
        "__named_schemas": {"x.Self": record(["null", "x.Self"], name="x.Self")},
    }),
    "too long": json.dumps({**record("int"), "doc": "x" * 2_000_000}),
    "an unpaired surrogate": json.dumps({**record("int"), "doc": "\ud800"}),
    "an array of doubles": json.dumps(record({"type": "array", "items": "double"})),
    "an array of records of flags": json.dumps(
        record({"type": "array", "items": record("boolean", {"type": "float"}, name="x.E")})
    ),
    "an array of a fixed type": json.dumps(
        record({"type": "fixed", "name": "F", "size": 9}, {"type": "array", "items": "F"})
    ),
    "another record": SCHEMAS[AttemptRequested.FULL_NAME],
}  # fmt: skip
BYTES = (
    b"", b"\x00", b"\x02" * 4, b"\xff" * 9, b"\x02" * 200_000, b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 20,
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"x" * 9 + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f",
)  # fmt: skip


class Answers:
    """A registry of whose answers the test decides, over HTTP."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []

    def put(self, path: str, status: int, body: Any) -> None:
        self.answers[path] = (status, body if isinstance(body, bytes) else json.dumps(body).encode())

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        status, body = self.answers.get(request.path, (404, b'{"error_code": 40403}'))
        return web.Response(status=status, body=body)


@pytest.fixture
async def answers() -> Answers:
    return Answers()


@pytest.fixture
async def codec(answers: Answers) -> AsyncIterator[Codec]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answers.answer)
    async with TestServer(app) as server, SchemaRegistry(str(server.make_url("")).rstrip("/")) as registry:
        yield Codec(registry, "test.")


def value(schema_id: int, data: bytes = b"\x00\x00\x00\x00") -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + data


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
async def test_an_avro_text_of_any_kind_costs_one_record(codec: Codec, answers: Answers, text: str) -> None:
    answers.put("/schemas/ids/7", 200, {"schema": text})
    for data in BYTES:
        with pytest.raises(UnreadableValue):
            await codec.read(SkillSubmitted, value(7, data), ORIGIN)
        # The first fields may be readable as far as asked, or of another type, which is for the caller to see.
        with contextlib.suppress(UnreadableValue):
            codec.first_fields(SkillSubmitted, value(7, data), ORIGIN, ("tenant",))
    assert answers.asked == ["/schemas/ids/7"], "asked once"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"error_code": 40403}),
        (404, b"<html>"),
        (400, {"message": "bad id"}),
        (422, {"message": "bad id"}),
        (410, b""),
        (200, b""),
        (200, b"<html>"),
        (200, b"\xff\xfe"),
        (200, b"[" * 100_000),
        (200, []),
        (200, None),
        (200, {}),
        (200, {"schema": None}),
        (200, {"schema": {"type": "record"}}),
        (200, {"schema": 'syntax = "proto3"; message A {}', "schemaType": "PROTOBUF"}),
        (200, {"schema": '{"type": "object"}', "schemaType": "JSON"}),
        (200, {"schema": schema_text(SkillSubmitted), "schemaType": "PROTOBUF"}),
        (200, {"schema": schema_text(SkillSubmitted), "schemaType": ["AVRO"]}),
        (200, {"schema": schema_text(SkillSubmitted), "references": "x"}),
        (200, {"schema": schema_text(SkillSubmitted), "references": [7]}),
        (200, {"schema": schema_text(SkillSubmitted), "references": [{"subject": "s", "version": "1"}]}),
        (200, {"schema": schema_text(SkillSubmitted), "references": [{"subject": "gone", "version": 1}]}),
    ],
)
async def test_an_answer_of_any_kind_costs_one_record(codec: Codec, answers: Answers, status: int, body: Any) -> None:
    answers.put("/schemas/ids/7", status, body)
    for _ in range(2):
        with pytest.raises(UnknownSchema, match="schema 7: "):
            await codec.read(SkillSubmitted, value(7), ORIGIN)
    assert answers.asked.count("/schemas/ids/7") == 1, "asked once"


@pytest.mark.parametrize("status", [302, 401, 403, 408, 429, 500, 502, 503, 504])
async def test_trouble_of_the_registry_is_not_blamed_on_the_record(codec: Codec, answers: Answers, status: int) -> None:
    answers.put("/schemas/ids/7", status, b"<html>")
    with pytest.raises(RegistryUnavailable):
        await codec.read(SkillSubmitted, value(7), ORIGIN)
    answers.put("/schemas/ids/7", 200, {"schema": schema_text(SkillSubmitted)})
    await codec.learn(7)


@pytest.mark.parametrize("schema_id", [2**31, 2**32 - 1, 2**31 + 7])
async def test_an_id_that_no_registry_gives_is_not_looked_up(codec: Codec, answers: Answers, schema_id: int) -> None:
    with pytest.raises(UnknownSchema):
        await codec.read(SkillSubmitted, value(schema_id), ORIGIN)
    assert answers.asked == []


async def test_useless_ids_take_a_limited_amount_of_memory(
    codec: Codec, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_contracts.schema_lookups._MAX_REFUSED", 3)
    for schema_id in (1, 2, 3, 4, 5, 5, 4, 1):
        with pytest.raises(UnknownSchema):
            await codec.read(SkillSubmitted, value(schema_id), ORIGIN)
    assert answers.asked == [f"/schemas/ids/{number}" for number in (1, 2, 3, 4, 5, 1)]


def _split() -> tuple[str, str]:
    """The schema of SkillSubmitted, and that of its action in a subject of its own."""
    whole = json.loads(schema_text(SkillSubmitted))
    field = next(field for field in whole["fields"] if field["name"] == "action")
    action = field["type"]
    field["type"] = f"{action['namespace']}.{action['name']}"
    return json.dumps(whole), json.dumps(action)


async def test_a_schema_with_references_is_read_with_what_it_refers_to(codec: Codec, answers: Answers) -> None:
    whole, action = _split()
    answers.put("/schemas/ids/7", 200, {"schema": whole, "references": [{"name": "a", "subject": "x/y", "version": 3}]})
    answers.put("/subjects/x/y/versions/3", 200, {"schema": action, "references": [
        {"name": "b", "subject": "x/y", "version": 3},
    ]})  # fmt: skip
    await codec.learn(7)
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, json.loads(schema_text(SkillSubmitted)), EVENT.to_avro(named=True))
    assert codec.decode(SkillSubmitted, value(7, buffer.getvalue()), ORIGIN) == EVENT
    assert codec.first_fields(SkillSubmitted, value(7, buffer.getvalue()), ORIGIN, ("action",))["action"] == "revoke"


@pytest.mark.parametrize("kind", ["deep", "broad", "circular", "no type", "vast"])
async def test_references_that_lead_nowhere_cost_one_record(codec: Codec, answers: Answers, kind: str) -> None:
    def refer(*subjects: str) -> list[dict[str, Any]]:
        return [{"name": subject, "subject": subject, "version": 1} for subject in subjects]

    text, _ = _split()
    first = refer(*(f"s{number}" for number in range(100 if kind == "broad" else 1)))
    answers.put("/schemas/ids/7", 200, {"schema": text, "references": first})
    for number in range(100):
        definition: Any = record(f"x.R{number + 1}", name=f"x.R{number}")
        following = refer(f"s{number + 1}") if kind in ("deep", "vast") else []
        if kind == "circular":
            definition, following = record(f"x.R{(number + 1) % 3}", name=f"x.R{number}"), refer(f"s{(number + 1) % 3}")
            text = json.dumps(record("x.R0"))
            answers.put("/schemas/ids/7", 200, {"schema": text, "references": first})
        if kind == "no type":
            definition = ["null", "int"]
        answers.put(f"/subjects/s{number}/versions/1", 200, {"schema": json.dumps(definition), "references": following})
    with pytest.raises(UnknownSchema):
        await codec.read(SkillSubmitted, value(7), ORIGIN)
    assert len(answers.asked) < 70


async def test_a_reference_waits_for_the_registry(codec: Codec, answers: Answers) -> None:
    whole, action = _split()
    answers.put("/schemas/ids/7", 200, {"schema": whole, "references": [{"name": "a", "subject": "a", "version": 1}]})
    answers.put("/subjects/a/versions/1", 503, b"")
    with pytest.raises(RegistryUnavailable):
        await codec.learn(7)
    answers.put("/subjects/a/versions/1", 200, {"schema": action})
    await codec.learn(7)
    with pytest.raises(UnreadableValue, match=r"EOFError|IndexError"):
        codec.decode(SkillSubmitted, value(7, b""), ORIGIN)


@pytest.mark.parametrize("name", SCHEMAS)
def test_our_own_schemas_pass_the_check(name: str) -> None:
    assert writer_schema(SCHEMAS[name]).name == name


class OneSchema:
    """A registry with one schema under every id."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def register(self, subject: str, schema: str) -> int:
        return 1

    async def id_of(self, subject: str, schema: str) -> int:
        return 1

    async def schema(self, schema_id: int) -> str | None:
        return self.text


_NAMES = st.sampled_from(
    ["null", "int", "long", "string", "bytes", "double", "boolean", NAME, "x.A", "A", "", "record"]
)
_KEYS = st.sampled_from(["type", "name", "namespace", "fields", "items", "values", "symbols", "size", "default",
                         "logicalType", "precision", "__fastavro_parsed", "__named_schemas"])  # fmt: skip
_TREES = st.recursive(
    _NAMES | st.sampled_from(["array", "map", "enum", "fixed"]) | st.integers() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=25,
)


def _types() -> st.SearchStrategy[Any]:
    """Schemas, most of which parse."""
    return st.recursive(
        _NAMES | st.just({"type": "enum", "name": "x.E", "symbols": ["A", "B"]}),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.builds(lambda items: {"type": "array", "items": items}, inner),
            st.builds(lambda values: {"type": "map", "values": values}, inner),
            st.builds(lambda fields: record(*fields, name="x.A"), st.lists(inner, max_size=3)),
        ),
        max_leaves=10,
    )


@settings(deadline=None, max_examples=300)
@given(st.builds(lambda fields: record(*fields), st.lists(_types(), min_size=1, max_size=4)) | _TREES, st.binary())
async def test_any_schema_and_any_bytes_give_a_value_or_an_unreadable_one(tree: Any, data: bytes) -> None:
    codec = Codec(OneSchema(json.dumps(tree)), "test.")
    for payload in (data, b"\x02" * 3_000 + data, b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + data):
        try:
            await codec.read(SkillSubmitted, value(1, payload), ORIGIN)
        except UnreadableValue:
            continue


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 60))
async def test_any_bytes_of_a_known_schema_give_a_value_or_an_unreadable_one(data: bytes, cut: int) -> None:
    codec = Codec(OneSchema(schema_text(SkillSubmitted)), "test.")
    await codec.prepare([SKILLS_SUBMITTED])
    good = codec.encode(SKILLS_SUBMITTED, EVENT)
    for payload in (data, good[:5] + data, good[:cut] + data, good[:cut] + data + good[cut:]):
        try:
            codec.decode(SkillSubmitted, payload, ORIGIN)
        except (UnreadableValue, SchemaNotCached):
            continue
