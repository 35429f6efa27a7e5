"""Follows tasks.completed, and hands each end to whoever waits for it."""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakValueDictionary

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import TaskCompleted
from headrace_contracts.headers import header
from headrace_contracts.ids import completion_id
from headrace_streams.ports import PartitionReader

from headrace.errors import HeadraceError, NotYet

_BATCH: Final = 500
_WAIT_SECONDS: Final = 0.5


class FollowingBroke(HeadraceError):
    """Create a new client: the reader of tasks.completed failed, for the reason given as cause."""


class CompletionFollower:
    """The ends of tasks from now on, of those that somebody waits for.

    Args:
        reader: Assigned to the ends of all partitions of tasks.completed.
    """

    def __init__(self, reader: PartitionReader, codec: Codec) -> None:
        self._reader = reader
        self._codec = codec
        self._waiting: WeakValueDictionary[str, asyncio.Future[TaskCompleted]] = WeakValueDictionary()
        self._running = asyncio.create_task(self._follow(), name="headrace-completions")

    async def close(self) -> None:
        """Stop following."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    def end_of(self, task_id: str) -> asyncio.Future[TaskCompleted]:
        """The end of a task; available as long as this future is referenced. Raises FollowingBroke."""
        if self._running.done():
            raise closed()
        future = self._waiting.get(task_id)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._waiting[task_id] = future
        return future

    async def _follow(self) -> None:
        try:
            while True:
                for record in await self._reader.poll(_BATCH, _WAIT_SECONDS):
                    # Comparing the id in the header avoids decoding the outcomes of all other clients' tasks.
                    event_id = header(record.headers, "ce_id")
                    if event_id is not None and _task_of(event_id) not in self._waiting:
                        continue
                    origin = Origin(record.topic, record.partition, record.offset)
                    try:
                        event = await self._codec.read(TaskCompleted, record.value, origin)
                    except UnreadableValue as error:
                        # A record that cannot be decoded must not keep the outcomes of other tasks from their waiters.
                        self._fail(self._waiting.get(_task_of(event_id or "")), error)
                        continue
                    future = self._waiting.get(event.task_id)
                    if future is not None and not future.done():
                        future.set_result(event)
        # Any error that ends the reading is passed to all waiters.
        except Exception as error:  # noqa: BLE001
            for future in list(self._waiting.values()):
                self._fail(future, error)

    @staticmethod
    def _fail(future: asyncio.Future[TaskCompleted] | None, error: Exception) -> None:
        if future is None or future.done():
            return
        broke = FollowingBroke(f"reading tasks.completed failed: {type(error).__name__}: {error}")
        broke.__cause__ = error
        future.set_exception(broke)
        future.exception()  # mark it as retrieved: asyncio need not warn about a task without waiters


def closed() -> FollowingBroke:
    """For a client that does not follow, or no longer."""
    return FollowingBroke("the client is not open, or its reader of tasks.completed has failed: open a new one")


def _task_of(event_id: str) -> str:
    return event_id.removesuffix(completion_id(""))


async def within(task_id: str, future: asyncio.Future[TaskCompleted], timeout: float | None) -> TaskCompleted:
    """The end of a task. Raises NotYet after `timeout` seconds, FollowingBroke."""
    try:
        async with asyncio.timeout(timeout):
            return await asyncio.shield(future)
    except TimeoutError:
        raise NotYet(task_id, timeout or 0.0) from None
