"""The content of the topics, evaluated independently by the judge: no code of the services decides here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, SchemaNotCached, UnreadableValue
from headrace_contracts.events import (
    AttemptFinished,
    AttemptRequested,
    AttemptsCancelled,
    AttemptStarted,
    Command,
    DeadLetter,
    EntryKind,
    JournalEntry,
    Outcome,
    Preferences,
    ReplyKind,
    TaskCancelled,
    TaskCompleted,
    TaskReply,
    TaskSubmitted,
    UsageRecorded,
)
from headrace_contracts.ids import attempt_id
from headrace_contracts.topics import topic_named
from headrace_streams.records import TopicPartition

from headrace_testing.simulation.cluster import Seen

ANSWERED_REMOTELY = "answered_remotely"
Place = tuple[str, int, int]
"""Topic without prefix, partition, offset."""


@dataclass(slots=True)
class JournalPartition:
    """Which entries of one journal partition count: those whose offset equals epoch start plus number, with no foreign
    entry in between.

    Attributes:
        counted: The entries that count, in order.
        positions: The consumed offset of each input, according to them.
        policies: What each epoch start says of the policies that follow, by epoch.
    """

    epoch: int = -1
    broken: bool = True
    policies: dict[int, str] = field(default_factory=dict)
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
            self.policies[offset] = entry.policy_version
            return False
        if entry.kind is EntryKind.SKIP:
            # It stands where its owner, if there is one, expects an entry of its own.
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

    def __init__(self, codec: Codec, log_id_of: Callable[[str], str]) -> None:
        self._codec = codec
        self._log_id_of = log_id_of
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
        self.started: dict[str, tuple[Seen, AttemptStarted]] = {}
        """The first announcement of each execution."""
        self.lost: dict[str, UsageRecorded] = {}
        """What is recorded of executions as lost, by execution."""
        self.reports: dict[Place, AttemptFinished] = {}
        self.first_report: dict[str, Seen] = {}
        """The first report of each attempt."""
        self.final_replies: dict[str, list[tuple[Seen, TaskReply]]] = defaultdict(list)
        self.audited: set[str] = set()
        self.told: set[tuple[str, str, str]] = set()
        """Topics of workers, and the tasks that these were told of there as cancelled, or the attempts that were taken
        back: id and tenant."""
        self.told_at: dict[tuple[str, str], float] = {}
        """When these were first told."""
        self.letters: dict[Place, list[str]] = defaultdict(list)
        """Kinds of errors of dead letters, by the origin of the record."""
        self.unreadable: set[Place] = set()
        self.log_ids: dict[int, str] = {}
        """The id of its topic when a cancellation was appended, by the number of the append."""
        self.inadmissible: set[Place] = set()
        """Records that say nothing, though they can be decoded."""
        self.forged: set[Place] = set()
        """Reports by somebody who was not given the attempt."""
        self.breaches: set[str] = set()
        """Attempts whose reports, as the journal has taken them, say that content has left."""
        self.preferences: dict[tuple[str, str], list[tuple[float, Preferences]]] = defaultdict(list)
        """All records ever written, with the virtual second, by tenant and user."""
        self._retired: set[int] = set()
        self._former: dict[tuple[Place, bytes | None], Place] = {}
        self._retirements = 0
        self._strange: list[Seen] = []

    def place(self, seen: Seen) -> Place:
        return seen.record.topic.removeprefix(self._prefix), seen.record.partition, seen.record.offset

    def take(self, seen: Seen) -> Any:
        """Add a record; returns its event, None for an undecodable one."""
        place = self.place(seen)
        event = self._read(seen, place)
        if event is None:
            self.unreadable.add(place)
        if event is None or place in self.inadmissible:
            self._strange.append(seen)
        if place in self.inadmissible or place in self.forged:
            return event
        match event:
            case JournalEntry():
                self._journaled(seen, event)
            case None if place[0] == "tasks.journal":
                self.journal[place[1]].take(seen, None)
            case TaskSubmitted():
                self.submitted[event.task_id].append((seen, event))
            case TaskCancelled():
                self.cancelled[event.task_id].append((seen, event))
                self.log_ids[seen.index] = self._log_id_of(seen.record.topic)
            case TaskCompleted():
                self.completed[event.task_id].append((seen, event))
            case AttemptRequested():
                self.work[place] = (seen, event)
            case AttemptsCancelled():
                name = attempt_id(event.task_id, event.number) if event.number else event.task_id
                self.told.add((place[0], name, event.tenant))
                self.told_at.setdefault((name, event.tenant), seen.at)
            case AttemptFinished():
                self.finished[event.attempt_id].append(event)
                self.reports[place] = event
                self.first_report.setdefault(event.attempt_id, seen)
            case AttemptStarted():
                self.started.setdefault(event.execution_id, (seen, event))
            case UsageRecorded(outcome=Outcome.LOST):
                if self.usage.setdefault(event.event_id, event) != event:
                    self.ambiguous_usage.add(event.event_id)
                self.lost[event.execution_id] = event
            case UsageRecorded():
                before = self.usage.setdefault(event.event_id, event)
                if before.execution_id != event.execution_id:
                    self.ambiguous_usage.add(event.event_id)
                self.usage_of_attempt[event.attempt_id][event.execution_id] = event
                self.usage_of_execution[event.execution_id].add(event.event_id)
            case Preferences():
                self.preferences[event.tenant, event.user].append((seen.at, event))
            case TaskReply(kind=ReplyKind.FINISHED):
                self.final_replies[event.task_id].append((seen, event))
            case DeadLetter():
                origin = (event.topic.removeprefix(self._prefix), event.partition, event.offset)
                if origin not in self.unreadable | self.inadmissible:
                    origin = self._former.get((origin, event.value), origin)
                self.letters[origin].append(event.error_type)
            case _:
                if place[0] == "audit.recorded":
                    self.audited.add(seen.event_id)
        return event

    def announce_forgery(self, name: TopicPartition, offset: int) -> None:
        """The record that will have this place is a report that counts for nothing."""
        self.forged.add((name.topic.removeprefix(self._prefix), name.partition, offset))

    def retire(self, topic: str, partition: int, offset: int) -> Callable[[Place], Place]:
        """Rename the places of a partition's records from this offset on: others will have them. Returns how."""
        self._retirements += 1
        name = f"{topic}~{self._retirements}"

        def moved(place: Place) -> Place:
            gone = place[:2] == (topic, partition) and place[2] >= offset
            return (name, *place[1:]) if gone else place

        for submission in (self.submitted, self.cancelled):
            for records in submission.values():
                for seen, _ in records:
                    place = self.place(seen)
                    if moved(place) != place:
                        self._retired.add(seen.index)
        self._former |= {(self.place(seen), seen.record.value): moved(self.place(seen)) for seen in self._strange
                         if moved(self.place(seen)) != self.place(seen)}  # fmt: skip
        self.letters = defaultdict(list, {moved(place): kinds for place, kinds in self.letters.items()})
        self.reports = {moved(place): report for place, report in self.reports.items()}
        self.unreadable = {moved(place) for place in self.unreadable}
        self.inadmissible = {moved(place) for place in self.inadmissible}
        return moved

    def is_retired(self, seen: Seen) -> bool:
        """Whether a submission or cancellation is no longer in its log."""
        return seen.index in self._retired

    def may_be_lost(self, task_id: str) -> bool:
        """Whether a task was not decided about before its submission was gone."""
        decided = any(entry.state is not None for _, entry in self.decisions.get(task_id, ()))
        return not decided and any(self.is_retired(seen) for seen, _ in self.submitted[task_id])

    def is_done(self, place: Place) -> bool:
        """Whether a record of a work topic needs nothing more: its attempt is reported, or it was dead-lettered."""
        if place in self.letters:
            return True
        found = self.work.get(place)
        return found is not None and found[1].attempt_id in self.finished

    def is_stopped(self, place: Place) -> bool:
        """Whether cancellation of the task of a work record was requested, or its attempt was taken back: it blocks
        nothing then."""
        found = self.work.get(place)
        if found is None:
            return False
        request = found[1]
        return request.task_id in self.cancelled or (request.attempt_id, request.tenant) in self.told_at

    def is_accounted(self, attempt_id: str) -> bool:
        """Whether an execution of an attempt is reported, with its usage if it called a model."""
        return any(
            ended.node is None or ended.execution_id in self.usage_of_attempt[attempt_id]
            for ended in self.finished[attempt_id]
        )

    def of_task(self, task_id: str) -> Sequence[tuple[Seen, AttemptRequested]]:
        return [found for found in self.work.values() if found[1].task_id == task_id]

    def _read(self, seen: Seen, place: Place) -> Any:
        try:
            spec = topic_named(place[0])
        except KeyError:
            return None
        try:
            return self._codec.decode(spec.record, seen.record.value, Origin(*place))
        except (UnreadableValue, SchemaNotCached):
            return None

    def _journaled(self, seen: Seen, entry: JournalEntry) -> None:
        if self.journal[seen.record.partition].take(seen, entry) and entry.kind is EntryKind.DECISION:
            self.decisions[entry.task_id].append((seen, entry))
            if entry.cause == "attempt_finished" and entry.input is not None:
                said = self.reports.get((entry.input.topic, entry.input.partition, entry.input.offset))
                if said is not None and said.failure is not None and said.failure.code == ANSWERED_REMOTELY:
                    self.breaches.add(said.attempt_id)
            for command in entry.commands:
                self.commands[command.topic, command.event_id].append(Commanded(seen, entry, command))
