"""What the parallel engine has in hand: partitions, and the records received of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

from headrace_streams.offsets import OffsetTracker
from headrace_streams.records import Record, TopicPartition


class AssignedPartition:
    """One assigned partition, from its assignment to its loss.

    Attributes:
        backlog: Received before the tracker could take them; the partition is paused meanwhile.
        running: What is being handled, and the task that does it.
        leaving: The partition goes, or has gone: nothing of it is begun any more.
        log_start: First offset in the log, where that is where the group begins.
        log_end: Offset of the next record to be written, as last heard; None while unknown.
    """

    __slots__ = (
        "_quiet", "backlog", "committed_changes", "lane", "leaving", "log_end", "log_start", "name", "paused",
        "running", "tracker",
    )  # fmt: skip

    def __init__(self, name: TopicPartition, lane: int, tracker: OffsetTracker) -> None:
        self.name = name
        self.lane = lane
        self.tracker = tracker
        self.backlog: deque[Work] = deque()
        self.running: dict[Work, asyncio.Task[None]] = {}
        self.paused = False
        self.leaving = False
        self.log_start: int | None = None
        self.log_end: int | None = None
        self.committed_changes = tracker.changes
        self._quiet: asyncio.Future[None] | None = None

    def ended(self, work: Work) -> None:
        """It is no longer being handled."""
        del self.running[work]
        if self._quiet is not None and not self.running and not self._quiet.done():
            self._quiet.set_result(None)

    async def quiet(self) -> None:
        """Returns when nothing is being handled."""
        if self.running:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet


class Work:
    """One record in hand.

    Attributes:
        lane, tenant, key: For the scheduler.
        received: When it was, in seconds of the loop's clock.
        since: When it was received, parked or begun, whatever came last.
        attempts: Runs of its handler so far; `unforeseen` of them ended with an error that nobody foresaw.
        reason: Why it is on its way to the dead letters.
        kind: What `ParallelConsumer.loads` counts it as, once it has been asked.
        cancelled: Somebody has cancelled it: its handler is not called.
    """

    __slots__ = (
        "attempts", "cancelled", "key", "kind", "lane", "offset", "partition", "reason", "received", "record", "since",
        "tenant", "unforeseen",
    )  # fmt: skip

    def __init__(
        self, record: Record, partition: AssignedPartition, tenant: str, key: Hashable | None, now: float
    ) -> None:
        self.record = record
        # Asked for again and again.
        self.offset = record.offset
        self.partition = partition
        self.lane = partition.lane
        self.tenant = tenant
        self.key = key
        self.received = self.since = now
        self.attempts = 0
        self.unforeseen = 0
        self.reason: Exception | None = None
        self.cancelled = False
        self.kind: Hashable | None = None

    def __str__(self) -> str:
        return f"{self.partition.name}@{self.offset}"
