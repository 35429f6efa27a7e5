"""Parallel consumption: many records of a partition in flight at once, with exact commits.

1. Receive. The partition's offset tracker receives each polled record, unless the map of finished offsets could then
   exceed the commit metadata. Such a record waits in the partition's backlog, and the partition is paused. What is held
   counts in bytes: a lane at its limit is paused, except for partitions that have no record here, which get one each.
2. Schedule. The record waits in the scheduler (by lane, tenant and key) until it may start. A lane with too many
   waiting records is paused. If nothing at all is in flight, the handler is called directly
   (`Executor.handle_at_once`).
3. Finish. If the handler returns, the record is finished. If it fails, the record's key is parked and tried again, or
   the record goes to the dead letters and is then finished. If it was cancelled before it started, `skip` runs instead.
4. Commit, at an interval and when partitions are revoked: the position and the map name exactly what is finished.
5. Rebalance. Revoked partitions are drained within a time limit and committed. Everything in flight of lost partitions
   is dropped without a commit: another member may already be processing it.

Invariants:

- A record is finished only when its handler (or its dead letter) is done, so a crash repeats records and loses none.
- At most one record of a key is in flight with `Ordering.KEY`, and retries of it block the key: order is kept. Records
  whose header says that they keep none run beside each other (`ordering_key`).
- Partitions are added and removed only in the callbacks of a rebalance. Records of a partition that is gone are
  discarded on receipt; a handler that ends after its partition has gone updates a tracker that is never committed.
- Pausing is decided in one place (`_apply_backpressure`) from four facts: the lane has too many records, it has too
  many bytes while the partition has at least one record, the partition has a backlog, or it is suspended. The first
  three are re-evaluated whenever a record finishes, the last when its time is over; otherwise a partition could stay
  paused for ever.
- What `HeldBytes` has taken for a record is given back exactly once: when it has ended (`Executor._leave`), when it is
  dropped with its partition, or when the tracker refuses it on its way out of the backlog. Otherwise a lane would
  stay full for ever, or hold more than its limit.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from headrace_streams.buffering import HeldBytes
from headrace_streams.committing import Committer
from headrace_streams.continuity import Continuity
from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.errors import TopicMissing, TransientError
from headrace_streams.executing import Executor
from headrace_streams.handling import (
    Ending,
    EngineOptions,
    EngineSnapshot,
    Handler,
    Load,
    Observer,
    Ordering,
    PartitionSnapshot,
    Sharing,
    TopicLane,
    ordering_key,
)
from headrace_streams.lanes import LaneShare
from headrace_streams.partitioning import static_member_id
from headrace_streams.ports import Consumer, Log
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition
from headrace_streams.retries import RetryPolicy
from headrace_streams.scheduling import Scheduler
from headrace_streams.work import AssignedPartition, Work

K = TypeVar("K", bound=Hashable)

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_CANCEL_SECONDS = 1.0
"""How long cancelled handlers may take to clean up."""

__all__ = [
    "Ending",
    "EngineOptions",
    "EngineSnapshot",
    "Handler",
    "Load",
    "Observer",
    "Ordering",
    "ParallelConsumer",
    "PartitionSnapshot",
    "RetryPolicy",
    "Sharing",
    "TopicLane",
    "ignore_assignment",
]


def ignore_assignment(_partition: TopicPartition) -> None:
    """Nothing follows from an assignment."""


class ParallelConsumer:
    """A member of a consumer group that handles records in parallel. It runs once, in one event loop.

    Args:
        log: The cluster, or its twin.
        group: Consumer group, with the installation's prefix.
        lanes: Topics to consume, the most urgent first. The order of a key holds across lanes.
        handler: See `Handler`.
        skip: Called instead of the handler for cancelled records, with the same contract; by default they are just
            finished.
        dead_letters: Keep records that can never be handled.
        sharing: Whose share a record takes, and of what.
        on_foreign_position: Told of assigned partitions whose position this engine did not store for the log that is
            there now: it was reset, expired, or belonged to another log. Their records may have been handled before.
        on_assigned: Told of all assigned partitions: their records may have been begun by another member.
        instance_id: Makes the member a static one.
    """

    def __init__(
        self,
        log: Log,
        group: str,
        lanes: Sequence[TopicLane],
        handler: Handler,
        *,
        dead_letters: DeadLetterSink,
        skip: Handler = lambda _record: None,
        options: EngineOptions | None = None,
        sharing: Sharing | None = None,
        observer: Observer | None = None,
        on_foreign_position: Callable[[TopicPartition], None] = ignore_assignment,
        on_assigned: Callable[[TopicPartition], None] = ignore_assignment,
        instance_id: str | None = None,
    ) -> None:
        self._log = log
        self._group = group
        self._instance_id = instance_id
        self._on_assigned = on_assigned
        self._handler = handler
        self._skip = skip
        self._dead_letters = dead_letters
        self._options = options or EngineOptions()
        self._sharing = sharing or Sharing()
        self._observer = observer
        self._topics = [lane.topic for lane in lanes]
        self._lane_of = {lane.topic: index for index, lane in enumerate(lanes)}
        self._full = [False] * len(lanes)
        shares = [LaneShare(lane.weight, lane.max_in_flight) for lane in lanes]
        self._scheduler: Scheduler[Work] = Scheduler(shares, self._options.max_in_flight, self._sharing.room_of)
        self._held = HeldBytes(len(lanes), self._options.max_held_bytes)
        self._keyed = self._options.ordering is Ordering.KEY
        self._partitions: dict[tuple[str, int], AssignedPartition] = {}
        self._continuity = Continuity(
            log.admin(),
            group,
            self._lane_of,
            self._partitions,
            self._scheduler,
            self._held,
            self._options,
            observer,
            on_foreign_position,
            self._look_again,
        )
        self._stop_wanted = asyncio.Event()
        self._stopped = asyncio.Event()
        self._broken: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._consumer: Consumer
        self._committer: Committer
        self._executor: Executor

    async def run(self) -> None:
        """Consume until `stop`. Raises LeaveGroup when the cluster no longer accepts the consumer: start a new one."""
        if self._loop is not None:
            raise RuntimeError("a ParallelConsumer runs once: make a new one")
        loop = asyncio.get_running_loop()
        self._broken = loop.create_future()
        instance_id = self._instance_id
        if instance_id is not None:
            instance_id = static_member_id(instance_id, await self._log.admin().partition_counts(self._topics))
        self._consumer = self._log.consumer(self._group, instance_id=instance_id)
        self._committer = Committer(self._consumer)
        self._executor = Executor(
            self._scheduler, self._held, self._handler, self._skip, self._dead_letters, self._options, self._observer,
            work_of=self._work_of, admit=self._admit_backlog, relieve=self._relieve,
            suspended=self._look_again, broke=self._break,
        )  # fmt: skip
        self._loop = loop
        try:
            await self._consumer.subscribe(self._topics, _Listener(self))
            await self._until_stopped(self._broken)
        except BaseException:
            # Before the consumer closes: it would drain what a broken engine can no longer finish.
            self._executor.abandon(self._continuity.all())
            raise
        finally:
            self._executor.stop()
            try:
                # Revokes all partitions, which drains and commits them (`_revoked`).
                await self._consumer.close()
            finally:
                # Only what the close did not revoke, because it failed.
                self._executor.abandon(self._continuity.all())
                self._stopped.set()

    async def stop(self) -> None:
        """Start nothing new, let running handlers finish within the drain time, commit, and leave the group."""
        self._stop_wanted.set()
        if self._loop is not None:
            self._executor.stop()
            await self._stopped.wait()

    def cancel(self, wanted: Callable[[Record], bool]) -> int:
        """Do not start the waiting records that `wanted` selects; returns how many there are.

        `skip` finishes them before other records, as soon as there is room; they do not hold back their keys. Records
        whose handler is running, and records not yet received, are not affected.
        """
        if self._loop is None:
            return 0
        return self._executor.cancel(wanted, self._continuity.all())

    def state(self) -> EngineSnapshot:
        """A snapshot for metrics and health."""
        partitions = self._partitions.values()
        return EngineSnapshot(
            in_flight=self._scheduler.in_flight,
            parked=self._scheduler.parked,
            waiting={topic: self._scheduler.waiting(lane) for topic, lane in self._lane_of.items()},
            held_bytes={topic: self._held.held(lane) for topic, lane in self._lane_of.items()},
            held_bytes_limit=self._held.lane_limit,
            full=[topic for topic, lane in self._lane_of.items() if self._held.is_full(lane)],
            assigned={partition.name: _state_of(partition) for partition in partitions},
            longest_span=max((partition.tracker.span for partition in partitions), default=0),
        )

    def loads(self, kind_of: Callable[[Record], K]) -> Mapping[K, Load]:
        """Waiting and running records by kind. A record's kind is computed once, by the first call that sees it."""
        counts: dict[K, list[int]] = {}
        running = [work for partition in self._continuity.all() for work in partition.running]
        aside = [work for partition in self._partitions.values() for work in partition.backlog]
        for index, works in ((0, self._scheduler.waiting_pieces()), (0, aside), (1, running)):
            for work in works:
                if work.counted_as is None:
                    work.counted_as = kind_of(work.record)
                counts.setdefault(cast(K, work.counted_as), [0, 0])[index] += 1
        return {kind: Load(*numbers) for kind, numbers in counts.items()}

    def oldest_waiting_seconds(self) -> float:
        """Seconds since the oldest waiting record was received, parked ones included; 0 if none is waiting."""
        if self._loop is None:
            return 0.0
        now = self._loop.time()
        oldest = min((work.received for work in self._scheduler.waiting_pieces()), default=now)
        return now - oldest

    async def _until_stopped(self, broken: asyncio.Future[None]) -> None:
        tasks: list[asyncio.Future[Any]] = [
            asyncio.create_task(self._poll()),
            asyncio.create_task(self._commit_often()),
            asyncio.create_task(self._look_at_ends()),
            asyncio.create_task(self._continuity.keep_watch(self._consumer)),
            asyncio.create_task(self._stop_wanted.wait()),
            broken,
        ]
        try:
            # All of them run until they fail, except the wait for `stop`.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _break(self, error: Exception) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

    # Receiving

    async def _poll(self) -> None:
        while True:
            records = await self._consumer.poll(
                self._options.max_poll_records, _POLL_SECONDS, max_bytes=self._held.room
            )
            if records:
                self._receive(records)
            # Without records, too: a kind may have more room than before.
            self._executor.pump()

    def _receive(self, records: Sequence[Record]) -> None:
        delivered: dict[AssignedPartition, Sequence[Record]] = {}
        for (topic, number), of_partition in _by_partition(records):
            # Records of a partition revoked since they were fetched belong to its next owner.
            partition = self._partitions.get((topic, number))
            if partition is not None:
                delivered[partition] = of_partition
        for partition, of_partition in sorted(delivered.items(), key=_lane_first):
            self._take_in(partition, of_partition)
        for lane, full in enumerate(self._full):
            if not full and self._scheduler.waiting(lane) >= self._options.max_buffered:
                self._full[lane] = True
                self._apply_backpressure(self._of_lane(lane))
        self._look_at_bytes()
        # A paused partition that delivers records has lost its pause in a rebalance: pause it once more.
        self._apply_backpressure(delivered, insist=True)

    def _take_in(self, partition: AssignedPartition, records: Sequence[Record]) -> None:
        handled = 0
        expected = partition.received_to
        if expected is not None and records[0].offset != expected:
            self._continuity.doubt(partition, expected)
        # The fast path skips scheduler and tracker, so nothing may be in flight that it could overtake or pass.
        if (
            self._scheduler.idle
            and not self._stop_wanted.is_set()
            and partition.tracker.passes(records[0].offset)
            and not partition.backlog
        ):
            handled = self._executor.handle_at_once(partition, records)
        now = self._now()
        for record in records[handled:] if handled else records:
            work = self._work_of(record, partition, now)
            # Behind a backlog everything waits: the tracker receives offsets in ascending order only.
            if partition.backlog or not partition.tracker.fits(work.offset):
                self._held.take(work)
                partition.backlog.append(work)
            elif partition.tracker.received(work.offset):
                self._held.take(work)
                self._scheduler.add(work)

    def _work_of(self, record: Record, partition: AssignedPartition, now: float) -> Work:
        sharing = self._sharing
        return Work(
            record,
            partition,
            sharing.tenant_of(record),
            ordering_key(record) if self._keyed else None,
            now,
            weight=sharing.weight_of(record),
            kind=sharing.kind_of(record),
        )

    def _admit_backlog(self, partition: AssignedPartition) -> None:
        while partition.backlog and partition.tracker.fits(partition.backlog[0].offset):
            work = partition.backlog.popleft()
            if partition.tracker.received(work.offset):
                self._scheduler.add(work, first=work.cancelled)
            else:
                self._held.give_back(work)
        if not partition.leaving:
            self._apply_backpressure((partition,))

    def _apply_backpressure(self, partitions: Iterable[AssignedPartition], *, insist: bool = False) -> None:
        """Pause partitions that may not receive records now, and resume the others.

        Args:
            insist: Pause also those that are recorded as paused.
        """
        pause: list[TopicPartition] = []
        resume: list[TopicPartition] = []
        for partition in partitions:
            wanted = (
                self._full[partition.lane]
                or (partition.held > 0 and self._held.is_full(partition.lane))
                or bool(partition.backlog)
                or partition.suspended is not None
            )
            if wanted and (insist or not partition.paused):
                pause.append(partition.name)
            elif partition.paused and not wanted:
                resume.append(partition.name)
            partition.paused = wanted
        if pause:
            self._consumer.pause(pause)
        if resume:
            self._consumer.resume(resume)

    def _look_again(self, partition: AssignedPartition) -> None:
        """A partition has been suspended, may go on, or has another log."""
        if not partition.leaving and not partition.former:
            self._apply_backpressure((partition,))

    def _relieve(self) -> None:
        self._look_at_bytes()
        if True not in self._full:
            return
        # Hysteresis: resuming at the same mark would pause again with the next poll.
        for lane, full in enumerate(self._full):
            if full and self._scheduler.waiting(lane) <= self._options.max_buffered // 2:
                self._full[lane] = False
                self._apply_backpressure(self._of_lane(lane))

    def _look_at_bytes(self) -> None:
        for lane in range(len(self._full)):
            if self._held.changed(lane):
                self._apply_backpressure(self._of_lane(lane))
            elif self._held.is_full(lane):
                # Nothing else brings these on: what the others hold may end much later.
                self._apply_backpressure([each for each in self._of_lane(lane) if each.paused and not each.held])

    def _of_lane(self, lane: int) -> Iterable[AssignedPartition]:
        return (partition for partition in self._partitions.values() if partition.lane == lane)

    def _now(self) -> float:
        assert self._loop is not None, "run() comes first"
        return self._loop.time()

    # Committing

    async def _commit_often(self) -> None:
        while True:
            await asyncio.sleep(self._options.commit_interval_seconds)
            await self._committer.commit(list(self._partitions.values()))

    async def _look_at_ends(self) -> None:
        while True:
            await asyncio.sleep(self._options.lag_interval_seconds)
            here = list(self._partitions.values())
            # A group without a committed offset starts where the log starts; it learns that with its first record.
            new = [partition for partition in here if partition.tracker.received_to is None]
            try:
                ends = await self._consumer.log_ends([partition.name for partition in here])
                starts = await self._consumer.log_starts([partition.name for partition in new]) if new else {}
            except (TransientError, TopicMissing) as error:
                _log.info("consumer lag is not known at the moment: %s", error)
                continue
            for partition in here:
                partition.log_end = ends.get(partition.name, partition.log_end)
                partition.log_start = starts.get(partition.name, partition.log_start)

    # Rebalancing

    async def _assigned(self, names: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        for name in names:
            self._on_assigned(name)
        stored = await self._stored_progress(names)
        return await self._continuity.begin(names, stored)

    async def _stored_progress(self, names: Collection[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        attempts = 0
        while True:
            try:
                return await self._consumer.committed(names)
            except TransientError as error:
                attempts += 1
                _log.warning("committed offsets cannot be read, trying again: %s", error)
                await asyncio.sleep(self._options.retries.delay(attempts))

    async def _revoked(self, names: Collection[TopicPartition]) -> None:
        # Nothing of these starts from here on, so what runs can only become less; then the commit is final.
        leaving = self._take_away(names)
        if not await _quiet(leaving, self._options.drain_seconds):
            late = sum(len(partition.running) for partition in leaving)
            _log.warning("%d records did not finish within the drain time and will be processed again", late)
            self._executor.abandon(leaving)
            await _quiet(leaving, _CANCEL_SECONDS)
        await self._committer.commit_at_last(partition for partition in leaving if not partition.former)

    async def _lost(self, names: Collection[TopicPartition]) -> None:
        leaving = self._take_away(names)
        self._executor.abandon(leaving)
        await _quiet(leaving, _CANCEL_SECONDS)

    def _take_away(self, names: Iterable[TopicPartition]) -> list[AssignedPartition]:
        """Drop waiting records; running handlers continue for now."""
        leaving = self._continuity.take_away(names)
        for partition in leaving:
            partition.leaving = True
            partition.end_suspension(self._observer)
            while partition.backlog:
                self._held.give_back(partition.backlog.popleft())
        self._executor.drop_waiting(leaving)
        return leaving


class _Listener:
    """Keeps the rebalance callbacks out of the engine's public interface."""

    def __init__(self, engine: ParallelConsumer) -> None:
        self._engine = engine

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return await self._engine._assigned(partitions)

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        await self._engine._revoked(partitions)

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        await self._engine._lost(partitions)


def _by_partition(records: Sequence[Record]) -> Iterable[tuple[tuple[str, int], Sequence[Record]]]:
    """The records of each partition, which are contiguous in a poll. Binary search, because reading topic and partition
    of every record costs more than the rest of this."""
    last = (records[-1].topic, records[-1].partition)
    begin = 0
    while begin < len(records):
        place = (records[begin].topic, records[begin].partition)
        if place == last:
            yield place, records[begin:] if begin else records
            return
        end = bisect_left(records, True, begin, key=partial(_is_elsewhere, place))
        yield place, records[begin:end]
        begin = end


def _is_elsewhere(place: tuple[str, int], record: Record) -> bool:
    return (record.topic, record.partition) != place


def _lane_first(item: tuple[AssignedPartition, Sequence[Record]]) -> int:
    return item[0].lane


def _state_of(partition: AssignedPartition) -> PartitionSnapshot:
    position, received_to = partition.tracker.position, partition.tracker.received_to
    return PartitionSnapshot(
        position=partition.log_start if position is None else position,
        received_to=partition.log_start if received_to is None else received_to,
        log_end=partition.log_end,
        paused=partition.paused,
        suspended=partition.suspended,
    )


async def _quiet(partitions: Iterable[AssignedPartition], seconds: float) -> bool:
    """Whether all running handlers of these partitions end within the time."""
    try:
        async with asyncio.timeout(seconds):
            for partition in partitions:
                await partition.quiet()
    except TimeoutError:
        return False
    return True
