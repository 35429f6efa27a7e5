"""Bugs of parallel consumption."""

from __future__ import annotations

import asyncio
from typing import Any

from headrace_streams import continuity
from headrace_streams.applied import AppliedPositions
from headrace_streams.buffering import HeldBytes
from headrace_streams.executing import Executor
from headrace_streams.offsets import OffsetTracker
from headrace_streams.parallel import ParallelConsumer
from headrace_streams.records import OffsetAndMetadata

from headrace_testing.simulation.chaos import PARTITIONS_AT_FIRST
from headrace_testing.simulation.planted.bugs import Bug, Patches


def _forgiving(patches: Patches) -> None:
    """Let a record be finished twice, so that a bug that finishes it early is caught by its consequences."""

    def finished(self: Any, offset: int) -> None:
        if offset in self._open:
            original(self, offset)

    original = patches.put(OffsetTracker, "finished", finished)


def _commit_past_open(patches: Patches) -> None:
    def committable(self: Any) -> OffsetAndMetadata | None:
        return original(self) if self._highest < 0 else OffsetAndMetadata(self._highest + 1)

    original = patches.put(OffsetTracker, "committable", committable)


def _done_at_begin(patches: Patches) -> None:
    def begin(self: Any, work: Any) -> Any:
        work.partition.tracker.finished(work.offset)
        return original(self, work)

    _forgiving(patches)
    original = patches.put(Executor, "_begin", begin)


def _map_off_by_one(patches: Patches) -> None:
    def decode(progress: OffsetAndMetadata) -> Any:
        return tuple((start - 1, end - 1) for start, end in original(progress))

    original = patches.put(continuity, "decode", decode)


def _map_too_long(patches: Patches) -> None:
    def beyond(self: Any) -> Any:
        found = original(self)
        return [*found[:-1], (found[-1][0], found[-1][1] + 1)] if found else found

    original = patches.put(OffsetTracker, "finished_beyond", beyond)


def _map_dropped(patches: Patches) -> None:
    patches.put(continuity, "_finished_beyond", lambda _name, _progress: ())


def _parked_is_done(patches: Patches) -> None:
    patches.put(Executor, "_park", lambda self, work, _delay: self._done(work))


def _parked_forgotten(patches: Patches) -> None:
    patches.put(Executor, "_set_timer", lambda _self: None)


def _letter_not_awaited(patches: Patches) -> None:
    def dead_letter(self: Any, work: Any, reason: Exception) -> None:
        work.reason = reason
        asyncio.ensure_future(self._dead_letters.keep(work.record, reason, work.attempts))  # noqa: RUF006 - the bug
        self._done(work)

    patches.put(Executor, "_dead_letter", dead_letter)


def _no_key_order(patches: Patches) -> None:
    def work_of(self: Any, record: Any, partition: Any, now: float) -> Any:
        work = original(self, record, partition, now)
        work.key = None
        return work

    original = patches.put(ParallelConsumer, "_work_of", work_of)


def _revoked_is_done(patches: Patches) -> None:
    def take_away(self: Any, names: Any) -> Any:
        leaving = original(self, names)
        for partition in leaving:
            for work in partition.running:
                partition.tracker.finished(work.offset)
        return leaving

    _forgiving(patches)
    original = patches.put(ParallelConsumer, "_take_away", take_away)


def _cancelled_is_done(patches: Patches) -> None:
    def failed(self: Any, work: Any, error: Exception) -> Any:
        if work.partition.leaving:
            self._done(work)
            return None
        return original(self, work, error)

    original = patches.put(Executor, "_failed", failed)


def _never_resumed(patches: Patches) -> None:
    patches.put(ParallelConsumer, "_relieve", lambda _self: None)


def _bytes_not_returned(patches: Patches) -> None:
    patches.put(HeldBytes, "give_back", lambda _self, _work: None)


def _bytes_not_counted(patches: Patches) -> None:
    patches.put(HeldBytes, "is_full", lambda _self, _lane: False)


def _added_unread(patches: Patches) -> None:
    """A projection reads only as many partitions as the topic once had."""

    def takes(self: Any, record: Any) -> bool:
        return record.partition < PARTITIONS_AT_FIRST and bool(original(self, record))

    original = patches.put(AppliedPositions, "takes", takes)


BUGS = (
    Bug("added_unread", "a projection does not read added partitions", _added_unread, hint=153),
    Bug("bytes_not_returned", "what a finished record held counts for ever", _bytes_not_returned),
    Bug("bytes_not_counted", "a worker receives records however many bytes it holds", _bytes_not_counted, hint=9),
    Bug("commit_past_open", "the position to commit is the last record received", _commit_past_open),
    Bug("done_at_begin", "a record counts as finished when its handler begins", _done_at_begin, hint=42),
    Bug("map_off_by_one", "the map of finished records is read one too low", _map_off_by_one, hint=4),
    Bug("map_too_long", "the map names one record too many", _map_too_long, hint=4),
    Bug("map_dropped", "what the map names as finished is done again after a rebalance", _map_dropped, hint=4),
    Bug("parked_is_done", "a record that waits for a retry counts as finished", _parked_is_done),
    Bug("parked_forgotten", "records that wait for a retry are never woken", _parked_forgotten, hint=1),
    Bug("letter_not_awaited", "a dead letter is not waited for", _letter_not_awaited, hint=8),
    Bug("no_key_order", "records of one key are handled side by side", _no_key_order, hint=1),
    Bug("revoked_is_done", "what still runs at a revocation counts as finished", _revoked_is_done, hint=12),
    Bug("cancelled_is_done", "what is cancelled at a revocation counts as finished", _cancelled_is_done, hint=12),
    Bug("never_resumed", "a lane that was full stays paused", _never_resumed, hint=40),
)
