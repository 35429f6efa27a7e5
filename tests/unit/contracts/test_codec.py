"""The codec's errors, its wire format, and reading what other versions of a schema wrote."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from headrace_contracts.codec import Codec, schema_text, spec_of
from headrace_contracts.errors import (
    BadBytes,
    ContractError,
    NullValue,
    Origin,
    RegistryUnavailable,
    SchemaMissing,
    SchemaNotCached,
    UnencodableEvent,
    UnknownSchema,
    UnreadableValue,
)
from headrace_contracts.events import AccessKey, Preferences, SkillAction, SkillSubmitted
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import ACCESS_KEYS, PREFERENCES, SKILLS_SUBMITTED, TASKS_SUBMITTED, TOPICS

ORIGIN = Origin("test.skills.submitted", 4, 17)
EVENT = SkillSubmitted(
    submission_id="s1", tenant="acme", name="plan", action=SkillAction.REVOKE, submitted_at=1_700_000_000_123
)


class CountingRegistry(MemoryRegistry):
    """Counts what it is asked for by id."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[int] = []
        self.away = False

    async def schema(self, schema_id: int) -> str | None:
        if self.away:
            raise RegistryUnavailable("the registry is away")
        self.fetched.append(schema_id)
        return await super().schema(schema_id)


@pytest.fixture
def registry() -> CountingRegistry:
    return CountingRegistry()


@pytest.fixture
async def codec(registry: CountingRegistry) -> Codec:
    codec = Codec(registry, "test.")
    await codec.prepare([SKILLS_SUBMITTED, PREFERENCES], register=True)
    registry.fetched.clear()
    return codec


async def test_values_are_in_the_confluent_wire_format(codec: Codec, registry: CountingRegistry) -> None:
    value = codec.encode(SKILLS_SUBMITTED, EVENT)
    schema_id = await registry.id_of("test.skills.submitted-value", schema_text(SkillSubmitted))
    assert value[:5] == b"\x00" + schema_id.to_bytes(4, "big")
    schema = fastavro.parse_schema(json.loads(schema_text(SkillSubmitted)))
    plain: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
    assert plain["submission_id"] == "s1"
    assert plain["submitted_at"].isoformat() == "2023-11-14T22:13:20.123000+00:00"


async def test_what_was_encoded_here_is_read_back_whatever_the_registry_says(codec: Codec) -> None:
    value = codec.encode(SKILLS_SUBMITTED, EVENT)
    assert codec.read_back(SkillSubmitted, value) == EVENT
    stranger = Codec(CountingRegistry(), "test.")
    with pytest.raises(SchemaNotCached):
        stranger.decode(SkillSubmitted, value, ORIGIN)
    assert stranger.read_back(SkillSubmitted, value) == EVENT


async def test_decoding_asks_the_registry_once_per_schema(codec: Codec, registry: CountingRegistry) -> None:
    value = codec.encode(SKILLS_SUBMITTED, EVENT)
    reader = Codec(registry, "test.")
    with pytest.raises(SchemaNotCached) as missing:
        reader.decode(SkillSubmitted, value, ORIGIN)
    assert missing.value.schema_id == int.from_bytes(value[1:5], "big")
    for _ in range(3):
        assert await reader.read(SkillSubmitted, value, ORIGIN) == EVENT
    assert len(registry.fetched) == 1
    assert codec.decode(SkillSubmitted, value, ORIGIN) == EVENT
    assert len(registry.fetched) == 1


async def test_a_registry_that_is_away_is_no_fault_of_the_record(codec: Codec, registry: CountingRegistry) -> None:
    value = codec.encode(SKILLS_SUBMITTED, EVENT)
    reader = Codec(registry, "test.")
    registry.away = True
    with pytest.raises(RegistryUnavailable):
        await reader.read(SkillSubmitted, value, ORIGIN)
    registry.away = False
    assert await reader.read(SkillSubmitted, value, ORIGIN) == EVENT


async def test_an_unknown_schema_id_is_asked_for_once(codec: Codec, registry: CountingRegistry) -> None:
    value = b"\x00" + (4711).to_bytes(4, "big") + b"rest"
    for _ in range(2):
        with pytest.raises(UnknownSchema, match=r"test.skills.submitted\[4\]@17: schema 4711"):
            await codec.read(SkillSubmitted, value, ORIGIN)
    assert registry.fetched.count(4711) == 1


async def test_a_schema_of_another_event_is_unreadable(codec: Codec) -> None:
    value = codec.encode(SKILLS_SUBMITTED, EVENT)
    with pytest.raises(UnknownSchema, match=r"holds headrace.skills.SkillSubmitted, expected headrace.settings"):
        codec.decode(Preferences, value, ORIGIN)


async def test_a_schema_that_is_no_record_is_unreadable(codec: Codec, registry: CountingRegistry) -> None:
    schema_id = await registry.register("other-value", '"string"')
    with pytest.raises(UnknownSchema, match="holds no record"):
        await codec.read(SkillSubmitted, b"\x00" + schema_id.to_bytes(4, "big") + b"\x02a", ORIGIN)


