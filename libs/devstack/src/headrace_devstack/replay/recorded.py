"""Tasks as the topics have them: what was asked, what was decided first, and what it came to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace_contracts.events import (
    AttemptState,
    JournalEntry,
    Rejection,
    ServedFrom,
    TaskCompleted,
    TaskPhase,
    TaskState,
    TaskSubmitted,
)
from headrace_contracts.switches import SWITCHED_OFF
from headrace_models.ports import CallUsage
from headrace_router.decide.candidates import NO_CAPACITY, NO_LOCAL_CAPACITY
from headrace_router.decide.retry import panel_attempts

UNAVAILABLE: Final = frozenset({NO_CAPACITY, NO_LOCAL_CAPACITY, SWITCHED_OFF})
"""Rejections that tell what could not be used at that time, whatever a policy says."""

ModelName = tuple[str, str]
"""Provider and model."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A task, and what was decided about it.

    Attributes:
        task: As it was submitted.
        key: Key of its record, byte for byte.
        partition: Where it arrived.
        sent_to: The models that its first decision sent it to; None if that decision is not recorded any more.
        unavailable: What that decision found unavailable.
        shared: Whether another task's answer served it.
        usage: What its models consumed; None while it is not known.
        answered_by: The model that answered.
        model_ms: How long its model took, in milliseconds; 0 if it is not known.
    """

    task: TaskSubmitted
    key: bytes
    partition: int
    sent_to: tuple[ModelName, ...] | None = None
    unavailable: frozenset[ModelName] = frozenset()
    shared: bool = False
    usage: CallUsage | None = None
    answered_by: ModelName | None = None
    model_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class FirstDecision:
    """What the first decision about a task has recorded."""

    sent_to: tuple[ModelName, ...]
    unavailable: frozenset[ModelName]


def first_decision(entry: JournalEntry) -> FirstDecision:
    """Of the entry that answers a submission."""
    sent = () if entry.state is None else first_attempts(entry.state)
    return FirstDecision(tuple((each.provider, each.model) for each in sent), _unavailable(entry.rejected))


def first_attempts(state: TaskState) -> Sequence[AttemptState]:
    """The attempts that a submission has led to: one, or those of a cascade's first model or of an ensemble."""
    if state.phase is TaskPhase.CONSULTING:
        return panel_attempts(state)
    return state.attempts if state.phase is TaskPhase.RUNNING else ()


def _unavailable(rejected: tuple[Rejection, ...]) -> frozenset[ModelName]:
    return frozenset((each.provider, each.model) for each in rejected if each.code in UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class PastEnd:
    """What is kept of how a task ended: there may be millions."""

    sent_first: tuple[ModelName, ...] | None
    shared: bool
    usage: CallUsage
    answered_by: ModelName | None
    model_ms: float


def past_end(result: TaskCompleted) -> PastEnd:
    """Of a task's terminal state."""
    usage = result.usage
    return PastEnd(
        sent_first=_sent_first(result),
        shared=result.served_from in (ServedFrom.CACHE, ServedFrom.COALESCED),
        usage=CallUsage(
            input_tokens=usage.input_tokens, output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens, searches=usage.searches,
        ),
        answered_by=(result.provider, result.model) if result.provider and result.model else None,
        model_ms=result.model_ms,
    )  # fmt: skip


@dataclass(slots=True)
class PastDecisions:
    """What a partition of the journal says of tasks, by id; compaction may have left only how they ended."""

    first: dict[str, FirstDecision] = field(default_factory=dict)
    ended: dict[str, PastEnd] = field(default_factory=dict)

    def take(self, entry: JournalEntry, cause: str) -> None:
        """Remember what a decision tells."""
        if cause == "submitted":
            self.first[entry.task_id] = first_decision(entry)
        if entry.state is not None and (result := entry.state.result) is not None:
            self.ended[entry.task_id] = past_end(result)

    def about(self, task: TaskSubmitted, key: bytes, partition: int) -> Recorded:
        """A task with what the journal says of it."""
        first, ended = self.first.get(task.task_id), self.ended.get(task.task_id)
        unavailable = frozenset() if first is None else first.unavailable
        sent_to = None if first is None else first.sent_to
        if ended is None:
            return Recorded(task, key, partition, sent_to, unavailable)
        return Recorded(
            task, key, partition, ended.sent_first if first is None else sent_to, unavailable,
            shared=ended.shared, usage=ended.usage, answered_by=ended.answered_by, model_ms=ended.model_ms,
        )  # fmt: skip


def _sent_first(ended: TaskCompleted) -> tuple[ModelName, ...] | None:
    """The first model that a task was sent to, by its trail; none, if nobody has answered it."""
    for step in ended.trail:
        if step.step == "dispatched" and step.provider and step.model:
            return ((step.provider, step.model),)
    return () if ended.served_from is ServedFrom.NOTHING else None


def typical_milliseconds(durations: Mapping[ModelName, list[float]]) -> Mapping[ModelName, float]:
    """The median time of each model's answers."""
    return {name: sorted(each)[len(each) // 2] for name, each in durations.items() if each}
