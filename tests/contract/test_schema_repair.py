"""Lost schema ids, found in records and brought back: on the real registry, and on one with Confluent's import mode."""

from __future__ import annotations

import io
import json
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import fastavro
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from headrace.schema_ids import check, parse_ids, repair, to_restore
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, UnknownSchema
from headrace_contracts.events import DeadLetter, SkillSubmitted, UsageRecorded
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.released import SchemaVersion, versions_of
from headrace_contracts.restoring import LostSchema, restore
from headrace_contracts.schema_texts import without_logical_types
from headrace_contracts.topics import SKILLS_SUBMITTED, TASKS_JOURNAL, TOPICS, USAGE_RECORDED, dead_letters_of
from headrace_contracts.writer_schemas import writer_schema
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.ports import Log
from headrace_streams.records import NewTopic, ProducerRecord

LETTERS = dead_letters_of(SKILLS_SUBMITTED)
SPECS = (SKILLS_SUBMITTED, USAGE_RECORDED, LETTERS)
CONTENT: dict[str, dict[str, Any]] = {
    SkillSubmitted.FULL_NAME: {"submission_id": "s", "tenant": "acme", "name": "plan", "submitted_at": 7},
    DeadLetter.FULL_NAME: {
        "service": "x", "topic": "t", "partition": 0, "offset": 3, "error_type": "E", "failed_at": 1,
    },
    UsageRecorded.FULL_NAME: {
        "event_id": "e", "tenant": "acme", "task_id": "t", "attempt_id": "t/1", "execution_id": "x", "provider": "p",
        "model": "m", "outcome": "answered", "usage": {}, "recorded_at": 5,
    },
}  # fmt: skip


class ImportMode:
    """As much of Confluent's registry as a repair needs."""

    def __init__(self) -> None:
        self.by_id: dict[int, str] = {}
        self.subjects: dict[str, list[int]] = {}
        self.modes: dict[str, str] = {}
        self.mutable = True
        self.registered_meanwhile: dict[int, str] = {}

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/schemas/ids/{id}", self.schema)
        app.router.add_get("/subjects/{subject}/versions", self.versions)
        app.router.add_post("/subjects/{subject}/versions", self.register)
        app.router.add_post("/subjects/{subject}", self.look_up)
        app.router.add_put("/mode/{subject}", self.set_mode)
        app.router.add_delete("/mode/{subject}", self.delete_mode)
        return app

    async def schema(self, request: web.Request) -> web.Response:
        text = self.by_id.get(int(request.match_info["id"]))
        return _json(404, {"error_code": 40403}) if text is None else _json(200, {"schema": text})

    async def versions(self, request: web.Request) -> web.Response:
        held = self.subjects.get(request.match_info["subject"])
        return _json(404, {"error_code": 40401}) if not held else _json(200, list(range(1, len(held) + 1)))

    async def look_up(self, request: web.Request) -> web.Response:
        text = json.loads(await request.read())["schema"]
        for schema_id in self.subjects.get(request.match_info["subject"], ()):
            if self.by_id[schema_id] == text:
                return _json(200, {"id": schema_id})
        return _json(404, {"error_code": 40403})

    async def register(self, request: web.Request) -> web.Response:
        body, subject = json.loads(await request.read()), request.match_info["subject"]
        if "id" in body:
            if self.modes.get(subject) != "IMPORT":
                return _json(422, {"error_code": 42205, "message": "Subject is not in import mode"})
            if self.by_id.get(body["id"], body["schema"]) != body["schema"]:
                return _json(422, {"error_code": 42207, "message": "Overwrite new schema with id is not permitted."})
            assert body["version"] == len(self.subjects.get(subject, ())) + 1
        elif self.modes.get(subject) == "IMPORT":
            return _json(422, {"error_code": 42205, "message": "Subject is in import mode"})
        known = next((held for held, text in self.by_id.items() if text == body["schema"]), len(self.by_id) + 1)
        schema_id = body.get("id", known)
        self.by_id[schema_id] = body["schema"]
        self.subjects.setdefault(subject, []).append(schema_id)
        return _json(200, {"id": schema_id})

    async def set_mode(self, request: web.Request) -> web.Response:
        if not self.mutable:
            return _json(422, {"error_code": 42205, "message": "Mode changes are not allowed"})
        if self.subjects.get(request.match_info["subject"]) and request.query.get("force") != "true":
            return _json(422, {"error_code": 42205, "message": "Cannot import since found existing subjects"})
        self.modes[request.match_info["subject"]] = json.loads(await request.read())["mode"]
        self.by_id |= self.registered_meanwhile
        return _json(200, {"mode": "IMPORT"})

    async def delete_mode(self, request: web.Request) -> web.Response:
        self.modes.pop(request.match_info["subject"], None)
        return _json(200, {"mode": "READWRITE"})


