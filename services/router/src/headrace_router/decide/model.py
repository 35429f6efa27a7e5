"""The inputs and results of a decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from headrace_contracts.events import (
    AttemptFinished,
    Command,
    Failure,
    Place,
    Preferences,
    Rejection,
    TaskCancelled,
    TaskCompleted,
    TaskState,
    TaskSubmitted,
)
from headrace_contracts.frozen import cheaply_made
from headrace_contracts.switches import ALL_ON, Switches
from headrace_models.prices import PriceBook

from headrace_router.decide.attempt_windows import DEFAULT_WINDOW, NOTHING_OUT, AttemptWindow, OutNow
from headrace_router.decide.fleet import Fleet
from headrace_router.decide.policy import Policy
from headrace_router.decide.sensitive_sessions import NO_SESSIONS, KnownSessions
from headrace_router.decide.tenant_quota import DEFAULT_QUOTA, NO_LOAD, LiveLoad, TenantQuota


@cheaply_made
@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The end of an earlier task, as it was stored for tasks with this digest."""

    digest: str
    end: TaskCompleted


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task was submitted.

    Attributes:
        key: Key of its record, byte for byte.
        home_partition: The partition it arrived on.
        traceparent: Trace context of its record.
        cancelled: The request to cancel it, if that arrived first.
        refused: Why it is invalid; its bad fields are then empty (`admission`).
        stored: What was found among the stored answers when the task was read.
    """

    task: TaskSubmitted
    key: bytes
    home_partition: int
    traceparent: str | None = None
    cancelled: TaskCancelled | None = None
    refused: Failure | None = None
    stored: StoredAnswer | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A cancellation request arrived."""

    cancellation: TaskCancelled


@cheaply_made
@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """A worker reports that an attempt has ended.

    Attributes:
        worker: Which kind of worker has written the report, as its topic says, not the report.
    """

    attempt: AttemptFinished
    worker: Place = Place.LOCAL


@dataclass(frozen=True, slots=True)
class LeaderFinished:
    """The task that this one follows has ended; `result` is None if its result is not known."""

    result: TaskCompleted | None


@dataclass(frozen=True, slots=True)
class WakeUp:
    """A timer fired or the fleet changed."""


@dataclass(frozen=True, slots=True)
class Unrecordable:
    """The given state is too large for the journal.

    Attributes:
        size: Its total in bytes.
        owed: Commands of the decision that could not be recorded which are due whatever becomes of the task.
    """

    size: int
    limit: int
    owed: tuple[Command, ...] = ()


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """The record of an attempt is larger than its topic takes, so that no worker will see it.

    Attributes:
        number: The attempt's.
    """

    number: int
    failure: Failure


RouterEvent = Submitted | Cancelled | AttemptEnded | LeaderFinished | WakeUp | Unrecordable | Undeliverable

CAUSES: dict[type[RouterEvent], str] = {
    Submitted: "submitted",
    Cancelled: "cancelled",
    AttemptEnded: "attempt_finished",
    LeaderFinished: "leader_finished",
    WakeUp: "wake_up",
    Unrecordable: "unrecordable",
    Undeliverable: "undeliverable",
}
"""The event's name in the journal."""


@cheaply_made
@dataclass(frozen=True, slots=True)
class Equal:
    """What is known of tasks equal to a new one.

    Attributes:
        leader: Id of the one in flight.
        answer: The terminal state of one whose answer is still valid.
    """

    leader: str | None = None
    answer: TaskCompleted | None = None


class Peers(Protocol):
    """The other tasks of the partition."""

    def equal_to(self, digest: str, now: int) -> Equal:
        """What is known of tasks with this digest."""
        ...

    def load_of(self, tenant: str) -> LiveLoad:
        """What a tenant has in flight."""
        ...

    def out(self, tenant: str, topic: str) -> OutNow:
        """What a tenant has out in a topic of attempts."""
        ...

    def attempts_in(self, topic: str) -> int:
        """How many attempts of all tenants are out in a topic."""
        ...

    def site_of_session(self, tenant: str, session: str, but: str) -> str | None:
        """The site of the newest local attempt of a session's other tasks than `but`; None if none is out."""
        ...

    @property
    def last_turn(self) -> int:
        """The highest turn of a task so far."""
        ...


class NoOtherTasks:
    """No other task is in flight."""

    last_turn = 0

    def equal_to(self, digest: str, now: int) -> Equal:
        return Equal()

    def load_of(self, tenant: str) -> LiveLoad:
        return NO_LOAD

    def out(self, tenant: str, topic: str) -> OutNow:
        return NOTHING_OUT

    def attempts_in(self, topic: str) -> int:
        return 0

    def site_of_session(self, tenant: str, session: str, but: str) -> str | None:
        return None


@cheaply_made
@dataclass(frozen=True, slots=True)
class DecisionContext:
    """Everything a decision may use besides the state and the event.

    Attributes:
        now: Milliseconds since the epoch.
        policy: That of the task's tenant.
        user_preferences, tenant_preferences: Those of the task's user and of its tenant.
        quota: What the task's tenant may have in flight in the partition.
        window: What it may have out in each topic of attempts.
        switches: What is switched off.
        sessions: Which sessions are sensitive.
    """

    now: int
    policy: Policy
    prices: PriceBook
    fleet: Fleet
    peers: Peers
    user_preferences: Preferences | None = None
    tenant_preferences: Preferences | None = None
    quota: TenantQuota = DEFAULT_QUOTA
    window: AttemptWindow = DEFAULT_WINDOW
    switches: Switches = ALL_ON
    sessions: KnownSessions = NO_SESSIONS


@cheaply_made
@dataclass(frozen=True, slots=True)
class Decision:
    """One atomic step: the task's new state, the records to produce, and the rejected candidates."""

    state: TaskState
    commands: tuple[Command, ...] = ()
    rejected: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class Noted:
    """The cancellation request is for a task that has not arrived yet: it is recorded, and applied on arrival."""

    cancellation: TaskCancelled


@dataclass(frozen=True, slots=True)
class Disbelieved:
    """Whoever has written the event cannot know what it says: it changes nothing, and is kept as a dead letter."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """The event changes nothing and is not recorded; `reason` is a stable word for metrics."""

    reason: str
