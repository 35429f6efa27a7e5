"""Parallel consumption: many records of a partition in hand at once, exact progress all the same.

1. A polled record is received by its partition's offset tracker, unless the map of finished offsets might then outgrow
   the commit metadata: in that case it is put aside and the partition paused until others have finished.
2. It waits in the scheduler (lanes, tenants, keys) for room, and its handler starts as soon as there is some. A lane
   with too many waiting is paused.
3. Its handler returns: the record is finished. It fails: the record's key is parked and tried again, or the record
   goes to the dead letters and is then finished.
4. Progress is committed now and then, and when partitions go: position and map say exactly what is finished.
5. Partitions about to go are drained within a time bound; of partitions that are lost everything in hand is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from headrace_streams.errors import PartitionsLost, TryAgain
from headrace_streams.handling import (
    DeadLetterSink,
    Ending,
    EngineOptions,
    EngineState,
    Handler,
    Lane,
    Observer,
    Ordering,
    tenant_of_header,
)
from headrace_streams.offsets import OffsetTracker, ProgressUnreadable, decode
from headrace_streams.ports import Consumer, Log
from headrace_streams.records import Progress, Record, TopicPartition
from headrace_streams.retries import GiveUp, RetryPolicy, after_failure, is_unforeseen
from headrace_streams.scheduling import Entry, LaneShare, Scheduler

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_CANCEL_SECONDS = 1.0
"""Time that cancelled handlers get to clean up."""
_COMMIT_TRIES = 5
_COMMIT_RETRY_SECONDS = 0.2

__all__ = [
    "DeadLetterSink",
    "Ending",
    "EngineOptions",
    "EngineState",
    "Handler",
    "Lane",
    "Observer",
    "Ordering",
    "ParallelConsumer",
    "RetryPolicy",
    "tenant_of_header",
]


class _Partition:
    """One assigned partition, from its assignment to its loss."""

    __slots__ = ("backlog", "committed_changes", "lane", "leaving", "name", "paused", "running", "tracker")

    def __init__(self, name: TopicPartition, lane: int, tracker: OffsetTracker) -> None:
        self.name = name
        self.lane = lane
        self.tracker = tracker
        self.backlog: deque[Record] = deque()
        self.running: set[asyncio.Future[None]] = set()
        self.paused = False
        self.leaving = False
        self.committed_changes = tracker.changes


class _Work:
    """One record in hand. `reason` is set when it is on its way to the dead letters."""

    __slots__ = ("attempts", "partition", "reason", "record", "since", "unforeseen")

    def __init__(self, record: Record, partition: _Partition, since: float) -> None:
        self.record = record
        self.partition = partition
        self.since = since
        self.attempts = 0
        self.unforeseen = 0
        self.reason: Exception | None = None


class ParallelConsumer:
    """A member of a consumer group that handles records in parallel; it runs once, in one event loop.

    Args:
        log: The cluster, or its twin.
        group: Consumer group, with the installation's prefix.
        lanes: Topics to consume; of equal claims the first listed goes first. They share the keys' order.
        handler: See `Handler`.
        dead_letters: Where records go that can never be handled.
        tenant_of: Whose turn a record takes.
        instance_id: Makes the member static.
    """

    def __init__(
        self,
        log: Log,
        group: str,
        lanes: Sequence[Lane],
        handler: Handler,
        *,
        dead_letters: DeadLetterSink,
        options: EngineOptions | None = None,
        tenant_of: Callable[[Record], str] = tenant_of_header,
        observer: Observer | None = None,
        instance_id: str | None = None,
    ) -> None:
        self._log = log
        self._group = group
        self._instance_id = instance_id
        self._handler = handler
        self._dead_letters = dead_letters
        self._options = options or EngineOptions()
        self._tenant_of = tenant_of
        self._observer = observer or Observer()
        self._topics = [lane.topic for lane in lanes]
        self._lane_of = {lane.topic: index for index, lane in enumerate(lanes)}
        self._full = [False] * len(lanes)
        shares = [LaneShare(lane.weight, lane.max_in_flight) for lane in lanes]
        self._scheduler: Scheduler[_Work] = Scheduler(shares, self._options.max_in_flight)
        self._keyed = self._options.ordering is Ordering.KEY
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._committing = asyncio.Lock()
        self._stop_wanted = asyncio.Event()
        self._stopped = asyncio.Event()
        self._broken: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._member: Consumer | None = None

    async def run(self) -> None:
        """Consume until `stop`. Raises LeaveGroup when the cluster no longer accepts the consumer: start a new one."""
        if self._loop is not None:
            raise RuntimeError("a ParallelConsumer runs once: make a new one")
        self._loop = asyncio.get_running_loop()
        self._member = self._log.consumer(self._group, instance_id=self._instance_id)
        try:
            await self._member.subscribe(self._topics, _Listener(self))
            await self._until_stopped()
        except BaseException:
            self._drop(list(self._partitions.values()))
            raise
        finally:
            try:
                await self._member.close()
            finally:
                self._drop(list(self._partitions.values()))
                if self._timer is not None:
                    self._timer.cancel()
                self._stopped.set()

    async def stop(self) -> None:
        """Start nothing new, let running handlers finish within the drain time, commit, leave the group."""
        self._stop_wanted.set()
        if self._loop is not None:
            await self._stopped.wait()

    def state(self) -> EngineState:
        """What is in hand now."""
        partitions = self._partitions.values()
        return EngineState(
            in_flight=self._scheduler.in_flight,
            parked=self._scheduler.parked,
            waiting={topic: self._scheduler.waiting(lane) for topic, lane in self._lane_of.items()},
            partitions=len(partitions),
            paused=sum(partition.paused for partition in partitions),
            longest_span=max((partition.tracker.span for partition in partitions), default=0),
        )

    async def _until_stopped(self) -> None:
        self._broken = self._running_loop.create_future()
        tasks: list[asyncio.Future[Any]] = [
            asyncio.create_task(self._poll()),
            asyncio.create_task(self._commit_often()),
            asyncio.create_task(self._stop_wanted.wait()),
            self._broken,
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

    @property
    def _running_loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "run() comes first"
        return self._loop

    @property
    def _consumer(self) -> Consumer:
        assert self._member is not None, "run() comes first"
        return self._member

    # Receiving

    async def _poll(self) -> None:
        while True:
            records = await self._consumer.poll(self._options.max_poll_records, _POLL_SECONDS)
            if records:
                self._receive(records)
                self._pump()

    def _receive(self, records: Sequence[Record]) -> None:
        now = self._running_loop.time()
        delivered: dict[_Partition, None] = {}
        for record in records:
            partition = self._partitions.get((record.topic, record.partition))
            if partition is None:
                continue
            delivered[partition] = None
            if partition.backlog or not partition.tracker.fits(record.offset):
                partition.backlog.append(record)
            else:
                self._admit(partition, record, now)
        for lane, full in enumerate(self._full):
            if not full and self._scheduler.waiting(lane) >= self._options.max_buffered:
                self._full[lane] = True
                self._steer(partition for partition in self._partitions.values() if partition.lane == lane)
        # What a rebalance has made the client forget is asked for again: a paused partition delivers nothing for long.
        self._steer(delivered, insist=True)

    def _admit(self, partition: _Partition, record: Record, now: float) -> None:
        if partition.tracker.received(record.offset):
            key = record.key if self._keyed else None
            work = _Work(record, partition, now)
            self._scheduler.add(Entry(work, partition.lane, self._tenant_of(record), key))

    def _steer(self, partitions: Iterable[_Partition], *, insist: bool = False) -> None:
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
        for lane, full in enumerate(self._full):
            if full and self._scheduler.waiting(lane) <= self._options.max_buffered // 2:
                self._full[lane] = False
                self._steer(partition for partition in self._partitions.values() if partition.lane == lane)

    # Handling

    def _pump(self) -> None:
        """Start what there is room for."""
        while not self._stop_wanted.is_set() and (entry := self._scheduler.start()) is not None:
            self._begin(entry)
        self._relieve()

    def _begin(self, entry: Entry[_Work]) -> None:
        work = entry.item
        now = self._running_loop.time()
        if work.reason is not None:
            self._bury(entry, work.reason)
            return
        work.attempts += 1
        self._observer.started(work.record, now - work.since)
        work.since = now
        try:
            handling = self._handler(work.record)
        except Exception as error:  # noqa: BLE001 - judged by `after_failure`
            self._failed(entry, error)
            return
        if handling is None:
            self._done(entry, Ending.DONE)
        else:
            self._follow(entry, asyncio.ensure_future(handling))

    def _follow(self, entry: Entry[_Work], task: asyncio.Future[None]) -> None:
        entry.item.partition.running.add(task)
        task.add_done_callback(partial(self._ended, entry))

    def _ended(self, entry: Entry[_Work], task: asyncio.Future[None]) -> None:
        # The loop would only log an error of a callback, and the record would stay open for ever: run() must fail.
        try:
            self._settle(entry, task)
            self._pump()
        except Exception as error:  # noqa: BLE001 - handed to run()
            self._break(error)

    def _break(self, error: Exception) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

    def _settle(self, entry: Entry[_Work], task: asyncio.Future[None]) -> None:
        work = entry.item
        work.partition.running.remove(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._done(entry, Ending.DONE if work.reason is None else Ending.DEAD_LETTER)
        elif isinstance(error, asyncio.CancelledError):
            self._failed(entry, RuntimeError("the handler was cancelled from within"))
        elif isinstance(error, Exception):
            self._failed(entry, error)
        else:
            self._leave(entry, Ending.ABANDONED)

    def _done(self, entry: Entry[_Work], ending: Ending) -> None:
        partition = entry.item.partition
        partition.tracker.finished(entry.item.record.offset)
        self._leave(entry, ending)
        if partition.backlog:
            now = self._running_loop.time()
            while partition.backlog and partition.tracker.fits(partition.backlog[0].offset):
                self._admit(partition, partition.backlog.popleft(), now)
            if not partition.leaving:
                self._steer((partition,))

    def _leave(self, entry: Entry[_Work], ending: Ending) -> None:
        self._scheduler.finish(entry)
        self._observer.ended(entry.item.record, ending, self._running_loop.time() - entry.item.since)

    def _failed(self, entry: Entry[_Work], error: Exception) -> None:
        work = entry.item
        place = f"{work.partition.name}@{work.record.offset}"
        if work.partition.leaving:
            self._leave(entry, Ending.ABANDONED)
            return
        if work.reason is not None:
            _log.warning("dead letters do not take %s yet, it is tried again: %s", place, error)
            self._park(entry, self._options.retries.delay(work.attempts))
            work.attempts += 1
            return
        if is_unforeseen(error):
            work.unforeseen += 1
            # Only the place: the text of an unforeseen error may hold content.
            _log.error("handler failed at %s, try %d: %s", place, work.attempts, _origin(error))
        step = after_failure(error, attempts=work.attempts, unforeseen=work.unforeseen, policy=self._options.retries)
        if isinstance(step, GiveUp):
            work.reason = error
            self._bury(entry, error)
        else:
            self._park(entry, step.delay_seconds)

    def _bury(self, entry: Entry[_Work], reason: Exception) -> None:
        work = entry.item
        keeping = self._dead_letters.keep(work.record, reason, work.attempts)
        self._follow(entry, asyncio.ensure_future(keeping))

    def _park(self, entry: Entry[_Work], delay: float) -> None:
        now = self._running_loop.time()
        self._observer.ended(entry.item.record, Ending.PARKED, now - entry.item.since)
        entry.item.since = now
        self._scheduler.park(entry, now + delay)
        self._set_timer()

    def _set_timer(self) -> None:
        at = self._scheduler.wake_at()
        if self._timer is not None:
            if at is not None and self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = None if at is None else self._running_loop.call_at(at, self._wake)

    def _wake(self) -> None:
        # A timer may fire early by the resolution of the clock.
        at = self._timer.when() if self._timer is not None else 0.0
        self._timer = None
        try:
            self._scheduler.wake(max(at, self._running_loop.time()))
            self._set_timer()
            self._pump()
        except Exception as error:  # noqa: BLE001 - handed to run()
            self._break(error)

    # Progress

    async def _commit_often(self) -> None:
        while True:
            await asyncio.sleep(self._options.commit_interval_seconds)
            await self._commit(list(self._partitions.values()))

    async def _commit(self, partitions: Iterable[_Partition]) -> bool:
        """Whether the group's progress is up to date, or no longer ours to tell."""
        # One at a time: an older commit must not arrive after a newer one.
        async with self._committing:
            progress: dict[TopicPartition, Progress] = {}
            changes: dict[_Partition, int] = {}
            for partition in partitions:
                if partition.tracker.changes != partition.committed_changes:
                    reached = partition.tracker.progress()
                    if reached is not None:
                        progress[partition.name] = reached
                        changes[partition] = partition.tracker.changes
            if not progress:
                return True
            try:
                await self._consumer.commit(progress)
            except PartitionsLost as error:
                _log.info("commit refused, the partitions have gone: %s", error)
                return True
            except TryAgain as error:
                _log.warning("commit failed, it is tried again: %s", error)
                return False
            for partition, committed in changes.items():
                partition.committed_changes = committed
            return True

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
            self._partitions[name.topic, name.partition] = _Partition(name, lane, tracker)
        return starts

    async def _stored_progress(self, names: Collection[TopicPartition]) -> Mapping[TopicPartition, Progress]:
        attempts = 0
        while True:
            try:
                return await self._consumer.committed(names)
            except TryAgain as error:
                attempts += 1
                _log.warning("the group's progress cannot be read, it is tried again: %s", error)
                await asyncio.sleep(self._options.retries.delay(attempts))

    async def _revoked(self, names: Collection[TopicPartition]) -> None:
        leaving = self._take_away(names)
        running = [task for partition in leaving for task in partition.running]
        if running:
            _, late = await asyncio.wait(running, timeout=self._options.drain_seconds)
            if late:
                _log.warning("%d records were not handled within the drain time and will be done again", len(late))
                self._drop(leaving)
                await asyncio.wait(late, timeout=_CANCEL_SECONDS)
        for _ in range(_COMMIT_TRIES):
            if await self._commit(leaving):
                return
            await asyncio.sleep(_COMMIT_RETRY_SECONDS)
        _log.warning("progress of %s could not be committed; the next owner repeats some records", leaving[0].name)

    async def _lost(self, names: Collection[TopicPartition]) -> None:
        leaving = self._take_away(names)
        self._drop(leaving)
        running = [task for partition in leaving for task in partition.running]
        if running:
            await asyncio.wait(running, timeout=_CANCEL_SECONDS)

    def _take_away(self, names: Iterable[TopicPartition]) -> list[_Partition]:
        """Forget what waits; what runs goes on for now."""
        leaving = [
            partition
            for name in names
            if (partition := self._partitions.pop((name.topic, name.partition), None)) is not None
        ]
        for partition in leaving:
            partition.leaving = True
            partition.backlog.clear()
        gone = set(leaving)
        self._scheduler.drop(lambda work: work.partition in gone)
        self._set_timer()
        self._pump()
        return leaving

    def _drop(self, partitions: Iterable[_Partition]) -> None:
        """Cancel what runs of these; it does not count as finished."""
        for partition in partitions:
            partition.leaving = True
            for task in partition.running:
                task.cancel()


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


def _finished_beyond(name: TopicPartition, progress: Progress) -> tuple[tuple[int, int], ...]:
    try:
        return decode(progress)
    except ProgressUnreadable as error:
        _log.warning(
            "%s starts at %d, records finished beyond it are done again: %s", name, progress.next_offset, error
        )
        return ()


def _origin(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name} ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return type(error).__name__ + where
