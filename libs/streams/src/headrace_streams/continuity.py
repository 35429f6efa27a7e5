"""The engine's positions and the logs that they belong to: on assignment, and for as long as a partition is assigned.

A running consumer learns of another log only by its client, which goes on at the first record once its offset is out of
range, or, when the new log is already longer, somewhere within it without a word. So positions are compared with the
topics' ids now and then, and at once when a partition delivers another offset than the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial

from headrace_streams.buffering import HeldBytes
from headrace_streams.errors import TransientError
from headrace_streams.handling import EngineOptions, Observer
from headrace_streams.log_identity import Continue, DataLost, Recreated, StoredPosition, fingerprint
from headrace_streams.offsets import OffsetMetadataUnreadable, OffsetTracker, Range, decode, log_of
from headrace_streams.ports import Admin, Consumer
from headrace_streams.records import OffsetAndMetadata, TopicPartition
from headrace_streams.scheduling import Scheduler
from headrace_streams.watching import LogWatch, keep_looking
from headrace_streams.work import AssignedPartition, Work

_log = logging.getLogger(__name__)


class Continuity:
    """Keeps the assigned partitions of one engine in step with their logs.

    Args:
        partitions: Those that are assigned; the engine adds and removes, this replaces.
        on_replaced: Called with the one that replaces another, and is paused if that was: for another reason, perhaps.
    """

    def __init__(
        self,
        admin: Admin,
        group: str,
        lane_of: Mapping[str, int],
        partitions: dict[tuple[str, int], AssignedPartition],
        scheduler: Scheduler[Work],
        held: HeldBytes,
        options: EngineOptions,
        observer: Observer | None,
        on_foreign_position: Callable[[TopicPartition], None],
        on_replaced: Callable[[AssignedPartition], None],
    ) -> None:
        report = observer.discontinued if observer is not None else (lambda partition, verdict: None)
        self._observer = observer
        # The engine's records cost money to handle again.
        self._watch = LogWatch(admin, group, repeats_are_harmless=False, on_discontinuity=report, form=fingerprint)
        self._lane_of = lane_of
        self._partitions = partitions
        self._scheduler = scheduler
        self._held = held
        self._options = options
        self._on_foreign_position = on_foreign_position
        self._on_replaced = on_replaced
        self._former: list[AssignedPartition] = []
        # Of partitions that were taken away. Kafka deletes a topic's committed positions with it, so if this group had
        # to leave a topic before it was created again, nothing else shows that it is another log.
        self._left: dict[TopicPartition, StoredPosition] = {}
        self._doubtful = asyncio.Event()

    def all(self) -> Iterator[AssignedPartition]:
        """The assigned partitions, and what still runs of their former logs."""
        yield from self._partitions.values()
        yield from self._former

    def take_away(self, names: Iterable[TopicPartition]) -> list[AssignedPartition]:
        """Remove partitions, with what runs of their former logs."""
        gone = [self._partitions.pop((name.topic, name.partition), None) for name in names]
        left = set(names)
        former = [partition for partition in self._former if partition.name in left]
        self._former = [partition for partition in self._former if partition.name not in left]
        for partition in gone:
            if partition is not None and partition.tracker.log is not None and partition.received_to is not None:
                self._left[partition.name] = StoredPosition(partition.received_to, partition.tracker.log)
        return [partition for partition in gone if partition is not None] + former

    async def begin(
        self, names: Collection[TopicPartition], stored: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> Mapping[TopicPartition, int]:
        """Add assigned partitions; returns where to start those that have a committed offset."""
        positions = {name: left for name in names if (left := self._left.pop(name, None)) is not None}
        positions |= {name: StoredPosition(found.next_offset, log_of(found)) for name, found in stored.items()}
        looked = await self._watch.look({name.topic for name in names}, positions)
        starts: dict[TopicPartition, int] = {}
        for name in names:
            log = looked.topic_ids.get(name.topic)
            progress = stored.get(name)
            if progress is None:
                self._on_foreign_position(name)
                if isinstance(verdict := looked.verdicts.get(name), Recreated):
                    self._watch.tell(name, positions[name], verdict)
                self._add(name, OffsetTracker(limit=self._options.metadata_limit, log=log))
                continue
            verdict = looked.verdicts.get(name) or Continue(progress.next_offset)
            starts[name] = verdict.start_at
            if isinstance(verdict, Recreated) or log_of(progress) is None:
                self._on_foreign_position(name)
            if isinstance(verdict, Continue):
                finished = _finished_beyond(name, progress)
                known = log_of(progress) if name not in looked.verdicts else log
                self._add(name, OffsetTracker(
                    progress.next_offset, finished, limit=self._options.metadata_limit, log=known
                ))  # fmt: skip
                continue
            self._watch.tell(name, positions[name], verdict)
            # Of another log, the map says nothing.
            still = _finished_beyond(name, progress) if isinstance(verdict, DataLost) else ()
            first = verdict.start_at
            self._add(name, OffsetTracker(
                first, [(max(start, first), end) for start, end in still if end > first],
                limit=self._options.metadata_limit, log=log,
            )).committed_changes = -1  # fmt: skip
        return starts

    def doubt(self, partition: AssignedPartition, expected: int) -> None:
        """Another offset came than the next one."""
        if partition.doubted is None:
            partition.doubted = expected
        self._doubtful.set()

    async def keep_watch(self, consumer: Consumer) -> None:
        """Compare, now and then and after doubts, until cancelled."""
        await keep_looking(self._doubtful, self._options.watch_interval_seconds, partial(self._look, consumer))

    async def _look(self, consumer: Consumer) -> None:
        try:
            await self._compare(consumer)
        except TransientError as error:
            _log.warning("a partition could not be moved, trying again: %s", error)
            self._doubtful.set()

    async def _compare(self, consumer: Consumer) -> None:
        # Before the bounds are asked: meanwhile the ends move on, and the positions with them.
        positions = {
            partition: StoredPosition(reached, partition.tracker.log)
            for partition in self._partitions.values()
            if (reached := partition.received_to if partition.doubted is None else partition.doubted) is not None
        }
        topics = {name for name, _ in self._partitions}
        looked = await self._watch.look(topics, {each.name: position for each, position in positions.items()})
        for partition in list(self._partitions.values()):
            log = looked.topic_ids.get(partition.name.topic)
            position = positions.get(partition)
            verdict = looked.verdicts.get(partition.name)
            if log is None or (position is not None and verdict is None):
                continue
            if verdict is None or position is None or isinstance(verdict, Continue):
                partition.doubted = None
                if partition.tracker.log is None:
                    partition.tracker.belongs_to(log)
            elif isinstance(verdict, DataLost):
                # The client has moved on by itself, or will, and the tracker waits for no record that is gone.
                if partition.log_start is None or partition.log_start < verdict.start_at:
                    partition.log_start = verdict.start_at
                    self._watch.tell(partition.name, position, verdict)
                partition.doubted = None
            else:
                self._watch.tell(partition.name, position, verdict)
                start = verdict.start_at
                await consumer.seek(partition.name, start, partial(self._begin_anew, partition, start, log))

    def _begin_anew(self, partition: AssignedPartition, start: int, log: str) -> None:
        """Its records come from another log, or offset, from here on. What was received before is still handled."""
        place = (partition.name.topic, partition.name.partition)
        if self._partitions.get(place) is not partition:
            return
        fresh = self._add(partition.name, OffsetTracker(start, limit=self._options.metadata_limit, log=log))
        self._on_foreign_position(partition.name)
        fresh.committed_changes = -1
        fresh.paused = partition.paused
        partition.former = True
        partition.end_suspension(self._observer)
        self._former = [each for each in self._former if each.running or each.backlog] + [partition]
        # Nothing of it is committed, so nothing has to fit.
        while partition.backlog:
            work = partition.backlog.popleft()
            if partition.tracker.received(work.offset):
                self._scheduler.add(work)
            else:
                self._held.give_back(work)
        # A backlog, or a suspension, was that of the former log: nothing else would let this one go on.
        self._on_replaced(fresh)

    def _add(self, name: TopicPartition, tracker: OffsetTracker) -> AssignedPartition:
        added = AssignedPartition(name, self._lane_of[name.topic], tracker)
        self._partitions[name.topic, name.partition] = added
        return added


def _finished_beyond(name: TopicPartition, progress: OffsetAndMetadata) -> tuple[Range, ...]:
    try:
        return decode(progress)
    except OffsetMetadataUnreadable as error:
        _log.warning(
            "%s starts at %d, and processes finished records above it again: %s", name, progress.next_offset, error
        )
        return ()
