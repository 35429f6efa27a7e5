"""Where the text of a task was: every place, from topics open to readers of content alone, signed.

The router's journal names what it read and where, what it decided, and each topic that it sent the task to; audit,
usage and the announcements of calls say the same from other sides, also when the journal has been compacted. Anybody
with the installation's secret can check that a proof was made with it and has not been changed since. What a proof says
is as complete as the topics were when it was made: it names the offsets that were read, so that what retention had
deleted before shows.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import (
    AttemptStarted,
    AuditRecorded,
    CommandKind,
    JournalEntry,
    Privacy,
    ServedFrom,
    TaskCompleted,
    TaskState,
    UsageRecorded,
)
from headrace_contracts.headers import header
from headrace_contracts.topics import (
    ATTEMPTS_STARTED,
    AUDIT_RECORDED,
    TASKS_COMPLETED,
    TASKS_JOURNAL,
    USAGE_RECORDED,
    TopicSpec,
)
from headrace_streams.errors import OffsetOutOfRange
from headrace_streams.ports import PartitionReader
from headrace_streams.reading import up_to
from headrace_streams.records import Record

from headrace.connecting import Cluster

READ: Final[tuple[TopicSpec, ...]] = (
    TASKS_JOURNAL, TASKS_COMPLETED, AUDIT_RECORDED, ATTEMPTS_STARTED, USAGE_RECORDED,
)  # fmt: skip
_PURPOSE: Final = b"headrace task proof 1"
_READ_AT_ONCE: Final = 1_000
_READ_SECONDS: Final = 1.0
_TRIES: Final = 3
_OURS: Final = " content, on local nodes"
"""How the audit of an attempt begins, after its level, that was sent to our own nodes, and does not search the web."""
_WITH_TEXT: Final = {
    "tasks.submitted": "the task as it was submitted",
    "attempts.finished": "the report of an attempt on our own nodes",
    "attempts.finished.cloud": "the report of an attempt in the cloud",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A record about the task."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    event_id: str
    event: JournalEntry | TaskCompleted | AuditRecorded | UsageRecorded | AttemptStarted


@dataclass(frozen=True, slots=True)
class PlaceOfText:
    """A place where the text of a task, or of its answer, was; or a record that says something of it without any.

    Attributes:
        where: A record as topic[partition]@offset; a topic, where its reader alone knows the offset; or a cache.
        kind: record, sent, model, provider (of the cloud, or that asks the web) or cache.
        text: What of the task is there: prompt, answer, both or none.
        until_ms: Until when the place keeps it at most; None where that is not for Headrace to say.
    """

    at_ms: int
    kind: str
    where: str
    text: str
    what: str
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """All sightings, and what was read to find them.

    Attributes:
        searched: Offsets that were read, by topic and partition: the first that existed, and the end.
        unreadable: Records about the task, as far as their bytes show, that could not be read.
        left: Whether the text was anywhere but on our own nodes.
    """

    task_id: str
    made_at_ms: int
    tenant: str
    privacy: str
    left: bool
    sightings: tuple[PlaceOfText, ...]
    searched: Mapping[str, tuple[int, int]]
    unreadable: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "searched": {name: list(span) for name, span in self.searched.items()}}


def signed(proof: Proof, secret: str) -> dict[str, Any]:
    """The proof as JSON with its signature: HMAC-SHA-256 under a key that is derived from the installation's secret."""
    document = proof.document()
    return {**document, "signature": _signature(document, secret)}


def is_genuine(document: Mapping[str, Any], secret: str) -> bool:
    """Whether a proof was made with this secret, and has not been changed since."""
    unsigned = {name: value for name, value in document.items() if name != "signature"}
    given = document.get("signature")
    return isinstance(given, str) and given.isascii() and hmac.compare_digest(given, _signature(unsigned, secret))


def _signature(document: Mapping[str, Any], secret: str) -> str:
    # As it is after a trip through JSON, where tuples are lists.
    plain = json.loads(json.dumps(document))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(hmac.digest(secret.encode(), _PURPOSE, "sha256"), text, hashlib.sha256).hexdigest()


async def prove(cluster: Cluster, task_id: str, *, now_ms: int | None = None) -> Proof:
    """Read the topics from their starts, and list where the text of a task was.

    Raises StreamsError and ContractError if a topic cannot be read: a proof with a topic missing would be none.
    """
    found: list[Found] = []
    searched: dict[str, tuple[int, int]] = {}
    unreadable: list[str] = []
    reader = cluster.log.reader()
    try:
        for spec in READ:
            await _search(cluster, reader, spec, task_id, found, searched, unreadable)
    finally:
        await reader.close()
    made = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    return proof_of(task_id, found, searched, unreadable, made)