async def test_a_null_is_said_to_be_null(codec: Codec) -> None:
    with pytest.raises(NullValue, match=r"test.skills.submitted\[4\]@17: the value is null"):
        codec.decode(SkillSubmitted, None, ORIGIN)


@pytest.mark.parametrize("value", [b"", b"\x00\x00", b'{"json": true}', b"\x01\x00\x00\x00\x01abc"])
async def test_other_formats_are_bad_bytes(codec: Codec, value: bytes) -> None:
    with pytest.raises(BadBytes, match=r"test.skills.submitted\[4\]@17: \d+ bytes that are not in the Confluent"):
        codec.decode(SkillSubmitted, value, ORIGIN)


@pytest.mark.parametrize("damage", [lambda value: value[:-1], lambda value: value + b"\x00", lambda value: value[:5]])
async def test_too_few_or_too_many_bytes_are_bad(codec: Codec, damage: Any) -> None:
    with pytest.raises(BadBytes, match=r"@17: schema \d+") as caught:
        codec.decode(SkillSubmitted, damage(codec.encode(SKILLS_SUBMITTED, EVENT)), ORIGIN)
    assert isinstance(caught.value, UnreadableValue)
    assert caught.value.origin == ORIGIN


async def test_an_event_that_breaks_its_schema_is_named(codec: Codec) -> None:
    wrong = SkillSubmitted(
        submission_id="s1", tenant="acme", name=7, action=SkillAction.REVOKE, submitted_at=1,  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(UnencodableEvent, match=r"headrace.skills.SkillSubmitted for skills.submitted"):
        codec.encode(SKILLS_SUBMITTED, wrong)


async def test_a_number_out_of_range_is_named(codec: Codec) -> None:
    wrong = SkillSubmitted(submission_id="s", tenant="t", name="n", action=SkillAction.REVOKE, submitted_at=2**63)
    with pytest.raises(UnencodableEvent, match=r"headrace.skills.SkillSubmitted for skills.submitted"):
        codec.encode(SKILLS_SUBMITTED, wrong)


async def test_a_schema_that_nobody_registered_is_missing(registry: CountingRegistry) -> None:
    with pytest.raises(SchemaMissing, match=r"test.tasks.submitted-value"):
        await Codec(registry, "test.").prepare([TASKS_SUBMITTED])


async def test_a_topic_that_was_not_prepared_cannot_be_written(codec: Codec) -> None:
    key = AccessKey(key_id="k", tenant="t", name="n", secret_hash="h", created_at=1)
    with pytest.raises(KeyError):
        codec.encode(ACCESS_KEYS, key)


async def _written_by(registry: MemoryRegistry, schema: dict[str, Any], content: dict[str, Any]) -> bytes:
    schema_id = await registry.register("test.skills.submitted-value", json.dumps(schema))
    buffer = io.BytesIO(b"\x00" + schema_id.to_bytes(4, "big"))
    buffer.seek(0, io.SEEK_END)
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), content)
    return buffer.getvalue()


async def test_a_newer_version_is_read_without_what_it_added(codec: Codec, registry: CountingRegistry) -> None:
    newer = json.loads(schema_text(SkillSubmitted))
    newer["fields"].insert(0, {"name": "added", "type": "string", "default": ""})
    action = next(field for field in newer["fields"] if field["name"] == "action")
    action["type"]["symbols"].append("praise")
    value = await _written_by(registry, newer, {**EVENT.to_avro(), "added": "x", "action": "praise"})
    event = await codec.read(SkillSubmitted, value, ORIGIN)
    assert event.submission_id == "s1"
    # The enum's default stands for what this version does not know.
    assert event.action is SkillAction(action["type"]["default"])


async def test_an_older_version_is_read_with_defaults(codec: Codec, registry: CountingRegistry) -> None:
    older = json.loads(schema_text(SkillSubmitted))
    older["fields"] = [field for field in older["fields"] if "default" not in field]
    names = {field["name"] for field in older["fields"]}
    content = {name: value for name, value in EVENT.to_avro().items() if name in names}
    value = await _written_by(registry, older, content)
    event = await codec.read(SkillSubmitted, value, ORIGIN)
    assert event == SkillSubmitted(submission_id="s1", tenant="acme", name="plan", submitted_at=EVENT.submitted_at)


def test_topics_are_found_by_their_name_with_prefix() -> None:
    assert spec_of("test.tasks.submitted", "test.") is TASKS_SUBMITTED
    assert spec_of("tasks.submitted.dlq", "") is TOPICS["tasks.submitted.dlq"]
    for foreign in ("other.tasks.submitted", "test.nothing"):
        with pytest.raises(KeyError):
            spec_of(foreign, "test.")


def test_errors_of_the_contracts_have_one_base() -> None:
    assert all(issubclass(each, ContractError) for each in (BadBytes, NullValue, UnknownSchema, SchemaNotCached))
