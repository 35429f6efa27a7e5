"""Runs handlers: as many at once as the scheduler allows, again after failures, `skip` instead for cancelled records.

A plain handler is finished when it returns. An async one runs in a task, and the task continues with the next record
when it is done: creating a task for each record would be most of the cost of a short handler. Each record still gets
context variables of its own, so that one record's trace and log context never reach the next.

Every started piece of work ends in exactly one of `_leave` (finished, abandoned) and `_park` (to be tried again). Both
free its room in the scheduler: a piece that ended in neither would leak a slot, and one that ended in both would let
more handlers run than allowed.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import traceback
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from functools import partial
from operator import length_hint
from types import CoroutineType
from typing import Any

from headrace_streams.buffering import HeldBytes
from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.handling import Ending, EngineOptions, Handler, Observer
from headrace_streams.records import Record
from headrace_streams.retries import GiveUp, after_failure, is_unforeseen
from headrace_streams.scheduling import Scheduler
from headrace_streams.work import AssignedPartition, Work

_log = logging.getLogger(__name__)

_TURNS = 64
"""Records that one task handles before it yields to the event loop, in case none of them ever waits."""


class Executor:
    """Runs what the scheduler starts, within one event loop.

    Args:
        held: What is given back when a record has ended; the caller takes it, except on the fast path.
        skip: Called instead of the handler for cancelled records.
        work_of: Makes a piece of work from a record, its partition and the time.
        admit: Called for a partition with a backlog whenever one of its records has finished.
        relieve: Called after records have been started, when lanes may have room again.
        suspended: Called when a partition is suspended, and when it may go on.
        broke: Called with errors of the engine itself.
    """

    def __init__(
        self,
        scheduler: Scheduler[Work],
        held: HeldBytes,
        handler: Handler,
        skip: Handler,
        dead_letters: DeadLetterSink,
        options: EngineOptions,
        observer: Observer | None,
        *,
        work_of: Callable[[Record, AssignedPartition, float], Work],
        admit: Callable[[AssignedPartition], None],
        relieve: Callable[[], None],
        suspended: Callable[[AssignedPartition], None],
        broke: Callable[[Exception], None],
    ) -> None:
        self._scheduler = scheduler
        self._held = held
        self._handler = handler
        self._skip = skip
        self._dead_letters = dead_letters
        self._retries = options.retries
        self._observer = observer
        self._work_of = work_of
        self._admit = admit
        self._relieve = relieve
        self._suspended = suspended
        self._broke = broke
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # uvloop's handle of a timer that is due within half a millisecond does not know it
        self._stopping = False

    def stop(self) -> None:
        """Start nothing from now on."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pump(self) -> None:
        """Start records until the scheduler has none that may start."""
        while (begun := self._take()) is not None:
            self._follow(*begun)
        self._relieve()

    def handle_at_once(self, partition: AssignedPartition, records: Sequence[Record]) -> int:
        """The fast path: call the handler directly for records of a partition; returns for how many.

        Only while nothing else is in flight (see `ParallelConsumer._take_in`). Records whose handler returns are
        finished without having been queued or opened in the tracker. The first one that must be awaited, or fails, ends
        the fast path and is tracked as usual; the caller queues those after it.
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
        # From what the iterator has left: counting in the loop would slow the fast path.
        called = len(records) - length_hint(ahead)
        if handling is None and failure is None:
            partition.tracker.pass_to(records[-1].offset)
            return called
        # In this order: first pass those before it, then open this one. The other way round the position would pass it.
        if called > 1:
            partition.tracker.pass_to(records[called - 2].offset)
        stuck = records[called - 1]
        partition.tracker.received(stuck.offset)
        work = self._scheduler.add_running(self._work_of(stuck, partition, now()))
        self._held.take(work)
        work.attempts = 1
        if failure is not None:
            handling = self._failed(work, failure)
        if handling is not None:
            self._follow(work, handling)
        return called

    def drop_waiting(self, partitions: Sequence[AssignedPartition]) -> None:
        """Drop the waiting records of these partitions; running handlers continue for now."""
        gone = frozenset(partitions)
        for work in self._scheduler.drop(lambda work: work.partition in gone):
            self._held.give_back(work)
        self._set_timer()
        self.pump()

    def abandon(self, partitions: Iterable[AssignedPartition]) -> None:
        """Cancel the running handlers of these; their records do not count as finished."""
        for partition in partitions:
            partition.leaving = True
            for work, task in partition.running.items():
                task.cancel()
                task.add_done_callback(partial(self._account_for_unbegun, work))

    def _account_for_unbegun(self, work: Work, task: asyncio.Task[None]) -> None:
        """A task cancelled before its first step never runs, and so cannot end its piece of work."""
        if work.partition.running.get(work) is not task:
            return
        if isinstance(work.handling, CoroutineType):
            work.handling.close()
        work.partition.ended(work)
        self._leave(work, Ending.ABANDONED)
        self.pump()

    def cancel(self, wanted: Callable[[Record], bool], partitions: Iterable[AssignedPartition]) -> int:
        """Cancel the waiting records that `wanted` selects; returns how many there are.

        They lose their key and go first: they neither wait behind a parked record of their key nor hold one back.
        """

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
        """Start records until one must be awaited; returns that one and its awaitable."""
        while not self._stopping and (work := self._scheduler.start()) is not None:
            handling = self._begin(work)
            if handling is not None:
                return work, handling
        return None

    def _begin(self, work: Work) -> Awaitable[None] | None:
        """Call the handler; returns what to await, if anything."""
        # Parked on its way to the dead letters: its handler has had its last try.
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
        # In the engine's own context: the current one is that of a record that has just finished.
        work.handling = handling
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
                    # This task is being cancelled (`abandon`: the partition is leaving, so `_failed` abandons the
                    # record), or the handler let a cancellation of its own escape, which counts as a failure of it.
                    again = self._ended(work, RuntimeError("the handler was cancelled from within"))
                    if again is not None:
                        self._follow(work, again)
                    self.pump()
                    return
                except Exception as error:  # noqa: BLE001 - judged by `after_failure`
                    again = self._ended(work, error)
                except BaseException:
                    # KeyboardInterrupt, SystemExit: the process ends, and the record is for the next owner.
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
        """Account for a handler that ended; returns what to await next for this record, if anything."""
        work.partition.ended(work)
        if error is not None:
            return self._failed(work, error)
        self._done(work)
        return None

    def _done(self, work: Work) -> None:
        # The tracker first: `_leave` frees the key, and the next record of it must find this one finished.
        work.partition.tracker.finished(work.offset)
        self._leave(work, _ending_of(work))
        if work.partition.backlog:
            self._admit(work.partition)

    def _leave(self, work: Work, ending: Ending) -> None:
        self._scheduler.finish(work)
        self._held.give_back(work)
        if self._observer is not None:
            self._observer.ended(work.record, ending, self._loop.time() - work.since)

    def _failed(self, work: Work, error: Exception) -> Awaitable[None] | None:
        # No retry and no dead letter for a partition that is going: the next owner starts with this record.
        if work.partition.leaving:
            self._leave(work, Ending.ABANDONED)
            return None
        if work.reason is not None:
            # A record must never be finished before its dead letter is on disk, so this has no last try.
            _log.warning("the dead letter of %s cannot be written yet, trying again: %s", work, error)
            self._park(work, self._retries.delay(work.attempts))
            work.attempts += 1
            return None
        if is_unforeseen(error):
            work.unforeseen += 1
            # Only the code location: the text of an unforeseen error may quote content.
            _log.error("handler failed at %s, try %d: %s", work, work.attempts, _origin(error))
        step = after_failure(error, attempts=work.attempts, unforeseen=work.unforeseen, policy=self._retries)
        if isinstance(step, GiveUp):
            if is_unforeseen(error) and (again := self._suspend(work.partition, error)) is not None:
                self._park(work, again)
                return None
            return self._dead_letter(work, error)
        self._park(work, step.delay_seconds)
        return None

    def _suspend(self, partition: AssignedPartition, error: Exception) -> float | None:
        """Seconds until the record is to be tried again, if its partition has given up too many; else None."""
        now = self._loop.time()
        until = partition.budget.spend(now)
        if until is None:
            return None
        if partition.suspended is None:
            partition.suspended = partition.budget.reason(_origin(error), until - now)
            _log.error("%s is suspended: %s", partition.name, partition.suspended)
            self._tell(partition)
            self._loop.call_at(until, self._end_suspension, partition)
        return until - now

    def _end_suspension(self, partition: AssignedPartition) -> None:
        if partition.suspended is None:
            return  # it was taken away meanwhile
        # A record that was due at the same time may have failed again.
        again = partition.budget.rests_until(self._loop.time())
        if again is not None:
            self._loop.call_at(again, self._end_suspension, partition)
            return
        partition.suspended = None
        _log.info("%s goes on", partition.name)
        self._tell(partition)

    def _tell(self, partition: AssignedPartition) -> None:
        self._suspended(partition)
        # Of a former log, or one that is going, the name means another one already.
        if self._observer is not None and not partition.former and not partition.leaving:
            self._observer.suspended(partition.name, partition.suspended)

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
            if at is not None and self._timer_at <= at:
                return
            self._timer.cancel()
            self._timer = None
        if at is not None and not self._stopping:
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._wake)

    def _wake(self) -> None:
        # A timer may fire early, by the resolution of the clock: what it was set for is due all the same, otherwise the
        # parked record would find no timer.
        self._timer = None
        try:
            self._scheduler.wake(max(self._timer_at, self._loop.time()))
            self._set_timer()
            self.pump()
        except Exception as error:  # noqa: BLE001 - the loop would only log it: run() must fail
            self._broke(error)


class _InContext:
    """Runs a coroutine with its own context variables inside the task that awaits it.

    `Task` can set a context only at its creation. This drives the coroutine by hand, as `await` would (PEP 380), and
    enters the context for each step: `contextvars.Context.run` cannot span a suspension.
    """

    __slots__ = ("_context", "_coroutine")

    def __init__(self, awaitable: Awaitable[None], context: contextvars.Context) -> None:
        # A future or task has a context already.
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
