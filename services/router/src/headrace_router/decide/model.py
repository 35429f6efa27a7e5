"""What goes into a decision and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from headrace_contracts.events import (
    AttemptFinished,
    Command,
    Preferences,
    Rejection,
    TaskCancelled,
    TaskCompleted,
    TaskState,
    TaskSubmitted,
)
from headrace_models.prices import PriceBook

from headrace_router.decide.fleet import Fleet
from headrace_router.decide.policy import Policy


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task came in.

    Attributes:
        key: Key of its record, byte for byte.
        home_partition: Partition it came in on.
        traceparent: Trace context it came with.
        cancelled: The request to cancel it, where that was faster.
    """

    task: TaskSubmitted
    key: bytes
    home_partition: int
    traceparent: str | None = None
    cancelled: TaskCancelled | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody wants the task stopped."""

    cancellation: TaskCancelled


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt has ended."""

    attempt: AttemptFinished


@dataclass(frozen=True, slots=True)
class LeaderFinished:
    """The task that this one follows has ended; `result` is None when nobody knows how."""

    result: TaskCompleted | None


@dataclass(frozen=True, slots=True)
class WakeUp:
    """Time has passed, or the fleet has changed."""


@dataclass(frozen=True, slots=True)
class Unrecordable:
    """The state given is too large for the journal, by this many bytes in all."""

    size: int
    limit: int


RouterEvent = Submitted | Cancelled | AttemptEnded | LeaderFinished | WakeUp | Unrecordable

CAUSES: dict[type[RouterEvent], str] = {
    Submitted: "submitted",
    Cancelled: "cancelled",
    AttemptEnded: "attempt_finished",
    LeaderFinished: "leader_finished",
    WakeUp: "wake_up",
    Unrecordable: "unrecordable",
}
"""How the journal names what was answered."""


@dataclass(frozen=True, slots=True)
class Equal:
    """What is known of tasks equal to a new one.

    Attributes:
        leader: Id of the one in flight.
        answer: The terminal state of one whose answer may still serve.
    """

    leader: str | None = None
    answer: TaskCompleted | None = None


class Peers(Protocol):
    """The other tasks of the partition."""

    def equal_to(self, digest: str, now: int) -> Equal:
        """What is known of tasks with this digest."""
        ...


@dataclass(frozen=True, slots=True)
class DecisionContext:
    """All that a decision may look at beside the state and the event.

    Attributes:
        now: Milliseconds since the epoch.
        user_preferences, tenant_preferences: Those of the task's user and of its tenant.
    """

    now: int
    policy: Policy
    prices: PriceBook
    fleet: Fleet
    peers: Peers
    user_preferences: Preferences | None = None
    tenant_preferences: Preferences | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One atomic step: the task's new state, what is to be produced, and which candidates were passed over."""

    state: TaskState
    commands: tuple[Command, ...] = ()
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class Noted:
    """The cancellation request concerns a task that has not come yet: it is recorded, and obeyed when the task
    comes."""

    cancellation: TaskCancelled


@dataclass(frozen=True, slots=True)
class Ignored:
    """The event changes nothing and need not be recorded; `reason` is a stable word for metrics."""

    reason: str


ATTEMPT_TIMEOUT = "attempt_timeout"
"""Code of an attempt that the router gave up; what it consumed is not known."""
