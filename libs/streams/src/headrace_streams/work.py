"""State of the parallel engine: assigned partitions and their records in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Hashable

from headrace_streams.handling import Observer
from headrace_streams.offsets import OffsetTracker
from headrace_streams.records import Record, TopicPartition
from headrace_streams.suspending import ErrorBudget


class AssignedPartition:
    """One assigned partition, from its assignment to its revocation or loss.

    Attributes:
        backlog: Polled records that do not fit into the tracker yet; the partition is paused while there are any.
        running: Work whose handler is running, and the task that runs it.
        held: Number of its records that are waiting, parked or running.
        leaving: The partition is being revoked or is gone: nothing of it is started any more.
        log_start: First offset in the log, if the group starts there because it has no committed offset.
        log_end: Offset that the next record will get, as last reported by the client; None while unknown.
        doubted: Offset that should have come next when another one came; None if the last look found no fault.
        budget: Of records given up for unforeseen errors.
        suspended: Why nothing more is received for a while; None otherwise.
        former: Its log was replaced by another one: what runs may end, but nothing of it is committed.
    """

    __slots__ = (
        "_quiet", "backlog", "budget", "committed_changes", "doubted", "former", "held", "lane", "leaving", "log_end",
        "log_start", "name", "paused", "running", "suspended", "tracker",
    )  # fmt: skip

    def __init__(self, name: TopicPartition, lane: int, tracker: OffsetTracker) -> None:
        self.name = name
        self.lane = lane
        self.tracker = tracker
        self.backlog: deque[Work] = deque()
        self.running: dict[Work, asyncio.Task[None]] = {}
        self.held = 0
        self.paused = False
        self.doubted: int | None = None
        self.former = False
        self.budget = ErrorBudget()
        self.suspended: str | None = None
        self.leaving = False
        self.log_start: int | None = None
        self.log_end: int | None = None
        self.committed_changes = tracker.changes
        self._quiet: asyncio.Future[None] | None = None

    @property
    def received_to(self) -> int | None:
        """Offset of the record that comes next; None while not known."""
        return self.backlog[-1].offset + 1 if self.backlog else self.tracker.received_to

    def end_suspension(self, observer: Observer | None) -> None:
        """It is no longer ours, or has another log: whether it rests is not ours to say."""
        if self.suspended is not None:
            self.suspended = None
            if observer is not None:
                observer.suspended(self.name, None)

    def ended(self, work: Work) -> None:
        """Its handler is no longer running."""
        del self.running[work]
        if self._quiet is not None and not self.running and not self._quiet.done():
            self._quiet.set_result(None)

    async def quiet(self) -> None:
        """Wait until no handler of this partition is running."""
        if self.running:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet


class Work:
    """One record, from its receipt until it is finished.

    Attributes:
        lane, tenant, weight, key, kind: For the scheduler.
        size: Bytes of its value.
        received: Time of its receipt, in seconds of the event loop's clock.
        since: Time it was received, parked or started, whichever came last.
        attempts: Runs of its handler so far; `unforeseen` of them ended with an unexpected error.
        reason: Why it goes to the dead letters; None otherwise.
        counted_as: What `ParallelConsumer.loads` counts it as; None until then.
        cancelled: Whether it was cancelled: `skip` is called instead of its handler.
        handling: What the task made for it awaits; None for what is handled at once or by the task of another piece.
    """

    __slots__ = (
        "attempts", "cancelled", "counted_as", "handling", "key", "kind", "lane", "offset", "partition", "reason",
        "received", "record", "since", "size", "tenant", "unforeseen", "weight",
    )  # fmt: skip

    def __init__(
        self,
        record: Record,
        partition: AssignedPartition,
        tenant: str,
        key: Hashable | None,
        now: float,
        *,
        weight: int = 1,
        kind: Hashable | None = None,
    ) -> None:
        self.record = record
        # Copied: it is read many times, and a record of the Kafka client asks its message each time.
        self.offset = record.offset
        self.size = len(record.value or b"")
        self.partition = partition
        self.lane = partition.lane
        self.tenant = tenant
        self.weight = weight
        self.key = key
        self.kind = kind
        self.received = self.since = now
        self.attempts = 0
        self.unforeseen = 0
        self.reason: Exception | None = None
        self.cancelled = False
        self.handling: Awaitable[None] | None = None
        self.counted_as: Hashable | None = None

    def __str__(self) -> str:
        return f"{self.partition.name}@{self.offset}"
