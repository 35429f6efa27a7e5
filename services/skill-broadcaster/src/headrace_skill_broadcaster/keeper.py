"""One partition of the catalog while this process owns it.

For each submission, in the order of the partition:

1. Decide from the skill's current state.
2. Append the decision to the catalog: the new state, what followers will be sent, and the position in the submissions,
   in one record. Nothing has happened until it is acknowledged.
3. Publish the change to the feed of each of the skill's domains, with ids that a repeat has again.
4. Let the service commit the position. Catalog entries beyond the committed position may not have been published; the
   next owner publishes them again.

Invariants:

- The owner is the only writer of its catalog partition, so its acknowledged offsets are consecutive. A gap means that
  another process has written, before losing the partition or after. The partition is then read again: the newest
  version of each skill is valid, and submissions processed meanwhile are skipped by their positions.
- `_entries` changes only after the acknowledgement. A decision made from an entry that was never written could skip a
  version number or fork a history.
- `_told_up_to` never passes a submission whose change is not in the feed, so that a reload publishes what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, RegistryUnavailable, UnreadableValue
from headrace_contracts.events import Position, SkillPublished, SkillSubmitted
from headrace_contracts.headers import traceparent
from headrace_contracts.topics import SKILLS_CATALOG, SKILLS_FEED, SKILLS_SUBMITTED
from headrace_runtime.logging import get_logger
from headrace_streams.dead_letters import DeadLetters, described
from headrace_streams.errors import (
    AppendUncertain,
    Overloaded,
    PartitionsLost,
    RecordRefused,
    SendToDeadLetters,
    StreamsError,
    TransientError,
)
from headrace_streams.ports import Log
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import Record, RecordMetadata, TopicPartition

from headrace_skill_broadcaster.adapters.catalog_partition import read_partition
from headrace_skill_broadcaster.decide.catalog import (
    CatalogUpdate,
    Refused,
    Repeated,
    change_of,
    decide,
    feed_event_id,
    feed_events,
    interest_key,
    position_in,
    skill_key,
)
from headrace_skill_broadcaster.decide.rules import SkillLimits
from headrace_skill_broadcaster.metrics import SkillMetrics

BATCH = 500
"""Maximum number of records in one batch: at most this many are in the catalog but not in the feed after a crash."""
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0

_log = get_logger("headrace.skills.keeper")


class _ReadAgain(Exception):
    """Memory may differ from the log: read the partition again, then continue."""


_PASSING = (_ReadAgain, TransientError, AppendUncertain, Overloaded, RegistryUnavailable)
"""Errors that waiting and reading the partition again can cure."""


class _TooLarge(Exception):
    """The cluster will never accept one of the records."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


@dataclass(frozen=True, slots=True)
class _Step:
    """A submission on its way into the catalog."""

    record: Record
    entry: SkillPublished
    told: bool
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Tools:
    """Collaborators of a keeper.

    Attributes:
        clock: Milliseconds since the Unix epoch.
        elsewhere: A skill by key, from whichever catalog partition has it: partitions may have been added since its
            last version was written.
    """

    log: Log
    codec: Codec
    publisher: Publisher
    dead_letters: DeadLetters
    limits: SkillLimits
    measures: SkillMetrics
    clock: Callable[[], int]
    elsewhere: Callable[[str], SkillPublished | None]


