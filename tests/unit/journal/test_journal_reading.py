"""Reading a long journal: what is decoded, what is kept, who gets a turn meanwhile; journals of the first version."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.errors import BadBytes, NullValue, Origin, SchemaNotCached, UnknownSchema
from headrace_contracts.events import (
    EntryKind,
    JournalEntry,
    Outcome,
    Position,
    TaskCompleted,
    TaskPhase,
)
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.prefix import prefix_schema
from headrace_contracts.topics import TASKS_COMPLETED, TASKS_JOURNAL
from headrace_streams.journal import Journal, JournaledDecision, Recovered
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.publishing import Publisher
from headrace_streams.records import ProducerRecord
from headrace_testing.routing import NOW, Desk, task

TOPIC = "headrace.tasks.journal"
RELEASED = Path(__file__).parents[3] / "schemas" / "released" / JournalEntry.FULL_NAME / "1.avsc"
PATHS = ("sequence", "cause", "state.phase", "state.digest", "state.wake_at")
WHERE = Origin(TOPIC, 0, 0)


class CountingCodec(Codec):
    """Counts what is decoded in full."""

    def __init__(self) -> None:
        super().__init__(MemoryRegistry())
        self.decoded = 0

    def decode(self, record: type[Any], value: bytes | None, origin: Origin) -> Any:
        self.decoded += 1
        return super().decode(record, value, origin)


@pytest.fixture
async def codec() -> CountingCodec:
    made = CountingCodec()
    await made.prepare([TASKS_JOURNAL, TASKS_COMPLETED], register=True)
    return made


def entries(name: str) -> tuple[JournalEntry, JournalEntry]:
    """A task's two entries: it is dispatched, and it ends."""
    desk = Desk()
    desk.submit(task(name, f"About {name}?"))
    desk.end(Outcome.ANSWERED, task_id=name)
    begun, ended = [
        JournalEntry(
            kind=EntryKind.DECISION,
            task_id=name,
            cause=cause,
            state=decision.state,
            commands=decision.commands,
            positions=(Position(topic="tasks.submitted", partition=0, next_offset=7),),
            decided_at=NOW,
        )
        for cause, decision in zip(("submitted", "attempt_finished"), desk.decisions, strict=True)
    ]
    return begun, ended


async def take_over(cluster: MemoryCluster, codec: Codec) -> tuple[Journal, Recovered, list[JournaledDecision]]:
    log = MemoryLog(cluster)
    reader = log.reader()
    folded: list[JournaledDecision] = []
    journal, recovered = await Journal.take_over(
        publisher=Publisher(log.producer(), codec, "test"), reader=reader, codec=codec, partition=0, owner="a",
        now_ms=NOW, fold=folded.append,
    )  # fmt: skip
    await reader.close()
    return journal, recovered, folded


