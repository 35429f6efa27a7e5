"""Registries that are emptied, restored, replaced, silent: nothing is written or read under a wrong id."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from headrace_contracts import schema_checks, schema_lookups
from headrace_contracts.codec import Codec, schema_text
from headrace_contracts.errors import (
    BadBytes,
    Origin,
    RegistryUnavailable,
    SchemaIdsLost,
    SchemaMissing,
    SchemaNotCached,
    UnknownSchema,
)
from headrace_contracts.events import AttemptRequested, Preferences, SkillAction, SkillSubmitted, TaskCancelled
from headrace_contracts.schema_lookups import NEGATIVE_SECONDS
from headrace_contracts.schema_texts import fingerprint_of
from headrace_contracts.topics import PREFERENCES, SKILLS_SUBMITTED, TASKS_CANCELLED
from headrace_contracts.writer_schemas import writer_schema
from headrace_testing.unruly_registry import UnrulyRegistry

ORIGIN = Origin("test.skills.submitted", 4, 17)
EVENT = SkillSubmitted(
    submission_id="s1", tenant="acme", name="plan", action=SkillAction.REVOKE, submitted_at=1_700_000_000_123
)
SUBJECT = "test.skills.submitted-value"
OTHERS = (AttemptRequested, TaskCancelled, Preferences)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> UnrulyRegistry:
    return UnrulyRegistry()


async def operator(registry: UnrulyRegistry) -> None:
    await Codec(registry, "test.").prepare([TASKS_CANCELLED, SKILLS_SUBMITTED, PREFERENCES], register=True)


@pytest.fixture
async def writer(registry: UnrulyRegistry, clock: Clock) -> Codec:
    await operator(registry)
    made = Codec(registry, "test.", clock)
    await made.prepare([SKILLS_SUBMITTED, PREFERENCES])
    return made


def id_in(value: bytes) -> int:
    return int.from_bytes(value[1:5], "big")


# Writing


async def test_nothing_is_written_with_an_id_that_stands_for_another_schema(registry: UnrulyRegistry) -> None:
    class Lying(UnrulyRegistry):
        async def id_of(self, subject: str, schema: str) -> int:
            return 7

    for text in (*(schema_text(other) for other in OTHERS), '"string"', "syntax = 'proto3';"):
        lying = Lying()
        lying.put(7, SUBJECT, text)
        codec = Codec(lying, "test.")
        with pytest.raises(SchemaIdsLost, match=rf"{SUBJECT}: the registry has .* under its id 7.*schemas repair"):
            await codec.prepare([SKILLS_SUBMITTED])
        with pytest.raises(KeyError):
            codec.encode(SKILLS_SUBMITTED, EVENT)


async def test_an_id_without_a_schema_is_not_written(registry: UnrulyRegistry) -> None:
    class Forgetful(UnrulyRegistry):
        async def schema(self, schema_id: int) -> str | None:
            return None

    with pytest.raises(SchemaIdsLost, match="the registry has no schema under its id 1"):
        await Codec(Forgetful(), "test.").prepare([SKILLS_SUBMITTED], register=True)


async def test_the_same_schema_in_other_words_is_the_same(registry: UnrulyRegistry) -> None:
    class Rewording(UnrulyRegistry):
        async def schema(self, schema_id: int) -> str | None:
            tree = json.loads(await super().schema(schema_id) or "")
            tree["name"] = f"{tree.pop('namespace')}.{tree['name']}"
            tree["namespace"] = "ignored.beside.a.full.name"
            del tree["doc"]
            return json.dumps(tree)

    codec = Codec(Rewording(), "test.")
    await codec.prepare([SKILLS_SUBMITTED], register=True)
    assert codec.encode(SKILLS_SUBMITTED, EVENT)


@pytest.mark.parametrize("loss", ["wiped", "forgotten", "reused", "shuffled"])
async def test_writing_stops_when_an_id_is_lost_and_goes_on_when_it_is_back(
    registry: UnrulyRegistry, writer: Codec, loss: str
) -> None:
    schema_id = id_in(writer.encode(SKILLS_SUBMITTED, EVENT))
    match loss:
        case "wiped":
            registry.wipe()
        case "forgotten":
            registry.forget(schema_id)
        case "reused":
            registry.wipe()
            registry.put(schema_id, "test.other-value", schema_text(AttemptRequested))
        case "shuffled":
            registry.shuffle(1)
    await writer.check()
    if loss == "shuffled":
        # It has the schema, and says under which id.
        assert id_in(writer.encode(SKILLS_SUBMITTED, EVENT)) != schema_id
        assert writer.trouble is None
        return
    with pytest.raises(SchemaIdsLost, match=rf"{SUBJECT}: .* id {schema_id}.*headrace schemas repair"):
        writer.encode(SKILLS_SUBMITTED, EVENT)
    assert SUBJECT in (writer.trouble or "")
    assert writer.subjects_lost == (1 if loss == "forgotten" else 2)
    registry.wipe()
    await operator(registry)
    await writer.check()
    assert id_in(writer.encode(SKILLS_SUBMITTED, EVENT)) == schema_id
    assert (writer.trouble, writer.subjects_lost) == (None, 0)


async def test_who_may_register_registers_again(registry: UnrulyRegistry, clock: Clock) -> None:
    codec = Codec(registry, "test.", clock)
    await codec.prepare([SKILLS_SUBMITTED], register=True)
    registry.wipe(next_id=50)
    await codec.check()
    assert id_in(codec.encode(SKILLS_SUBMITTED, EVENT)) == 50


async def test_an_outage_takes_no_confirmation_back(registry: UnrulyRegistry, writer: Codec) -> None:
    registry.away = True
    with pytest.raises(RegistryUnavailable):
        await writer.check()
    assert writer.encode(SKILLS_SUBMITTED, EVENT)
    assert writer.trouble is None


async def test_preparing_again_finds_out_as_well(registry: UnrulyRegistry, writer: Codec, clock: Clock) -> None:
    registry.wipe()
    with pytest.raises(SchemaMissing):
        await writer.prepare([SKILLS_SUBMITTED])
    registry.put(1, SUBJECT, schema_text(SkillSubmitted))
    await writer.prepare([SKILLS_SUBMITTED])
    assert id_in(writer.encode(SKILLS_SUBMITTED, EVENT)) == 1


# Reading


async def test_an_id_that_is_registered_late_is_read(registry: UnrulyRegistry, clock: Clock) -> None:
    codec = Codec(registry, "test.", clock)
    value = b"\x00\x00\x00\x00\x63" + (await written(SkillSubmitted))
    with pytest.raises(UnknownSchema, match=r"schema 99: the registry does not know it.*headrace schemas repair"):
        await codec.read(SkillSubmitted, value, ORIGIN)
    registry.put(99, SUBJECT, schema_text(SkillSubmitted))
    with pytest.raises(UnknownSchema):
        await codec.read(SkillSubmitted, value, ORIGIN)
    assert registry.asked == [99]
    clock.seconds += NEGATIVE_SECONDS
    assert await codec.read(SkillSubmitted, value, ORIGIN) == EVENT


async def written(_record: Any) -> bytes:
    registry = UnrulyRegistry()
    codec = Codec(registry, "test.")
    await codec.prepare([SKILLS_SUBMITTED], register=True)
    return codec.encode(SKILLS_SUBMITTED, EVENT)[5:]


@pytest.mark.parametrize("other", OTHERS)
async def test_an_id_given_to_another_type_names_both_types(
    registry: UnrulyRegistry, writer: Codec, clock: Clock, other: Any
) -> None:
    value = writer.encode(SKILLS_SUBMITTED, EVENT)
    registry.put(id_in(value), "test.other-value", schema_text(other))
    # Somebody who starts now, and somebody who remembers what the id stood for when the value was written.
    for reader in (Codec(registry, "test.", clock), Codec(registry, "test.", clock)):
        for _ in range(2):
            with pytest.raises(
                UnknownSchema, match=rf"holds {other.FULL_NAME}, expected {SkillSubmitted.FULL_NAME}: .*schemas repair"
            ):
                await reader.read(SkillSubmitted, value, ORIGIN)
            clock.seconds += NEGATIVE_SECONDS
    await writer.check()
    assert await writer.read(SkillSubmitted, value, ORIGIN) == EVENT


async def test_a_reader_that_learns_of_the_repair_reads_again(
    registry: UnrulyRegistry, writer: Codec, clock: Clock
) -> None:
    value = writer.encode(SKILLS_SUBMITTED, EVENT)
    registry.put(id_in(value), SUBJECT, schema_text(AttemptRequested))
    reader = Codec(registry, "test.", clock)
    with pytest.raises(UnknownSchema):
        await reader.read(SkillSubmitted, value, ORIGIN)
    registry.put(id_in(value), SUBJECT, schema_text(SkillSubmitted))
    clock.seconds += NEGATIVE_SECONDS
    assert await reader.read(SkillSubmitted, value, ORIGIN) == EVENT


async def test_an_id_given_to_another_version_is_read_with_that(registry: UnrulyRegistry, clock: Clock) -> None:
    older = json.loads(schema_text(SkillSubmitted))
    older["fields"].insert(0, {"name": "gone", "type": "string", "default": ""})
    registry.put(3, SUBJECT, json.dumps(older))
    reader = Codec(registry, "test.", clock)
    tail = await written(SkillSubmitted)
    assert await reader.read(SkillSubmitted, b"\x00\x00\x00\x00\x03\x02x" + tail, ORIGIN) == EVENT
    registry.put(3, SUBJECT, schema_text(SkillSubmitted))
    value = b"\x00\x00\x00\x00\x03" + tail
    # Not asked again at once, since bytes may be bad for any reason.
    with pytest.raises(BadBytes):
        reader.decode(SkillSubmitted, value, ORIGIN)
    clock.seconds += NEGATIVE_SECONDS
    assert await reader.read(SkillSubmitted, value, ORIGIN) == EVENT
    assert reader.first_fields(SkillSubmitted, value, ORIGIN, ("tenant",))["tenant"] == "acme"


async def test_a_check_renews_what_is_read(registry: UnrulyRegistry, clock: Clock) -> None:
    older = json.loads(schema_text(SkillSubmitted))
    older["fields"].insert(0, {"name": "gone", "type": "string", "default": ""})
    registry.put(3, SUBJECT, json.dumps(older))
    reader = Codec(registry, "test.", clock)
    await reader.learn(3)
    value = b"\x00\x00\x00\x00\x03" + await written(SkillSubmitted)
    reader.first_fields(SkillSubmitted, b"\x00\x00\x00\x00\x03\x02x" + value[5:], ORIGIN, ("tenant",))
    registry.put(3, SUBJECT, schema_text(SkillSubmitted))
    clock.seconds += 30
    await reader.check()
    assert reader.decode(SkillSubmitted, value, ORIGIN) == EVENT
    assert reader.first_fields(SkillSubmitted, value, ORIGIN, ("tenant",))["tenant"] == "acme"


async def test_what_the_registry_loses_is_still_read_here(
    registry: UnrulyRegistry, writer: Codec, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    value = writer.encode(SKILLS_SUBMITTED, EVENT)
    reader = Codec(registry, "test.", clock)
    assert await reader.read(SkillSubmitted, value, ORIGIN) == EVENT
    registry.wipe()
    for _ in range(3):
        await reader.check()
        clock.seconds += 60
        assert await reader.read(SkillSubmitted, value, ORIGIN) == EVENT
    assert len([each for each in caplog.messages if "headrace schemas repair" in each]) == 1


async def test_a_registry_without_our_own_schemas_says_nothing_about_a_record(
    registry: UnrulyRegistry, writer: Codec, clock: Clock
) -> None:
    foreign = b"\x00\x00\x00\x00\x63" + await written(SkillSubmitted)
    registry.wipe()
    clock.seconds += NEGATIVE_SECONDS
    for _ in range(3):
        with pytest.raises(SchemaIdsLost, match=SUBJECT):
            await writer.read(SkillSubmitted, foreign, ORIGIN)
    await operator(registry)
    clock.seconds += NEGATIVE_SECONDS
    with pytest.raises(UnknownSchema, match="schema 99: "):
        await writer.read(SkillSubmitted, foreign, ORIGIN)
    assert writer.trouble is None


# Silence and floods


async def test_a_silent_registry_answers_nobody_late(
    registry: UnrulyRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_lookups, "LOOKUP_SECONDS", 0.05)
    registry.silent = True
    codec = Codec(registry, "test.", clock)
    began = asyncio.get_running_loop().time()
    results = await asyncio.gather(*(codec.learn(number % 1_000) for number in range(3_000)), return_exceptions=True)
    # One lookup after another, four at once, would take 12.5 s; the rest is room for a busy machine.
    assert asyncio.get_running_loop().time() - began < 8.0
    assert all(
        isinstance(each, RegistryUnavailable) and ("has not answered" in str(each) or "asked about first" in str(each))
        for each in results
    )
    assert registry.most_waiting <= 4
    registry.silent = False
    registry.put(7, SUBJECT, schema_text(SkillSubmitted))
    assert await codec.read(SkillSubmitted, b"\x00\x00\x00\x00\x07" + await written(SkillSubmitted), ORIGIN) == EVENT


async def test_all_who_need_an_id_share_one_lookup(registry: UnrulyRegistry, clock: Clock) -> None:
    registry.put(7, SUBJECT, schema_text(SkillSubmitted))
    codec = Codec(registry, "test.", clock)
    mine, others = codec.fetch(7), [codec.fetch(7) for _ in range(50)]
    mine.cancel()
    codec.fetch(7)  # left alone
    await asyncio.gather(*others)
    assert registry.asked == [7]
    assert codec.decode(SkillSubmitted, b"\x00\x00\x00\x00\x07" + await written(SkillSubmitted), ORIGIN) == EVENT


def elsewhere(partition: int) -> Origin:
    return Origin(ORIGIN.topic, partition, 1)


async def test_a_flood_of_unknown_ids_costs_a_limited_number_of_questions_and_little_memory(
    registry: UnrulyRegistry, writer: Codec
) -> None:
    registry.asked.clear()
    registry.most_waiting = 0
    began = asyncio.get_running_loop().time()
    results = await asyncio.gather(
        *(
            writer.read(SkillSubmitted, b"\x00" + (1_000 + n % 5_000).to_bytes(4, "big"), elsewhere(n % 7))
            for n in range(10_000)
        ),
        return_exceptions=True,
    )
    took = asyncio.get_running_loop().time() - began
    assert {type(each) for each in results} == {UnknownSchema, RegistryUnavailable}
    assert registry.most_waiting <= 4
    assert len(writer._lookups._refused) <= 1_000
    assert 5 <= len(registry.asked) <= 101 + took * schema_lookups.LOOKUPS_PER_SECOND
    assert writer._lookups._turns.waiting == 0


@pytest.mark.parametrize("flooded", [1, 3, 7])
async def test_known_and_new_ids_are_read_in_the_midst_of_a_flood(
    registry: UnrulyRegistry, writer: Codec, flooded: int
) -> None:
    """Partitions full of unknown ids are asked about in turn with the others, and all of them get on."""
    refused = [0] * flooded

    async def flood(partition: int) -> None:
        for number in range(100_000):
            with contextlib.suppress(RegistryUnavailable):
                unknown = 10_000 + partition * 1_000_000 + number
                with pytest.raises(UnknownSchema):
                    await writer.read(SkillSubmitted, b"\x00" + unknown.to_bytes(4, "big"), elsewhere(partition))
                refused[partition] += 1

    floods = [asyncio.create_task(flood(partition)) for partition in range(flooded)]
    loop = asyncio.get_running_loop()
    await asyncio.sleep(1.5)
    value = writer.encode(SKILLS_SUBMITTED, EVENT)
    began = loop.time()
    for schema_id in range(7_000, 7_005):
        assert writer.decode(SkillSubmitted, value, ORIGIN) == EVENT
        registry.put(schema_id, SUBJECT, schema_text(SkillSubmitted))
        new = b"\x00" + schema_id.to_bytes(4, "big") + value[5:]
        assert await writer.read(SkillSubmitted, new, elsewhere(flooded)) == EVENT
    assert loop.time() - began < 2.5
    for each in floods:
        each.cancel()
    await asyncio.gather(*floods, return_exceptions=True)
    assert min(refused) > 60 / flooded


async def test_a_flood_of_registered_schemas_takes_a_limited_amount_of_memory(
    registry: UnrulyRegistry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_lookups, "_MAX_CHARACTERS", 10_000)
    codec = Codec(registry, "test.", clock)
    for number in range(100):
        text = json.dumps({"type": "record", "name": f"x.R{number}", "fields": [{"name": "a", "type": "int"}]})
        registry.put(number, "test.x-value", json.dumps({**json.loads(text), "doc": "x" * 1_000}))
        with pytest.raises(UnknownSchema, match=f"holds x.R{number}, expected {SkillSubmitted.FULL_NAME}$"):
            await codec.read(SkillSubmitted, b"\x00" + number.to_bytes(4, "big"), ORIGIN)
    assert 0 < len(codec._known) < 10


async def test_decoding_needs_no_registry_while_values_fit(
    registry: UnrulyRegistry, writer: Codec, clock: Clock
) -> None:
    value = writer.encode(SKILLS_SUBMITTED, EVENT)
    registry.silent = True
    clock.seconds += 3_600
    assert writer.decode(SkillSubmitted, value, ORIGIN) == EVENT
    # A value of another type is asked about once more. Without an answer, what was said before holds.
    with pytest.raises(SchemaNotCached):
        writer.decode(Preferences, value, ORIGIN)
    registry.silent, registry.away = False, True
    with pytest.raises(UnknownSchema):
        await writer.read(Preferences, value, ORIGIN)


# Names


@pytest.mark.parametrize(
    "words",
    [
        {"name": "headrace.skills.SkillSubmitted", "namespace": "com.example"},
        {"name": "headrace.skills.SkillSubmitted", "namespace": None},
        {"name": "SkillSubmitted", "namespace": "headrace.skills", "aliases": ["com.example.Other"]},
        {"name": "headrace.skills.SkillSubmitted", "aliases": ["SkillSubmitted"]},
    ],
)
async def test_full_names_are_compared_as_the_standard_says(
    registry: UnrulyRegistry, clock: Clock, words: dict[str, Any]
) -> None:
    tree = json.loads(schema_text(SkillSubmitted))
    del tree["namespace"]
    tree.update(words)
    assert writer_schema(json.dumps(tree)).fingerprint == fingerprint_of(json.loads(schema_text(SkillSubmitted)))
    registry.put(7, SUBJECT, json.dumps(tree))
    codec = Codec(registry, "test.", clock)
    assert await codec.read(SkillSubmitted, b"\x00\x00\x00\x00\x07" + await written(SkillSubmitted), ORIGIN) == EVENT


# For as long as a process runs


async def test_a_process_keeps_checking_and_heals(registry: UnrulyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_checks, "CHECK_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(schema_checks, "CHECK_AGAIN_SECONDS", 0.01)
    await operator(registry)
    codec = Codec(registry, "test.")
    await codec.prepare([SKILLS_SUBMITTED, PREFERENCES])
    told: list[str | None] = []

    def in_trouble() -> bool:
        return codec.trouble is not None

    def is_away() -> bool:
        return bool(told) and told[-1] is not None

    checking = asyncio.create_task(schema_checks.keep_checking(codec, told.append))
    async with asyncio.timeout(30):
        for _ in range(3):
            registry.wipe()
            while not in_trouble():  # noqa: ASYNC110 - has no event
                await asyncio.sleep(0.005)
            registry.away = True
            while not is_away():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            registry.away = False
            while is_away():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert in_trouble()
            await operator(registry)
            while in_trouble():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert codec.encode(SKILLS_SUBMITTED, EVENT)
    assert told == ["the registry is away", None] * 3
    checking.cancel()
