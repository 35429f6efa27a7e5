"""The parallel engine's interface: handlers and options in, observations and snapshots out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from headrace_contracts.headers import UNORDERED, header, weight_of

from headrace_streams.log_identity import Broken
from headrace_streams.offsets import METADATA_LIMIT
from headrace_streams.records import Record, TopicPartition
from headrace_streams.retries import RetryPolicy
from headrace_streams.scheduling import no_room

Handler = Callable[[Record], Awaitable[None] | None]
"""Handles one record: an async function, or a plain one (returning None) that has nothing to await.

When it returns, the record is finished for good: everything it wrote must have been acknowledged by then. It may get a
record again after a crash or a rebalance. RetryRecord parks the record; SendToDeadLetters and UnreadableValue send it
to the dead letters; outages of Kafka and the registry are retried for as long as they last; any other error is retried
a limited number of times and then sends the record to the dead letters, unless too many records of its partition went
there within a minute: the partition is then suspended, and the record tried again.
"""


class Ordering(Enum):
    """KEY: one record of each key is in flight at a time, in order, but for those whose header says that they keep none
    (`ordering_key`). UNORDERED: no order."""

    KEY = "key"
    UNORDERED = "unordered"


@dataclass(frozen=True, slots=True)
class TopicLane:
    """A topic (with its prefix) and its share of the room; see `lanes.LaneShare`."""

    topic: str
    weight: int = 1
    max_in_flight: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Limits and intervals of the engine.

    Attributes:
        max_in_flight: Maximum number of running handlers, but for those in the room of their kinds (`Sharing.room_of`).
        ordering: Whether records of one key keep their order.
        max_buffered: A lane with this many waiting records is paused, and resumed when half of them are left.
        max_held_bytes: Most bytes of values of records from their receipt until they are finished; each lane has an
            equal share, and is paused at it. A partition that has no record here may always receive one.
        max_poll_records: Maximum number of records of one poll.
        lag_interval_seconds: Time between two readings of the ends of the partitions.
        watch_interval_seconds: Time between two comparisons of the positions with the topics' ids and bounds.
        commit_interval_seconds: Time between commits. Records finished since the last one are repeated after a crash.
        drain_seconds: How long handlers may take to finish when partitions are revoked or the consumer stops.
        retries: Policy for unexpected errors.
        metadata_limit: Maximum length of the commit metadata, in characters.
    """

    max_in_flight: int = 256
    ordering: Ordering = Ordering.KEY
    max_buffered: int = 4_096
    max_held_bytes: int = 64 * 1024 * 1024
    max_poll_records: int = 1_000
    commit_interval_seconds: float = 1.0
    lag_interval_seconds: float = 5.0
    watch_interval_seconds: float = 30.0
    drain_seconds: float = 20.0
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    metadata_limit: int = METADATA_LIMIT

    def __post_init__(self) -> None:
        if self.max_buffered < 1 or self.max_held_bytes < 1 or self.max_poll_records < 1:
            raise ValueError("max_buffered, max_held_bytes and max_poll_records must be at least 1")
        if self.commit_interval_seconds <= 0 or self.lag_interval_seconds <= 0 or self.watch_interval_seconds <= 0:
            raise ValueError("the intervals must be above 0")
        if self.drain_seconds < 0:
            raise ValueError("drain_seconds must not be below 0")


class Ending(Enum):
    """How one run of a handler ended: finished, parked for another try, sent to the dead letters, abandoned because the
    partition was revoked, or skipped because the record was cancelled."""

    DONE = "done"
    PARKED = "parked"
    DEAD_LETTER = "dead_letter"
    ABANDONED = "abandoned"
    CANCELLED = "cancelled"


