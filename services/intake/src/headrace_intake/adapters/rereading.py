"""Reads a task's replies from the topic again, for a caller that resumes at any intake."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, RegistryUnavailable
from headrace_contracts.events import TaskReply
from headrace_contracts.topics import TASKS_REPLIES
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.logging import get_logger
from headrace_streams.dead_letters import described
from headrace_streams.errors import OffsetOutOfRange
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.records import Record, TopicPartition

from headrace_intake.adapters.believed_replies import BelievedReplies
from headrace_intake.adapters.metrics import IntakeMetrics
from headrace_intake.adapters.pending_task import ReplyEvent
from headrace_intake.decide.replies import NOTHING_YET, Heard, TaskFinished, hear

_POLL_SECONDS: Final = 5.0
_FIRST_POLL_SECONDS: Final = 10.0
_MOST_RECORDS: Final = 1_000
_CLOCK_SKEW_MS: Final = 10_000
"""Largest assumed clock difference between an intake and a broker."""

_log = get_logger("headrace.intake.rereading")


class EventsGone(Exception):
    """The events asked for are no longer in the topic; fetch the task instead."""


class NoSuchPosition(Exception):
    """The caller names a position that the topic never had."""


class TooManyRereaders(Exception):
    """Retry later: each reader needs a connection of its own, and all are in use."""


@dataclass(frozen=True, slots=True)
class Whose:
    """The task whose replies are wanted."""

    tenant: str
    task_id: str


class Rereading:
    """One caller's events, from the topic. The caller must `close` it.

    `over` is true when the position resumed from is the task's end: nothing follows.
    """

    def __init__(
        self,
        reader: PartitionReader,
        codec: Codec,
        whose: Whose,
        place: TopicPartition,
        closed: Callable[[], None],
        believed: BelievedReplies,
    ) -> None:
        self._reader = reader
        self._codec = codec
        self._whose = whose
        self._key = whose.task_id.encode("utf-8", "replace")
        self._place = place
        self._closed: Callable[[], None] | None = closed
        self._believed = believed
        self._heard: Heard = NOTHING_YET
        self.over = False

    async def close(self) -> None:
        """Release the connection."""
        closed, self._closed = self._closed, None
        if closed is not None:
            try:
                await self._reader.close()
            finally:
                closed()

    async def begin_after(self, offset: int) -> None:
        """Resume after a record of the task, which is read once more to know how much of the answer it covers.

        Raises EventsGone, NoSuchPosition.
        """
        if self._place not in await self._reader.partitions_of(self._place.topic):
            raise NoSuchPosition(f"there is no {self._place}")
        first, end = (await self._reader.bounds([self._place]))[self._place]
        if offset < first:
            raise EventsGone(f"{self._place} begins at {first}")
        if offset >= end:
            raise NoSuchPosition(f"{self._place} ends at {end}")
        await self._reader.assign({self._place: offset})
        try:
            for record in await self._reader.poll(1, _FIRST_POLL_SECONDS):
                events = await self._events_in(record)
                self.over = any(isinstance(event.told, TaskFinished) for event in events)
        except OffsetOutOfRange as error:
            raise EventsGone(str(error)) from error
        await self._reader.assign({self._place: offset + 1})

    async def begin_at(self, since_ms: int) -> None:
        """Start with what was written since a time, or with the oldest retained record."""
        offsets = await self._reader.offsets_at([self._place], max(0, since_ms - _CLOCK_SKEW_MS))
        await self._reader.assign(offsets)

    async def events(self) -> AsyncGenerator[ReplyEvent, None]:
        """The task's events, until its end."""
        while not self._heard.ended:
            for record in await self._reader.poll(_MOST_RECORDS, _POLL_SECONDS):
                for event in await self._events_in(record):
                    yield event

    async def _events_in(self, record: Record) -> list[ReplyEvent]:
        if record.key != self._key:
            return []
        origin = Origin(record.topic, record.partition, record.offset)
        try:
            reply = await self._codec.read(TaskReply, record.value, origin)
            if reply.tenant != self._whose.tenant or not self._believed.admits(record, reply):
                return []
            self._heard, told = hear(self._heard, reply)
        except RegistryUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this record
            _log.error("a reply cannot be decoded, its caller misses it", origin=str(origin), reason=described(error))
            return []
        return [ReplyEvent(each, record.offset if each is told[-1] else None) for each in told]


class Rereaders:
    """Opens rereadings, a limited number at a time."""

    def __init__(
        self, log: Log, codec: Codec, *, most: int, metrics: IntakeMetrics, authenticity: Authenticity
    ) -> None:
        self._log = log
        self._authenticity = authenticity
        self._codec = codec
        self._most = most
        self._in_use = 0
        self._topic = codec.topic_prefix + TASKS_REPLIES.name
        metrics.rereaders.set_function(lambda: self._in_use)

    async def open(self, whose: Whose, partition: int, *, after: int | None, since_ms: int) -> Rereading:
        """Start after an offset, or at a time if the offset is None.

        Raises TooManyRereaders, EventsGone, NoSuchPosition, StreamsError. The caller closes the result.
        """
        if self._in_use >= self._most:
            raise TooManyRereaders("too many callers are resuming at the moment")
        self._in_use += 1
        place = TopicPartition(self._topic, partition)
        believed = BelievedReplies(self._authenticity, whose.tenant, whose.task_id)
        rereading = Rereading(self._log.reader(), self._codec, whose, place, self._released, believed)
        try:
            if after is not None:
                await rereading.begin_after(after)
            else:
                await rereading.begin_at(since_ms)
        except BaseException:
            await rereading.close()
            raise
        return rereading

    def _released(self) -> None:
        self._in_use -= 1
