"""The client of the schema registry on a real one, and its in-memory twin beside it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import fastavro.schema
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from headrace_contracts.codec import Codec, schema_text
from headrace_contracts.errors import Origin, RegistryUnavailable, SchemaIncompatible, SchemaMissing, UnknownSchema
from headrace_contracts.events import SkillAction, SkillSubmitted, TaskSubmitted
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.tools.schemas import load_released
from headrace_contracts.topics import SKILLS_SUBMITTED, TASKS_SUBMITTED, TOPICS

SCHEMA = schema_text(SkillSubmitted)
RELEASED = load_released(Path(__file__).parents[2] / "schemas" / "released")


class Registry(Protocol):
    async def register(self, subject: str, schema: str) -> int: ...

    async def id_of(self, subject: str, schema: str) -> int: ...

    async def schema(self, schema_id: int) -> str | None: ...

    async def close(self) -> None: ...


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.stack)])
async def registry(request: pytest.FixtureRequest) -> AsyncIterator[Registry]:
    real = request.param == "real"
    opened: Registry = SchemaRegistry(request.getfixturevalue("registry_url")) if real else MemoryRegistry()
    yield opened
    await opened.close()


@pytest.fixture
async def real(registry_url: str) -> AsyncIterator[SchemaRegistry]:
    async with SchemaRegistry(registry_url) as opened:
        yield opened


async def test_registering_again_gives_the_same_id(registry: Registry, topic_prefix: str) -> None:
    subject = f"{topic_prefix}skills.submitted-value"
    first = await registry.register(subject, SCHEMA)
    assert await registry.register(subject, SCHEMA) == first
    assert await registry.id_of(subject, SCHEMA) == first


async def test_an_id_leads_back_to_its_schema(registry: Registry, topic_prefix: str) -> None:
    schema_id = await registry.register(f"{topic_prefix}skills.submitted-value", SCHEMA)
    text = await registry.schema(schema_id)
    assert text is not None
    # A registry may write the same schema in other words, such as without namespaces that repeat.
    assert _in_one_form(text) == _in_one_form(SCHEMA)


def _in_one_form(schema: str) -> Any:
    return fastavro.schema.expand_schema(json.loads(schema))


async def test_an_unknown_id_has_no_schema(registry: Registry) -> None:
    assert await registry.schema(2_000_000_000) is None


async def test_what_was_not_registered_is_missing(registry: Registry, topic_prefix: str) -> None:
    subject = f"{topic_prefix}skills.submitted-value"
    with pytest.raises(SchemaMissing, match=subject):
        await registry.id_of(subject, SCHEMA)
    await registry.register(subject, SCHEMA)
    with pytest.raises(SchemaMissing, match=subject):
        await registry.id_of(subject, schema_text(TaskSubmitted))
    with pytest.raises(SchemaMissing, match="other"):
        await registry.id_of(f"{topic_prefix}other-value", SCHEMA)


async def test_one_process_writes_and_another_reads(registry: Registry, topic_prefix: str) -> None:
    writer, reader = Codec(registry, topic_prefix), Codec(registry, topic_prefix)
    await writer.prepare([SKILLS_SUBMITTED], register=True)
    event = SkillSubmitted(submission_id="s", tenant="t", name="n", action=SkillAction.PUBLISH, submitted_at=7)
    value = writer.encode(SKILLS_SUBMITTED, event)
    assert await reader.read(SkillSubmitted, value, Origin("t", 0, 0)) == event


@pytest.mark.stack
async def test_every_schema_of_every_topic_can_be_registered(real: SchemaRegistry, topic_prefix: str) -> None:
    codec = Codec(real, topic_prefix)
    await codec.prepare(TOPICS.values(), register=True)
    await Codec(real, topic_prefix).prepare(TOPICS.values())
    subjects = {subject for subject in await real.subjects() if subject.startswith(topic_prefix)}
    assert subjects == {topic_prefix + spec.subject for spec in TOPICS.values()}


@pytest.mark.stack
async def test_the_registry_takes_the_present_schemas_after_all_released_ones(
    real: SchemaRegistry, topic_prefix: str
) -> None:
    for name, versions in RELEASED.items():
        (record,) = {spec.record for spec in TOPICS.values() if name == spec.record.FULL_NAME}
        subject = f"{topic_prefix}{name}-value"
        for _, schema in sorted(versions.items()):
            await real.register(subject, json.dumps(schema))
        assert await real.is_compatible(subject, schema_text(record)), name
        await real.register(subject, schema_text(record))


def _changed(**change: Any) -> str:
    schema = json.loads(schema_text(TaskSubmitted))
    schema["fields"] = [{**field, **change} if field["name"] == "tenant" else field for field in schema["fields"]]
    return json.dumps(schema)


@pytest.mark.stack
@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(_changed(type="long"), id="another type"),
        pytest.param(_changed(name="renamed"), id="a field without a default renamed"),
        pytest.param(_changed(type=["null", "string"], default=None), id="made nullable, forward only"),
    ],
)
async def test_what_would_break_others_is_refused(real: SchemaRegistry, topic_prefix: str, schema: str) -> None:
    subject = topic_prefix + TASKS_SUBMITTED.subject
    await real.register(subject, schema_text(TaskSubmitted))
    assert not await real.is_compatible(subject, schema)
    with pytest.raises(SchemaIncompatible, match=subject):
        await real.register(subject, schema)
    assert await real.id_of(subject, schema_text(TaskSubmitted))


@pytest.mark.stack
async def test_versions_before_the_last_count_as_well(real: SchemaRegistry, topic_prefix: str) -> None:
    subject = topic_prefix + TASKS_SUBMITTED.subject
    second, third = json.loads(schema_text(TaskSubmitted)), json.loads(schema_text(TaskSubmitted))
    second["fields"].append({"name": "more", "type": "string", "default": ""})
    third["fields"].append({"name": "more", "type": "int", "default": 0})
    await real.register(subject, json.dumps(second))
    await real.register(subject, schema_text(TaskSubmitted))
    with pytest.raises(SchemaIncompatible):
        await real.register(subject, json.dumps(third))


async def _answering(status: int, body: str) -> tuple[asyncio.Server, str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/apis/ccompat/v7"


@pytest.mark.parametrize(
    ("status", "body"), [(500, '{"message": "no database"}'), (503, "<html>"), (401, '{"message": "who are you"}')]
)
async def test_a_registry_in_trouble_is_unavailable(status: int, body: str) -> None:
    server, url = await _answering(status, body)
    async with server, SchemaRegistry(url) as registry:
        with pytest.raises(RegistryUnavailable, match=url):
            await registry.schema(1)
        with pytest.raises(RegistryUnavailable, match=url):
            await registry.register("s", SCHEMA)


@pytest.mark.parametrize("failures", [[500], [409], [409, 500], [503, 422]])
async def test_what_a_registry_refuses_now_and_then_is_registered(failures: list[int]) -> None:
    left = list(failures)

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"message": "again"}, status=left.pop(0)) if left else web.json_response({"id": 7})

    app = web.Application()
    app.router.add_post("/subjects/s/versions", answer)
    async with TestServer(app) as server, SchemaRegistry(str(server.make_url("")).rstrip("/")) as registry:
        assert await registry.register("s", SCHEMA) == 7


async def test_a_registry_that_nobody_runs_is_unavailable() -> None:
    server, url = await _answering(200, "{}")
    server.close()
    await server.wait_closed()
    async with SchemaRegistry(url) as registry:
        with pytest.raises(RegistryUnavailable, match=url):
            await registry.id_of("s", SCHEMA)


async def test_a_registry_that_does_not_answer_is_unavailable() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, SchemaRegistry(url, timeout_seconds=0.1) as registry:
        with pytest.raises(RegistryUnavailable, match="TimeoutError"):
            await registry.schema(1)


PROTOBUF = 'syntax = "proto3"; package headrace.skills; message SkillSubmitted { string submission_id = 1; }'
JSON_SCHEMA = json.dumps({
    "$schema": "http://json-schema.org/draft-07/schema#", "title": "SkillSubmitted", "type": "object",
    "properties": {"submission_id": {"type": "string"}},
})  # fmt: skip


async def _post(registry: SchemaRegistry, subject: str, body: dict[str, Any]) -> int:
    status, answer = await registry.call("POST", f"/subjects/{subject}/versions", body)
    assert status == 200, answer
    return int(answer["id"])


def _value(schema_id: int, data: bytes) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + data


@pytest.mark.stack
@pytest.mark.parametrize(
    ("kind", "text", "data"),
    [
        ("PROTOBUF", PROTOBUF, b"\x00\x0a\x02s1"),
        ("PROTOBUF", PROTOBUF.replace("SkillSubmitted", "Other"), b"\x02\x00\x0a\x02s1"),
        ("JSON", JSON_SCHEMA, b'{"submission_id": "s1"}'),
        ("JSON", JSON_SCHEMA.replace("SkillSubmitted", "Other"), b"[]"),
        ("AVRO", '"string"', b"\x04s1"),
        ("AVRO", '{"type": "enum", "name": "headrace.skills.SkillSubmitted", "symbols": ["A"]}', b"\x00"),
    ],
)
async def test_what_others_register_makes_one_value_unreadable(
    real: SchemaRegistry, topic_prefix: str, kind: str, text: str, data: bytes
) -> None:
    schema_id = await _post(real, f"{topic_prefix}theirs", {"schema": text, "schemaType": kind})
    codec = Codec(real, topic_prefix)
    for _ in range(2):
        with pytest.raises(UnknownSchema) as caught:
            await codec.read(SkillSubmitted, _value(schema_id, data), Origin("t", 0, 0))
    assert kind[:4] in str(caught.value).upper() or "holds" in str(caught.value)


@pytest.mark.stack
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("twice", [False, True])
async def test_avro_with_references_is_read(real: SchemaRegistry, topic_prefix: str, dotted: bool, twice: bool) -> None:
    whole = json.loads(SCHEMA)
    field = next(field for field in whole["fields"] if field["name"] == "action")
    action = field["type"]
    name = f"{action['namespace']}.{action['name']}"
    field["type"] = name
    if dotted:
        action = {**action, "name": name, "namespace": "ignored.beside.a.full.name"}
        whole = {**whole, "name": SkillSubmitted.FULL_NAME, "namespace": "ignored.as.well"}
    await _post(real, f"{topic_prefix}action", {"schema": json.dumps(action)})
    references = [{"name": name, "subject": f"{topic_prefix}action", "version": 1}]
    body = {"schema": json.dumps(whole), "references": references}
    schema_id = await _post(real, f"{topic_prefix}whole", body)
    if twice:
        assert await _post(real, f"{topic_prefix}whole", body) == schema_id
    writer = Codec(MemoryRegistry(), topic_prefix)
    await writer.prepare([SKILLS_SUBMITTED], register=True)
    event = SkillSubmitted(submission_id="s", tenant="t", name="n", action=SkillAction.REVOKE, submitted_at=7)
    data = writer.encode(SKILLS_SUBMITTED, event)[5:]
    assert await Codec(real, topic_prefix).read(SkillSubmitted, _value(schema_id, data), Origin("t", 0, 0)) == event


@pytest.mark.stack
async def test_ids_are_checked_again_on_the_real_registry(real: SchemaRegistry, topic_prefix: str) -> None:
    codec = Codec(real, topic_prefix)
    await codec.prepare([SKILLS_SUBMITTED, TASKS_SUBMITTED], register=True)
    await codec.check()
    assert codec.trouble is None
