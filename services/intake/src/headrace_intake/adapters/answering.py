"""What the APIs share that answer a request with the answer to a task: accept the task, then wait for it or relay it.

acceptance, told = await self._answering.accept(SubmitRequest(...))
with self._answering.watching(request, caller, acceptance.view.task_id):
    end = await self._answering.end(acceptance, told)
    # or
    async with self._answering.updates(acceptance, told) as updates:
        async for update in updates: ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from typing import Final, Self

from aiohttp import web
from headrace_runtime.access import Caller, Scope
from headrace_runtime.authentication import require
from headrace_runtime.logging import get_logger
from headrace_streams.errors import StreamsError

from headrace_intake.adapters.problems import problem_with
from headrace_intake.decide.chat_answers import ChatError, broken_off, error_of, headers, too_late
from headrace_intake.decide.idempotency import parse_key
from headrace_intake.decide.replies import Delta, Restarted, StillWaiting
from headrace_intake.decide.views import TaskView
from headrace_intake.decide.waits import wait_seconds
from headrace_intake.following import Following, Said, Stream, TaskEnd
from headrace_intake.hang_ups import HangUps
from headrace_intake.service import Acceptance, Intake, SubmitRequest

_log = get_logger("headrace.intake.answering")

Update = Delta | Restarted | TaskEnd | ChatError


def asker(request: web.Request) -> tuple[Caller, str | None]:
    """Who asks for an answer, and the key under which the request may be repeated. Raises Problem, Refusal."""
    return require(request, Scope.TASKS), parse_key(request.headers.getall("Idempotency-Key", []))


class _ButForWaits:
    """A task's updates without those that say what it waits for: the APIs here have no word for it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Said:
        while True:
            said = await anext(self._stream)
            if not isinstance(said.what, StillWaiting):
                return said

    async def aclose(self) -> None:
        await self._stream.aclose()


class Updates:
    """The updates of one task, up to its end or to the error that the caller is told in its place.

    Waiting too long, or a stream that breaks off, is such an error: it is the last update, and nothing is raised.

    Args:
        seconds: Longest time from the first update that is asked for to the end.
        told: Headers of the answer.
    """

    def __init__(self, task_id: str, stream: Stream, seconds: float, told: Mapping[str, str]) -> None:
        self.told: Final = dict(told)
        self._task_id = task_id
        self._stream = _ButForWaits(stream)
        self._seconds = seconds
        self._until: float | None = None
        self._first: asyncio.Future[Said] | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        if self._over:
            raise StopAsyncIteration
        update = await self._next()
        self._over = isinstance(update, TaskEnd | ChatError)
        return update

    async def _next(self) -> Update:
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + self._seconds
        upcoming, self._first = self._first, None
        try:
            async with asyncio.timeout_at(self._until):
                said = await (anext(self._stream) if upcoming is None else upcoming)
                assert not isinstance(said.what, StillWaiting), "these are left out"
                return said.what
        except (TimeoutError, StopAsyncIteration):
            return too_late(self._task_id)
        except StreamsError as error:
            _log.warning("an answer stream was cut off", reason=str(error))
            return broken_off(self._task_id)

    async def early_end(self, seconds: float) -> TaskView | None:
        """The task's end, if that is its first update and comes within so many seconds; it stays the first update.

        Raises what the stream does.
        """
        self._first = asyncio.ensure_future(anext(self._stream))
        await asyncio.wait((self._first,), timeout=min(seconds, self._seconds))
        if self._first.done() and isinstance(ended := self._first.result().what, TaskEnd):
            return ended.view
        return None

    async def aclose(self) -> None:
        async with aclosing(self._stream):
            if self._first is not None:
                # A stream cannot be closed while it is being read.
                self._first.cancel()
                await asyncio.gather(self._first, return_exceptions=True)


class Answering:
    """Accepts the tasks of those APIs, and waits for their ends or follows them.

    Args:
        answer_seconds: Longest wait for a task without a deadline.
        heartbeat_seconds: Longest silence of a streamed answer.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        intake: Intake,
        following: Following,
        hang_ups: HangUps,
        *,
        answer_seconds: float,
        heartbeat_seconds: float,
        clock: Callable[[], int],
    ) -> None:
        self.heartbeat_seconds: Final = heartbeat_seconds
        self._intake = intake
        self._following = following
        self._hang_ups = hang_ups
        self._answer_seconds = answer_seconds
        self._clock = clock

    async def accept(self, asked: SubmitRequest) -> tuple[Acceptance, dict[str, str]]:
        """The accepted task, and the headers that the answer has whatever becomes of it. Raises as `Intake.accept`."""
        acceptance = await self._intake.accept(asked)
        told = {"X-Headrace-Task-Id": acceptance.view.task_id}
        if acceptance.replayed:
            told["Idempotency-Replayed"] = "true"
        return acceptance, told

    def watching(self, request: web.Request, caller: Caller, *task_ids: str) -> AbstractContextManager[None]:
        """While the block runs, the caller waits for these tasks; see `HangUps`."""
        return self._hang_ups.watching(request, caller, *task_ids)

    def wait_seconds(self, view: TaskView) -> float:
        """Longest wait for the end of a task, from now on."""
        return wait_seconds(view, self._clock(), self._answer_seconds)

    async def end(self, acceptance: Acceptance, told: Mapping[str, str]) -> TaskView:
        """The end of a task that has an answer.

        Raises Problem, with the headers in `told`, if there is none or not in time; TooManyRereaders, DatabaseAway.
        """
        end = await self._intake.end(acceptance, self.wait_seconds(acceptance.view))
        if end is None:
            raise problem_with(too_late(acceptance.view.task_id), told)
        _expect_answer(end, told)
        return end

    @asynccontextmanager
    async def updates(
        self, acceptance: Acceptance, told: Mapping[str, str], *, early_end: bool = True
    ) -> AsyncIterator[Updates]:
        """The updates of an accepted task, closed with the block.

        With `early_end` the first one is waited for, though no longer than for a heartbeat: a task that ends before any
        text was sent can still be reported as an HTTP status, and its headers told.

        Raises Problem for such an end without an answer; TooManyRereaders, DatabaseAway.
        """
        view = acceptance.view
        seconds = self.wait_seconds(view)
        stream = await self._following.open_accepted(acceptance.pending, view, acceptance.reply_partition)
        async with aclosing(Updates(view.task_id, stream, seconds, told)) as updates:
            if early_end and (end := await updates.early_end(self.heartbeat_seconds)) is not None:
                _expect_answer(end, told)
                updates.told.update(headers(end))
            yield updates

    async def updates_again(self, view: TaskView) -> Updates | None:
        """All updates of a task that was accepted at any time; None if there is nothing to follow. Close them.

        Raises TaskNotFound, DatabaseAway, EventsGone, TooManyRereaders.
        """
        stream = await self._following.open(view.tenant, view.task_id, None)
        return None if stream is None else Updates(view.task_id, stream, self.wait_seconds(view), {})


def _expect_answer(end: TaskView, told: Mapping[str, str]) -> None:
    error = error_of(end)
    if error is not None:
        raise problem_with(error, {**told, **headers(end)})
