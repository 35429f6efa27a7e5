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
from headrace_contracts.topics import SKILLS_CATALOG, SKILLS_SUBMITTED
from headrace_runtime.logging import get_logger
from headrace_runtime.producers import ProducerRefused, ProducerVerification
from headrace_streams.dead_letters import DeadLetters, described
from headrace_streams.errors import (
    AppendUncertain,
    OffsetOutOfRange,
    Overloaded,
    PartitionsLost,
    RecordRefused,
    SendToDeadLetters,
    StreamsError,
    TransientError,
)
from headrace_streams.ports import Log
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, Record, RecordMetadata, TopicPartition

from headrace_skill_broadcaster.adapters.catalog_partition import read_partition
from headrace_skill_broadcaster.adapters.catalog_records import catalog_record, feed_records, tombstone
from headrace_skill_broadcaster.decide.catalog import (
    CatalogUpdate,
    Refused,
    Repeated,
    change_of,
    decide,
    position_in,
    skill_key,
)
from headrace_skill_broadcaster.decide.forgetting import forgotten_versions, sweep
from headrace_skill_broadcaster.decide.quotas import Holding, over_quota
from headrace_skill_broadcaster.decide.rules import SkillLimits
from headrace_skill_broadcaster.metrics import SkillMetrics

BATCH = 500
"""Maximum number of records in one batch: at most this many are in the catalog but not in the feed after a crash."""
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0

_log = get_logger("headrace.skills.keeper")


class _ReadAgain(Exception):
    """Memory may differ from the log: read the partition again, then continue."""


_PASSING = (_ReadAgain, TransientError, OffsetOutOfRange, AppendUncertain, Overloaded, RegistryUnavailable)
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
        held_by: What a tenant has in the whole catalog. Other partitions' newest changes may be missing, so a tenant
            that writes to many at once can exceed its quota by what they take at once.
        forgotten_version: The highest version among a tenant's skills that any partition has forgotten.
        sweep_seconds: Time between two sweeps for skills that were revoked long ago.
        producers: Decides whose submissions to take; None takes all.
    """

    log: Log
    codec: Codec
    publisher: Publisher
    dead_letters: DeadLetters
    limits: SkillLimits
    measures: SkillMetrics
    clock: Callable[[], int]
    elsewhere: Callable[[str], SkillPublished | None]
    held_by: Callable[[str], Holding] = lambda tenant: Holding()
    forgotten_version: Callable[[str], int] = lambda tenant: 0
    sweep_seconds: float = 3600.0
    producers: ProducerVerification | None = None


class PartitionKeeper:
    """Turns the submissions of one partition into catalog and feed. Call `load` once, then `handle` batch by batch."""

    def __init__(self, partition: int, tools: Tools) -> None:
        self._partition = partition
        self._tools = tools
        self._catalog = TopicPartition(tools.codec.topic_prefix + SKILLS_CATALOG.name, partition)
        self._entries: dict[str, SkillPublished] = {}
        self._forgotten: dict[str, int] = {}
        self._swept_at: float | None = None
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
        _, end = (await self._tools.log.admin().bounds([self._catalog]))[self._catalog]
        if end != self._end:
            self._tools.measures.reloads.labels("ForeignRecord").inc()
            _log.warning("another process wrote to the catalog", partition=self._partition, expected=self._end, end=end)
            await self._read_again_after(0.0)

    async def sweep(self) -> None:
        """Forget the skills that were revoked long ago, if that has not been looked after for a while.

        Raises PartitionsLost.
        """
        now = asyncio.get_running_loop().time()
        if self._swept_at is not None and now - self._swept_at < self._tools.sweep_seconds:
            return
        self._swept_at = now
        due = sweep(self._entries, self._tools.elsewhere, self._tools.clock(), self._tools.limits.revoked_ms)
        if not due:
            return
        try:
            await self._append([catalog_record(entry, self._partition) for entry in due.restated.values()])
            self._entries.update(due.restated)
            self._forgotten = forgotten_versions(self._entries)
            await self._append([tombstone(self._catalog, *item) for item in due.forgotten.items()])
        except (_TooLarge, *_PASSING) as error:
            # The next sweep does what is left.
            _log.warning("revoked skills are not forgotten yet", partition=self._partition, reason=str(error))
            await self._read_again_after(_FIRST_DELAY_SECONDS)
        else:
            for key in due.forgotten:
                del self._entries[key]
            self._tools.measures.forgotten.inc(len(due.forgotten))
            _log.info("forgot skills that were revoked long ago", partition=self._partition, skills=len(due.forgotten))

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
        self._forgotten = forgotten_versions(self._entries)
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
            await self._append([catalog_record(entry, self._partition) for entry in entries])

    async def _record_and_tell(self, records: Sequence[Record]) -> None:
        steps = await self._decide_all(records)
        try:
            await self._append([catalog_record(step.entry, self._partition, step.traceparent) for step in steps])
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
        held: dict[str, Holding] = {}
        for record in records:
            if record.offset < self._position or record.offset in self._refused:
                continue
            try:
                submission = await self._read(record)
            except (UnreadableValue, ProducerRefused, SendToDeadLetters) as error:
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
                forgotten = max(
                    self._forgotten.get(submission.tenant, 0), self._tools.forgotten_version(submission.tenant)
                )
                decision = decide(current, submission, position, self._tools.clock(), self._tools.limits, forgotten)
            except Exception as error:  # noqa: BLE001 - as above
                await self._refuse_unforeseen(record, error)
                continue
            if isinstance(decision, CatalogUpdate):
                holding = held.get(submission.tenant) or self._tools.held_by(submission.tenant)
                if (flaw := over_quota(holding, current, decision.entry, self._tools.limits)) is not None:
                    decision = Refused(flaw)
                else:
                    held[submission.tenant] = holding.with_change(current, decision.entry)
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
        if self._tools.producers is not None:
            await self._tools.producers.verify(record, submission.tenant)
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
        if isinstance(error, ProducerRefused) and self._tools.producers is not None:
            self._tools.producers.count(record, error)
        self._refused.add(record.offset)

    async def _append(self, publications: Sequence[Publication | ProducerRecord]) -> None:
        """Append to the catalog; returns when all records are acknowledged at consecutive offsets.

        Raises _ReadAgain, _TooLarge, TransientError, AppendUncertain, Overloaded, PartitionsLost.
        """
        self._raise_if_lost()
        publisher = self._tools.publisher
        futures = [
            publisher.send_record(each) if isinstance(each, ProducerRecord) else publisher.send(each)
            for each in publications
        ]
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
        waiting = [record for entry, traceparent in entries for record in feed_records(entry, traceparent)]
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