async def _search(
    cluster: Cluster,
    reader: PartitionReader,
    spec: TopicSpec,
    task_id: str,
    found: list[Found],
    searched: dict[str, tuple[int, int]],
    unreadable: list[str],
) -> None:
    needle = task_id.encode()
    partitions = await reader.partitions_of(cluster.topic(spec))
    for tried in range(_TRIES):
        bounds = await reader.bounds(partitions)
        await reader.assign({name: first for name, (first, _) in bounds.items()})
        of_topic: list[Found] = []
        broken: list[str] = []
        try:
            ends = {name: end for name, (_, end) in bounds.items()}
            async for records in up_to(reader, ends, most=_READ_AT_ONCE, poll_seconds=_READ_SECONDS):
                for record in records:
                    # Most records are of other tasks, and need not be decoded.
                    if record.value is not None and needle in record.value:
                        await _take(cluster, spec, record, task_id, of_topic, broken)
            break
        except OffsetOutOfRange:
            # Retention has moved the start since.
            if tried + 1 == _TRIES:
                raise
    found += of_topic
    unreadable += broken
    searched |= {f"{spec.name}[{name.partition}]": span for name, span in sorted(bounds.items())}


async def _take(
    cluster: Cluster, spec: TopicSpec, record: Record, task_id: str, found: list[Found], broken: list[str]
) -> None:
    try:
        origin = Origin(record.topic, record.partition, record.offset)
        event = await cluster.codec.read(spec.record, record.value, origin)
    except UnreadableValue:
        broken.append(f"{spec.name}[{record.partition}]@{record.offset}")
        return
    if event.task_id == task_id or (isinstance(event, TaskCompleted) and event.source_task_id == task_id):
        event_id = header(record.headers, "ce_id") or ""
        found.append(Found(spec.name, record.partition, record.offset, record.timestamp_ms, event_id, event))


def proof_of(
    task_id: str,
    found: Iterable[Found],
    searched: Mapping[str, tuple[int, int]],
    unreadable: Sequence[str],
    made_at_ms: int,
) -> Proof:
    """What records say of where a task's text was. Pure."""
    sightings: dict[tuple[str, str, str], PlaceOfText] = {}
    tenant, privacy, left = "", "", False
    for each in sorted(found, key=lambda one: (one.timestamp_ms, one.topic, one.partition, one.offset)):
        event = each.event
        if event.task_id == task_id:
            state = event.state if isinstance(event, JournalEntry) else None
            about = event if not isinstance(event, JournalEntry) else _about(state)
            tenant = tenant or (about.tenant if about is not None else "")
            level = state.privacy if state is not None else getattr(event, "privacy", None)
            privacy = privacy if level is None else str(level)
        for seen in _seen(each, task_id):
            sightings.setdefault((seen.kind, seen.where, seen.what), seen)
            left = left or (seen.kind == "provider" and seen.text != "none")
    ordered = sorted(sightings.values(), key=lambda one: (one.at_ms, one.kind, one.where))
    return Proof(task_id, made_at_ms, tenant, privacy, left, tuple(ordered), dict(searched), tuple(unreadable))


def _about(state: TaskState | None) -> Any:
    return None if state is None else state.task if state.task is not None else state.result