class Observer:
    """Notified of every record, for metrics. Does nothing by itself; methods must be quick and must not raise."""

    def started(self, record: Record, waited_seconds: float) -> None:
        """A handler starts, `waited_seconds` after the record was received or parked."""

    def ended(self, record: Record, ending: Ending, seconds: float) -> None:
        """The handler ended after `seconds`."""

    def suspended(self, partition: TopicPartition, reason: str | None) -> None:
        """A partition rests after too many unforeseen errors, or goes on (None)."""

    def discontinued(self, partition: TopicPartition, verdict: Broken) -> None:
        """The position of a partition was not one of its log, and the engine went on elsewhere."""


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """State of one assigned partition.

    Attributes:
        position: Offset below which everything is finished: what is committed next. None while unknown.
        received_to: Offset after the last record received.
        log_end: Offset that the next record will get, as last reported.
        paused: Whether it is paused by backpressure, or suspended.
        suspended: Why it is suspended after too many unforeseen errors; None otherwise.
    """

    position: int | None
    received_to: int | None
    log_end: int | None
    paused: bool
    suspended: str | None = None

    @property
    def lag(self) -> int:
        """Consumer lag: offsets from the position to the end of the log; 0 while either is unknown."""
        return 0 if self.log_end is None or self.position is None else max(0, self.log_end - self.position)

    @property
    def to_receive(self) -> int:
        """Offsets in the log that have not been received; 0 while unknown."""
        return 0 if self.log_end is None or self.received_to is None else max(0, self.log_end - self.received_to)


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """State of the engine at one moment.

    Attributes:
        in_flight: Number of running handlers.
        parked: Number of records that wait for a retry.
        waiting: Number of records received and not running, parked ones included, by topic.
        held_bytes: Bytes of values of records from their receipt until they are finished, by topic.
        held_bytes_limit: Most bytes of one topic.
        full: Topics that receive next to nothing because they hold as much as they may.
        assigned: The assigned partitions.
        longest_span: The largest number of offsets between a position and the last record received above it.
    """

    in_flight: int
    parked: int
    waiting: Mapping[str, int]
    held_bytes: Mapping[str, int]
    held_bytes_limit: int
    full: Collection[str]
    assigned: Mapping[TopicPartition, PartitionSnapshot]
    longest_span: int

    @property
    def partitions(self) -> int:
        """Number of assigned partitions."""
        return len(self.assigned)

    @property
    def suspended(self) -> Mapping[TopicPartition, str]:
        """The suspended partitions, and why."""
        return {name: state.suspended for name, state in self.assigned.items() if state.suspended is not None}

    @property
    def paused(self) -> int:
        """Number of paused partitions."""
        return sum(partition.paused for partition in self.assigned.values())


@dataclass(frozen=True, slots=True)
class Load:
    """Number of records of one kind: not started (waiting, parked or in a backlog), and running."""

    waiting: int
    running: int


def ordering_key(record: Record) -> bytes | None:
    """The key with whose records it keeps its order; None if its headers say that it keeps none."""
    return record.key if header(record.headers, UNORDERED) is None else None


def _tenant(record: Record) -> str:
    return header(record.headers, "ce_tenant") or ""


def _weight(record: Record) -> int:
    return weight_of(record.headers)


def _no_kind(_record: Record) -> Hashable | None:
    return None


@dataclass(frozen=True, slots=True)
class Sharing:
    """Whose share of the room a record takes, and of what; asked once, at its receipt. None of these may raise.

    Attributes:
        tenant_of: The tenant; by default the one in the CloudEvents headers, empty if there is none.
        weight_of: The tenant's weight, at least 1: that of its newest record counts. By default as the headers say.
        kind_of: What the record needs; None if nothing that others could have taken.
        room_of: How many records of a kind may run even if as many as `max_in_flight` do: as many as can have what they
            need at once. It may change without notice, and takes effect within a second.
    """

    tenant_of: Callable[[Record], str] = _tenant
    weight_of: Callable[[Record], int] = _weight
    kind_of: Callable[[Record], Hashable | None] = _no_kind
    room_of: Callable[[Hashable | None], int] = no_room