async def fill(cluster: MemoryCluster, codec: Codec, finished: int, live: int) -> Journal:
    journal, _, _ = await take_over(cluster, codec)
    begun, ended = entries("x")
    for number in range(finished + live):
        for entry in (begun,) if number % (finished // live + 1) == 0 else (begun, ended):
            offset = await journal.append(_of(entry, f"task-{number}"))
            journal.published(offset)
    return journal


def _of(entry: JournalEntry, name: str) -> JournalEntry:
    return replace(entry, task_id=name)


async def test_a_long_journal_is_hardly_decoded(codec: CountingCodec) -> None:
    cluster = MemoryCluster()
    cluster.create_topic(TOPIC)
    await fill(cluster, codec, 3_000, 20)
    before = codec.decoded
    _, recovered, folded = await take_over(cluster, codec)
    assert recovered.entries == len(folded) > 5_900
    assert codec.decoded - before <= 10
    live = {recorded.task_id: recorded for recorded in folded}
    assert sum(recorded.phase is TaskPhase.RUNNING for recorded in live.values()) == 20
    one = next(recorded for recorded in live.values() if recorded.phase is TaskPhase.RUNNING)
    state = one.entry().state
    assert state is not None
    assert (state.phase, state.digest, state.wake_at) == (one.phase, one.digest, one.wake_at)
    # The last entry is not known as published; all before it are.
    assert len(recovered.unpublished) == 1
    assert recovered.positions == {("tasks.submitted", 0): 7}


async def test_others_get_their_turn_while_a_journal_is_read(codec: CountingCodec) -> None:
    cluster = MemoryCluster()
    cluster.create_topic(TOPIC)
    await fill(cluster, codec, 2_000, 10)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await take_over(cluster, codec)
    counting.cancel()
    assert turns > 2_000 * 2 / 500


async def test_open_commands_are_found_however_far_back(codec: CountingCodec) -> None:
    cluster = MemoryCluster()
    cluster.create_topic(TOPIC)
    journal, _, _ = await take_over(cluster, codec)
    begun, _ = entries("x")
    for number in range(3_500):
        offset = await journal.append(_of(begun, f"task-{number}"))
        if number != 10:
            journal.published(offset)
    _, recovered, _ = await take_over(cluster, codec)
    assert [placed.entry.task_id for placed in recovered.unpublished] == [
        f"task-{number}" for number in range(10, 3_500)
    ]


async def test_a_journal_of_the_first_version_is_read(codec: CountingCodec) -> None:
    """Its fields stand in another order, and checkpoints could come without positions."""
    text = RELEASED.read_text()
    registry = codec._registry
    first_id = await registry.register("first", text)
    schema = fastavro.parse_schema(json.loads(text))

    def encoded(entry: JournalEntry) -> bytes:
        buffer = io.BytesIO()
        data = entry.to_avro(named=True)
        fastavro.schemaless_writer(buffer, schema, {name: data[name] for name in _names(text)})
        return b"\x00" + first_id.to_bytes(4, "big") + buffer.getvalue()

    cluster = MemoryCluster()
    cluster.create_topic(TOPIC)
    begun, ended = entries("x")
    assert begun.state is not None
    # It knew neither of these.
    state = replace(begun.state, work_topic=None, turn=None)
    begun = replace(begun, state=state)
    epoch_start = JournalEntry(kind=EntryKind.EPOCH_START, owner="before", decided_at=NOW)
    bare = JournalEntry(kind=EntryKind.CHECKPOINT, decided_at=NOW)
    written = [epoch_start, _of(begun, "x"), _of(begun, "y"), _of(ended, "x"), bare]
    for sequence, entry in enumerate(written):
        placed = replace(entry, epoch=0, sequence=sequence, published_offset=3) if sequence else entry
        cluster.append(ProducerRecord(TOPIC, encoded(placed), entry.task_id.encode() or b"other", 0))
    _, recovered, folded = await take_over(cluster, codec)
    assert [(recorded.task_id, recorded.phase) for recorded in folded] == [
        ("x", TaskPhase.RUNNING), ("y", TaskPhase.RUNNING), ("x", TaskPhase.FINISHED),
    ]  # fmt: skip
    assert folded[1].entry() == replace(written[2], epoch=0, sequence=2, published_offset=3)
    assert (folded[1].wake_at, folded[1].work_topic, folded[1].turn) == (state.wake_at, None, None)
    assert recovered.positions == {("tasks.submitted", 0): 7}
    assert [placed.offset for placed in recovered.unpublished] == [3]


def _names(text: str) -> list[str]:
    return [field["name"] for field in json.loads(text)["fields"]]


async def test_the_first_fields_are_what_decoding_all_gives(codec: CountingCodec) -> None:
    begun, ended = entries("x")
    for entry in (begun, ended):
        value = codec.encode(TASKS_JOURNAL, entry)
        whole = entry.to_avro()
        found = codec.first_fields(JournalEntry, value, WHERE, PATHS)
        assert {name: found[name] for name in ("sequence", "cause")} == {
            name: whole[name] for name in ("sequence", "cause")
        }
        assert found["state"] == {name: whole["state"][name] for name in ("phase", "digest", "wake_at")}
        # What stands behind them is not even looked at.
        assert codec.first_fields(JournalEntry, value[:120], WHERE, PATHS) == found
    assert codec.decoded == 0


async def test_first_fields_are_refused_as_whole_values_are(codec: CountingCodec) -> None:
    value = codec.encode(TASKS_JOURNAL, entries("x")[0])
    with pytest.raises(NullValue):
        codec.first_fields(JournalEntry, None, WHERE, PATHS)
    with pytest.raises(BadBytes):
        codec.first_fields(JournalEntry, value[:20], WHERE, PATHS)
    with pytest.raises(BadBytes):
        codec.first_fields(JournalEntry, b"{}", WHERE, PATHS)
    with pytest.raises(UnknownSchema):
        codec.first_fields(TaskCompleted, value, WHERE, ("task_id",))
    with pytest.raises(SchemaNotCached):
        codec.first_fields(JournalEntry, b"\x00\x00\x00\x00\x63" + value[5:], WHERE, PATHS)


def test_only_the_last_field_may_be_read_in_part() -> None:
    inner = {"type": "record", "name": "Inner", "fields": [{"name": n, "type": "int"} for n in "abc"]}
    schema = fastavro.parse_schema(
        {
            "type": "record",
            "name": "Outer",
            "fields": [
                {"name": "x", "type": inner},
                {"name": "y", "type": ["null", "Inner"]},
                {"name": "z", "type": "int"},
            ],
        }
    )
    buffer = io.BytesIO()
    whole = {"x": {"a": 1, "b": 2, "c": 3}, "y": {"a": 4, "b": 5, "c": 6}, "z": 7}
    fastavro.schemaless_writer(buffer, schema, whole)

    def read(*paths: str) -> Any:
        buffer.seek(0)
        return fastavro.schemaless_reader(buffer, prefix_schema(schema, paths), None)

    assert read("x.a") == {"x": {"a": 1}}
    assert read("x.a", "x") == {"x": whole["x"]}
    assert read("x.a", "z") == whole
    assert read("nothing") == {}
