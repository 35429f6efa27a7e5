"""Dead letters for operators: what services could not handle, why, and what to do about it.

One record may have several dead letters: each service that could not handle it wrote one, and a service that died
after writing it, before committing its offset, writes it again. They all share one id, the record's topic, partition
and offset, and are handled as one. Handling is recorded under that id in the topic `dead-letters.handled`.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from headrace_contracts.errors import UnreadableValue
from headrace_contracts.events import DeadLetter, DeadLetterHandled, Handling
from headrace_contracts.headers import REPLAY_OF, header
from headrace_contracts.ids import dead_letter_id
from headrace_contracts.topics import DEAD_LETTERS_HANDLED, TOPICS, TopicSpec, dead_letters_of
from headrace_streams.errors import OffsetOutOfRange, RecordRefused
from headrace_streams.ports import PartitionReader, Producer
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.reading import up_to
from headrace_streams.records import Headers, ProducerRecord, Record, RecordMetadata, TopicPartition
from headrace_streams.typed import decode

from headrace.connecting import Cluster, TopicUnknown, spec_named
from headrace.errors import HeadraceError

_BATCH: Final = 500
_WAIT_SECONDS: Final = 0.5
_SUFFIX: Final = ".dlq"
_LATEST_MS: Final = 253_370_764_800_000  # 9999-01-01
_SOURCE: Final = "headrace/operator"
# Both as in ids (topic/3/14) and as in logs (topic[3]@14).
_PLACE: Final = re.compile(r"(?P<topic>.+?)(?:/(?P<p1>\d+)/(?P<o1>\d+)|\[(?P<p2>\d+)\]@(?P<o2>\d+))")

OnUnreadable = Callable[[Record, UnreadableValue], None]


class DeadLetterUnknown(HeadraceError):
    """Choose an id from `headrace dlq list`: there is no dead letter with this one."""


class ValueGone(HeadraceError):
    """Drop this dead letter: its value was too large to be included, and is no longer in its own topic either."""


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """What is known of a dead-lettered record, without its content.

    Attributes:
        id: Shared by all its dead letters: topic/partition/offset of the record, the topic with its prefix.
        places: Offsets of its dead letters, oldest first.
        services: Services that wrote them.
        error_type, error_message: The error of the newest one.
        attempts: Highest number of tries by one service.
        tenant: Tenant according to its headers; empty if they do not say.
        size: Bytes of its value.
        first_at, last_at: Times of its first and last dead letter.
        replay_of: Id of the dead letter that it is a replay of.
        handled: What an operator has done about it; None while it is open.
    """

    id: str
    topic: str
    partition: int
    offset: int
    places: tuple[tuple[TopicPartition, int], ...]
    services: tuple[str, ...]
    error_type: str
    error_message: str
    attempts: int
    tenant: str
    size: int
    first_at: datetime
    last_at: datetime
    replay_of: str | None = None
    handled: DeadLetterHandled | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterSelection:
    """Selects dead letters; criteria that are left out do not restrict.

    Attributes:
        topics: Only of these topics, without the prefix.
        ids: Only these.
        error_type, service, tenant: Only with this error, written by this service, of this tenant.
        since, until: Only if last written at or after, and before.
        handled: Include those that an operator has handled.
    """

    topics: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    error_type: str | None = None
    service: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    handled: bool = False

    def chooses(self, letter: StoredDeadLetter) -> bool:
        """Whether it is selected; the caller filters by topic when reading."""
        return (
            (not self.ids or letter.id in self.ids)
            and (self.error_type is None or letter.error_type == self.error_type)
            and (self.service is None or self.service in letter.services)
            and (self.tenant is None or letter.tenant == self.tenant)
            and (self.since is None or letter.last_at >= self.since)
            and (self.until is None or letter.last_at < self.until)
            and (self.handled or letter.handled is None)
        )


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Dead letters of one topic with one error of the same services. `open` of them are not handled."""

    topic: str
    error_type: str
    services: tuple[str, ...]
    letters: int
    open: int
    oldest: datetime
    newest: datetime


