"""Reading a journal partition: which entries count, and what they add up to (the rules: `headrace_streams.journal`).

A long journal is read in seconds because most entries are never decoded as a whole: the first fields say whether an
entry counts and what it is about (`JournaledDecision`). Decoded in full are the entries that the caller asks for, the
last one, those whose commands may be unpublished, and one in a thousand, to learn how far entries are published.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, SchemaNotCached, UnreadableValue
from headrace_contracts.events import EntryKind, JournalEntry, Position, TaskPhase
from headrace_contracts.task_sizes import held_bytes, task_bytes

from headrace_streams.errors import OffsetOutOfRange, TransientError
from headrace_streams.ports import PartitionReader
from headrace_streams.records import Record, TopicPartition

_READ_AT_ONCE: Final = 500
_READ_SECONDS: Final = 1.0
_STALLED_SECONDS: Final = 10.0
"""A partition that is not at its end delivers something within this time, or it has trouble."""
_LOOK_EVERY: Final = 1000
"""Entries after which one is read in full, to learn which of those kept meanwhile have been published."""
_OUTLINE: Final = (
    "kind", "task_id", "generation", "sequence", "cause", "state.phase", "state.digest", "state.wake_at",
    "state.work_topic", "state.turn", "state.sensitive_session",
    "state.task.tenant", "state.task.messages", "state.task.options", "state.task.labels",
    "state.task.session",
)  # fmt: skip
_PHASES: Final = {str(phase): phase for phase in TaskPhase}
_KINDS: Final = {str(kind): kind for kind in EntryKind}


def outline_of_task(task: Mapping[str, Any]) -> tuple[str, int]:
    """The tenant of a task in a state's first fields, and the bytes that it is counted with."""
    # Those of an older release have no parts and no options.
    messages = (
        len(each["content"]["data"]) + held_bytes(each.get("parts")) + held_bytes(each.get("name"))
        for each in task["messages"]
    )
    size = task_bytes(messages, held_bytes(task.get("options")), task["labels"])
    # There are many tasks of few tenants.
    return sys.intern(task["tenant"]), size


class JournalUnreadable(UnreadableValue):
    """Have an operator look: a record of the journal cannot be read, and may be a decision.

    Until the record is passed over by a skip, nothing may be decided in the partition: without the decision, a task
    could be lost, or end twice.
    """


@dataclass(frozen=True, slots=True)
class JournaledEntry:
    """A valid entry and its offset."""

    offset: int
    entry: JournalEntry