def _seen(each: Found, task_id: str) -> Iterator[PlaceOfText]:
    place = f"{each.topic}[{each.partition}]@{each.offset}"
    match each.event:
        case JournalEntry() as entry:
            yield from _in_journal(each, entry, place)
        case TaskCompleted(task_id=other) as end if other != task_id:
            what = f"its answer was given to the equal task {other} ({end.served_from})"
            yield _record(each, place, "answer", what, TASKS_COMPLETED)
        case TaskCompleted() as end:
            yield _record(each, place, "answer" if _answers(end) else "none", f"its end: {end.status}", TASKS_COMPLETED)
            if end.node is not None and end.served_from is ServedFrom.ATTEMPT:
                yield PlaceOfText(
                    each.timestamp_ms, "node", end.node, "both", f"{end.provider}/{end.model} answered there"
                )
            if end.source_task_id is not None:
                what = f"its answer is that of the equal task {end.source_task_id} ({end.served_from}): no model saw it"
                yield PlaceOfText(each.timestamp_ms, "cache", f"partition {end.home_partition}", "answer", what)
        case AuditRecorded() as audit:
            model = f"{audit.provider}/{audit.model}" if audit.provider else "nobody"
            verdict = "allowed" if audit.allowed else "not allowed"
            what = f"audit: {audit.action} {model}, {verdict}: {audit.reason}"
            yield _record(each, place, "none", what, AUDIT_RECORDED)
            ours = audit.reason.startswith(f"{audit.privacy}{_OURS}")
            if audit.action == "dispatch" and audit.provider is not None and not ours:
                yield PlaceOfText(
                    each.timestamp_ms, "provider", audit.provider, "prompt", f"{audit.model} was to answer"
                )
            if audit.action == "breach":
                said = f"content left to another host than {model}: {audit.reason}"
                yield PlaceOfText(each.timestamp_ms, "provider", "another host", "prompt", said)
        case AttemptStarted() as started:
            what = f"worker {started.worker} was about to call {started.provider}/{started.model}"
            yield _record(each, place, "none", what, ATTEMPTS_STARTED)
            yield PlaceOfText(each.timestamp_ms, "provider", started.provider, "both", f"{started.model} was called")
        case UsageRecorded() as usage:
            what = f"{usage.provider}/{usage.model} consumed tokens: {usage.outcome}"
            yield _record(each, place, "none", what, USAGE_RECORDED)
            if usage.node is not None:
                yield PlaceOfText(
                    each.timestamp_ms, "node", usage.node, "both", f"{usage.provider}/{usage.model} ran there"
                )


def _at_model(each: Found, provider: str | None, model: str | None, node: str) -> PlaceOfText:
    return PlaceOfText(each.timestamp_ms, "model", f"{provider} at {node}", "both", f"{model} ran there")


def _in_journal(each: Found, entry: JournalEntry, place: str) -> Iterator[PlaceOfText]:
    state = entry.state
    text = "none"
    if state is not None:
        answered = state.result is not None and _answers(state.result)
        text = "prompt" if state.task is not None else "answer" if answered else "none"
    yield _record(each, place, text, f"decision: {entry.cause}", TASKS_JOURNAL)
    read = entry.input
    if read is not None and read.topic in _WITH_TEXT:
        prompt = read.topic == "tasks.submitted"
        where = f"{read.topic}[{read.partition}]@{read.offset}"
        yield PlaceOfText(each.timestamp_ms, "record", where, "prompt" if prompt else "answer", _WITH_TEXT[read.topic])
    for command in entry.commands:
        if command.kind is CommandKind.DISPATCH and state is not None:
            attempts = [*state.attempts]
            if state.research is not None:
                attempts += [attempt for search in state.research.searches for attempt in search.attempts]
            sent = next((one for one in attempts if one.number == command.attempt), None)
            model = "" if sent is None else f" for {sent.provider}/{sent.model}"
            yield PlaceOfText(entry.decided_at, "sent", command.topic, "prompt", f"attempt {command.attempt}{model}")
            if sent is not None and sent.place.value == "cloud":
                what = f"{sent.model}: attempt {command.attempt} was sent to it"
                yield PlaceOfText(entry.decided_at, "provider", sent.provider, "prompt", what)
        elif command.kind is CommandKind.REPLY:
            yield PlaceOfText(
                entry.decided_at, "sent", command.topic, "answer", "for the waiting caller; kept for an hour"
            )
    if state is not None and state.result is not None:
        yield from _in_caches(entry, state, state.result)


def _in_caches(entry: JournalEntry, state: TaskState, end: TaskCompleted) -> Iterator[PlaceOfText]:
    """Where an answer may be kept for equal tasks. Whether it was asked for shows at those that it served."""
    if not state.digest or end.served_from is not ServedFrom.ATTEMPT or end.finish_reason != "stop":
        return
    what = "may be kept for equal tasks of the tenant, of the same level"
    yield PlaceOfText(entry.decided_at, "cache", f"memory of partition {state.home_partition}", "answer", what)
    if end.privacy is not Privacy.SENSITIVE:
        yield PlaceOfText(entry.decided_at, "cache", "answers.answers in Postgres", "answer", what)


def _answers(end: TaskCompleted) -> bool:
    return end.answer is not None or bool(end.choices) or bool(end.embeddings)


def _record(each: Found, place: str, text: str, what: str, spec: TopicSpec) -> PlaceOfText:
    until = None if spec.retention_ms is None else each.timestamp_ms + spec.retention_ms
    return PlaceOfText(each.timestamp_ms, "record", place, text, what, until)