def grouped(letters: Iterable[StoredDeadLetter]) -> list[DeadLetterGroup]:
    """Counts by topic, error and services; highest count first."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[StoredDeadLetter]] = {}
    for letter in letters:
        groups.setdefault((letter.topic, letter.error_type, letter.services), []).append(letter)
    made = [
        DeadLetterGroup(
            topic, error_type, services, len(of), sum(letter.handled is None for letter in of),
            min(letter.first_at for letter in of), max(letter.last_at for letter in of),
        )
        for (topic, error_type, services), of in groups.items()
    ]  # fmt: skip
    return sorted(made, key=lambda group: (-group.letters, group.topic, group.error_type, group.services))


def merged(
    known: StoredDeadLetter | None, letter: DeadLetter, place: tuple[TopicPartition, int], tenant: str
) -> StoredDeadLetter:
    """A record's dead letters so far, merged with one more."""
    headers = tuple((each.name, each.value) for each in letter.headers)
    at = datetime.fromtimestamp(min(max(letter.failed_at, 0), _LATEST_MS) / 1000, UTC)
    one = StoredDeadLetter(
        id=dead_letter_id(letter.topic, letter.partition, letter.offset),
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        places=(place,),
        services=(letter.service,),
        error_type=letter.error_type,
        error_message=letter.error_message,
        attempts=letter.attempts,
        tenant=tenant,
        size=letter.omitted_bytes if letter.omitted_bytes is not None else len(letter.value or b""),
        first_at=at,
        last_at=at,
        replay_of=header(headers, REPLAY_OF),
    )
    if known is None:
        return one
    newest = one if at >= known.last_at else known
    return replace(
        newest,
        places=(*known.places, place),
        services=tuple(sorted({*known.services, letter.service})),
        attempts=max(known.attempts, letter.attempts),
        first_at=min(known.first_at, at),
        last_at=max(known.last_at, at),
    )


def _is_partial(letter: DeadLetter) -> bool:
    return (letter.omitted_bytes, letter.omitted_key_bytes, letter.omitted_header_bytes) != (None, None, None)


def _omitted_bytes(letter: DeadLetter) -> int:
    return sum(size or 0 for size in (letter.omitted_bytes, letter.omitted_key_bytes, letter.omitted_header_bytes))


def _starts(letters: Iterable[StoredDeadLetter]) -> Mapping[TopicPartition, int]:
    """The first offset of their dead letters, by partition."""
    starts: dict[TopicPartition, int] = {}
    for letter in letters:
        part, offset = letter.places[0]
        starts[part] = min(offset, starts.get(part, offset))
    return starts


