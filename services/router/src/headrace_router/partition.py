"""One home partition: its tasks, its journal, and the acting on what the journal has acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

from headrace_contracts.errors import UnreadableValue
from headrace_contracts.events import (
    CommandKind,
    EntryKind,
    InputEvent,
    JournalEntry,
    Position,
    TaskCancelled,
    TaskPhase,
    TaskState,
)
from headrace_runtime.logging import get_logger
from headrace_streams.errors import Overloaded, RecordRefused, StreamsError
from headrace_streams.journal import EntryTooLarge, Journal
from headrace_streams.publishing import Publisher
from headrace_streams.records import RecordMetadata

from headrace_router.adapters.routing_view import RoutingView
from headrace_router.decide.machine import decide
from headrace_router.decide.model import (
    CAUSES,
    AttemptEnded,
    Cancelled,
    Decision,
    Ignored,
    LeaderFinished,
    Noted,
    RouterEvent,
    Submitted,
    Unrecordable,
    WakeUp,
)
from headrace_router.decide.publications import publication
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.in_flight_limiter import InFlightLimiter
from headrace_router.limits import RouterLimits
from headrace_router.metrics import RouterMetrics
from headrace_router.partition_state import PartitionState
from headrace_router.pending_appends import PendingAppends
from headrace_router.reevaluation_queue import LeaderlessFollowers, ReevaluationQueue
from headrace_router.timers import Timers

_SLICE: Final = 50
"""How many tasks are moved by time or by each other before input gets its turn."""
_RESTATED_AT_ONCE: Final = 200
_PAUSE_SECONDS: Final = 0.05
"""Before tasks are moved on when the producer's queue or the in-flight limit is full."""
_AFTER_DEFECT_MS: Final = 60_000

_log = get_logger("headrace.router.partition")


@dataclass(frozen=True, slots=True)
class RouterContext:
    """What all partitions of a process share.

    Attributes:
        gate: Counts the entries under way.
        act_within: Seconds after its append within which an entry must be acknowledged to be published. Shorter than
            the group's session, so that a process that stood still meanwhile does not act beside its successor.
        monotonic: Seconds on a clock that goes on while the process stands still.
        settle_seconds: How long after its decision another owner may still be carrying it out: `act_within` and the
            producer's own time together. A successor lets that pass before it looks which terminal states are there.
        in flight: Commands that this process is appending.
    """

    world: RoutingView
    publisher: Publisher
    metrics: RouterMetrics
    gate: InFlightLimiter
    act_within: float
    monotonic: Callable[[], float]
    settle_seconds: float = 0.0
    pending_appends: PendingAppends = field(default_factory=PendingAppends)


@dataclass(frozen=True, slots=True)
class Input:
    """Where an event came from."""

    topic: str
    offset: int
    event_id: str
    timestamp_ms: int


