"""One home partition: its tasks, its journal, and the acting on what the journal has acknowledged."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from headrace_contracts.events import (
    CommandKind,
    EntryKind,
    InputEvent,
    JournalEntry,
    Position,
    TaskCancelled,
    TaskCompleted,
    TaskPhase,
    TaskState,
)
from headrace_runtime.logging import get_logger
from headrace_streams.errors import Overloaded, StreamsError
from headrace_streams.journal import EntryTooLarge, Journal
from headrace_streams.publishing import Publisher
from headrace_streams.records import Appended

from headrace_router.adapters.world import World
from headrace_router.decide.machine import decide
from headrace_router.decide.model import (
    CAUSES,
    Cancelled,
    Decision,
    Event,
    Finished,
    Ignored,
    LeaderFinished,
    Submitted,
    Unrecordable,
    WakeUp,
)
from headrace_router.decide.publications import publication
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.gate import Gate
from headrace_router.metrics import RouterMetrics
from headrace_router.timers import Timers

_SLICE: Final = 200
"""How many tasks are moved by time or by each other before input gets its turn."""
_OVERLOAD_SECONDS: Final = 0.05
_EARLY_WISHES: Final = 10_000
_KEEP_ALIVE_MS: Final = 600_000

_log = get_logger("headrace.router.partition")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all partitions of a process share.

    Attributes:
        gate: Counts the entries under way.
        act_within: Seconds after its append within which an entry must be acknowledged to be acted on. Shorter than the
            group's session, so that a process that stood still meanwhile does not act beside its successor.
        monotonic: Seconds on a clock that goes on while the process stands still.
    """

    world: World
    publisher: Publisher
    metrics: RouterMetrics
    gate: Gate
    act_within: float
    monotonic: Callable[[], float]


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
        tasks: PartitionTasks,
        positions: Mapping[str, int],
        surroundings: Surroundings,
        broken: Callable[[BaseException], None],
    ) -> None:
        self.partition = partition
        self.tasks = tasks
        self._journal = journal
        self._world = surroundings.world
        self._publisher = surroundings.publisher
        self._metrics = surroundings.metrics
        self._gate = surroundings.gate
        self._act_within = surroundings.act_within
        self._monotonic = surroundings.monotonic
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._timers = Timers(self._world.clock, self._time_has_come)
        self._positions = dict(positions)
        self._acknowledged = dict(positions)
        self._due: deque[tuple[str, TaskCompleted | None] | str] = deque()
        self._working = False
        self._early_wishes: OrderedDict[str, TaskCancelled] = OrderedDict()
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._stopped = False
        self._noted: tuple[int, dict[str, int]] = (-1, {})
        self._last_append_ms = self._world.clock()

    def resume(self, shadowed: frozenset[str]) -> None:
        """Begin to move tasks, after a recovery: write once more the states that are `shadowed`, set the timers, look
        again at whoever waits, and settle followers whose leader has ended."""
        for task_id in sorted(shadowed):
            if (state := self.tasks.get(task_id)) is not None:
                self._append(task_id, "restated", Decision(state), None)
        for task_id, state in self.tasks.live.items():
            self._timers.set(task_id, state.wake_at)
        for digest in self.tasks.orphaned():
            self._due.append((digest, self.tasks.equal_to(digest, self._world.clock()).answer))
        self.fleet_gained()

    def handle(self, event: Submitted | Cancelled | Finished, origin: Input) -> None:
        """Decide about an input event.

        Raises Overloaded when it must be given again later, EntryTooLarge when no decision about it can be recorded.
        """
        if self._closed or origin.offset < self._positions.get(origin.topic, 0):
            return
        match event:
            case Submitted(task=task):
                task_id = task.task_id
                if (wish := self._early_wishes.get(task_id)) is not None:
                    event = replace(event, cancelled=wish)
            case Cancelled(wish=wish):
                task_id = wish.task_id
                if self.tasks.get(task_id) is None and not self.tasks.has_ended(task_id):
                    self._remember(wish)
            case Finished(attempt=attempt):
                task_id = attempt.task_id
        if not self._decide(task_id, event, origin):
            self.skip(origin)
        if isinstance(event, Submitted):
            self._early_wishes.pop(task_id, None)
        self._work()

    def skip(self, origin: Input) -> None:
        """Go past an input record without a decision. The next entry or watermark records it."""
        self._positions[origin.topic] = origin.offset + 1

    def fleet_gained(self) -> None:
        """Look again at the tasks that wait for a candidate."""
        self._due.extend(self.tasks.waiting())
        self._work()

    def committable(self) -> Mapping[str, int]:
        """Positions, by topic, below which everything is recorded."""
        certain = self._journal.fenced is None and self._journal.in_flight == 0
        return self._positions if certain else self._acknowledged

    def tick(self) -> None:
        """Note what is done when the journal has been quiet, so that a successor need not do it again."""
        if self._closed or self._journal.in_flight:
            return
        state = (self._journal.acted_offset, dict(self._positions))
        now = self._world.clock()
        if state == self._noted and now < self._last_append_ms + _KEEP_ALIVE_MS:
            return
        try:
            self._note(now)
        except StreamsError as error:
            self._fail(error)

    async def drain(self) -> None:
        """Take nothing more, finish what is recorded, and note it. Returns at once when the partition is broken."""
        self.close()
        await self._idle.wait()
        if not self._stopped:
            try:
                await self._note(self._world.clock())
            except StreamsError as error:
                _log.warning("the last watermark was not written", partition=self.partition, reason=str(error))

    def close(self) -> None:
        """Move nothing more by time. What the journal has acknowledged is still carried out."""
        self._closed = True
        self._timers.close()
        self._due.clear()

    def abandon(self, reason: str) -> None:
        """Stop at once: somebody else may own the partition already."""
        self._stop()
        self._journal.fence(reason)

    def _remember(self, wish: TaskCancelled) -> None:
        # A wish may overtake its task, since they travel on two topics.
        self._early_wishes[wish.task_id] = wish
        if len(self._early_wishes) > _EARLY_WISHES:
            self._early_wishes.popitem(last=False)

    def _decide(self, task_id: str, event: Event, origin: Input | None) -> bool:
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
        if isinstance(result, Ignored):
            self._metrics.ignored(result.reason)
            return False
        try:
            self._append(task_id, CAUSES[type(event)], result, origin)
        except EntryTooLarge as error:
            smaller = decide(result.state, Unrecordable(error.size, error.limit), context)
            assert isinstance(smaller, Decision)
            self._append(task_id, CAUSES[Unrecordable], smaller, origin)
        return True

    def _append(self, task_id: str, cause: str, decision: Decision, origin: Input | None) -> None:
        now = self._world.clock()
        positions = self._positions
        if origin is not None:
            positions = {**positions, origin.topic: origin.offset + 1}
        entry = JournalEntry(
            kind=EntryKind.DECISION,
            task_id=task_id,
            cause=cause,
            input=None if origin is None else InputEvent(
                topic=origin.topic, partition=self.partition, offset=origin.offset, event_id=origin.event_id
            ),
            positions=self._as_positions(positions),
            state=decision.state,
            commands=decision.commands,
            rejected=decision.rejected,
            policy_version=self._world.policy.version,
            decided_at=now,
        )  # fmt: skip
        appended = self._journal.append(entry)
        # Nothing has changed until here, so an entry that could not be queued can be decided anew.
        before = self.tasks.get(task_id)
        self._positions = positions
        self.tasks.apply(task_id, decision.state)
        self._timers.set(task_id, decision.state.wake_at)
        self._begin(now)
        since = origin.timestamp_ms if origin is not None else now
        queued = self._monotonic()
        appended.add_done_callback(lambda done: self._acknowledge(entry, positions, queued, since, done))
        self._metrics.decided(cause, decision.state, [rejection.code for rejection in decision.rejected])
        if decision.state.phase is TaskPhase.FINISHED and _may_lead(before):
            self._due.append((decision.state.digest, decision.state.result))

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
        if took > self._act_within:
            self._fail(self._journal.fence(f"an entry was acknowledged only after {took:.1f} s"))
            return
        self._acknowledged = positions
        self._act(done.result(), entry, since)

    def _act(self, offset: int, entry: JournalEntry, since: int) -> None:
        """Produce what an acknowledged entry commands; when all is appended, the entry is done."""
        left = len(entry.commands)
        completed_at: int | None = None

        def appended(kind: CommandKind, done: asyncio.Future[Appended]) -> None:
            nonlocal left, completed_at
            if (error := _error_of(done)) is not None:
                self._fail(self._journal.fence(f"a command of the entry at {offset} failed: {error}"))
                return
            if kind is CommandKind.COMPLETE:
                completed_at = done.result().offset
            left -= 1
            if left == 0:
                self._journal.acted(offset, completed_at)
                self._metrics.carried_out(entry.cause, (self._world.clock() - since) / 1000)
                self._end()

        try:
            for command in entry.commands:
                sent = self._publisher.send(publication(entry, command))
                sent.add_done_callback(lambda done, kind=command.kind: appended(kind, done))  # type: ignore[misc]
        except Overloaded as error:
            self._fail(self._journal.fence(f"the commands of the entry at {offset} could not be queued: {error}"))
        else:
            if left == 0:
                self._end()

    def _work(self) -> None:
        """Move tasks whose time has come or whose leader has ended; a slice now, the rest in the loop's next rounds."""
        if self._working:
            return
        self._working = True
        try:
            for _ in range(_SLICE):
                if self._closed or not self._due:
                    break
                self._move(self._due.popleft())
        except Overloaded:
            self._loop.call_later(_OVERLOAD_SECONDS, self._work)
            return
        finally:
            self._working = False
        if self._due and not self._closed:
            self._loop.call_soon(self._work)

    def _move(self, item: tuple[str, TaskCompleted | None] | str) -> None:
        try:
            if isinstance(item, str):
                self._decide(item, WakeUp(), None)
                return
            digest, result = item
            orphan = self.tasks.next_orphan(digest)
            # One at a time: it may become the new leader, whom the others follow.
            if orphan is not None and self._decide(orphan, LeaderFinished(result), None):
                self._due.appendleft(item)
        except Overloaded:
            self._due.appendleft(item)
            raise
        except StreamsError as error:
            self._fail(error)
        except Exception:  # noqa: BLE001 - a defect in one task's decision must not stop the others; it is logged
            self._metrics.failed("wake_up" if isinstance(item, str) else "leader_finished")
            _log.exception("a decision failed; the task stays as it is", partition=self.partition)

    def _time_has_come(self, task_id: str) -> None:
        self._due.append(task_id)
        self._work()

    def _note(self, now: int) -> asyncio.Future[int]:
        positions = dict(self._positions)
        appended = self._journal.watermark(self._as_positions(positions), now)
        self._begin(now)
        self._noted = (self._journal.acted_offset, positions)

        def acknowledged(done: asyncio.Future[int]) -> None:
            if (error := _error_of(done)) is not None:
                self._fail(error)
                return
            self._acknowledged = positions
            self._noted = (self._journal.acted_offset, positions)
            self._end()

        appended.add_done_callback(acknowledged)
        return appended

    def _as_positions(self, positions: Mapping[str, int]) -> tuple[Position, ...]:
        return tuple(
            [Position(topic=topic, partition=self.partition, next_offset=offset) for topic, offset in positions.items()]
        )

    def _begin(self, now: int) -> None:
        self._last_append_ms = now
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


def _may_lead(state: TaskState | None) -> bool:
    return state is not None and bool(state.digest) and state.phase is not TaskPhase.FOLLOWING


def _error_of(done: asyncio.Future[Any]) -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()
