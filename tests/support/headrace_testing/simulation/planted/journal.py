"""Bugs of the journal and of takeovers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from headrace_contracts.topics import TASKS_JOURNAL
from headrace_router import recovery
from headrace_router.partition import PartitionRouter
from headrace_streams import journal, journal_reading
from headrace_streams.journal import Journal
from headrace_streams.publishing import Publisher
from headrace_streams.records import TopicPartition

from headrace_testing.simulation.planted.bugs import Bug, Patches


def _act_before_ack(patches: Patches) -> None:
    def record(self: Any, entry: Any, origin: Any, **measured: bool) -> None:
        offset = self._journal.next_offset
        original(self, entry, origin, **measured)
        self.commands.publish(offset, entry, completed=self._end, published=lambda: None)

    def acknowledge(self: Any, entry: Any, positions: Any, queued: float, since: int, done: Any) -> None:
        if not done.cancelled() and done.exception() is None:
            self._acknowledged = positions
        elif not done.cancelled():
            self._fail(done.exception())

    original = patches.put(PartitionRouter, "_record", record)
    patches.put(PartitionRouter, "_acknowledge", acknowledge)


def _skip_epoch_start(patches: Patches) -> None:
    async def take_over(cls: Any, /, *, publisher: Any, reader: Any, codec: Any, partition: int, **rest: Any) -> Any:
        where = TopicPartition(codec.topic_prefix + TASKS_JOURNAL.name, partition)
        _, end = (await reader.bounds([where]))[where]
        if end == 0:
            return await original.__func__(
                cls, publisher=publisher, reader=reader, codec=codec, partition=partition, **rest
            )
        recovered = await journal_reading.read_journal(reader, codec, where, end - 1, rest["fold"])
        return cls(publisher, partition, rest["owner"], end - 1, recovered, rest["limit"]), recovered

    original = patches.put(Journal, "take_over", classmethod(take_over))


def _checkpoint_ahead(patches: Patches) -> None:
    patches.put(Journal, "published_offset", property(lambda self: self._next))


def _forget_checkpoint(patches: Patches) -> None:
    patches.put(Journal, "published_offset", property(lambda self: 0))


def _ends_written_over(patches: Patches) -> None:
    def put(self: Any, task_id: str) -> None:
        self._record(self._entry(task_id, "replaced", None), None)

    patches.put(PartitionRouter, "_replace", put)


def _completed_ahead(patches: Patches) -> None:
    def published(self: Any, offset: int, completed_at: int | None = None) -> None:
        original(self, offset, None if completed_at is None else completed_at + 1000)

    original = patches.put(Journal, "published", published)


def _no_look_at_tail(patches: Patches) -> None:
    async def ids_since(*_: Any) -> Collection[str]:
        return ()

    patches.put(recovery, "_ids_since", ids_since)


def _ignore_sequence(patches: Patches) -> None:
    patches.put(journal_reading.JournalReading, "_counts", lambda *_: True)


def _no_fencing(patches: Patches) -> None:
    def acknowledge(self: Any, place: int, has_commands: bool, done: Any) -> None:
        if done.cancelled() or done.exception() is not None:
            original(self, place, has_commands, done)
            return
        acknowledged = self._awaiting.pop(place, None)
        if acknowledged is None:
            return
        if not has_commands:
            self.published(place)
        acknowledged.set_result(place)

    original = patches.put(Journal, "_acknowledge", acknowledge)


def _lost_ack_ignored(patches: Patches) -> None:
    def acknowledge(self: Any, place: int, has_commands: bool, done: Any) -> None:
        if not done.cancelled() and done.exception() is not None and self.fenced is None:
            acknowledged = self._awaiting.pop(place)
            acknowledged.set_result(place)
            return
        original(self, place, has_commands, done)

    original = patches.put(Journal, "_acknowledge", acknowledge)


def _no_reissue(patches: Patches) -> None:
    patches.put(recovery, "_due", lambda *_: [])


def _no_settling(patches: Patches) -> None:
    patches.put(recovery, "_time_left_to_others", lambda *_: 0.0)


def _positions_ahead(patches: Patches) -> None:
    def reached(self: Any, positions: Any) -> Any:
        found = original(self, positions)
        return {where: replace(position, next_offset=position.next_offset + 1) for where, position in found.items()}

    original = patches.put(Journal, "_reached", reached)


def _half_applied(patches: Patches) -> None:
    async def read(reader: Any, codec: Any, where: Any, epoch_start: int, fold: Any) -> Any:
        held: list[Any] = []

        def behind(decision: Any) -> None:
            if held:
                fold(held.pop())
            held.append(decision)

        # The last decision's positions are taken, its task's state is not.
        return await original(reader, codec, where, epoch_start, behind)

    original = patches.put(journal, "read_journal", read)


def _kept_for_company(patches: Patches) -> None:
    def send(self: Any, record: Any) -> Any:
        if not record.topic.endswith(TASKS_JOURNAL.name):
            return original(self, record)
        kept = self.__dict__.setdefault("_kept", {})
        if (first := kept.pop(record.partition, None)) is None:
            kept[record.partition] = (record, asyncio.get_running_loop().create_future())
            return kept[record.partition][1]
        original(self, first[0]).add_done_callback(lambda done: _passed_on(done, first[1]))
        return original(self, record)

    original = patches.put(Publisher, "send_record", send)


def _passed_on(done: asyncio.Future[Any], to: asyncio.Future[Any]) -> None:
    if to.done():
        return
    if done.cancelled():
        to.cancel()
    elif (error := done.exception()) is not None:
        to.set_exception(error)
    else:
        to.set_result(done.result())


BUGS = (
    Bug("act_before_ack", "commands are published before the journal has acknowledged them", _act_before_ack),
    Bug("skip_epoch_start", "a new owner writes no epoch start", _skip_epoch_start),
    Bug(
        "checkpoint_ahead", "the checkpoint says that commands are published which are not", _checkpoint_ahead, hint=33
    ),
    Bug("forget_checkpoint", "the checkpoint never moves", _forget_checkpoint),
    Bug(
        "completed_ahead",
        "the position in tasks.completed is beyond what is still to be written",
        _completed_ahead,
        hint=1,
    ),
    Bug("no_look_at_tail", "a new owner does not check which terminal states exist", _no_look_at_tail),
    Bug("ignore_sequence", "a reader counts entries that are not valid", _ignore_sequence, hint=29),
    Bug("no_fencing", "an owner continues after another has written", _no_fencing, hint=53),
    Bug("lost_ack_ignored", "an owner publishes for entries whose append is uncertain", _lost_ack_ignored, hint=36),
    Bug("no_reissue", "a new owner does not publish the open commands", _no_reissue, hint=29),
    Bug("no_settling", "a new owner does not wait for its predecessor's appends", _no_settling, hint=130),
    Bug(
        "ends_written_over",
        "an owner replaces a record that does not count without saying that its task has ended",
        _ends_written_over,
        hint=1,
    ),
    Bug("positions_ahead", "the journal records one input more than was decided", _positions_ahead, hint=1),
    Bug("half_applied", "a new owner takes the last entry's positions without its decision", _half_applied),
    Bug("kept_for_company", "an entry is not appended before another one comes", _kept_for_company),
)