def _json(status: int, document: Any) -> web.Response:
    return web.Response(status=status, body=json.dumps(document).encode())


@pytest.fixture
def confluent() -> ImportMode:
    return ImportMode()


@pytest.fixture(params=["confluent", pytest.param("apicurio", marks=pytest.mark.stack)])
async def registry(request: pytest.FixtureRequest, confluent: ImportMode) -> AsyncIterator[SchemaRegistry]:
    if request.param == "apicurio":
        async with SchemaRegistry(request.getfixturevalue("registry_url")) as opened:
            yield opened
        return
    async with TestServer(confluent.app()) as server, SchemaRegistry(str(server.make_url("")).rstrip("/")) as opened:
        yield opened


@pytest.fixture
async def log(topic_prefix: str) -> Log:
    made = MemoryLog(MemoryCluster())
    await made.admin().create_topics([NewTopic(topic_prefix + spec.name, 3, 1, ()) for spec in SPECS])
    return made


def free_ids(count: int) -> list[int]:
    """Ids that no test of this registry has had."""
    first = random.randrange(1_000_000, 1_000_000_000)
    return list(range(first, first + count))


def encoded(version: SchemaVersion, schema_id: int) -> bytes:
    buffer = io.BytesIO(b"\x00" + schema_id.to_bytes(4, "big"))
    buffer.seek(0, io.SEEK_END)
    schema = fastavro.parse_schema(without_logical_types(json.loads(version.text)))
    fastavro.schemaless_writer(buffer, schema, CONTENT[version.name])
    return buffer.getvalue()


async def write(log: Log, topic: str, values: Sequence[bytes | None]) -> None:
    producer = log.producer()
    for number, value in enumerate(values):
        await producer.send(ProducerRecord(topic, value, b"k", number % 3))
    await producer.close()


async def test_ids_in_records_are_brought_back(registry: SchemaRegistry, log: Log, topic_prefix: str) -> None:
    present, former = versions_of(UsageRecorded.FULL_NAME)
    skill, letter = versions_of(SkillSubmitted.FULL_NAME)[0], versions_of(DeadLetter.FULL_NAME)[0]
    used = free_ids(4)
    await write(log, topic_prefix + USAGE_RECORDED.name, [encoded(former, used[0]), encoded(present, used[1])] * 4)
    await write(log, topic_prefix + SKILLS_SUBMITTED.name, [encoded(skill, used[2]), None, b"garbage", b"\x00\x01"])
    await write(log, topic_prefix + LETTERS.name, [encoded(letter, used[3])])
    codec = Codec(registry, topic_prefix)
    origin = Origin("t", 0, 0)
    with pytest.raises(UnknownSchema):
        await codec.read(UsageRecorded, encoded(former, used[0]), origin)

    found = await check(log, registry, topic_prefix, records=100, topics=SPECS)
    assert {(use.schema_id, use.status, use.version) for use in found if use.schema_id in used} == {
        (used[0], "lost", former), (used[1], "lost", present), (used[2], "lost", skill), (used[3], "lost", letter),
    }  # fmt: skip
    assert len([use for use in found if use.status == "missing"]) == 3
    done = await repair(registry, found, topic_prefix)
    assert not done.refused
    assert sorted(lost.schema_id for lost in done.restored) == used

    again = await check(log, registry, topic_prefix, records=100, topics=SPECS)
    assert all(use.matches for use in again), again
    codec = Codec(registry, topic_prefix)
    await codec.prepare(SPECS)
    for version, schema_id, record in (
        (former, used[0], UsageRecorded),
        (present, used[1], UsageRecorded),
        (skill, used[2], SkillSubmitted),
        (letter, used[3], DeadLetter),
    ):
        assert isinstance(await codec.read(record, encoded(version, schema_id), origin), record)


async def test_a_schema_can_have_its_former_id_beside_a_new_one(registry: SchemaRegistry, topic_prefix: str) -> None:
    version = versions_of(SkillSubmitted.FULL_NAME)[0]
    subject = topic_prefix + SKILLS_SUBMITTED.subject
    new = await registry.register(subject, version.text)
    (former,) = free_ids(1)
    assert await restore(registry, [LostSchema(former, subject, version.text, version.fingerprint)]) == []
    for schema_id in (former, new):
        assert writer_schema(await registry.schema(schema_id) or "").fingerprint == version.fingerprint
    assert await registry.id_of(subject, version.text) in (former, new)
    assert await registry.register(subject, version.text) in (former, new)


