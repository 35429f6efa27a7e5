"""What a parallel consumer is given, and what it tells."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from headrace_contracts.headers import header

from headrace_streams.offsets import METADATA_LIMIT
from headrace_streams.records import Record, TopicPartition
from headrace_streams.retries import RetryPolicy

Handler = Callable[[Record], Awaitable[None] | None]
"""Handles one record: an async function, or a plain one (returning None) where nothing has to be waited for.

What it returns for is finished for good, so everything it wrote must be acknowledged by then. It may see a record again
after a crash or a rebalance. It may raise RetryLater and SendToDeadLetters; UnreadableValue sends to the dead letters
as well; outages of Kafka and the registry are waited out; other errors are retried and then end in the dead letters.
"""


class Ordering(Enum):
    """KEY: of each record key one is in hand at a time, in order. UNORDERED: all at once."""

    KEY = "key"
    UNORDERED = "unordered"


@dataclass(frozen=True, slots=True)
class TopicLane:
    """A topic (with its prefix) and its claim; see `scheduling.LaneShare`."""

    topic: str
    weight: int = 1
    max_in_flight: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How much to have in hand, and how patient to be.

    Attributes:
        max_in_flight: Most handlers that run at once.
        ordering: Whether records of one key keep their order.
        max_buffered: Waiting records per lane from which on it is paused; it goes on when half of them are left.
        max_poll_records: Most records taken over at a time.
        lag_interval_seconds: Time between two looks at where the partitions end.
        commit_interval_seconds: Time between commits; what finished since the last one is done again after a crash.
        drain_seconds: Longest time for handlers to finish when partitions go or the consumer stops.
        retries: Patience with unforeseen errors.
        metadata_limit: Most characters of commit metadata.
    """

    max_in_flight: int = 256
    ordering: Ordering = Ordering.KEY
    max_buffered: int = 4_096
    max_poll_records: int = 1_000
    commit_interval_seconds: float = 1.0
    lag_interval_seconds: float = 5.0
    drain_seconds: float = 20.0
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    metadata_limit: int = METADATA_LIMIT

    def __post_init__(self) -> None:
        if self.max_buffered < 1 or self.max_poll_records < 1:
            raise ValueError("max_buffered and max_poll_records must be at least 1")
        if self.commit_interval_seconds <= 0 or self.lag_interval_seconds <= 0 or self.drain_seconds < 0:
            raise ValueError(
                "commit_interval_seconds and lag_interval_seconds must be above 0, drain_seconds not below"
            )


class Ending(Enum):
    """How one run of a handler ended: finished, parked for another try, sent to the dead letters, given up because the
    partition went, or not begun because it was cancelled."""

    DONE = "done"
    PARKED = "parked"
    DEAD_LETTER = "dead_letter"
    ABANDONED = "abandoned"
    CANCELLED = "cancelled"


class Observer:
    """Told of every record, for metrics; does nothing by itself. Its methods must be quick and must not raise."""

    def started(self, record: Record, waited_seconds: float) -> None:
        """A handler starts, `waited_seconds` after the record was received (or parked)."""

    def ended(self, record: Record, ending: Ending, seconds: float) -> None:
        """It ended after `seconds`."""


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """How far one assigned partition is.

    Attributes:
        position: Offset below which all is finished: what is committed next; None before anything is known.
        received_to: Offset behind the last record received.
        log_end: Offset of the next record to be written, as last looked at.
        paused: Whether it is, because too much is in hand.
    """

    position: int | None
    received_to: int | None
    log_end: int | None
    paused: bool

    @property
    def lag(self) -> int:
        """Consumer lag in offsets: from the position to the log's end; 0 while either is unknown."""
        return 0 if self.log_end is None or self.position is None else max(0, self.log_end - self.position)

    @property
    def to_receive(self) -> int:
        """Offsets in the log that have not been received; 0 while unknown."""
        return 0 if self.log_end is None or self.received_to is None else max(0, self.log_end - self.received_to)


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """What the engine has in hand at one moment.

    Attributes:
        in_flight: Running handlers.
        parked: Records that wait for another try.
        waiting: By topic, records received and not running, parked ones included.
        assigned: The partitions assigned.
        longest_span: Most offsets between a commit position and the last record received beyond it.
    """

    in_flight: int
    parked: int
    waiting: Mapping[str, int]
    assigned: Mapping[TopicPartition, PartitionSnapshot]
    longest_span: int

    @property
    def partitions(self) -> int:
        """How many partitions are assigned."""
        return len(self.assigned)

    @property
    def paused(self) -> int:
        """How many partitions are paused."""
        return sum(partition.paused for partition in self.assigned.values())


@dataclass(frozen=True, slots=True)
class Load:
    """Records in hand of one kind: those not begun (waiting, parked or put aside), and those being handled."""

    waiting: int
    running: int


def tenant_of_header(record: Record) -> str:
    """The tenant in the CloudEvents headers; empty where there is none."""
    return header(record.headers, "ce_tenant") or ""
