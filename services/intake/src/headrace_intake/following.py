"""Follows a task to its end: from memory where it was accepted here, else from the topic or the view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol, Self

from headrace_runtime.database import DatabaseAway

from headrace_intake.adapters.history import History, StoredTask
from headrace_intake.adapters.metrics import IntakeMetrics
from headrace_intake.adapters.pending_task import BufferGone, PendingTask, ReplyEvent
from headrace_intake.adapters.replies import ReplyDispatcher
from headrace_intake.adapters.rereading import NoSuchPosition, Rereaders, Rereading, Whose
from headrace_intake.decide.replies import Delta, Restarted, StillWaiting, TaskFinished
from headrace_intake.decide.resuming import ReplyPosition, unknown_until
from headrace_intake.decide.views import TaskView, with_completion

_LOOK_AGAIN_SECONDS: Final = 0.05
_VIEW_PERIOD_SECONDS: Final = 0.5
"""How often the view is polled for a task that has no replies on tasks.replies."""


class TaskNotFound(Exception):
    """There is no such task, or it belongs to another tenant."""


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """The task's end, as callers see it."""

    view: TaskView


@dataclass(frozen=True, slots=True)
class Said:
    """An update for a caller, with the position to resume from; None where there is none."""

    what: Delta | Restarted | StillWaiting | TaskEnd
    place: ReplyPosition | None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a task: `pending` if it was accepted here, `stored` if the view has it."""

    view: TaskView
    pending: PendingTask | None = None
    stored: StoredTask | None = None

    @property
    def place(self) -> tuple[bytes | None, int | None]:
        """Key and home partition of the task's records, as far as known."""
        if self.pending is not None:
            return self.pending.key, self.pending.home_partition
        return (self.stored.route_key, self.stored.home_partition) if self.stored is not None else (None, None)


class Stream(Protocol):
    """A task's updates. Close it even if it was never iterated: it may hold a connection."""

    def __aiter__(self) -> AsyncIterator[Said]: ...

    async def __anext__(self) -> Said: ...

    async def aclose(self) -> None: ...


