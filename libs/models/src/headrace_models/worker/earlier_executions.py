"""Earlier executions of attempts that may have been begun by another worker, or by an earlier life of this one.

A record that was in its partition when the partition was assigned to this worker is doubtful: whoever had the partition
before may have called a provider for it. So is one that the router may have published twice, as its header says. What
became of it stands in the task's home partition: `attempts.started` has every execution whose call was about to begin,
`attempts.finished.cloud` every one that was reported. For attempts that one of the two has, the tenant's partition of
`usage.recorded` says which executions are accounted for.

Only the records' headers are looked at, from the time of the oldest doubtful record on, and each partition is read once
after an assignment, however many attempts are asked about. What was read is kept while it is of use.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace_contracts.headers import REPEATED, header
from headrace_contracts.ids import recorded_usage_id
from headrace_contracts.topics import ATTEMPTS_FINISHED_CLOUD, ATTEMPTS_STARTED, USAGE_RECORDED
from headrace_streams.dead_letters import described
from headrace_streams.errors import LeaveGroup, OffsetOutOfRange, TopicMissing, TransientError
from headrace_streams.partitioning import partition_of
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.reading import up_to
from headrace_streams.records import Record, TopicPartition

_log = logging.getLogger(__name__)

_BATCH: Final = 5_000
_POLL_SECONDS: Final = 1.0
SKEW_MS: Final = 300_000
"""Most that the clocks of two hosts may differ: the times of work and of what became of it are compared."""
_KEPT_SECONDS: Final = 60.0
"""What was read is forgotten when no doubtful record has come for this long."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A record that names an execution."""

    partition: TopicPartition
    offset: int
    source: str
    """Who wrote it, as CloudEvents have it."""
    timestamp_ms: int


Sightings = Mapping[str, Sighting]
"""By execution."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What the topics say of an attempt's executions.

    Attributes:
        started, finished: Those whose call was announced, and those that were reported.
        recorded: Those whose consumption is recorded.
        marked: Those that are recorded as lost.
    """

    started: Sightings
    finished: Sightings
    recorded: Collection[str] = ()
    marked: Collection[str] = ()


NO_TRACES: Final = Traces({}, {})


@dataclass(slots=True, eq=False)
class _Known:
    """The executions that one partition names, as far as it has been read."""

    partition: TopicPartition
    since_ms: int = 0
    next_offset: int | None = None
    """Where reading goes on; None before the first time."""
    as_of: int = -1
    """The count of what gave reason to doubt when it was last read to its end: assignments, and repeated records."""
    only: frozenset[str] | None = None
    """The only attempts that are kept, once there were too many; None while all are."""
    found: dict[str, dict[str, Sighting]] = field(default_factory=dict)
    marked: dict[str, dict[str, Sighting]] = field(default_factory=dict)
    """Executions that are said to be lost, where usage is recorded."""

    def serves(self, attempt_id: str, since_ms: int, reasons: int) -> bool:
        held = self.only is None or attempt_id in self.only
        return held and self.as_of >= reasons and self.since_ms <= since_ms

    def begin_anew(self, since_ms: int) -> None:
        self.since_ms, self.next_offset, self.as_of, self.only = since_ms, None, -1, None
        self.found.clear()
        self.marked.clear()

    def take(self, record: Record) -> None:
        event_id = header(record.headers, "ce_id") or ""
        lost = recorded_usage_id(event_id)
        attempt_id, _, execution = (event_id if lost is None else lost).rpartition("/")
        if not attempt_id or (self.only is not None and attempt_id not in self.only):
            return
        source = header(record.headers, "ce_source") or ""
        sighting = Sighting(self.partition, record.offset, source, record.timestamp_ms)
        found = self.found if lost is None else self.marked
        found.setdefault(attempt_id, {}).setdefault(execution, sighting)

    def keep_only(self, attempts: Iterable[str]) -> None:
        self.only = frozenset(attempts)
        self.found = {name: found for name, found in self.found.items() if name in self.only}
        self.marked = {name: found for name, found in self.marked.items() if name in self.only}


