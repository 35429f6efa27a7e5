"""Cancelled tasks as a worker needs them: read from the topic of its own kind of worker, all partitions.

The router alone writes there, once it has checked who asked, and what it did is in the journal. A worker holds no
secret and could not check a request itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.events import AttemptsCancelled
from headrace_contracts.headers import header
from headrace_contracts.ids import attempt_id
from headrace_contracts.topics import TopicSpec
from headrace_streams.dead_letters import described
from headrace_streams.errors import OffsetOutOfRange, TransientError
from headrace_streams.holding import DecodedInLanes
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.reading import up_to
from headrace_streams.records import Record

_log = logging.getLogger(__name__)

_BATCH: Final = 1_000
_POLL_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.5
_LOOK_SECONDS: Final = 60.0
"""Interval between checks for added partitions."""
_GATHER_SECONDS: Final = 0.02
"""They are collected for this long, since finding the attempts concerned costs as much for one as for many."""

CancelledTasks = AbstractSet[tuple[str, str]]
"""What to stop: a task's id for all its attempts, or that of a single attempt, which was taken back; and the tenant.
Another tenant's task may have the same id."""


class Cancellations:
    """Remembers recently cancelled tasks, and reports new ones.

    Args:
        spec: The topic for this kind of worker.
        history_seconds: How far back to read at the start: an attempt may have waited that long behind its
            cancellation.
        remembered: Maximum number of cancelled tasks and attempts in memory; the oldest are dropped first.
        clock_ms: Milliseconds since the epoch.
        on_cancelled: Called with the cancelled tasks that have just been read.
    """

    def __init__(
        self,
        log: Log,
        codec: Codec,
        spec: TopicSpec,
        *,
        history_seconds: float,
        clock_ms: Callable[[], int],
        on_cancelled: Callable[[CancelledTasks], None],
        remembered: int = 50_000,
    ) -> None:
        self._log = log
        self._codec = codec
        self._topic = codec.topic_prefix + spec.name
        self._history_ms = round(history_seconds * 1000)
        self._clock_ms = clock_ms
        self._on_cancelled = on_cancelled
        self._remembered = remembered
        self._cancelled: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._reader: PartitionReader | None = None
        self._new: dict[tuple[str, str], None] = {}
        self._reading = False
        self._decoded: DecodedInLanes[AttemptsCancelled] = DecodedInLanes(
            "cancellations", codec, AttemptsCancelled, lambda record: record.partition, self._take
        )

    def has(self, name: str, tenant: str) -> bool:
        """Whether the tenant's task, or attempt, of this id was cancelled."""
        return (name, tenant) in self._cancelled

    async def start(self) -> None:
        """Read what was cancelled recently before the first attempt begins; waits while the cluster is unavailable."""
        self._reader = self._log.follower()
        while True:
            try:
                partitions = await self._reader.partitions_of(self._topic)
                since = self._clock_ms() - self._history_ms
                await self._reader.assign(await self._reader.offsets_at(partitions, since))
                ends = {name: end for name, (_, end) in (await self._reader.bounds(partitions)).items()}
                async for records in up_to(self._reader, ends, most=_BATCH, poll_seconds=_POLL_SECONDS):
                    await self._read(records)
                return
            except (TransientError, OffsetOutOfRange) as error:
                _log.warning("cancellations cannot be read yet: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def run(self) -> None:
        """Follow the topic until cancelled."""
        loop = asyncio.get_running_loop()
        look_at = loop.time() + _LOOK_SECONDS
        while True:
            assert self._reader is not None, "start() comes first"
            try:
                if records := await self._reader.poll(_BATCH, _POLL_SECONDS):
                    await self._read(records)
                if loop.time() >= look_at:
                    look_at = loop.time() + _LOOK_SECONDS
                    await self._read_new_partitions(self._reader)
            except (TransientError, OffsetOutOfRange) as error:
                _log.warning("some cancellations may have been missed: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
                await self.start_over()

    async def start_over(self) -> None:
        """Read the recent history again, with a new reader."""
        await self.close()
        await self.start()

    async def close(self) -> None:
        """Stop reading."""
        await self._decoded.close()
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await reader.close()

    async def _read_new_partitions(self, reader: PartitionReader) -> None:
        positions = reader.positions()
        added = [name for name in await reader.partitions_of(self._topic) if name not in positions]
        if added:
            await reader.assign({**positions, **dict.fromkeys(added, 0)})

    async def _read(self, records: Sequence[Record]) -> None:
        self._reading = True
        try:
            for record in records:
                await self._decoded.put(record)
        finally:
            self._reading = False
        self._tell()
        await asyncio.sleep(_GATHER_SECONDS)

    async def _take(self, record: Record, outcome: AttemptsCancelled | Exception) -> None:
        if isinstance(outcome, Exception):
            # The task has ended in any case: its attempts go on, and their results count for nothing.
            _log.warning("a cancellation at %s@%d cannot be read: %s", record.topic_partition, record.offset,
                         described(outcome))  # fmt: skip
            return
        name = attempt_id(outcome.task_id, outcome.number) if outcome.number else outcome.task_id
        self._new[name, outcome.tenant] = None
        if not self._reading:
            self._tell()

    def _tell(self) -> None:
        new, self._new = self._new, {}
        for one in new:
            self._cancelled[one] = None
            self._cancelled.move_to_end(one)
        while len(self._cancelled) > self._remembered:
            self._cancelled.popitem(last=False)
        if new:
            self._on_cancelled(new.keys())


def is_cancelled(cancelled: CancelledTasks, record: Record) -> bool:
    """Whether the attempt in a record is one of these, or of one of these tasks, judging by its headers."""
    tenant = header(record.headers, "ce_tenant")
    return any((header(record.headers, name), tenant) in cancelled for name in ("ce_subject", "ce_id"))