class Following:
    """Finds tasks and follows them."""

    def __init__(
        self,
        dispatcher: ReplyDispatcher,
        rereaders: Rereaders,
        history: History,
        clock: Callable[[], int],
        metrics: IntakeMetrics,
    ) -> None:
        self._dispatcher = dispatcher
        self._rereaders = rereaders
        self._history = history
        self._clock = clock
        self._metrics = metrics

    async def find(self, tenant: str, task_id: str) -> Known:
        """A task by id. A very young id may not have reached the view yet, so its row is waited for.

        Raises TaskNotFound, DatabaseAway.
        """
        pending = self._dispatcher.get(tenant, task_id)
        if pending is not None:
            return Known(pending.view, pending=pending)
        stored = await self._stored(tenant, task_id)
        if stored is None:
            raise TaskNotFound(task_id)
        return Known(stored.view, stored=stored)

    async def _stored(self, tenant: str, task_id: str) -> StoredTask | None:
        until = unknown_until(task_id, self._clock())
        while True:
            stored = await self._history.get(tenant, task_id)
            if stored is not None or self._clock() >= until:
                return stored
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def end(self, task: PendingTask, timeout_seconds: float) -> TaskView | None:
        """The end of a task accepted here, or None at the timeout."""
        if not task.end.done():
            with self._metrics.waiters.track_inprogress(), task.followed():
                await asyncio.wait((task.end,), timeout=timeout_seconds)
        return task.end.result() if task.end.done() else None

    async def end_elsewhere(
        self, tenant: str, task_id: str, partition: int, since_ms: int, timeout_seconds: float
    ) -> TaskView | None:
        """The end of a task that was accepted by another process, or before this one's restart.

        Raises TooManyRereaders, DatabaseAway.
        """
        stored = await self._history.get(tenant, task_id)
        if stored is not None and stored.view.ended:
            return stored.view
        rereading = await self._rereaders.open(Whose(tenant, task_id), partition, after=None, since_ms=since_ms)
        try:
            async with asyncio.timeout(timeout_seconds), aclosing(rereading.events()) as events:
                with self._metrics.waiters.track_inprogress():
                    async for event in events:
                        if isinstance(event.told, TaskFinished):
                            return with_completion(stored.view if stored else None, event.told.result)
        except TimeoutError:
            return None
        finally:
            await rereading.close()
        return None

    async def open(self, tenant: str, task_id: str, after: ReplyPosition | None) -> Stream | None:
        """A task's updates after a position (None: from its beginning); None when nothing can follow any more.

        Raises TaskNotFound, DatabaseAway, EventsGone, NoSuchPosition, TooManyRereaders.
        """
        pending = self._dispatcher.get(tenant, task_id)
        if pending is not None:
            _check_partition(after, self._dispatcher.partition)
            if after is not None and after.offset >= self._dispatcher.next_offset:
                raise NoSuchPosition(f"replies end at {self._dispatcher.next_offset}")
            if after is not None and pending.ended_by(after.offset):
                return None
            return self._from_memory(pending, None if after is None else after.offset)
        try:
            stored = await self._stored(tenant, task_id)
        except DatabaseAway:
            if after is None:
                raise
            return await self._from_topic(Whose(tenant, task_id), after.partition, after.offset, 0, None)
        if stored is None:
            raise TaskNotFound(task_id)
        if stored.view.ended:
            return _only(Said(TaskEnd(stored.view), None))
        if stored.reply_partition is None:
            return self._from_view(tenant, task_id)
        _check_partition(after, stored.reply_partition)
        return await self._from_topic(
            Whose(tenant, task_id),
            stored.reply_partition,
            None if after is None else after.offset,
            stored.view.submitted_at,
            stored.view,
        )

    async def open_accepted(self, pending: PendingTask | None, view: TaskView, partition: int) -> Stream:
        """The updates of a task that has just been accepted, or (`pending` None) was accepted elsewhere before.

        Raises DatabaseAway, TooManyRereaders.
        """
        if pending is not None:
            return self._from_memory(pending, None)
        stored = await self._history.get(view.tenant, view.task_id)
        if stored is not None and stored.view.ended:
            return _only(Said(TaskEnd(stored.view), None))
        rereading = await self._rereaders.open(
            Whose(view.tenant, view.task_id), partition, after=None, since_ms=view.submitted_at
        )
        return _FromTopic(rereading, partition, view, self._metrics)

    async def _from_memory(self, task: PendingTask, after: int | None) -> AsyncGenerator[Said, None]:
        partition = self._dispatcher.partition
        try:
            async with aclosing(task.follow(after)) as events:
                with self._metrics.waiters.track_inprogress():
                    async for event in events:
                        yield _said(event, partition, task.view)
        except BufferGone as gone:
            whose = Whose(task.view.tenant, task.view.task_id)
            rest = await self._from_topic(whose, partition, gone.offset, task.view.submitted_at, task.view)
            if rest is not None:
                async with aclosing(rest):
                    async for said in rest:
                        yield said

    async def _from_topic(
        self, whose: Whose, partition: int, after: int | None, since_ms: int, view: TaskView | None
    ) -> Stream | None:
        rereading = await self._rereaders.open(whose, partition, after=after, since_ms=since_ms)
        if rereading.over:
            await rereading.close()
            return None
        return _FromTopic(rereading, partition, view, self._metrics)

    async def _from_view(self, tenant: str, task_id: str) -> AsyncGenerator[Said, None]:
        while True:
            stored = await self._history.get(tenant, task_id)
            if stored is not None and stored.view.ended:
                yield Said(TaskEnd(stored.view), None)
                return
            await asyncio.sleep(_VIEW_PERIOD_SECONDS)


class _FromTopic:
    """A `Stream` over a rereading; closing it closes both."""

    def __init__(self, rereading: Rereading, partition: int, view: TaskView | None, metrics: IntakeMetrics) -> None:
        self._rereading = rereading
        self._said = self._iterate(partition, view, metrics)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Said:
        return await anext(self._said)

    async def aclose(self) -> None:
        await self._said.aclose()
        await self._rereading.close()

    async def _iterate(
        self, partition: int, view: TaskView | None, metrics: IntakeMetrics
    ) -> AsyncGenerator[Said, None]:
        async with aclosing(self._rereading.events()) as events:
            with metrics.waiters.track_inprogress():
                async for event in events:
                    yield _said(event, partition, view)


async def _only(said: Said) -> AsyncGenerator[Said, None]:
    yield said


def _said(event: ReplyEvent, partition: int, view: TaskView | None) -> Said:
    place = None if event.offset is None else ReplyPosition(partition, event.offset)
    if isinstance(event.told, TaskFinished):
        return Said(TaskEnd(with_completion(view, event.told.result)), place)
    return Said(event.told, place)


def _check_partition(place: ReplyPosition | None, partition: int) -> None:
    if place is not None and place.partition != partition:
        raise NoSuchPosition(f"this task's replies are in partition {partition}")