class PartitionRouter:
    """Decides, records, acts, in this order, for the tasks of one partition.

    Made by `recovery.recover`. Once `broken` is called nothing more is carried out: whoever owns the partition next
    continues from the journal.

    Args:
        positions: Where to begin in the input topics, by name without prefix.
        broken: Called once, with the reason, when the partition must be taken over anew.
    """

    def __init__(
        self,
        *,
        partition: int,
        journal: Journal,
        state: PartitionState,
        positions: Mapping[str, int],
        router_context: RouterContext,
        limits: RouterLimits,
        broken: Callable[[BaseException], None],
    ) -> None:
        self.partition = partition
        self._journal = journal
        self._state = state
        self._router_context = router_context
        self._limits = limits
        self._world = router_context.world
        self._publisher = router_context.publisher
        self._metrics = router_context.metrics
        self._gate = router_context.gate
        self._monotonic = router_context.monotonic
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._timers = Timers(self._world.clock, self._time_has_come)
        self._positions = dict(positions)
        self._acknowledged = dict(positions)
        self._reevaluations = ReevaluationQueue()
        self._working = False
        self._scheduled = False
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._stopped = False
        self._noted: tuple[int, dict[str, int]] = (-1, {})
        self._last_append = self._monotonic()

    @property
    def tasks(self) -> PartitionTasks:
        return self._state.tasks

    @property
    def positions(self) -> Mapping[str, int]:
        """How far the inputs are consumed, by topic without prefix."""
        return self._positions

    @property
    def rests(self) -> bool:
        """Whether this one has been drained and is whole: a `successor` may go on from here."""
        return self._closed and not self._stopped and self._open == 0 and self._journal.fenced is None

    @property
    def journal_end(self) -> int:
        """Where the journal ends if nobody else has written to it."""
        return self._journal.next_offset

    def resume(self, shadowed: Iterable[str] = ()) -> None:
        """Begin to move tasks, after a recovery: write once more the states that are `shadowed`, set the timers, look
        again at whoever waits, and settle followers whose leader has ended."""
        for task_id in sorted(shadowed):
            if not self._restate(task_id):
                self._append_nothing(task_id)
        self._timers.set_all(self.tasks.wake_times())
        for digest in self.tasks.leaderless():
            self._reevaluations.add_leaderless_followers(
                digest, self.tasks.equal_to(digest, self._world.clock()).answer
            )
        self.fleet_gained()

    def successor(self, broken: Callable[[BaseException], None]) -> PartitionRouter:
        """One that goes on with the same journal and state, where this one `rests` and nobody else has written.

        Whether anybody writes from now on shows as always: the next entry would not stand in its place.
        """
        return PartitionRouter(
            partition=self.partition,
            journal=self._journal,
            state=self._state,
            positions=self._positions,
            router_context=self._router_context,
            limits=self._limits,
            broken=broken,
        )

    def handle(self, event: Submitted | Cancelled | AttemptEnded, origin: Input) -> None:
        """Decide about an input event.

        Raises Overloaded when it must be given again later, EntryTooLarge when no decision about it can be recorded.
        """
        if self._closed or origin.offset < self._positions.get(origin.topic, 0):
            return
        match event:
            case Submitted(task=task):
                task_id = task.task_id
                if (cancellation := self._state.cancellations.find(task_id, self._world.clock())) is not None:
                    event = replace(event, cancelled=cancellation)
            case Cancelled(cancellation=cancellation):
                task_id = cancellation.task_id
            case AttemptEnded(attempt=attempt):
                task_id = attempt.task_id
        if not self._decide(task_id, event, origin):
            self.skip(origin)
        self._work()

    def skip(self, origin: Input) -> None:
        """Go past an input record without a decision. The next entry or checkpoint records it."""
        # While a dead letter was on its way this one may have been closed, and has refused what came before: the record
        # is delivered again, and a `successor` must not begin behind it.
        if self._closed:
            return
        self._positions = {**self._positions, origin.topic: origin.offset + 1}

    def fleet_gained(self) -> None:
        """Look again at the tasks that wait for a candidate."""
        if not self._closed:
            self._reevaluations.add(self.tasks.waiting())
            self._work()

    def committable(self) -> Mapping[str, int]:
        """Positions, by topic, below which everything is recorded."""
        certain = self._journal.fenced is None and self._journal.in_flight == 0
        return self._positions if certain else self._acknowledged

    def tick(self) -> None:
        """Keep the journal from forgetting: restate tasks that were written long ago, note what is done when it has
        been quiet, so that a successor need not do it again, and note anything at all now and then."""
        if self._closed:
            return
        try:
            for task_id in list(islice(self._state.written_before(self._limits.restate_seconds), _RESTATED_AT_ONCE)):
                self._restate(task_id)
            if self._journal.in_flight:
                return
            quiet = self._monotonic() - self._last_append
            if (
                self._journal.published_offset,
                self._positions,
            ) != self._noted or quiet >= self._limits.keep_alive_seconds:
                self._note()
        except Overloaded:
            # The next tick is soon enough.
            return
        except (StreamsError, UnreadableValue) as error:
            self._fail(error)

    async def drain(self) -> None:
        """Take nothing more, finish what is recorded, and note it. Returns at once when the partition is broken."""
        self.close()
        await self._idle.wait()
        if not self._stopped:
            try:
                await self._note()
            except StreamsError as error:
                _log.warning("the last checkpoint was not written", partition=self.partition, reason=str(error))

    def close(self) -> None:
        """Move nothing more by time. What the journal has acknowledged is still carried out."""
        self._closed = True
        self._timers.close()
        self._reevaluations.clear()

    def abandon(self, reason: str) -> None:
        """Stop at once: somebody else may own the partition already."""
        self._stop()
        self._journal.fence(reason)

    def _decide(self, task_id: str, event: RouterEvent, origin: Input | None) -> bool:
        """Whether there was something to record."""
        state = self.tasks.get(task_id)
        if state is None and self.tasks.has_ended(task_id):
            self._metrics.ignored("finished")
            return False
        about = event.task if isinstance(event, Submitted) else None if state is None else state.task
        context = self._world.context(
            self.tasks, "" if about is None else about.tenant, "" if about is None else about.user
        )
        result = decide(state, event, context)
        if isinstance(result, Noted) and self._state.cancellations.find(task_id, context.now) is not None:
            result = Ignored("duplicate")
        if isinstance(result, Ignored):
            self._metrics.ignored(result.reason)
            return False
        if isinstance(result, Noted):
            self._append_cancellation(result.cancellation, origin)
            return True
        try:
            self._append(task_id, CAUSES[type(event)], result, origin)
        except EntryTooLarge as error:
            smaller = decide(result.state, Unrecordable(error.size, error.limit), context)
            assert isinstance(smaller, Decision)
            self._append(task_id, CAUSES[Unrecordable], smaller, origin)
        return True

    def _append(self, task_id: str, cause: str, decision: Decision, origin: Input | None) -> None:
        entry = self._entry(
            task_id, cause, origin,
            state=decision.state, commands=decision.commands, rejected=decision.rejected,
            policy_version=self._world.policy.version,
        )  # fmt: skip
        self._record(entry, origin)
        before = self.tasks.get(task_id)
        self._state.apply(task_id, decision.state)
        self._timers.set(task_id, decision.state.wake_at)
        self._metrics.decided(cause, decision.state, [rejection.code for rejection in decision.rejected])
        if decision.state.phase is TaskPhase.FINISHED and _may_lead(before):
            self._reevaluations.add_leaderless_followers(decision.state.digest, decision.state.result)

    def _append_cancellation(self, cancellation: TaskCancelled, origin: Input | None) -> None:
        entry = self._entry(cancellation.task_id, CAUSES[Cancelled], origin, cancellation=cancellation)
        self._record(entry, origin)
        self._state.keep(cancellation, entry.decided_at)

    def _restate(self, task_id: str) -> bool:
        """Whether anything is known of the task that could be written once more."""
        if (state := self.tasks.get(task_id)) is not None:
            self._append(task_id, "restated", Decision(state), None)
        elif (cancellation := self._state.cancellations.find(task_id, self._world.clock())) is not None:
            self._append_cancellation(cancellation, None)
        else:
            return False
        return True

    def _append_nothing(self, task_id: str) -> None:
        """Replace a record that does not count as the newest of its key, where there is no state to replace it with:
        the task has ended, or only an owner of the past has decided about it.

        Epoch starts share one key, so compaction removes the one that shows why the record does not count. Were the
        record left as it is, a later owner would find it in its place, in an epoch that nothing seems to have ended.
        """
        self._record(self._entry(task_id, "restated", None), None)

    def _entry(self, task_id: str, cause: str, origin: Input | None, **fields: Any) -> JournalEntry:
        positions = self._positions
        if origin is not None:
            positions = {**positions, origin.topic: origin.offset + 1}
        return JournalEntry(
            kind=EntryKind.DECISION,
            task_id=task_id,
            cause=cause,
            input=None if origin is None else InputEvent(
                topic=origin.topic, partition=self.partition, offset=origin.offset, event_id=origin.event_id
            ),
            positions=self._as_positions(positions),
            decided_at=self._world.clock(),
            **fields,
        )  # fmt: skip

    def _record(self, entry: JournalEntry, origin: Input | None) -> None:
        """Append an entry, and act on it when it is acknowledged. Raises what `Journal.append` raises; then nothing has
        changed, and what could not be queued can be decided anew."""
        appended = self._journal.append(entry)
        self._positions = {position.topic: position.next_offset for position in entry.positions}
        positions, queued = self._positions, self._monotonic()
        self._begin(queued)
        since = entry.decided_at if origin is None else origin.timestamp_ms
        appended.add_done_callback(lambda done: self._acknowledge(entry, positions, queued, since, done))

    def _acknowledge(
        self, entry: JournalEntry, positions: dict[str, int], queued: float, since: int, done: asyncio.Future[int]
    ) -> None:
        if (error := _error_of(done)) is not None:
            self._fail(error)
            return
        took = self._monotonic() - queued
        self._metrics.appended(took)
        if self._stopped:
            return
        if took > self._router_context.act_within:
            self._fail(self._journal.fence(f"an entry was acknowledged only after {took:.1f} s"))
            return
        self._acknowledged = positions
        self._act(done.result(), entry, since)

    def _act(self, offset: int, entry: JournalEntry, since: int) -> None:
        """Produce what an acknowledged entry commands; when all is appended, the entry is done."""
        left = len(entry.commands)
        completed_at: int | None = None

        def appended(kind: CommandKind, done: asyncio.Future[RecordMetadata]) -> None:
            nonlocal left, completed_at
            error = _error_of(done)
            if error is not None and not is_bearable(kind, error):
                self._fail(self._journal.fence(f"a command of the entry at {offset} failed: {error}"))
                return
            if kind is CommandKind.COMPLETE:
                completed_at = done.result().offset
            left -= 1
            if left == 0:
                self._journal.published(offset, completed_at)
                self._metrics.carried_out(entry.cause, (self._world.clock() - since) / 1000)
                self._end()

        try:
            for command in entry.commands:
                sent = self._publisher.send(publication(entry, command))
                self._router_context.pending_appends.add(self.partition, sent)
                sent.add_done_callback(lambda done, kind=command.kind: appended(kind, done))  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - whatever it is, the entry is not carried out: who recovers it says so
            self._fail(self._journal.fence(f"the commands of the entry at {offset} could not be queued: {error}"))
        else:
            if left == 0:
                self._end()

    def _work(self) -> None:
        """Move tasks whose time has come or whose leader has ended; a slice now, the rest in the loop's next rounds."""
        if self._working or self._scheduled:
            return
        self._working = True
        pause = 0.0
        try:
            for _ in range(_SLICE):
                if self._closed or not self._reevaluations:
                    return
                if self._gate.full:
                    pause = _PAUSE_SECONDS
                    break
                self._move(self._reevaluations.take())
        except Overloaded:
            pause = _PAUSE_SECONDS
        finally:
            self._working = False
        self._scheduled = True
        self._loop.call_later(pause, self._go_on)

    def _go_on(self) -> None:
        self._scheduled = False
        self._work()

    def _move(self, item: str | LeaderlessFollowers) -> None:
        try:
            if isinstance(item, str):
                if not self._decide(item, WakeUp(), None):
                    # The clock may have been set back since its time had come.
                    state = self.tasks.get(item)
                    self._timers.set(item, None if state is None else state.wake_at)
                return
            digest, result = item
            leaderless_follower = self.tasks.next_leaderless_follower(digest)
            # One at a time: it may become the new leader, whom the others follow.
            if leaderless_follower is not None and self._decide(leaderless_follower, LeaderFinished(result), None):
                self._reevaluations.put_back(item)
        except Overloaded:
            self._reevaluations.put_back(item)
            raise
        except (StreamsError, UnreadableValue) as error:
            self._fail(error)
        except Exception:  # noqa: BLE001 - a defect in one task's decision must not stop the others; it is logged
            self._metrics.failed("wake_up" if isinstance(item, str) else "leader_finished")
            _log.exception("a decision failed; the task stays as it is", partition=self.partition)
            if isinstance(item, str):
                self._timers.set(item, self._world.clock() + _AFTER_DEFECT_MS)

    def _time_has_come(self, task_id: str) -> None:
        self._reevaluations.add((task_id,))
        self._work()

    def _note(self) -> asyncio.Future[int]:
        positions = self._positions
        appended = self._journal.checkpoint(self._as_positions(positions), self._world.clock())
        self._begin(self._monotonic())
        self._noted = (self._journal.published_offset, positions)

        def acknowledged(done: asyncio.Future[int]) -> None:
            if (error := _error_of(done)) is not None:
                self._fail(error)
                return
            self._acknowledged = positions
            self._noted = (self._journal.published_offset, positions)
            self._end()

        appended.add_done_callback(acknowledged)
        return appended

    def _as_positions(self, positions: Mapping[str, int]) -> tuple[Position, ...]:
        return tuple(
            [Position(topic=topic, partition=self.partition, next_offset=offset) for topic, offset in positions.items()]
        )

    def _begin(self, now: float) -> None:
        self._last_append = now
        self._open += 1
        self._gate.enter()
        self._idle.clear()

    def _end(self) -> None:
        if self._stopped:
            return
        self._open -= 1
        self._gate.leave()
        if self._open == 0:
            self._idle.set()

    def _stop(self) -> bool:
        """Whether this is the first time."""
        if self._stopped:
            return False
        self._stopped = True
        self.close()
        self._gate.leave(self._open)
        self._idle.set()
        return True

    def _fail(self, error: BaseException) -> None:
        # The first failure says why; those that follow from it say nothing new.
        if self._stop():
            self._metrics.fenced()
            self._broken(error)


def is_bearable(kind: CommandKind, error: BaseException) -> bool:
    """Whether a command counts as carried out though it failed: nobody can read a reply where there is no partition,
    which is for whoever submits a task to choose. The terminal state stands in tasks.completed all the same."""
    return kind is CommandKind.REPLY and isinstance(error, RecordRefused)


def _may_lead(state: TaskState | None) -> bool:
    return state is not None and bool(state.digest) and state.phase is not TaskPhase.FOLLOWING


def _error_of(done: asyncio.Future[Any]) -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()