@dataclass(frozen=True, slots=True)
class _Question:
    attempt_id: str
    since_ms: int


class EarlierExecutions:
    """Looks up what became of attempts that others may have begun.

    Args:
        read_seconds: Longest time of one look; the next one goes on where it ended.
        most_attempts: So many attempts of a partition are kept; beyond that only those that are asked about, and others
            cost another look.
    """

    def __init__(self, log: Log, topic_prefix: str, *, read_seconds: float = 10.0, most_attempts: int = 10_000) -> None:
        self._log = log
        self._prefix = topic_prefix
        self._read_seconds = read_seconds
        self._most = most_attempts
        self._doubtful: dict[TopicPartition, int | None] = {}
        self._reasons = 0
        self._asking: asyncio.Future[None] | None = None
        self._known: dict[TopicPartition, _Known] = {}
        self._questions: dict[TopicPartition, dict[_Question, int]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._usage_partitions = 0
        self._used_at = 0.0

    def doubt(self, partition: TopicPartition) -> None:
        """Records that are in this partition now may have been begun: it was assigned, or its log is another one."""
        self._doubtful[partition] = None
        self._reasons += 1
        if self._asking is None or self._asking.done():
            # At once, so that records that come later are not doubted; what is not known by then is asked for again.
            self._asking = asyncio.ensure_future(self._ask_for_ends())

    async def _ask_for_ends(self) -> None:
        while names := [name for name, end in self._doubtful.items() if end is None]:
            try:
                await self._learn_ends(names)
            except (TransientError, TopicMissing, LeaveGroup) as error:
                _log.info("the ends of %d partitions are not known yet: %s", len(names), described(error))
                return

    async def _learn_ends(self, names: Sequence[TopicPartition]) -> None:
        reasons, reader = self._reasons, self._log.reader()
        try:
            bounds = await reader.bounds(names)
        finally:
            await reader.close()
        if reasons == self._reasons:
            self._doubtful.update({name: end for name, (_, end) in bounds.items()})

    async def of(self, record: Record, attempt_id: str, home_partition: int, tenant: str) -> Traces:
        """What is known of the executions of the attempt in a work record. Raises TransientError: ask again later."""
        if home_partition < 0:
            return NO_TRACES
        if header(record.headers, REPEATED) is not None:
            # What was read before may lack what has become of the first record.
            self._reasons += 1
        elif not self._may_be_doubtful(record):
            self._forget_in_time()
            return NO_TRACES
        try:
            async with asyncio.timeout(self._read_seconds):
                return await self._look(record, attempt_id, home_partition, tenant)
        except (OffsetOutOfRange, TopicMissing, LeaveGroup, TimeoutError) as error:
            # LeaveGroup: the rights to read are missing. Whoever runs the cluster can mend that.
            raise TransientError(f"earlier executions of {attempt_id} are not known yet: {described(error)}") from error

    async def _look(self, record: Record, attempt_id: str, home_partition: int, tenant: str) -> Traces:
        question = _Question(attempt_id, record.timestamp_ms - SKEW_MS)
        if header(record.headers, REPEATED) is None:
            while self._doubtful[record.topic_partition] is None:
                await self._learn_ends([record.topic_partition])
            if not self._may_be_doubtful(record):
                return NO_TRACES
        self._used_at = asyncio.get_running_loop().time()
        home = [
            TopicPartition(self._prefix + spec.name, home_partition)
            for spec in (ATTEMPTS_STARTED, ATTEMPTS_FINISHED_CLOUD)
        ]
        started, finished = await self._found(home, question)
        if not started and not finished:
            return NO_TRACES
        usage = await self._usage_of(tenant)
        [recorded] = await self._found([usage], question)
        return Traces(started, finished, recorded, frozenset(self._known[usage].marked.get(attempt_id, ())))

    def _may_be_doubtful(self, record: Record) -> bool:
        if record.topic_partition not in self._doubtful:
            return False
        end = self._doubtful[record.topic_partition]
        return end is None or record.offset < end

    async def _usage_of(self, tenant: str) -> TopicPartition:
        topic = self._prefix + USAGE_RECORDED.name
        if not self._usage_partitions:
            reader = self._log.reader()
            try:
                self._usage_partitions = len(await reader.partitions_of(topic))
            finally:
                await reader.close()
        return TopicPartition(topic, partition_of(tenant.encode(), self._usage_partitions))

    async def _found(self, partitions: Collection[TopicPartition], question: _Question) -> list[Sightings]:
        """The executions of an attempt in these partitions, of which those are read that have to be."""
        for name in partitions:
            asked = self._questions.setdefault(name, {})
            asked[question] = asked.get(question, 0) + 1
        try:
            # Whoever comes first reads for all that wait.
            async with self._one_at_a_time:
                stale = [name for name in partitions if not self._serves(name, question)]
                if stale:
                    await self._read(stale)
                return [dict(self._known[name].found.get(question.attempt_id, {})) for name in partitions]
        finally:
            for name in partitions:
                asked = self._questions[name]
                asked[question] -= 1
                if not asked[question]:
                    del asked[question]

    def _serves(self, name: TopicPartition, question: _Question) -> bool:
        known = self._known.get(name)
        return known is not None and known.serves(question.attempt_id, question.since_ms, self._reasons)

    async def _read(self, names: Collection[TopicPartition]) -> None:
        reasons, reader = self._reasons, self._log.reader()
        try:
            bounds = await reader.bounds(names)
            knowns = [await self._prepared(reader, name, bounds[name]) for name in names]
            await reader.assign({known.partition: known.next_offset or 0 for known in knowns})
            ends = {name: bounds[name][1] for name in names}
            of = {known.partition: known for known in knowns}
            async for records in up_to(reader, ends, most=_BATCH, poll_seconds=_POLL_SECONDS):
                for record in records:
                    of[record.topic_partition].take(record)
                for name, position in reader.positions().items():
                    of[name].next_offset = position
                for known in knowns:
                    self._bound(known)
            for known in knowns:
                known.next_offset = max(known.next_offset or 0, ends[known.partition])
                known.as_of = reasons
        except OffsetOutOfRange:
            for name in names:
                self._known.pop(name, None)
            raise
        finally:
            await reader.close()

    async def _prepared(self, reader: PartitionReader, name: TopicPartition, bounds: tuple[int, int]) -> _Known:
        """What is known of a partition, with the place where reading it for all who wait goes on."""
        known = self._known.setdefault(name, _Known(name))
        asked = self._questions[name]
        since = min(question.since_ms for question in asked)
        unheld = known.only is not None and not known.only.issuperset(question.attempt_id for question in asked)
        was_read = known.next_offset is not None
        if not was_read or known.since_ms > since or unheld or not bounds[0] <= (known.next_offset or 0) <= bounds[1]:
            # Some more, since the next one to ask may have an older record.
            known.begin_anew(since - SKEW_MS)
            if unheld:
                known.keep_only(question.attempt_id for question in asked)
            known.next_offset = (await reader.offsets_at([name], known.since_ms))[name]
        return known

    def _bound(self, known: _Known) -> None:
        if len(known.found) + len(known.marked) > self._most and known.only is None:
            _log.info("%s names more than %d attempts, of which few are kept", known.partition, self._most)
            known.keep_only(question.attempt_id for question in self._questions[known.partition])

    def forget(self) -> None:
        """Read everything anew: what is known is of another log."""
        for known in self._known.values():
            known.since_ms = sys.maxsize

    def _forget_in_time(self) -> None:
        idle = asyncio.get_running_loop().time() - self._used_at > _KEPT_SECONDS
        if self._known and idle and not self._one_at_a_time.locked():
            self._known.clear()
