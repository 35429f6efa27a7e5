"""Works on batches, a step at a time.

Each process takes the batch whose turn it is, does one step, and gives it back; the row in Postgres says until when it
is taken, so that one whose process died is another's a few seconds later. A step begins with what Postgres says:
nothing about a batch is kept in memory. Whatever two processes do to one batch at the same time, tasks have the same
ids and are the same events, and only one of them can write to the batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from headrace_runtime.access import Caller
from headrace_runtime.database import Database, DatabaseAway
from headrace_runtime.logging import get_logger, log_context

from headrace_intake.adapters.batch_lines import BatchLines
from headrace_intake.adapters.batch_store import BatchStore, LeaseLost, set_batch
from headrace_intake.adapters.file_store import FileStore
from headrace_intake.adapters.writing import NeverWritable, NotWritten, WriteUncertain
from headrace_intake.batching.finishing import BatchFinishing
from headrace_intake.batching.submitting import BatchSubmission
from headrace_intake.batching.validating import BatchValidation
from headrace_intake.decide.batches.life import BatchEvent, BatchStatus, LineState, after
from headrace_intake.decide.batches.records import StoredBatch
from headrace_intake.service import Intake

LEASE_SECONDS: Final = 5.0
_PAGE: Final = 250
"""Most lines that a step submits or cancels: other batches wait so long for their turn."""
_LOOK_SECONDS: Final = 1.0
"""How often an idle process looks for batches."""
_SOON_SECONDS: Final = 0.2
_QUIET_SECONDS: Final = 1.0
_TROUBLE_SECONDS: Final = 2.0
_GRACE_MS: Final = 30_000
"""How long after the deadline of tasks their ends may take to get here."""

_log = get_logger("headrace.intake.batches")


@dataclass(frozen=True, slots=True)
class BatchParts:
    """What the runner works with."""

    batches: BatchStore
    lines: BatchLines
    files: FileStore
    validation: BatchValidation
    submission: BatchSubmission
    finishing: BatchFinishing


class BatchRunner:
    """Works on batches until cancelled.

    Args:
        at_once: How many batches this process works on at a time.
    """

    def __init__(
        self, database: Database, parts: BatchParts, intake: Intake, clock: Callable[[], int], *, at_once: int
    ) -> None:
        self._database = database
        self._parts = parts
        self._intake = intake
        self._clock = clock
        self._at_once = at_once
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There is something to do now: a batch was created or is to be cancelled."""
        self._wake.set()

    async def run(self) -> None:
        """As a part of the service."""
        await self._database.prepared()
        turns: set[asyncio.Task[None]] = set()
        try:
            while True:
                pause = await self._begin(turns)
                woken = asyncio.create_task(self._wake.wait())
                await asyncio.wait((*turns, woken), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                self._wake.clear()
                for turn in [turn for turn in turns if turn.done()]:
                    turns.discard(turn)
                    turn.result()
        finally:
            for turn in turns:
                turn.cancel()
            await asyncio.gather(*turns, return_exceptions=True)

    async def _begin(self, turns: set[asyncio.Task[None]]) -> float | None:
        """Begin to work on batches whose turn it is; returns after how many seconds to look again, at the latest."""
        try:
            while len(turns) < self._at_once:
                batch = await self._parts.batches.claim()
                if batch is None:
                    return _SOON_SECONDS if turns else _LOOK_SECONDS
                turns.add(asyncio.create_task(self._take_turn(batch)))
        except DatabaseAway as error:
            _log.warning("work on batches waits for Postgres", reason=str(error))
            return _TROUBLE_SECONDS
        return None

    async def _take_turn(self, batch: StoredBatch) -> None:
        with log_context(tenant=batch.tenant, batch_id=batch.batch_id):
            pause = 0.0  # also if this process stops in the middle of it: another one goes on at once
            try:
                pause = await self._step(batch)
            except LeaseLost:
                # It is another process's, or its status has changed meanwhile: what it is now is looked at at once.
                pass
            except (NotWritten, WriteUncertain) as error:
                _log.warning("a batch waits for Kafka", reason=str(error))
                pause = _TROUBLE_SECONDS
            except DatabaseAway as error:
                _log.warning("a batch waits for Postgres", reason=str(error))
                pause = _TROUBLE_SECONDS
            except Exception:  # noqa: BLE001 - one batch must not end the work on all others
                _log.exception("a step of a batch failed, it is tried again")
                pause = _TROUBLE_SECONDS
            finally:
                with suppress(DatabaseAway):  # its lease ends by itself
                    await self._parts.batches.release(batch, pause)

    async def _step(self, batch: StoredBatch) -> float:
        """One step; returns the seconds until the next one."""
        if batch.status is BatchStatus.VALIDATING:
            file = await self._parts.files.input_of(batch)
            await self._parts.validation.run(batch, file)
            return 0.0
        if batch.ending is not None:
            await self._parts.finishing.run(batch)
            _log.info("a batch has ended", ending=batch.ending.value, lines=batch.total)
            return 0.0
        if batch.status is BatchStatus.CANCELLING:
            return await self._wind_down(batch)
        return await self._progress(batch)

    async def _progress(self, batch: StoredBatch) -> float:
        """1. note ends; 2. at the end of its time, or of its lines, end it; 3. submit what there is room for, unless
        interactive tasks are refused meanwhile."""
        lines = self._parts.lines
        closed = self._clock() >= batch.expires_at
        settled = await lines.settle(batch, last=closed)
        if closed:
            return await self._close(batch)
        waiting, live = await lines.left(batch)
        if not waiting and not live:
            late = await lines.has(batch, LineState.EXPIRED)
            await self._end(batch, BatchEvent.ALL_LINES_ENDED, BatchStatus.EXPIRED if late else BatchStatus.COMPLETED)
            return 0.0
        if not await self._parts.submission.run(batch, await lines.unacknowledged(batch)):
            return _TROUBLE_SECONDS
        if settled.turned_away:
            # The tenant's other tasks fill what it may have: they go first.
            return _TROUBLE_SECONDS
        if self._intake.defers_batches_of(batch.tenant):
            return _TROUBLE_SECONDS
        claimed = await lines.claim(batch, _PAGE, self._clock()) if waiting else ()
        if not await self._parts.submission.run(batch, claimed):
            return _TROUBLE_SECONDS
        if len(claimed) == _PAGE:
            return 0.0
        return _SOON_SECONDS if claimed or settled.ended else _QUIET_SECONDS

    async def _close(self, batch: StoredBatch) -> float:
        """No line is submitted any more; the tasks have this time as their deadline, and end now."""
        lines = self._parts.lines
        await lines.give_up(batch, LineState.EXPIRED, live_too=self._clock() >= batch.expires_at + _GRACE_MS)
        _, live = await lines.left(batch)
        if live:
            return _SOON_SECONDS
        await self._end(batch, BatchEvent.WINDOW_CLOSED, BatchStatus.EXPIRED)
        return 0.0

    async def _wind_down(self, batch: StoredBatch) -> float:
        """1. note ends; 2. no line is submitted any more; 3. cancel tasks; 4. when all have ended, end the batch."""
        lines, now = self._parts.lines, self._clock()
        await lines.settle(batch, last=True)
        await lines.give_up(batch, LineState.CANCELLED, live_too=now >= batch.expires_at + _GRACE_MS)
        # Only what is certainly in Kafka can be cancelled there.
        unknown = await lines.unacknowledged(batch) if now < batch.expires_at else ()
        if not await self._parts.submission.run(batch, unknown):
            return _TROUBLE_SECONDS
        found = await lines.to_cancel(batch, _PAGE)
        caller = Caller(batch.tenant, batch.key_id, frozenset())
        asked: list[int] = []
        for line in found:
            try:
                await self._intake.cancel_at(
                    caller, line.task_id, (line.route_key, line.home_partition), "its batch was cancelled"
                )
            except NeverWritable as error:
                _log.error("a task of a cancelled batch goes on to its end", task_id=line.task_id, reason=str(error))
            asked.append(line.number)
        if asked:
            await lines.cancel_asked(batch, asked)
        waiting, live = await lines.left(batch)
        if waiting or live:
            return 0.0 if len(found) == _PAGE else _SOON_SECONDS
        await self._end(batch, BatchEvent.ALL_LINES_ENDED, BatchStatus.CANCELLED)
        return 0.0

    async def _end(self, batch: StoredBatch, event: BatchEvent, ending: BatchStatus) -> None:
        status = after(batch.status, event)
        async with self._parts.batches.leased(batch) as connection:
            if status is BatchStatus.FINALIZING:
                await set_batch(connection, batch, status=status, ending=ending, finalizing_at=self._clock())
            else:
                await set_batch(connection, batch, status=status, ending=ending)