class PartitionKeeper:
    """Turns the submissions of one partition into catalog and feed. Call `load` once, then `handle` batch by batch."""

    def __init__(self, partition: int, tools: Tools) -> None:
        self._partition = partition
        self._tools = tools
        self._catalog = TopicPartition(tools.codec.topic_prefix + SKILLS_CATALOG.name, partition)
        self._entries: dict[str, SkillPublished] = {}
        self._end = 0
        self._position = 0
        self._told_up_to: int | None = None
        self._refused: set[int] = set()
        self._lost = False

    def __len__(self) -> int:
        return len(self._entries)

    def lose(self) -> None:
        """The partition now belongs to another process: operations in progress raise PartitionsLost."""
        self._lost = True

    async def load(self, committed: int | None) -> int:
        """Read the partition, and publish what the previous owner may not have published.

        `committed` is the group's position in the submissions. Returns the position to start at. Raises TransientError.
        """
        self._told_up_to = committed
        self._position = committed or 0
        try:
            await self._read_again()
        except _PASSING as error:
            raise TransientError(f"{self._catalog} cannot be taken over yet: {error}") from error
        return self._position

    async def handle(self, records: Sequence[Record]) -> int:
        """Process records of the partition; returns the position to commit.

        Waits for as long as the cluster accepts no records. Raises PartitionsLost.
        """
        self._refused.clear()
        delay = _FIRST_DELAY_SECONDS
        while True:
            try:
                await self._record_and_tell(records)
                self._position = max(self._position, records[-1].offset + 1)
                self._told_up_to = self._position
                return self._position
            except _PASSING as reason:
                self._tools.measures.reloads.labels(type(reason).__name__.strip("_")).inc()
                _log.warning("catalog partition is read again", partition=self._partition, reason=str(reason))
                delay = await self._read_again_after(delay)

    async def check(self) -> None:
        """Read the partition again if another process has written to it. Raises TransientError, PartitionsLost."""
        reader = self._tools.log.reader()
        try:
            _, end = (await reader.bounds([self._catalog]))[self._catalog]
        finally:
            await reader.close()
        if end != self._end:
            self._tools.measures.reloads.labels("ForeignRecord").inc()
            _log.warning("another process wrote to the catalog", partition=self._partition, expected=self._end, end=end)
            await self._read_again_after(0.0)

    async def _read_again_after(self, delay: float) -> float:
        """Returns the delay before the next attempt."""
        while True:
            self._raise_if_lost()
            await asyncio.sleep(delay)
            delay = min(max(delay * 2, _FIRST_DELAY_SECONDS), _LONGEST_DELAY_SECONDS)
            try:
                await self._read_again()
                return delay
            except _PASSING as reason:
                _log.warning("catalog partition cannot be read yet", partition=self._partition, reason=str(reason))

    def _raise_if_lost(self) -> None:
        if self._lost:
            raise PartitionsLost(f"{self._catalog} belongs to another process")

    async def _read_again(self) -> None:
        contents = await read_partition(
            self._tools.log,
            self._tools.codec,
            self._catalog,
            self._tools.measures,
            beyond=self._told_up_to,
            keep_newest=BATCH,
        )
        self._entries = {key: self._shared(key, entry) for key, entry in contents.entries.items()}
        self._end = contents.end
        self._position = max((self._position, *map(position_in, self._entries.values())))
        await self._restore([self._entries[key] for key in sorted(contents.overtaken)])
        # Including versions that newer ones have replaced: followers of a domain receive every version.
        await self._tell([(entry, None) for entry in contents.newest])
        self._told_up_to = self._position

    def _shared(self, key: str, entry: SkillPublished) -> SkillPublished:
        # The process already holds the whole catalog in its view; equal skills share that memory.
        known = self._tools.elsewhere(key)
        return known if known is not None and known == entry else entry

    async def _restore(self, entries: Sequence[SkillPublished]) -> None:
        if entries:
            _log.warning("newest versions are appended again", partition=self._partition, skills=len(entries))
            await self._append([self._catalog_record(entry, None) for entry in entries])

    async def _record_and_tell(self, records: Sequence[Record]) -> None:
        steps = await self._decide_all(records)
        try:
            await self._append([self._catalog_record(step.entry, step.traceparent) for step in steps])
        except _TooLarge as error:
            step = steps[error.index]
            await self._refuse(step.record, SendToDeadLetters(f"the log refuses the skill's record: {error}"))
            raise _ReadAgain(f"{step.entry.name}: {error}") from error
        now_ms = self._tools.clock()
        for step in steps:
            self._entries[skill_key(step.entry.tenant, step.entry.name)] = step.entry
            outcome = change_of(step.entry).value if step.told else "unchanged"
            self._tools.measures.submissions.labels(outcome).inc()
            self._tools.measures.catalogued.observe(max(0, now_ms - step.entry.submitted_at) / 1000)
        await self._tell([(step.entry, step.traceparent) for step in steps if step.told])

    async def _decide_all(self, records: Sequence[Record]) -> list[_Step]:
        steps: list[_Step] = []
        latest: dict[str, SkillPublished] = {}
        for record in records:
            if record.offset < self._position or record.offset in self._refused:
                continue
            try:
                submission = await self._read(record)
            except (UnreadableValue, SendToDeadLetters) as error:
                await self._refuse(record, error)
                continue
            except (StreamsError, RegistryUnavailable):
                raise
            except Exception as error:  # noqa: BLE001 - one record must not stop the partition
                await self._refuse_unforeseen(record, error)
                continue
            key = skill_key(submission.tenant, submission.name)
            current = latest.get(key) or self._entries.get(key) or self._tools.elsewhere(key)
            position = Position(topic=SKILLS_SUBMITTED.name, partition=record.partition, next_offset=record.offset + 1)
            try:
                decision = decide(current, submission, position, self._tools.clock(), self._tools.limits)
            except Exception as error:  # noqa: BLE001 - as above
                await self._refuse_unforeseen(record, error)
                continue
            match decision:
                case Refused(flaw):
                    await self._refuse(record, SendToDeadLetters(str(flaw)))
                case Repeated():
                    self._tools.measures.submissions.labels("repeated").inc()
                case CatalogUpdate(entry, told):
                    latest[key] = entry
                    steps.append(_Step(record, entry, told, traceparent(record.headers)))
        return steps

    async def _read(self, record: Record) -> SkillSubmitted:
        origin = Origin(record.topic, record.partition, record.offset)
        submission = await self._tools.codec.read(SkillSubmitted, record.value, origin)
        if record.key != skill_key(submission.tenant, submission.name).encode():
            raise SendToDeadLetters("the record's key must be <tenant>/<name> of the skill, or its versions lose order")
        return submission

    async def _refuse_unforeseen(self, record: Record, error: Exception) -> None:
        _log.error("a submission failed", partition=record.partition, offset=record.offset, reason=described(error))
        await self._refuse(record, error)

    async def _refuse(self, record: Record, error: Exception) -> None:
        self._tools.measures.submissions.labels("refused").inc()
        _log.warning("submission is refused", partition=record.partition, offset=record.offset, reason=str(error))
        try:
            await self._tools.dead_letters.keep(record, error)
        except RecordRefused as refusal:
            # A value that is too large is left out of its dead letter, so the cause is the topic or the right to write
            # to it, which an operator can fix. Until then the partition waits: a record must not be skipped that is
            # stored nowhere.
            raise TransientError(
                f"the dead letters do not take {record.topic_partition}@{record.offset}: {refusal}"
            ) from None
        self._refused.add(record.offset)

    async def _append(self, publications: Sequence[Publication]) -> None:
        """Append to the catalog; returns when all records are acknowledged at consecutive offsets.

        Raises _ReadAgain, _TooLarge, TransientError, AppendUncertain, Overloaded, PartitionsLost.
        """
        self._raise_if_lost()
        futures = [self._tools.publisher.send(publication) for publication in publications]
        results = await asyncio.gather(*futures, return_exceptions=True)
        for index, result in enumerate(results):
            if isinstance(result, RecordRefused):
                raise _TooLarge(index, str(result))
            if isinstance(result, BaseException):
                raise result
        offsets = [result.offset for result in results if isinstance(result, RecordMetadata)]
        if offsets != list(range(self._end, self._end + len(offsets))):
            raise _ReadAgain(f"{self._catalog}: offsets {offsets}, expected {self._end}: another process has written")
        self._end += len(offsets)

    async def _tell(self, entries: Iterable[tuple[SkillPublished, str | None]]) -> None:
        """Write the feed's records; returns when all are acknowledged, however long that takes.

        Raises PartitionsLost, RecordRefused.
        """
        waiting = [record for entry, traceparent in entries for record in self._feed_records(entry, traceparent)]
        delay = _FIRST_DELAY_SECONDS
        while waiting:
            self._raise_if_lost()
            results = await asyncio.gather(*(self._send(publication) for publication in waiting))
            waiting = [publication for publication, done in zip(waiting, results, strict=True) if not done]
            if waiting:
                _log.warning("feed does not take records, trying again", records=len(waiting), delay_seconds=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY_SECONDS)

    async def _send(self, publication: Publication) -> bool:
        try:
            await self._tools.publisher.send(publication)
        except (TransientError, AppendUncertain, Overloaded):
            # Sent again by the caller. A repeated feed event is harmless, because it has the same id.
            return False
        return True

    def _catalog_record(self, entry: SkillPublished, traceparent: str | None) -> Publication:
        key = skill_key(entry.tenant, entry.name)
        return Publication(
            spec=SKILLS_CATALOG,
            event=entry,
            event_id=f"{key}/{entry.version}/{entry.submission_id}",
            key=key.encode(),
            tenant=entry.tenant,
            time_ms=entry.published_at,
            partition=self._partition,
            subject=entry.name,
            traceparent=traceparent,
        )

    def _feed_records(self, entry: SkillPublished, traceparent: str | None) -> list[Publication]:
        return [
            Publication(
                spec=SKILLS_FEED,
                event=event,
                event_id=feed_event_id(event),
                key=interest_key(event.tenant, event.interest).encode(),
                tenant=event.tenant,
                time_ms=event.published_at,
                subject=event.name,
                traceparent=traceparent,
            )
            for event in feed_events(entry)
        ]
