"""The content of the topics, evaluated independently by the judge: no code of the services decides here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, SchemaNotCached, UnreadableValue
from headrace_contracts.events import (
    AttemptFinished,
    AttemptRequested,
    Command,
    DeadLetter,
    EntryKind,
    JournalEntry,
    ReplyKind,
    TaskCancelled,
    TaskCompleted,
    TaskReply,
    TaskSubmitted,
    UsageRecorded,
)
from headrace_contracts.topics import TOPICS

from headrace_testing.simulation.cluster import Seen

Place = tuple[str, int, int]
"""Topic without prefix, partition, offset."""


@dataclass(slots=True)
class JournalPartition:
    """Which entries of one journal partition count: those whose offset equals epoch start plus number, with no foreign
    entry in between.

    Attributes:
        counted: The entries that count, in order.
        positions: The consumed offset of each input, according to them.
    """

    epoch: int = -1
    broken: bool = True
    counted: list[tuple[Seen, JournalEntry]] = field(default_factory=list)
    positions: dict[tuple[str, int], int] = field(default_factory=dict)

    def take(self, seen: Seen, entry: JournalEntry | None) -> bool:
        """Whether this record counts."""
        if entry is None:
            self.broken = True
            return False
        offset = seen.record.offset
        if entry.kind is EntryKind.EPOCH_START:
            self.epoch, self.broken = offset, False
            return False
        stands = entry.epoch == self.epoch and offset == self.epoch + entry.sequence
        if self.broken or not stands:
            self.broken = True
            return False
        self.counted.append((seen, entry))
        for position in entry.positions:
            where = (position.topic, position.partition)
            self.positions[where] = max(self.positions.get(where, 0), position.next_offset)
        return True


@dataclass(frozen=True, slots=True)
class Commanded:
    """A command of an entry that counts."""

    seen: Seen
    entry: JournalEntry
    command: Command


class Topics:
    """Every record of every topic, by subject."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._prefix = codec.topic_prefix
        self.journal: dict[int, JournalPartition] = defaultdict(JournalPartition)
        self.submitted: dict[str, list[tuple[Seen, TaskSubmitted]]] = defaultdict(list)
        self.cancelled: dict[str, list[tuple[Seen, TaskCancelled]]] = defaultdict(list)
        self.completed: dict[str, list[tuple[Seen, TaskCompleted]]] = defaultdict(list)
        self.decisions: dict[str, list[tuple[Seen, JournalEntry]]] = defaultdict(list)
        """Entries that count, by task."""
        self.commands: dict[tuple[str, str], list[Commanded]] = defaultdict(list)
        """Commands of entries that count, by topic and event id."""
        self.work: dict[Place, tuple[Seen, AttemptRequested]] = {}
        self.finished: dict[str, list[AttemptFinished]] = defaultdict(list)
        self.usage: dict[str, UsageRecorded] = {}
        self.ambiguous_usage: set[str] = set()
        """Ids used for the usage of more than one execution."""
        self.usage_of_attempt: dict[str, dict[str, UsageRecorded]] = defaultdict(dict)
        self.usage_of_execution: dict[str, set[str]] = defaultdict(set)
        """Event ids of the usage of each execution."""
        self.reports: dict[Place, AttemptFinished] = {}
        self.final_replies: dict[str, list[tuple[Seen, TaskReply]]] = defaultdict(list)
        self.audited: set[str] = set()
        self.letters: dict[Place, list[str]] = defaultdict(list)
        """Kinds of errors of dead letters, by the origin of the record."""
        self.unreadable: set[Place] = set()

    def place(self, seen: Seen) -> Place:
        return seen.record.topic.removeprefix(self._prefix), seen.record.partition, seen.record.offset

    def take(self, seen: Seen) -> Any:
        """Add a record; returns its event, None for an undecodable one."""
        place = self.place(seen)
        event = self._read(seen, place)
        if event is None:
            self.unreadable.add(place)
        match event:
            case JournalEntry():
                self._journaled(seen, event)
            case None if place[0] == "tasks.journal":
                self.journal[place[1]].take(seen, None)
            case TaskSubmitted():
                self.submitted[event.task_id].append((seen, event))
            case TaskCancelled():
                self.cancelled[event.task_id].append((seen, event))
            case TaskCompleted():
                self.completed[event.task_id].append((seen, event))
            case AttemptRequested():
                self.work[place] = (seen, event)
            case AttemptFinished():
                self.finished[event.attempt_id].append(event)
                self.reports[place] = event
            case UsageRecorded():
                before = self.usage.setdefault(event.event_id, event)
                if before.execution_id != event.execution_id:
                    self.ambiguous_usage.add(event.event_id)
                self.usage_of_attempt[event.attempt_id][event.execution_id] = event
                self.usage_of_execution[event.execution_id].add(event.event_id)
            case TaskReply(kind=ReplyKind.FINISHED):
                self.final_replies[event.task_id].append((seen, event))
            case DeadLetter():
                self.letters[event.topic.removeprefix(self._prefix), event.partition, event.offset].append(
                    event.error_type
                )
            case _:
                if place[0] == "audit.recorded":
                    self.audited.add(seen.event_id)
        return event

    def is_done(self, place: Place) -> bool:
        """Whether a record of a work topic needs nothing more: its attempt is reported, or it was dead-lettered."""
        if place in self.letters:
            return True
        found = self.work.get(place)
        return found is not None and found[1].attempt_id in self.finished

    def is_stopped(self, place: Place) -> bool:
        """Whether cancellation of the task of a work record was requested: it blocks nothing then."""
        found = self.work.get(place)
        return found is not None and found[1].task_id in self.cancelled

    def is_accounted(self, attempt_id: str) -> bool:
        """Whether an execution of an attempt is reported, with its usage if it called a model."""
        return any(
            ended.node is None or ended.execution_id in self.usage_of_attempt[attempt_id]
            for ended in self.finished[attempt_id]
        )

    def of_task(self, task_id: str) -> Sequence[tuple[Seen, AttemptRequested]]:
        return [found for found in self.work.values() if found[1].task_id == task_id]

    def _read(self, seen: Seen, place: Place) -> Any:
        spec = TOPICS.get(place[0])
        if spec is None:
            return None
        try:
            return self._codec.decode(spec.record, seen.record.value, Origin(*place))
        except (UnreadableValue, SchemaNotCached):
            return None

    def _journaled(self, seen: Seen, entry: JournalEntry) -> None:
        if self.journal[seen.record.partition].take(seen, entry) and entry.kind is EntryKind.DECISION:
            self.decisions[entry.task_id].append((seen, entry))
            for command in entry.commands:
                self.commands[command.topic, command.event_id].append(Commanded(seen, entry, command))
