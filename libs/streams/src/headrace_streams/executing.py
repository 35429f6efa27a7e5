"""Calls the handlers: as many at once as there is room for, again for what failed, never for what was cancelled.

Plain handlers are done when they return. One that has to be waited for runs in a task; the task goes on with the next
record afterwards, which saves most of the cost of a task for each, but every record has context variables of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import traceback
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from operator import length_hint
from types import CoroutineType
from typing import Any

from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.handling import Ending, EngineOptions, Handler, Observer
from headrace_streams.records import Record
from headrace_streams.retries import GiveUp, after_failure, is_unforeseen
from headrace_streams.scheduling import Scheduler
from headrace_streams.work import AssignedPartition, Work

_log = logging.getLogger(__name__)

_TURNS = 64
"""Records that a task handles before it lets others go first, were they never to wait for anything."""


class Executor:
    """Runs what the scheduler starts, within one event loop.

    Args:
        skip: Called in place of the handler for records that were cancelled.
        work_of: Makes a piece of work of a record, its partition and the time.
        admit: Called for a partition with a backlog after one of its records is finished.
        relieve: Called after what there was room for has been started.
        broke: Told of errors of the engine itself.
    """

    def __init__(
        self,
        scheduler: Scheduler[Work],
        handler: Handler,
        skip: Handler,
        dead_letters: DeadLetterSink,
        options: EngineOptions,
        observer: Observer | None,
        *,
        work_of: Callable[[Record, AssignedPartition, float], Work],
        admit: Callable[[AssignedPartition], None],
        relieve: Callable[[], None],
        broke: Callable[[Exception], None],
    ) -> None:
        self._scheduler = scheduler
        self._handler = handler
        self._skip = skip
        self._dead_letters = dead_letters
        self._retries = options.retries
        self._observer = observer
        self._work_of = work_of
        self._admit = admit
        self._relieve = relieve
        self._broke = broke
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False

    def stop(self) -> None:
        """Begin nothing from now on."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pump(self) -> None:
        """Start what there is room for."""
        while (begun := self._take()) is not None:
            self._follow(*begun)
        self._relieve()

    def handle_at_once(self, partition: AssignedPartition, records: Sequence[Record]) -> int:
        """Call the handler for records of a partition while nothing at all is in hand; how many it was called for.

        What it returns from is finished without ever having been queued. The first one that has to be waited for, or
        fails, ends this: those behind it must be queued.
        """
        handler, observer, now = self._handler, self._observer, self._loop.time
        began = 0.0
        handling: Awaitable[None] | None = None
        failure: Exception | None = None
        ahead = iter(records)
        for record in ahead:
            if observer is not None:
                began = now()
                observer.started(record, 0.0)
            try:
                handling = handler(record)
            except Exception as error:  # noqa: BLE001 - judged by `after_failure`
                failure = error
                break
            if handling is not None:
                break
            if observer is not None:
                observer.ended(record, Ending.DONE, now() - began)
        called = len(records) - length_hint(ahead)
        if handling is None and failure is None:
            partition.tracker.pass_to(records[-1].offset)
            return called
        if called > 1:
            partition.tracker.pass_to(records[called - 2].offset)
        stuck = records[called - 1]
        partition.tracker.received(stuck.offset)
        work = self._scheduler.add_running(self._work_of(stuck, partition, now()))
        work.attempts = 1
        if failure is not None:
            handling = self._failed(work, failure)
        if handling is not None:
            self._follow(work, handling)
        return called

    def drop_waiting(self, partitions: Sequence[AssignedPartition]) -> None:
        """Forget what waits of these partitions; what runs goes on for now."""
        gone = frozenset(partitions)
        self._scheduler.drop(lambda work: work.partition in gone)
        self._set_timer()
        self.pump()

    def abandon(self, partitions: Iterable[AssignedPartition]) -> None:
        """Cancel what runs of these; it does not count as finished."""
        for partition in partitions:
            partition.leaving = True
            for task in partition.running.values():
                task.cancel()

    def cancel(self, wanted: Callable[[Record], bool], partitions: Iterable[AssignedPartition]) -> int:
        """Never begin those of the waiting records; how many there are. They go first, and hold back no others."""

        def is_wanted(work: Work) -> bool:
            return work.reason is None and not work.cancelled and wanted(work.record)

        waiting = self._scheduler.drop(is_wanted)
        aside = [work for partition in partitions for work in partition.backlog if is_wanted(work)]
        for work in (*waiting, *aside):
            work.cancelled = True
            work.key = None
        for work in waiting:
            self._scheduler.add(work, first=True)
        self._set_timer()
        self.pump()
        return len(waiting) + len(aside)

    # Beginning

    def _take(self) -> tuple[Work, Awaitable[None]] | None:
        """Begin records up to the first one that has to be waited for."""
        while not self._stopping and (work := self._scheduler.start()) is not None:
            handling = self._begin(work)
            if handling is not None:
                return work, handling
        return None

    def _begin(self, work: Work) -> Awaitable[None] | None:
        """What to wait for, if anything."""
        if work.reason is not None:
            return self._dead_letter(work, work.reason)
        now = self._loop.time()
        work.attempts += 1
        if self._observer is not None:
            self._observer.started(work.record, now - work.since)
        work.since = now
        try:
            handling = (self._skip if work.cancelled else self._handler)(work.record)
        except Exception as error:  # noqa: BLE001 - judged by `after_failure`
            return self._failed(work, error)
        if handling is None:
            self._done(work)
        return handling

    def _follow(self, work: Work, handling: Awaitable[None]) -> None:
        # Not in the context of whoever happens to start it.
        running = self._loop.create_task(self._run(work, handling), context=self._context.copy())
        work.partition.running[work] = running

    async def _run(self, work: Work, handling: Awaitable[None]) -> None:
        task = work.partition.running[work]
        turns = 0
        try:
            while True:
                again: Awaitable[None] | None
                try:
                    await (_InContext(handling, self._context.copy()) if turns else handling)
                except asyncio.CancelledError:
                    again = self._ended(work, RuntimeError("the handler was cancelled from within"))
                    if again is not None:
                        self._follow(work, again)
                    self.pump()
                    return
                except Exception as error:  # noqa: BLE001 - judged by `after_failure`
                    again = self._ended(work, error)
                except BaseException:
                    work.partition.ended(work)
                    self._leave(work, Ending.ABANDONED)
                    raise
                else:
                    again = self._ended(work, None)
                turns += 1
                if again is None:
                    if turns % _TURNS == 0:
                        await asyncio.sleep(0)
                    begun = self._take()
                    if begun is None:
                        self._relieve()
                        return
                    work, again = begun
                handling = again
                work.partition.running[work] = task
                if self._scheduler.may_start:
                    self.pump()
                else:
                    self._relieve()
        except Exception as error:  # noqa: BLE001 - the loop would only log it: run() must fail
            self._broke(error)

    # Ending

    def _ended(self, work: Work, error: Exception | None) -> Awaitable[None] | None:
        """What to wait for next on this record's behalf, if anything."""
        work.partition.ended(work)
        if error is not None:
            return self._failed(work, error)
        self._done(work)
        return None

    def _done(self, work: Work) -> None:
        work.partition.tracker.finished(work.offset)
        self._leave(work, _ending_of(work))
        if work.partition.backlog:
            self._admit(work.partition)

    def _leave(self, work: Work, ending: Ending) -> None:
        self._scheduler.finish(work)
        if self._observer is not None:
            self._observer.ended(work.record, ending, self._loop.time() - work.since)

    def _failed(self, work: Work, error: Exception) -> Awaitable[None] | None:
        if work.partition.leaving:
            self._leave(work, Ending.ABANDONED)
            return None
        if work.reason is not None:
            _log.warning("dead letters do not take %s yet, it is tried again: %s", work, error)
            self._park(work, self._retries.delay(work.attempts))
            work.attempts += 1
            return None
        if is_unforeseen(error):
            work.unforeseen += 1
            # Only the place: the text of an unforeseen error may hold content.
            _log.error("handler failed at %s, try %d: %s", work, work.attempts, _origin(error))
        step = after_failure(error, attempts=work.attempts, unforeseen=work.unforeseen, policy=self._retries)
        if isinstance(step, GiveUp):
            return self._dead_letter(work, error)
        self._park(work, step.delay_seconds)
        return None

    def _dead_letter(self, work: Work, reason: Exception) -> Awaitable[None]:
        work.reason = reason
        return self._dead_letters.keep(work.record, reason, work.attempts)

    def _park(self, work: Work, delay: float) -> None:
        now = self._loop.time()
        if self._observer is not None:
            self._observer.ended(work.record, Ending.PARKED, now - work.since)
        work.since = now
        self._scheduler.park(work, now + delay)
        self._set_timer()

    def _set_timer(self) -> None:
        at = self._scheduler.wake_at()
        if self._timer is not None:
            if at is not None and self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = None if at is None or self._stopping else self._loop.call_at(at, self._wake)

    def _wake(self) -> None:
        # A timer may fire early by the resolution of the clock.
        at = self._timer.when() if self._timer is not None else 0.0
        self._timer = None
        try:
            self._scheduler.wake(max(at, self._loop.time()))
            self._set_timer()
            self.pump()
        except Exception as error:  # noqa: BLE001 - the loop would only log it: run() must fail
            self._broke(error)


class _InContext:
    """Runs a coroutine with context variables of its own, within the task that waits for it."""

    __slots__ = ("_context", "_coroutine")

    def __init__(self, awaitable: Awaitable[None], context: contextvars.Context) -> None:
        # What is no coroutine runs elsewhere already.
        self._coroutine = awaitable if isinstance(awaitable, CoroutineType) else _wait_for(awaitable)
        self._context = context

    def __await__(self) -> Generator[Any, Any, None]:
        coroutine, run = self._coroutine, self._context.run
        try:
            waited_for = run(coroutine.send, None)
            while True:
                try:
                    answer = yield waited_for
                except GeneratorExit:
                    run(coroutine.close)
                    raise
                except BaseException as error:  # noqa: BLE001 - belongs to the coroutine
                    waited_for = run(coroutine.throw, error)
                else:
                    waited_for = run(coroutine.send, answer)
        except StopIteration:
            return


def _ending_of(work: Work) -> Ending:
    if work.reason is not None:
        return Ending.DEAD_LETTER
    return Ending.CANCELLED if work.cancelled else Ending.DONE


async def _wait_for(awaitable: Awaitable[None]) -> None:
    await awaitable


def _origin(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name} ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return type(error).__name__ + where
