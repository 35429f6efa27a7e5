"""Compares the schema ids in the topics' records with what the registry says, and repairs the registry.

What an operator has after a registry is lost are the records. Each names an id; the type follows from its topic, and
which version of it from which of the released ones the records under that id can be decoded with, to the last byte.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import fastavro
from headrace_contracts.errors import SchemaMissing, UnusableSchema
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.released import SchemaVersion, version_with, versions_of
from headrace_contracts.restoring import LostSchema, NotRestored, restore
from headrace_contracts.topics import TopicSpec, topic_named
from headrace_contracts.writer_schemas import StrictBytes, WriterSchema, writer_schema
from headrace_streams.errors import OffsetOutOfRange, TopicMissing, TransientError
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.present_topics import expected_topics
from headrace_streams.reading import up_to
from headrace_streams.records import TopicPartition

_SAMPLES: Final = 20
_HEAD: Final = 5
_POLL_SECONDS: Final = 5.0
_TRIES: Final = 3

OK: Final = "ok"
LOST: Final = "lost"
REUSED: Final = "reused"
FOREIGN: Final = "foreign"
MISSING: Final = "missing"
UNUSED: Final = "unused"


@dataclass(frozen=True, slots=True)
class IdUse:
    """A schema id in a topic.

    Attributes:
        topic: Topic without prefix.
        schema_id: None if the registry has no id for the present schema of the topic.
        records: How many of the records read name it.
        status: ok; lost (the registry has nothing under it); reused (it has another schema); missing (the subject lacks
            the present schema); unused (its records can be decoded by no released schema: not written by Headrace).
        registry_has: What the registry has under the id.
        version: The schema that belongs there, as far as that is known.
        note: What else an operator should know.
    """

    topic: str
    schema_id: int | None
    records: int
    status: str
    registry_has: str
    version: SchemaVersion | None
    note: str = ""

    @property
    def matches(self) -> bool:
        """Whether nothing is to be done."""
        return self.status in (OK, FOREIGN)


@dataclass(slots=True)
class _Seen:
    records: int = 0
    samples: list[bytes] = field(default_factory=list)


async def check(
    log: Log, registry: SchemaRegistry, topic_prefix: str, *, records: int, topics: Iterable[TopicSpec] | None = None
) -> list[IdUse]:
    """Look at the newest `records` of each partition that may be read; by default of all topics, those of sites
    included. Raises RegistryUnavailable, TransientError."""
    every = (await expected_topics(log.admin(), topic_prefix)).values() if topics is None else topics
    specs = tuple(every)
    found: list[IdUse] = []
    answers: dict[int, WriterSchema | str | None] = {}
    reader = log.reader()
    try:
        readable = await log.admin().readable([topic_prefix + spec.name for spec in specs])
        by_topic = await _ids_in(reader, sorted(readable), records)
        for spec in specs:
            seen = by_topic[topic_prefix + spec.name]
            present = versions_of(spec.record.FULL_NAME)[0]
            try:
                written: int | None = await registry.id_of(topic_prefix + spec.subject, present.text)
            except SchemaMissing:
                written = None
                note = "services wait until it is there; `headrace schemas repair` adds it"
                found.append(IdUse(spec.name, None, 0, MISSING, "", present, note))
            for schema_id in sorted({*seen, *([] if written is None else [written])}):
                if schema_id not in answers:
                    answers[schema_id] = await _answer(registry, schema_id)
                found.append(_judged(spec, schema_id, seen.get(schema_id, _Seen()), answers[schema_id]))
    finally:
        await reader.close()
    return found


async def unreadable(log: Log, topic_prefix: str) -> list[str]:
    """Topics, without prefix, whose records `check` cannot look at: missing, or closed to this user.

    Raises TransientError.
    """
    specs = await expected_topics(log.admin(), topic_prefix)
    readable = await log.admin().readable([topic_prefix + name for name in specs])
    return [name for name in specs if topic_prefix + name not in readable]


async def _ids_in(reader: PartitionReader, topics: Iterable[str], records: int) -> Mapping[str, Mapping[int, _Seen]]:
    """The ids in the newest records of these topics. All are read at once: each on its own would wait on its own."""
    partitions: list[TopicPartition] = []
    for topic in topics:
        with suppress(TopicMissing):
            partitions += await reader.partitions_of(topic)
    for _ in range(_TRIES):
        seen: dict[str, dict[int, _Seen]] = defaultdict(lambda: defaultdict(_Seen))
        bounds = await reader.bounds(partitions)
        starts = {each: max(first, end - records) for each, (first, end) in bounds.items() if end > first}
        await reader.assign(starts)
        try:
            ends = {each: bounds[each][1] for each in starts}
            async for batch in up_to(reader, ends, most=1_000, poll_seconds=_POLL_SECONDS):
                for record in batch:
                    _note(seen[record.topic], record.value)
        except OffsetOutOfRange:
            # Retention has removed the first of them meanwhile.
            continue
        return seen
    raise TransientError(f"records disappear faster than they are read, {_TRIES} times in a row")


def _note(seen: dict[int, _Seen], value: bytes | None) -> None:
    if value is None or len(value) < _HEAD or value[0] != 0:
        return
    under = seen[int.from_bytes(value[1:_HEAD], "big")]
    under.records += 1
    if len(under.samples) < _SAMPLES:
        under.samples.append(value)


async def _answer(registry: SchemaRegistry, schema_id: int) -> WriterSchema | str | None:
    """What the registry has under an id; words for what cannot be used, None for nothing."""
    try:
        text = await registry.schema(schema_id) if schema_id < 2**31 else None
        return None if text is None else writer_schema(text)
    except UnusableSchema as error:
        return str(error)


def _judged(spec: TopicSpec, schema_id: int, seen: _Seen, answer: WriterSchema | str | None) -> IdUse:
    name = spec.record.FULL_NAME
    versions = versions_of(name)
    fitting = [version for version in versions if _all_fit(version.text, seen.samples)]
    says = "nothing" if answer is None else answer if isinstance(answer, str) else answer.name or "no record"

    def use(status: str, version: SchemaVersion | None, note: str = "") -> IdUse:
        return IdUse(spec.name, schema_id, seen.records, status, says, version, note)

    if isinstance(answer, WriterSchema) and answer.name == name:
        released = version_with(name, answer.fingerprint)
        if _fits(answer, seen.samples):
            return use(OK, released, "" if released else "a version of its own, from another release or another team")
    if not fitting:
        note = "no released schema decodes its records: they were not written by Headrace, or by a newer release"
        return use(FOREIGN, None, note)
    others = ", ".join(each.version for each in fitting[1:])
    return use(LOST if answer is None else REUSED, fitting[0], f"its records also fit {others}" if others else "")


def _all_fit(text: str, samples: Sequence[bytes]) -> bool:
    return _fits(writer_schema(text), samples)


def _fits(schema: WriterSchema, samples: Sequence[bytes]) -> bool:
    """Whether all of these are values of the schema, to the last byte."""
    for value in samples:
        buffer = StrictBytes(value)
        buffer.seek(_HEAD)
        try:
            if len(value) > schema.limits.unscanned:
                schema.limits.check(value, _HEAD)
            fastavro.schemaless_reader(buffer, schema.schema, None)
            rest = len(value) - buffer.tell()
        # fastavro reports malformed input with whatever exception its parsing runs into.
        except Exception:  # noqa: BLE001
            return False
        if rest:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Repair:
    """What `repair` did, or would do.

    Attributes:
        restored: Schemas that are under their ids again.
        refused: Those that are not, with the reason.
        registered: Subjects that got the present schema.
    """

    restored: tuple[LostSchema, ...]
    refused: tuple[NotRestored, ...]
    registered: tuple[str, ...]


def to_restore(uses: Iterable[IdUse], topic_prefix: str) -> list[LostSchema]:
    """The schemas to register under the ids that records name; one for each id."""
    wanted: dict[int, LostSchema] = {}
    for use in uses:
        if use.status in (LOST, REUSED) and use.schema_id is not None and use.version is not None:
            subject = topic_prefix + topic_named(use.topic).subject
            version = use.version
            wanted.setdefault(use.schema_id, LostSchema(use.schema_id, subject, version.text, version.fingerprint))
    return [wanted[schema_id] for schema_id in sorted(wanted)]


async def repair(registry: SchemaRegistry, uses: Iterable[IdUse], topic_prefix: str) -> Repair:
    """Bring lost ids back, then add present schemas that are missing. Raises RegistryUnavailable."""
    uses = list(uses)
    wanted = to_restore(uses, topic_prefix)
    refused = await restore(registry, wanted)
    left = {each.lost.schema_id for each in refused}
    registered: list[str] = []
    # Afterwards: a schema that is registered anew could take an id that records name.
    for use in uses:
        if use.status == MISSING and use.version is not None:
            subject = topic_prefix + topic_named(use.topic).subject
            await registry.register(subject, use.version.text)
            registered.append(subject)
    return Repair(tuple(each for each in wanted if each.schema_id not in left), tuple(refused), tuple(registered))


def parse_ids(document: str) -> list[IdUse]:
    """What `headrace schemas check --json` printed while all was well. Raises ValueError for anything else."""
    rows: Any = json.loads(document)
    found = []
    try:
        named = [(topic_named(row["topic"]), row["schema_id"], row["fingerprint"]) for row in rows]
    except (TypeError, KeyError) as error:
        raise ValueError(f"not the output of `headrace schemas check --json`: {error!r}") from error
    for spec, schema_id, fingerprint in named:
        version = version_with(spec.record.FULL_NAME, fingerprint)
        if isinstance(schema_id, int) and version is not None:
            found.append(IdUse(spec.name, schema_id, 0, LOST, "", version))
    if not found:
        raise ValueError("it names no id of a released schema")
    return found
