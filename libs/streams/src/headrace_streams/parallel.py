"""Parallel consumption: many records of a partition in hand at once, exact progress all the same.

1. A polled record is received by its partition's offset tracker, unless the map of finished offsets might then outgrow
   the commit metadata: in that case it is put aside and the partition paused until others have finished.
2. It waits in the scheduler (lanes, tenants, keys) for room, and its handler starts as soon as there is some. A lane
   with too many waiting is paused. While nothing at all is in hand, the handler is called without this detour.
3. Its handler returns: the record is finished. It fails: the record's key is parked and tried again, or the record
   goes to the dead letters and is then finished. It was cancelled before it began: its handler is not called.
4. OffsetAndMetadata is committed now and then, and when partitions go: position and map say exactly what is finished.
5. Partitions about to go are drained within a time bound; of partitions that are lost everything in hand is dropped.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from headrace_streams.committing import Committer
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
    TopicLane,
    tenant_of_header,
)
from headrace_streams.offsets import OffsetMetadataUnreadable, OffsetTracker, decode
from headrace_streams.ports import Consumer, Log
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition
from headrace_streams.retries import RetryPolicy
from headrace_streams.scheduling import LaneShare, Scheduler
from headrace_streams.work import AssignedPartition, Work

K = TypeVar("K", bound=Hashable)

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_CANCEL_SECONDS = 1.0
"""Time that cancelled handlers get to clean up."""

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
    "TopicLane",
    "tenant_of_header",
]


class ParallelConsumer:
    """A member of a consumer group that handles records in parallel; it runs once, in one event loop.

    Args:
        log: The cluster, or its twin.
        group: Consumer group, with the installation's prefix.
        lanes: Topics to consume; of equal claims the first listed goes first. They share the keys' order.
        handler: See `Handler`.
        skip: Called in place of the handler for records that `cancel` has named, with the same promises; by default
            they are finished just so.
        dead_letters: Where records go that can never be handled.
        tenant_of: Whose turn a record takes.
        instance_id: Makes the member static.
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
        tenant_of: Callable[[Record], str] = tenant_of_header,
        observer: Observer | None = None,
        instance_id: str | None = None,
    ) -> None:
        self._log = log
        self._group = group
        self._instance_id = instance_id
        self._handler = handler
        self._skip = skip
        self._dead_letters = dead_letters
        self._options = options or EngineOptions()
        self._tenant_of = tenant_of
        self._observer = observer
        self._topics = [lane.topic for lane in lanes]
        self._lane_of = {lane.topic: index for index, lane in enumerate(lanes)}
        self._full = [False] * len(lanes)
        shares = [LaneShare(lane.weight, lane.max_in_flight) for lane in lanes]
        self._scheduler: Scheduler[Work] = Scheduler(shares, self._options.max_in_flight)
        self._keyed = self._options.ordering is Ordering.KEY
        self._partitions: dict[tuple[str, int], AssignedPartition] = {}
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
        self._consumer = self._log.consumer(self._group, instance_id=self._instance_id)
        self._committer = Committer(self._consumer)
        self._executor = Executor(
            self._scheduler, self._handler, self._skip, self._dead_letters, self._options, self._observer,
            work_of=self._work_of, admit=self._admit_backlog, relieve=self._relieve, broke=self._break,
        )  # fmt: skip
        self._loop = loop
        try:
            await self._consumer.subscribe(self._topics, _Listener(self))
            await self._until_stopped(self._broken)
        except BaseException:
            self._executor.abandon(self._partitions.values())
            raise
        finally:
            self._executor.stop()
            try:
                await self._consumer.close()
            finally:
                self._executor.abandon(self._partitions.values())
                self._stopped.set()

    async def stop(self) -> None:
        """Start nothing new, let running handlers finish within the drain time, commit, leave the group."""
        self._stop_wanted.set()
        if self._loop is not None:
            self._executor.stop()
            await self._stopped.wait()

    def cancel(self, wanted: Callable[[Record], bool]) -> int:
        """Do not begin those of the records in hand that `wanted` names; how many there were.

        They are finished by `skip` as soon as there is room, before others, and hold back nothing of their keys.
        Records being handled, and those still to come from the log, are for the handler to deal with.
        """
        if self._loop is None:
            return 0
        return self._executor.cancel(wanted, self._partitions.values())

    def state(self) -> EngineSnapshot:
        """What is in hand now."""
        partitions = self._partitions.values()
        return EngineSnapshot(
            in_flight=self._scheduler.in_flight,
            parked=self._scheduler.parked,
            waiting={topic: self._scheduler.waiting(lane) for topic, lane in self._lane_of.items()},
            assigned={partition.name: _state_of(partition) for partition in partitions},
            longest_span=max((partition.tracker.span for partition in partitions), default=0),
        )

    def loads(self, kind_of: Callable[[Record], K]) -> Mapping[K, Load]:
        """What is in hand, by kind; each record is asked for its kind once, by whichever function comes first."""
        counts: dict[K, list[int]] = {}
        running = [work for partition in self._partitions.values() for work in partition.running]
        aside = [work for partition in self._partitions.values() for work in partition.backlog]
        for index, works in ((0, self._scheduler.waiting_pieces()), (0, aside), (1, running)):
            for work in works:
                if work.kind is None:
                    work.kind = kind_of(work.record)
                counts.setdefault(cast(K, work.kind), [0, 0])[index] += 1
        return {kind: Load(*numbers) for kind, numbers in counts.items()}

    def oldest_waiting_seconds(self) -> float:
        """Age of the record that has waited longest since it was received, parked ones included; 0 without any."""
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
            asyncio.create_task(self._stop_wanted.wait()),
            broken,
        ]
        try:
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
            records = await self._consumer.poll(self._options.max_poll_records, _POLL_SECONDS)
            if records:
                self._receive(records)
                self._executor.pump()

    def _receive(self, records: Sequence[Record]) -> None:
        delivered: dict[AssignedPartition, Sequence[Record]] = {}
        for (topic, number), of_partition in _by_partition(records):
            partition = self._partitions.get((topic, number))
            if partition is not None:
                delivered[partition] = of_partition
        for partition, of_partition in sorted(delivered.items(), key=_lane_first):
            self._take_in(partition, of_partition)
        for lane, full in enumerate(self._full):
            if not full and self._scheduler.waiting(lane) >= self._options.max_buffered:
                self._full[lane] = True
                self._apply_backpressure(partition for partition in self._partitions.values() if partition.lane == lane)
        # What a rebalance has made the client forget is asked for again: a paused partition delivers nothing for long.
        self._apply_backpressure(delivered, insist=True)

    def _take_in(self, partition: AssignedPartition, records: Sequence[Record]) -> None:
        handled = 0
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
            if partition.backlog or not partition.tracker.fits(work.offset):
                partition.backlog.append(work)
            elif partition.tracker.received(work.offset):
                self._scheduler.add(work)

    def _work_of(self, record: Record, partition: AssignedPartition, now: float) -> Work:
        return Work(record, partition, self._tenant_of(record), record.key if self._keyed else None, now)

    def _admit_backlog(self, partition: AssignedPartition) -> None:
        while partition.backlog and partition.tracker.fits(partition.backlog[0].offset):
            work = partition.backlog.popleft()
            if partition.tracker.received(work.offset):
                self._scheduler.add(work, first=work.cancelled)
        if not partition.leaving:
            self._apply_backpressure((partition,))

    def _apply_backpressure(self, partitions: Iterable[AssignedPartition], *, insist: bool = False) -> None:
        """Pause and resume as lanes and trackers want it."""
        pause: list[TopicPartition] = []
        resume: list[TopicPartition] = []
        for partition in partitions:
            wanted = self._full[partition.lane] or bool(partition.backlog)
            if wanted and (insist or not partition.paused):
                pause.append(partition.name)
            elif partition.paused and not wanted:
                resume.append(partition.name)
            partition.paused = wanted
        if pause:
            self._consumer.pause(pause)
        if resume:
            self._consumer.resume(resume)

    def _relieve(self) -> None:
        if True not in self._full:
            return
        for lane, full in enumerate(self._full):
            if full and self._scheduler.waiting(lane) <= self._options.max_buffered // 2:
                self._full[lane] = False
                self._apply_backpressure(partition for partition in self._partitions.values() if partition.lane == lane)

    def _now(self) -> float:
        assert self._loop is not None, "run() comes first"
        return self._loop.time()

    # OffsetAndMetadata

    async def _commit_often(self) -> None:
        while True:
            await asyncio.sleep(self._options.commit_interval_seconds)
            await self._committer.commit(list(self._partitions.values()))

    async def _look_at_ends(self) -> None:
        while True:
            await asyncio.sleep(self._options.lag_interval_seconds)
            here = list(self._partitions.values())
            # A new group begins where the log does, which it learns by its first record.
            new = [partition for partition in here if partition.tracker.received_to is None]
            try:
                ends = await self._consumer.log_ends([partition.name for partition in here])
                starts = await self._consumer.log_starts([partition.name for partition in new]) if new else {}
            except (TransientError, TopicMissing) as error:
                _log.info("where partitions end is not known at the moment: %s", error)
                continue
            for partition in here:
                partition.log_end = ends.get(partition.name, partition.log_end)
                partition.log_start = starts.get(partition.name, partition.log_start)

    # Partitions come and go

    async def _assigned(self, names: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        stored = await self._stored_progress(names)
        starts: dict[TopicPartition, int] = {}
        for name in names:
            progress = stored.get(name)
            lane = self._lane_of[name.topic]
            limit = self._options.metadata_limit
            if progress is None:
                tracker = OffsetTracker(limit=limit)
            else:
                starts[name] = progress.next_offset
                tracker = OffsetTracker(progress.next_offset, _finished_beyond(name, progress), limit=limit)
            self._partitions[name.topic, name.partition] = AssignedPartition(name, lane, tracker)
        return starts

    async def _stored_progress(self, names: Collection[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        attempts = 0
        while True:
            try:
                return await self._consumer.committed(names)
            except TransientError as error:
                attempts += 1
                _log.warning("the group's progress cannot be read, it is tried again: %s", error)
                await asyncio.sleep(self._options.retries.delay(attempts))

    async def _revoked(self, names: Collection[TopicPartition]) -> None:
        leaving = self._take_away(names)
        if not await _quiet(leaving, self._options.drain_seconds):
            late = sum(len(partition.running) for partition in leaving)
            _log.warning("%d records were not handled within the drain time and will be done again", late)
            self._executor.abandon(leaving)
            await _quiet(leaving, _CANCEL_SECONDS)
        await self._committer.commit_at_last(leaving)

    async def _lost(self, names: Collection[TopicPartition]) -> None:
        leaving = self._take_away(names)
        self._executor.abandon(leaving)
        await _quiet(leaving, _CANCEL_SECONDS)

    def _take_away(self, names: Iterable[TopicPartition]) -> list[AssignedPartition]:
        """Forget what waits; what runs goes on for now."""
        leaving = [
            partition
            for name in names
            if (partition := self._partitions.pop((name.topic, name.partition), None)) is not None
        ]
        for partition in leaving:
            partition.leaving = True
            partition.backlog.clear()
        self._executor.drop_waiting(leaving)
        return leaving


class _Listener:
    """Keeps the callbacks out of the engine's public face."""

    def __init__(self, engine: ParallelConsumer) -> None:
        self._engine = engine

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return await self._engine._assigned(partitions)

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        await self._engine._revoked(partitions)

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        await self._engine._lost(partitions)


def _by_partition(records: Sequence[Record]) -> Iterable[tuple[tuple[str, int], Sequence[Record]]]:
    """Records of each partition, which stand together; few are looked at, since looking costs."""
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
    )


async def _quiet(partitions: Iterable[AssignedPartition], seconds: float) -> bool:
    """Whether all that is handled of these partitions ends within the time."""
    try:
        async with asyncio.timeout(seconds):
            for partition in partitions:
                await partition.quiet()
    except TimeoutError:
        return False
    return True


def _finished_beyond(name: TopicPartition, progress: OffsetAndMetadata) -> tuple[tuple[int, int], ...]:
    try:
        return decode(progress)
    except OffsetMetadataUnreadable as error:
        _log.warning(
            "%s starts at %d, records finished beyond it are done again: %s", name, progress.next_offset, error
        )
        return ()