async def test_an_id_that_was_given_away_is_named_and_the_others_come_back(
    registry: SchemaRegistry, log: Log, topic_prefix: str
) -> None:
    skill, letter = versions_of(SkillSubmitted.FULL_NAME)[0], versions_of(DeadLetter.FULL_NAME)[0]
    other = json.dumps({"type": "record", "name": f"{topic_prefix}Other", "fields": [{"name": "a", "type": "int"}]})
    taken = await registry.register(f"{topic_prefix}other-value", other)
    (lost,) = free_ids(1)
    await write(log, topic_prefix + SKILLS_SUBMITTED.name, [encoded(skill, taken)] * 3)
    await write(log, topic_prefix + LETTERS.name, [encoded(letter, lost)] * 3)
    found = await check(log, registry, topic_prefix, records=100, topics=[SKILLS_SUBMITTED, LETTERS])
    assert {(use.schema_id, use.status) for use in found if use.records} == {(taken, "reused"), (lost, "lost")}
    done = await repair(registry, found, topic_prefix)
    assert [each.schema_id for each in done.restored] == [lost]
    (refused,) = done.refused
    assert (refused.lost.schema_id, refused.lost.subject) == (taken, topic_prefix + SKILLS_SUBMITTED.subject)
    assert f"given this id to {topic_prefix}Other" in refused.reason


@pytest.mark.parametrize("taken", [[0], [1], [0, 2], [0, 1, 2]])
async def test_ids_that_are_given_away_during_the_repair_are_named(confluent: ImportMode, taken: list[int]) -> None:
    other = json.dumps({"type": "record", "name": "Other", "fields": [{"name": "a", "type": "int"}]})
    versions = [versions_of(name)[0] for name in (SkillSubmitted.FULL_NAME, DeadLetter.FULL_NAME)]
    versions.append(versions_of(UsageRecorded.FULL_NAME)[1])
    ids = free_ids(3)
    confluent.registered_meanwhile = {ids[number]: other for number in taken}
    lost = [
        LostSchema(schema_id, f"s{schema_id}-value", version.text, version.fingerprint)
        for schema_id, version in zip(ids, versions, strict=True)
    ]
    async with TestServer(confluent.app()) as server, SchemaRegistry(str(server.make_url("")).rstrip("/")) as registry:
        left = await restore(registry, lost)
    assert [(each.lost.schema_id, "given this id to Other" in each.reason) for each in left] == [
        (ids[number], True) for number in taken
    ]


async def test_what_others_wrote_is_left_alone(registry: SchemaRegistry, log: Log, topic_prefix: str) -> None:
    unknown, theirs = free_ids(2)
    await write(log, topic_prefix + SKILLS_SUBMITTED.name, [b"\x00" + unknown.to_bytes(4, "big") + b"\xff" * 30])
    await write(log, topic_prefix + USAGE_RECORDED.name, [b"\x00" + theirs.to_bytes(4, "big")])
    found = await check(log, registry, topic_prefix, records=100, topics=SPECS)
    assert {(use.schema_id, use.status) for use in found if use.records} == {(unknown, "foreign"), (theirs, "foreign")}
    assert to_restore(found, topic_prefix) == []


async def test_ids_written_down_in_good_times_need_no_records(registry: SchemaRegistry, topic_prefix: str) -> None:
    version = versions_of(SkillSubmitted.FULL_NAME)[0]
    (lost,) = free_ids(1)
    kept = json.dumps([
        {"topic": SKILLS_SUBMITTED.name, "schema_id": lost, "fingerprint": version.fingerprint},
        {"topic": TASKS_JOURNAL.name, "schema_id": None, "fingerprint": None},
    ])  # fmt: skip
    done = await repair(registry, parse_ids(kept), topic_prefix)
    assert [each.schema_id for each in done.restored] == [lost]
    assert writer_schema(await registry.schema(lost) or "").fingerprint == version.fingerprint


@pytest.mark.parametrize("document", ["", "7", "{}", "[7]", "null", "[]", '[{"topic": "tasks"}]', '[{"topic": []}]'])
def test_another_document_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_ids(document)


async def test_a_registry_that_allows_no_import_says_what_to_allow(confluent: ImportMode) -> None:
    confluent.mutable = False
    version = versions_of(SkillSubmitted.FULL_NAME)[0]
    async with TestServer(confluent.app()) as server, SchemaRegistry(str(server.make_url("")).rstrip("/")) as registry:
        (left,) = await restore(registry, [LostSchema(5, "s-value", version.text, version.fingerprint)])
    assert "mode.mutability=true" in left.reason


def test_there_are_versions_of_every_topic() -> None:
    for spec in TOPICS.values():
        versions = versions_of(spec.record.FULL_NAME)
        assert versions[0].version == "current"
        assert len({each.fingerprint for each in versions}) == len(versions)
