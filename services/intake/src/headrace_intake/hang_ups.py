"""Cancels the tasks whose callers have hung up, where they asked for that: for every API that waits or streams.

acceptance = await self._intake.accept(...)
with self._hang_ups.watching(request, caller, acceptance.view.task_id):
    ...  # wait for the end, or stream the answer
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web
from headrace_runtime.access import Caller
from headrace_runtime.database import DatabaseAway
from headrace_runtime.http import ANSWERED
from headrace_runtime.http_server import disconnected
from headrace_runtime.logging import get_logger

from headrace_intake.adapters.metrics import IntakeMetrics
from headrace_intake.adapters.writing import NeverWritable, NotWritten, WriteUncertain
from headrace_intake.decide.on_disconnect import OnDisconnect, Waiters, joined, left, parse_on_disconnect
from headrace_intake.following import TaskNotFound
from headrace_intake.service import Intake

_REASON: Final = "the caller hung up"
_TRIES: Final = 10
_RETRY_SECONDS: Final = 1.0

_log = get_logger("headrace.intake.hang_ups")


class HangUps:
    """Knows who waits for which task in this process.

    A task for which several callers wait (the same Idempotency-Key, or its event stream) is cancelled once all of them
    have hung up, if all had asked for that.
    """

    def __init__(self, intake: Intake, metrics: IntakeMetrics) -> None:
        self._intake = intake
        self._metrics = metrics
        self._waiting: dict[tuple[str, str], Waiters] = {}
        self._cancelling: set[asyncio.Task[None]] = set()

    @contextmanager
    def watching(self, request: web.Request, caller: Caller, *task_ids: str) -> Iterator[None]:
        """While the block runs, the caller waits for these tasks.

        Raises Refusal for an invalid header, before the block; `with_headers` refuses it before a task is accepted.
        """
        asked = parse_on_disconnect(request.headers)
        for task_id in task_ids:
            place = caller.tenant, task_id
            self._waiting[place] = joined(self._waiting.get(place))
        lost = disconnected(request)

        def leave(*, hung_up: bool) -> None:
            for task_id in task_ids:
                self._leave(caller, task_id, asked, hung_up=hung_up)

        def hung_up(_: asyncio.Future[None]) -> None:
            leave(hung_up=ANSWERED not in request)

        lost.add_done_callback(hung_up)
        try:
            yield
        finally:
            # A connection that is closing is lost in the next turn of the loop, or was already; or this server closes
            # it since it stops, which is nobody's hanging up.
            if request.transport is not None and not request.transport.is_closing():
                lost.remove_done_callback(hung_up)
                leave(hung_up=False)

    def _leave(self, caller: Caller, task_id: str, asked: OnDisconnect, *, hung_up: bool) -> None:
        place = caller.tenant, task_id
        remaining, cancel = left(self._waiting[place], asked, hung_up=hung_up)
        if remaining is not None:
            self._waiting[place] = remaining
        else:
            del self._waiting[place]
        if cancel:
            cancelling = asyncio.create_task(self._cancel(caller, task_id))
            self._cancelling.add(cancelling)
            cancelling.add_done_callback(self._cancelling.discard)

    async def _cancel(self, caller: Caller, task_id: str) -> None:
        for _ in range(_TRIES):
            try:
                known = await self._intake.cancel(caller, task_id, _REASON)
            except (NotWritten, WriteUncertain, DatabaseAway) as error:
                _log.warning("a task whose caller hung up is not cancelled yet", task_id=task_id, reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            except (TaskNotFound, NeverWritable) as error:
                _log.error("a task whose caller hung up cannot be cancelled", task_id=task_id, reason=str(error))
                return
            else:
                if not known.ended:
                    self._metrics.hung_up.inc()
                return
        _log.error("a task whose caller hung up goes on: its cancellation could not be written", task_id=task_id)

    async def close(self) -> None:
        """Finish the cancellations that are under way."""
        if self._cancelling:
            await asyncio.wait(self._cancelling, timeout=5.0)