class DeadLetterTopics:
    """All dead letters of an installation. Use it as an async context manager, which closes the producer.

    Args:
        handled_by: Who handles dead letters through this object.
        on_unreadable: Called for records in these topics that are not dead letters.
        clock: Milliseconds since the epoch.

    Methods raise TransientError while Kafka is unavailable, and RegistryUnavailable while the registry is.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        handled_by: str = "",
        on_unreadable: OnUnreadable = lambda record, error: None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._cluster = cluster
        self._handled_by = handled_by
        self._on_unreadable = on_unreadable
        self._clock = clock
        self._producer: Producer | None = None

    async def __aenter__(self) -> DeadLetterTopics:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._producer is not None:
            await self._producer.close()
            self._producer = None

    def spec(self, topic: str) -> TopicSpec:
        """The topic that dead letters come from, given with or without prefix and `.dlq`. Raises TopicUnknown."""
        specs = [spec for spec in TOPICS.values() if spec.dead_letters]
        try:
            return spec_named(topic.removesuffix(_SUFFIX), self._cluster.codec.topic_prefix, specs)
        except TopicUnknown:
            names = ", ".join(sorted(spec.name for spec in specs))
            raise TopicUnknown(f"{topic!r} has no dead-letter topic; the topics that have one are {names}") from None

    def place(self, text: str) -> tuple[TopicSpec, bool, int, int]:
        """Parse `topic/partition/offset` (or, as in logs, `topic[partition]@offset`).

        Returns the topic, whether the offset is in its dead-letter topic, partition and offset. Raises
        DeadLetterUnknown, TopicUnknown.
        """
        found = _PLACE.fullmatch(text.strip())
        if found is None:
            raise DeadLetterUnknown(
                f"{text!r} is not the id of a dead letter, such as tasks.submitted/3/14: `dlq list` shows them"
            )
        topic = found["topic"]
        partition, offset = found["p1"] or found["p2"], found["o1"] or found["o2"]
        return self.spec(topic), topic.endswith(_SUFFIX), int(partition), int(offset)

    async def letters(self, selection: DeadLetterSelection) -> list[StoredDeadLetter]:
        """The selected dead letters, oldest first. Raises TopicUnknown."""
        specs = [self.spec(topic) for topic in selection.topics] or [s for s in TOPICS.values() if s.dead_letters]
        handled = await self._handled()
        found: dict[str, StoredDeadLetter] = {}
        async for record, letter in self._read(specs, {}):
            id_ = dead_letter_id(letter.topic, letter.partition, letter.offset)
            place = (record.topic_partition, record.offset)
            found[id_] = merged(found.get(id_), letter, place, header(record.headers, "ce_tenant") or "")
        marked = (replace(letter, handled=handled.get(letter.id)) for letter in found.values())
        return sorted(
            (letter for letter in marked if selection.chooses(letter)),
            key=lambda letter: (letter.last_at, letter.topic, letter.partition, letter.offset),
        )

    async def find(self, ids: Sequence[str]) -> list[StoredDeadLetter]:
        """The dead letters with these ids, including handled ones. Raises DeadLetterUnknown, TopicUnknown."""
        wanted = [self.place(text) for text in ids]
        letters = await self.letters(
            DeadLetterSelection(topics=frozenset(spec.name for spec, *_ in wanted), handled=True)
        )
        by_place = {place: letter for letter in letters for place in letter.places}
        by_id = {letter.id: letter for letter in letters}
        found: dict[str, StoredDeadLetter] = {}
        for text, (spec, in_dead_letters, partition, offset) in zip(ids, wanted, strict=True):
            if in_dead_letters:
                topic = self._cluster.topic(dead_letters_of(spec))
                letter = by_place.get((TopicPartition(topic, partition), offset))
            else:
                letter = by_id.get(dead_letter_id(self._cluster.topic(spec), partition, offset))
            if letter is None:
                raise DeadLetterUnknown(f"there is no dead letter {text}: `headrace dlq list --all` shows all")
            found[letter.id] = letter
        return list(found.values())

    async def whole(self, letter: StoredDeadLetter) -> DeadLetter:
        """The newest of its dead letters, with the record's content. Raises DeadLetterUnknown when it is deleted."""
        async with aclosing(self._read([self.spec(letter.topic)], dict([letter.places[-1]]))) as letters:
            async for record, found in letters:
                if (record.topic_partition, record.offset) == letter.places[-1]:
                    return found
        raise DeadLetterUnknown(f"{letter.id} has just been deleted by the retention of its dead-letter topic")

    async def event(self, letter: DeadLetter) -> Any:
        """The event in the dead-lettered record. Raises UnreadableValue."""
        record = Record(letter.topic, letter.partition, letter.offset, letter.timestamp or 0, None, letter.value)
        return await decode(self._cluster.codec, self.spec(letter.topic).record, record)

    async def flaws(self, letters: Collection[StoredDeadLetter]) -> Mapping[str, str]:
        """Ids of the dead letters that still cannot be decoded with today's schemas, with the reason."""
        chosen = {letter.places[-1]: letter.id for letter in letters}
        flaws: dict[str, str] = {}
        async with aclosing(self._read(self._specs_of(letters), _starts(letters))) as read:
            async for record, whole in read:
                id_ = chosen.get((record.topic_partition, record.offset))
                if id_ is not None:
                    try:
                        value = whole.value
                        if whole.omitted_bytes is not None:
                            value = (await self._from_its_topic(whole)).value
                        await self.event(replace(whole, value=value))
                    except UnreadableValue as error:
                        flaws[id_] = error.reason
                    except ValueGone as error:
                        flaws[id_] = str(error)
        return flaws

    async def replay(
        self,
        letters: Collection[StoredDeadLetter],
        reason: str = "",
        on_refused: Callable[[StoredDeadLetter, str], None] | None = None,
    ) -> AsyncGenerator[tuple[StoredDeadLetter, RecordMetadata], None]:
        """Write the records to their topics again, in the order of their dead letters; yields each when it is done.

        Topic, partition, key, value and headers (hence ids) are the record's own; an added header, `REPLAY_OF`, marks
        it as a replay. Each is durable, and recorded as handled, before the next is written: an interrupted replay can
        be run again, and repeats at most the one record that was written but not recorded yet, with the same id.

        `on_refused` is called for a record that cannot be written, with the reason, and the others follow: its topic
        does not take it (it has become too large with the added header, for one), or what the dead letter had no room
        for is gone. Without it, RecordRefused and ValueGone end the replay.

        Raises what `Producer.send` raises, ValueGone, and DeadLetterUnknown for a dead letter deleted meanwhile.
        """
        publisher = await self._publisher()
        waiting = {letter.id: letter for letter in letters}
        async with aclosing(self._read(self._specs_of(letters), _starts(letters))) as read:
            async for _, whole in read:
                id_ = dead_letter_id(whole.topic, whole.partition, whole.offset)
                chosen = waiting.pop(id_, None)
                if chosen is None:
                    continue
                key, value = whole.key, whole.value
                headers: Headers = tuple((each.name, each.value) for each in whole.headers)
                try:
                    if _is_partial(whole):
                        record = await self._from_its_topic(whole)
                        key, value, headers = record.key, record.value, record.headers
                    marked = (*headers, (REPLAY_OF, id_.encode()))
                    appended = await publisher.send_record(
                        ProducerRecord(whole.topic, value, key, whole.partition, marked)
                    )
                except (RecordRefused, ValueGone) as error:
                    if on_refused is None:
                        raise
                    on_refused(chosen, str(error))
                    continue
                await self._note(publisher, chosen, Handling.REPLAYED, reason, appended.offset)
                yield chosen, appended
        if waiting:
            raise DeadLetterUnknown(f"{', '.join(sorted(waiting))}: deleted from the dead-letter topic meanwhile")

    async def drop(self, letters: Iterable[StoredDeadLetter], reason: str) -> AsyncGenerator[StoredDeadLetter, None]:
        """Record that nothing needs to be done about the dead letters; yields each when it is recorded."""
        publisher = await self._publisher()
        for letter in letters:
            await self._note(publisher, letter, Handling.DROPPED, reason, None)
            yield letter

    def _specs_of(self, letters: Iterable[StoredDeadLetter]) -> list[TopicSpec]:
        return [self.spec(topic) for topic in sorted({letter.topic for letter in letters})]

    async def _publisher(self) -> Publisher:
        await self._cluster.codec.prepare([DEAD_LETTERS_HANDLED])
        if self._producer is None:
            self._producer = self._cluster.log.producer()
        return Publisher(self._producer, self._cluster.codec, _SOURCE)

    async def _note(
        self, publisher: Publisher, letter: StoredDeadLetter, handling: Handling, reason: str, offset: int | None
    ) -> None:
        now = self._clock()
        before = letter.handled
        replays = 0 if before is None else before.replays
        note = DeadLetterHandled(
            topic=letter.topic,
            partition=letter.partition,
            offset=letter.offset,
            handling=handling,
            replays=replays + (handling is Handling.REPLAYED),
            replayed_offset=offset if offset is not None else None if before is None else before.replayed_offset,
            reason=reason,
            handled_by=self._handled_by,
            handled_at=now,
        )
        await publisher.send(
            Publication(
                spec=DEAD_LETTERS_HANDLED,
                event=note,
                event_id=f"{letter.id}/{handling.value}/{note.replays}",
                key=letter.id.encode(),
                tenant=letter.tenant,
                time_ms=now,
            )
        )

    async def _handled(self) -> Mapping[str, DeadLetterHandled]:
        handled: dict[str, DeadLetterHandled] = {}
        async for record in self._records([self._cluster.topic(DEAD_LETTERS_HANDLED)], {}):
            try:
                note = await decode(self._cluster.codec, DeadLetterHandled, record)
            except UnreadableValue as error:
                self._on_unreadable(record, error)
                continue
            handled[dead_letter_id(note.topic, note.partition, note.offset)] = note
        return handled

    async def _read(
        self, specs: Iterable[TopicSpec], starts: Mapping[TopicPartition, int]
    ) -> AsyncGenerator[tuple[Record, DeadLetter], None]:
        topics = [self._cluster.topic(dead_letters_of(spec)) for spec in specs]
        async with aclosing(self._records(topics, starts)) as records:
            async for record in records:
                try:
                    letter = await decode(self._cluster.codec, DeadLetter, record)
                except UnreadableValue as error:
                    self._on_unreadable(record, error)
                    continue
                yield record, letter

    async def _records(
        self, topics: Collection[str], starts: Mapping[TopicPartition, int]
    ) -> AsyncGenerator[Record, None]:
        """All records of these topics up to their current end; partitions in `starts` are read from there."""
        present = await self._cluster.log.admin().partition_counts(topics)
        partitions = [TopicPartition(name, number) for name, count in present.items() for number in range(count)]
        if not partitions:
            return
        reader = self._cluster.log.reader()
        try:
            bounds = await reader.bounds(partitions)
            begin = {part: max(first, starts.get(part, first)) for part, (first, _) in bounds.items()}
            ends = {part: end for part, (_, end) in bounds.items() if begin[part] < end}
            if not ends:
                return
            await reader.assign({part: begin[part] for part in ends})
            async for records in up_to(reader, ends, most=_BATCH, poll_seconds=_WAIT_SECONDS):
                for record in records:
                    if record.offset < ends[record.topic_partition]:
                        yield record
        finally:
            await reader.close()

    async def _from_its_topic(self, letter: DeadLetter) -> Record:
        """The record that was too large for a dead letter, read from its own topic. Raises ValueGone."""
        part = TopicPartition(letter.topic, letter.partition)
        reader: PartitionReader = self._cluster.log.reader()
        try:
            first, end = (await reader.bounds([part]))[part]
            if first <= letter.offset < end:
                await reader.assign({part: letter.offset})
                while reader.positions()[part] <= letter.offset:
                    for record in await reader.poll(1, _WAIT_SECONDS):
                        if record.offset == letter.offset:
                            return record
        except OffsetOutOfRange:
            pass
        finally:
            await reader.close()
        raise ValueGone(
            f"{letter.topic}/{letter.partition}/{letter.offset}: {_omitted_bytes(letter)} bytes of it were too large "
            "for a dead letter, and are no longer in its own topic: drop this dead letter"
        )