class JournaledDecision(NamedTuple):
    """A valid decision, of which only the first fields are decoded.

    A named tuple, because there is one for every entry of a journal and it is the fastest immutable type to create.

    Attributes:
        offset: Its offset.
        timestamp_ms: Timestamp of its record, which retention goes by.
        task_id, cause: As in the entry.
        phase, digest, wake_at, work_topic, turn: As in its state; `phase` is None if it has no state.
        value: Its bytes.
        decode: Decodes the bytes of an entry at an offset.
        tenant, task_bytes: Of the state's task, and what it is counted with (`task_sizes`); nothing if it has none.
        session: Of the state's task, where it has a work topic.
        sensitive_session: As in its state.
    """

    offset: int
    timestamp_ms: int
    task_id: str
    cause: str
    phase: TaskPhase | None
    digest: str
    wake_at: int | None
    value: bytes
    decode: Callable[[int, bytes], JournalEntry]
    tenant: str = ""
    task_bytes: int = 0
    work_topic: str | None = None
    turn: int | None = None
    session: str | None = None
    sensitive_session: bytes | None = None

    def entry(self) -> JournalEntry:
        """The whole entry. Raises UnreadableValue."""
        return self.decode(self.offset, self.value)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a new owner finds.

    Attributes:
        positions: Next offset of each input, by topic (without prefix) and partition.
        topic_ids: Ids of the topics that these offsets belong to, by topic and partition, as far as known.
        unpublished: Entries whose commands may not have been published, in order.
        completed_offset: Terminal states of unpublished entries, if they were written, are at or after this offset of
            tasks.completed; None if unknown.
        shadowed: Tasks whose newest record is invalid: write each once more, or compaction loses the valid one.
        entries: Number of valid entries.
        last: The last valid decision or checkpoint.
    """

    positions: Mapping[tuple[str, int], int]
    topic_ids: Mapping[tuple[str, int], str]
    unpublished: tuple[JournaledEntry, ...]
    completed_offset: int | None
    shadowed: frozenset[str]
    entries: int
    last: JournalEntry | None


async def read_journal(
    reader: PartitionReader,
    codec: Codec,
    where: TopicPartition,
    epoch_start: int,
    fold: Callable[[JournaledDecision], None],
) -> Recovered:
    """Read a partition from its start up to an epoch start, yielding to the event loop in between.

    Args:
        reader: Its assignment is replaced.
        fold: Called with each valid decision, in order.

    Raises JournalUnreadable, RegistryUnavailable, TransientError if the partition delivers nothing for a while, and
    what the reader raises.
    """
    reading = JournalReading(codec, where, fold)
    clock = asyncio.get_running_loop().time
    while True:
        first, _ = (await reader.bounds([where]))[where]
        await reader.assign({where: max(first, reading.next_offset)})
        try:
            moved_at, reached = clock(), reading.next_offset
            while reading.next_offset <= epoch_start:
                if reading.next_offset > reached:
                    moved_at, reached = clock(), reading.next_offset
                elif (waited := clock() - moved_at) > _STALLED_SECONDS:
                    raise TransientError(f"{where} has delivered nothing after offset {reached} for {waited:.0f} s")
                for record in await reader.poll(_READ_AT_ONCE, _READ_SECONDS):
                    if record.offset > epoch_start:
                        return reading.recovered()
                    while (missing := reading.take(record)) is not None:
                        await codec.learn(missing, Origin(where.topic, where.partition, record.offset))
                await asyncio.sleep(0)
            return reading.recovered()
        except OffsetOutOfRange:
            # Retention has moved the start of the log since: continue from the new one, which loses nothing that
            # counts, as live tasks are restated long before they expire.
            continue


class JournalReading:
    """One pass over the partition.

    Attributes:
        next_offset: Offset after the last record taken.
        entries: Number of valid entries so far.
    """

    def __init__(self, codec: Codec, where: TopicPartition, fold: Callable[[JournaledDecision], None]) -> None:
        self.next_offset = 0
        self._codec = codec
        self._where = where
        self._fold = fold
        self._epoch = -1
        self._ended = False
        self._positions: dict[tuple[str, int], Position] = {}
        self._published_offset = 0
        self._completed_offset: int | None = None
        # Values by offset: the last entry, and earlier ones whose commands may be unpublished as far as is known.
        # Bytes, not entries: most are dropped again without ever having been decoded.
        self._open: OrderedDict[int, bytes] = OrderedDict()
        self._decision: tuple[int, bytes] | None = None
        self._shadowed: set[str] = set()
        self._unreadable: dict[int, UnreadableValue] = {}
        self.entries = 0

    def take(self, record: Record) -> int | None:
        """Process a record. Returns the id of a schema that must be fetched first, or None if it is done."""
        # Read once: with the Kafka client each of these is a call into librdkafka's message.
        offset, value = record.offset, record.value
        origin = Origin(self._where.topic, self._where.partition, offset)
        try:
            data = self._codec.first_fields(JournalEntry, value, origin, _OUTLINE)
        except SchemaNotCached as missing:
            return missing.schema_id
        except UnreadableValue as error:
            self.next_offset = offset + 1
            # It ends its epoch, as any foreign record does. It may stand where an entry was lost, and the next entry
            # would then be in its place although its owner never published it.
            self._ended = True
            # A tombstone is certainly no decision.
            if value is not None:
                self._unreadable[offset] = error
            if record.key is not None:
                self._shadowed.add(record.key.decode("utf-8", "replace"))
            return None
        self.next_offset = offset + 1
        # A kind added by a newer version reads as the enum's default, as the schema says.
        kind = _KINDS.get(data["kind"], EntryKind.DECISION)
        if kind is EntryKind.EPOCH_START:
            self._epoch, self._ended = offset, False
        elif kind is EntryKind.SKIP:
            skip = self._decoded(offset, value or b"")
            self._unreadable.pop(-1 if skip.skipped_offset is None else skip.skipped_offset, None)
        elif not self._counts(offset, data["generation"], data["sequence"]):
            self._ended = True
            if kind is EntryKind.DECISION:
                self._shadowed.add(data["task_id"])
        else:
            assert value is not None
            self._apply(offset, value, record.timestamp_ms, kind, data)
        return None

    def _counts(self, offset: int, epoch: int, sequence: int) -> bool:
        if offset != epoch + sequence or epoch < self._epoch:
            return False
        if epoch > self._epoch:
            # Its epoch start has been compacted away. The entry's offset shows that there was one; and no invalid
            # record gets here, because an owner replaces those before compaction may remove what invalidates them.
            self._epoch, self._ended = epoch, False
        return not self._ended

    def _apply(self, offset: int, value: bytes, timestamp_ms: int, kind: EntryKind, data: dict[str, Any]) -> None:
        self.entries += 1
        self._open[offset] = value
        if self.entries % _LOOK_EVERY == 0:
            self._look(self._decoded(offset, value))
        if kind is not EntryKind.DECISION:
            return
        self._decision = offset, value
        task_id, state = data["task_id"], data["state"]
        self._shadowed.discard(task_id)
        if state is None:
            phase, digest, wake_at, task = None, "", None, None
            topic, turn = None, None
        else:
            phase, digest = _PHASES.get(state["phase"], TaskPhase.WAITING), state["digest"]
            wake_at, task = state["wake_at"], state["task"]
            # Those of an older release have neither.
            topic, turn = state.get("work_topic"), state.get("turn")
        tenant, size = ("", 0) if task is None else outline_of_task(task)
        self._fold(
            JournaledDecision(
                offset,
                timestamp_ms,
                task_id,
                data["cause"],
                phase,
                digest,
                wake_at,
                value,
                self._decoded,
                tenant,
                size,
                None if topic is None else sys.intern(topic),
                turn,
                None if topic is None or task is None else task["session"],
                None if state is None else state.get("sensitive_session"),
            )
        )

    def _look(self, entry: JournalEntry) -> None:
        """Learn from an entry what it says about earlier ones. Each says at least as much as the one before it."""
        for position in entry.positions:
            # They only advance, except where an owner found that an input is another log than before.
            self._positions[position.topic, position.partition] = position
        if entry.published_offset is not None:
            self._published_offset = max(self._published_offset, entry.published_offset)
            while self._open and next(iter(self._open)) < self._published_offset:
                self._open.popitem(last=False)
        if entry.completed_offset is not None:
            self._completed_offset = max(entry.completed_offset, self._completed_offset or 0)

    def _decoded(self, offset: int, value: bytes) -> JournalEntry:
        return self._codec.decode(JournalEntry, value, Origin(self._where.topic, self._where.partition, offset))

    def recovered(self) -> Recovered:
        for offset, error in self._unreadable.items():
            number = self._where.partition
            others = f" and {len(self._unreadable) - 1} more" if len(self._unreadable) > 1 else ""
            raise JournalUnreadable(
                error.origin,
                f"{error.reason}. This record of the journal{others} cannot be read, and may be a decision. Look at it "
                f"with `headrace journal show {number} --offset {offset}`; to go on without it, use "
                f"`headrace journal skip {number} {offset} --reason ...`",
            ) from error
        # The last entries tell which of the open ones need not be decoded. Both the last decision and the last entry
        # are read, since checkpoints written by the first release name no positions.
        telling = [] if self._decision is None else [self._decision]
        if self._open:
            telling.append((offset := next(reversed(self._open)), self._open[offset]))
        last: JournalEntry | None = None
        for offset, value in telling:
            last = self._decoded(offset, value)
            self._look(last)
        unpublished = []
        for offset, value in self._open.items():
            entry = self._decoded(offset, value)
            if entry.commands:
                unpublished.append(JournaledEntry(offset, entry))
        return Recovered(
            positions={where: position.next_offset for where, position in self._positions.items()},
            topic_ids={where: p.topic_id for where, p in self._positions.items() if p.topic_id is not None},
            unpublished=tuple(unpublished),
            completed_offset=self._completed_offset,
            shadowed=frozenset(self._shadowed),
            entries=self.entries,
            last=last,
        )
