"""The replies of one partition, dispatched to the tasks that this process accepted."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.events import Lane, TaskReply
from headrace_contracts.topics import TASKS_REPLIES
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.health import Health
from headrace_runtime.logging import get_logger
from headrace_streams.dead_letters import described
from headrace_streams.errors import OffsetOutOfRange, StreamsError
from headrace_streams.holding import DecodedInLanes
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.records import Record, TopicPartition

from headrace_intake.adapters.believed_replies import BelievedReplies
from headrace_intake.adapters.metrics import IntakeMetrics
from headrace_intake.adapters.pending_task import PendingTask
from headrace_intake.decide.backlogs import AskedFor, asked_for, got_its_turn
from headrace_intake.decide.live_tasks import MOST_TASKS, LiveTasksHere
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.shedding import BATCH
from headrace_intake.decide.views import TaskView

_CHECK: Final = "replies"
_RETRY_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 5.0
_MOST_RECORDS: Final = 1_000
_KEPT_AFTER_END_SECONDS: Final = 60.0
_LOOKS: Final = 4
"""Tasks that are looked at to make room, for each task or reply that was added."""

_log = get_logger("headrace.intake.replies")


def partition_for(instance_id: str, partitions: int) -> int:
    """The partition of tasks.replies that an instance reads; the same after a restart under the same id."""
    return int.from_bytes(hashlib.sha256(instance_id.encode()).digest()[:8], "big") % partitions


class ReplyDispatcher:
    """Reads one partition of tasks.replies from its end and buffers the replies of the tasks opened here.

    Args:
        task_bytes: Most text buffered for one task; a slower caller reads the topic again.
        total_bytes: Most text and results buffered in all. Ended tasks are dropped first, then those that nobody
            follows; of the others all updates but the last are, and a caller that still needs them reads the topic.
        weight_of: A tenant's weight.
    """

    def __init__(
        self,
        log: Log,
        codec: Codec,
        *,
        instance_id: str,
        task_bytes: int,
        total_bytes: int,
        clock: Callable[[], int],
        health: Health,
        metrics: IntakeMetrics,
        authenticity: Authenticity,
        weight_of: Callable[[str], int] = lambda tenant: 1,
    ) -> None:
        self._log = log
        self._codec = codec
        self._instance_id = instance_id
        self._task_bytes = task_bytes
        self._total_bytes = total_bytes
        self._clock = clock
        self._health = health
        self._metrics = metrics
        self._authenticity = authenticity
        self._topic = codec.topic_prefix + TASKS_REPLIES.name
        self._reader: PartitionReader | None = None
        self._place = TopicPartition(self._topic, -1)
        self._next_offset = 0
        self._open: OrderedDict[bytes, PendingTask] = OrderedDict()
        self._ended: OrderedDict[bytes, float] = OrderedDict()
        self._live = LiveTasksHere(weight_of)
        self._bytes = 0
        self._decoded: DecodedInLanes[TaskReply] = DecodedInLanes(
            "replies", codec, TaskReply, lambda record: record.key, self._take
        )
        metrics.pending.set_function(lambda: len(self._open))
        metrics.pending_bytes.set_function(lambda: self._bytes)
        metrics.pending_limit.set(total_bytes)

    @property
    def partition(self) -> int:
        """The partition that is read; -1 before `start`."""
        return self._place.partition

    @property
    def next_offset(self) -> int:
        """The offset after the last reply read."""
        return self._next_offset

    async def start(self) -> None:
        """Start at the end of the partition. Raises TopicMissing."""
        self._reader = self._log.follower()
        partitions = await self._reader.partitions_of(self._topic)
        self._place = partitions[partition_for(self._instance_id, len(partitions))]
        self._next_offset = (await self._reader.bounds([self._place]))[self._place][1]
        await self._reader.assign({self._place: self._next_offset})

    async def run(self) -> None:
        """As a part of the service: dispatch until cancelled. Reopens the reader at its offset when it breaks."""
        while True:
            try:
                reader = self._reader or await self._reopened()
                records = await reader.poll(_MOST_RECORDS, _POLL_SECONDS)
                for record in records:
                    if record.key in self._open:
                        await self._decoded.put(record)
                    self._next_offset = record.offset + 1
                self._sweep(len(records))
            except OffsetOutOfRange:
                _log.warning("replies were deleted before they were read", offset=self._next_offset)
                await self._broken("replies were deleted before they were read")
                self._live.clear()
                self._next_offset = 0
            except StreamsError as error:
                _log.warning("cannot read replies, retrying", reason=str(error))
                await self._broken(f"cannot read replies: {error}")
                await asyncio.sleep(_RETRY_SECONDS)

    async def close(self) -> None:
        await self._decoded.close()
        if self._reader is not None:
            await self._reader.close()

    def open(self, view: TaskView, key: bytes) -> PendingTask:
        """Buffer the task's replies from now on. Call it before submitting, so that none is missed."""
        believed = BelievedReplies(self._authenticity, view.tenant, view.task_id)
        task = PendingTask(view, key, self._task_bytes, believed)
        self._open[view.task_id.encode()] = task
        asked = asked_for(view.requested_model, view.role, view.privacy, view.lane)
        self._live.add(view.task_id.encode(), view.tenant, asked, self._clock())
        self._bytes += task.bytes
        self._make_room(1)
        return task

    def live_of(self, tenant: str) -> int:
        """The tenant's tasks that were accepted here and have not ended, as far as known."""
        return self._live.of(tenant, self._clock())

    def overload_of(self, tenant: str, asked: AskedFor, who: int, budget: float) -> Refusal | None:
        """Why another task of the tenant is not taken on: by what was measured here it would wait for longer than its
        budget, in seconds; see `LiveTasksHere.overload`."""
        return self._live.overload(tenant, asked, who, budget, self._clock())

    def shed_of(self, tenant: str, lane: Lane | None, fullness: float) -> Refusal | None:
        """Why another task of the tenant is not taken on, however full this process is apart from its tasks."""
        return self._live.shed(tenant, lane, fullness, self._clock())

    def defers_batches_of(self, tenant: str, fullness: float) -> bool:
        """Whether lines of the tenant's batches wait, since interactive tasks do, or there is little room."""
        return max(fullness, self._live.fullness) >= BATCH or self._live.is_pressed(tenant, self._clock())

    def get(self, tenant: str, task_id: str) -> PendingTask | None:
        """A task that was accepted here and is still buffered."""
        task = self._open.get(task_id.encode("utf-8", "replace"))
        return task if task is not None and task.view.tenant == tenant else None

    def drop(self, task_id: str) -> None:
        """Discard a task and its buffered replies."""
        key = task_id.encode()
        task = self._open.pop(key, None)
        self._ended.pop(key, None)
        self._live.remove(key)
        if task is not None:
            self._bytes -= task.bytes

    async def _take(self, record: Record, reply: TaskReply | Exception) -> None:
        assert record.key is not None
        if isinstance(reply, Exception):
            # It may have been the last one.
            self._live.remove(record.key)
            self._metrics.unreadable_replies.inc()
            _log.error("a reply cannot be decoded, its caller misses it", partition=record.partition,
                       offset=record.offset, reason=described(reply))  # fmt: skip
            return
        task = self._open.get(record.key)
        if task is None or reply.tenant != task.view.tenant or not task.believed.admits(record, reply):
            return
        before = task.bytes
        was_over = task.end.done()
        try:
            task.take(reply, record.offset)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this record
            self._live.remove(record.key)
            self._metrics.unreadable_replies.inc()
            _log.error("a reply cannot be taken, its caller misses it", partition=record.partition,
                       offset=record.offset, reason=described(error))  # fmt: skip
            return
        now_ms = self._clock()
        self._bytes += task.bytes - before
        self._metrics.reply_delay.observe(max(0, now_ms - reply.emitted_at) / 1000)
        if task.end.done() and not was_over:
            self._ended[record.key] = now_ms / 1000
            self._live.ended(record.key, now_ms, served=got_its_turn(task.view.status, task.view.failure))
            self._metrics.answer_seconds.labels(task.view.status).observe(
                max(0, now_ms - task.view.submitted_at) / 1000
            )

    def _sweep(self, taken: int) -> None:
        """Forget tasks that ended a while ago, and make room after so many records."""
        old = self._clock() / 1000 - _KEPT_AFTER_END_SECONDS
        while self._ended:
            key, ended_at = next(iter(self._ended.items()))
            if ended_at > old:
                break
            self.drop(key.decode())
        self._make_room(taken)

    @property
    def _is_over(self) -> bool:
        return len(self._open) > MOST_TASKS or self._bytes > self._total_bytes

    def _make_room(self, added: int) -> None:
        """Return to the limits, after so many tasks or replies were added: constant time for each of them."""
        while self._ended and self._is_over:
            self.drop(next(iter(self._ended)).decode())
        # The oldest first. Those that must stay go to the end, so that the next call looks at others.
        looks = _LOOKS * added
        while looks and self._open and self._is_over:
            looks -= 1
            key, task = next(iter(self._open.items()))
            if task.accepted.done() and not task.is_followed:
                self.drop(key.decode())
                continue
            self._open.move_to_end(key)
            before = task.bytes
            task.shed()
            self._bytes += task.bytes - before

    async def _reopened(self) -> PartitionReader:
        reader = self._log.follower()
        try:
            first, end = (await reader.bounds([self._place]))[self._place]
            self._next_offset = min(max(self._next_offset, first), end)
            await reader.assign({self._place: self._next_offset})
        except StreamsError:
            await reader.close()
            raise
        self._reader = reader
        self._health.set(_CHECK, None)
        return reader

    async def _broken(self, reason: str) -> None:
        self._health.set(_CHECK, reason)
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()
