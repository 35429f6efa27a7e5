"""One home partition: its tasks, its journal, and the publishing of what the journal has acknowledged.

For each event:

1. Decide (`decide.machine`): a pure function of the task's state, the event and the routing view.
2. Append the decision to the journal. State, positions and timers change in memory at once (`_record`, `_append`), so
   that the next event sees them, though the entry is not yet acknowledged.
3. On the acknowledgement, publish the entry's commands (`_acknowledge`, `commands`).
4. When all commands are published, the entry is marked as published.

Invariants:

- Nothing is published before an acknowledgement of the journal, nor later than `publish_within` after that append: by
  then another router may own the partition and publish the same with another outcome.
- Memory may be ahead of the journal only while this router is valid. If an append fails, the journal is fenced and the
  whole router is discarded (`_fail`): its successor rebuilds everything from the journal. There is no undo.
- A position moves past an input only in an entry or checkpoint that also contains its decision.
- Every entry that was begun (`_begin`) ends exactly once, in `_end` or in `_stop`. A leak would leave the partition
  less and less of its share of the entries in flight.
- Everything here runs on one event loop without `await` between decision and append; a decision is never interleaved
  with another one of the same partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

from headrace_contracts.errors import RegistryUnavailable, UnreadableValue
from headrace_contracts.events import (
    Command,
    CommandKind,
    EntryKind,
    Failure,
    InputEvent,
    JournalEntry,
    Lane,
    Place,
    Position,
    SensitiveSession,
    TaskCancelled,
    TaskPhase,
    TaskState,
)
from headrace_contracts.reply_tokens import ReplyTokens
from headrace_contracts.topics import SESSIONS_SENSITIVE, work_topic
from headrace_runtime.logging import get_logger
from headrace_streams.errors import Overloaded, StreamsError, TransientError
from headrace_streams.journal import EntryTooLarge, Journal
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.topic_limits import TopicLimits

from headrace_router.adapters.routing_view import RoutingView
from headrace_router.adapters.stored_answers import StoredAnswers
from headrace_router.commands import CommandTooLarge, PartitionCommands, Publishers, Waiting
from headrace_router.decide.machine import decide
from headrace_router.decide.model import (
    CAUSES,
    AttemptEnded,
    Cancelled,
    Decision,
    DecisionContext,
    Disbelieved,
    Ignored,
    LeaderFinished,
    Noted,
    RouterEvent,
    StoredAnswer,
    Submitted,
    Undeliverable,
    Unrecordable,
    WakeUp,
)
from headrace_router.decide.publications import all_equal
from headrace_router.decide.retry import running_numbers
from headrace_router.decide.stored_answers import digest_to_look_up
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.decide.terminal import RECORD_TOO_LARGE, must_not_be_lost
from headrace_router.decide.waiting_work import AnswerLengths
from headrace_router.in_flight_limiter import InFlightLimiter
from headrace_router.limits import RouterLimits
from headrace_router.live_bytes import LiveBytes
from headrace_router.metrics import RouterMetrics
from headrace_router.partition_state import PartitionState
from headrace_router.pending_appends import PendingAppends
from headrace_router.reevaluation_queue import LeaderlessFollowers, ReevaluationQueue
from headrace_router.timers import Timers

_SLICE: Final = 50
"""Number of tasks re-evaluated before the event loop gets its turn."""
_RESTATED_AT_ONCE: Final = 200
_PAUSE_SECONDS: Final = 0.05
"""Pause of the re-evaluation while the producer's queue or the in-flight limiter is full, or the registry is away."""
_AFTER_DEFECT_MS: Final = 60_000
_SMALLER_AT_MOST: Final = 10
"""How often something smaller is decided: for each attempt at most once, and for the end."""
_SETTLE_SECONDS: Final = 2.0
"""How long a partition that is released waits for commands that are on their way. The rest is the next owner's."""

_log = get_logger("headrace.router.partition")


class ReportDisbelieved(Exception):
    """Keep the record as a dead letter: its writer was not given the attempt that it reports."""


@dataclass(frozen=True, slots=True)
class RouterContext:
    """What all partitions of a process share.

    Attributes:
        view: What decisions look at besides the task.
        publisher: To the journal, and to tasks.completed.
        others: To the other topics, with a producer of its own.
        topic_limits: How large the records of these topics may be.
        limiter: Counts entries from their append until their terminal states are published.
        publish_within: Seconds after its append within which an entry must be acknowledged for its commands to be
            published. Shorter than the group's session timeout: a process that was suspended meanwhile must not publish
            alongside its successor.
        monotonic: Seconds on a clock that keeps running while the process is suspended.
        settle_seconds: How long after its decision another owner may still be publishing it: `publish_within` plus the
            producer's delivery time. A successor waits that long before it reads which terminal states exist.
        pending_appends: Terminal states that this process is appending.
        live_bytes: Counts the bytes of the tasks in flight.
        reply_tokens: Makes the tokens of replies; None makes none.
        weight_of: The weight of a tenant's attempts.
        answer_lengths: Learns how long the answers of models are.
        stored_answers: Those that serve all partitions; None for none.
    """

    view: RoutingView
    publisher: Publisher
    others: Publisher
    topic_limits: TopicLimits
    metrics: RouterMetrics
    limiter: InFlightLimiter
    publish_within: float
    monotonic: Callable[[], float]
    live_bytes: LiveBytes
    settle_seconds: float = 0.0
    pending_appends: PendingAppends = field(default_factory=PendingAppends)
    reply_tokens: ReplyTokens | None = None
    weight_of: Callable[[str], int] = all_equal
    answer_lengths: AnswerLengths = field(default_factory=AnswerLengths)
    stored_answers: StoredAnswers | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """Where an event came from."""

    topic: str
    offset: int
    event_id: str
    timestamp_ms: int


class PartitionRouter:
    """Decides, records and publishes, in this order, for the tasks of one partition.

    Made by `recovery.recover`. Once `broken` has been called, nothing more is published; the next owner of the
    partition continues from the journal.

    Args:
        positions: Offsets to start at in the input topics, by name without prefix.
        topic_ids: Ids of the input topics that these offsets belong to, as far as known.
        broken: Called once, with the reason, when the partition must be taken over again.
        policy_version: Names the policies that the journal says its next entries are decided by.
    """

    def __init__(
        self,
        *,
        partition: int,
        journal: Journal,
        state: PartitionState,
        positions: Mapping[str, int],
        topic_ids: Mapping[str, str],
        router_context: RouterContext,
        limits: RouterLimits,
        broken: Callable[[BaseException], None],
        policy_version: str,
    ) -> None:
        self.partition = partition
        self._journal = journal
        # One object for all states that refer to it.
        self._read_back = journal.read_back
        self._state = state
        self._router_context = router_context
        self._limits = limits
        self._view = router_context.view
        self._metrics = router_context.metrics
        self._limiter = router_context.limiter.share()
        self._live_bytes = router_context.live_bytes.share()
        self._live_bytes.set(state.tasks.live_bytes)
        self._monotonic = router_context.monotonic
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._timers = Timers(self._view.clock, self._timer_fired)
        # How far inputs are decided, and how far the journal has acknowledged it. Only the latter may be committed.
        self._positions = dict(positions)
        self._acknowledged = dict(positions)
        self.topic_ids = dict(topic_ids)
        # Whether an input has delivered an offset from before its position since this was last reset.
        self.doubtful = False
        self._reevaluations = ReevaluationQueue()
        self._reevaluating = False
        self._scheduled = False
        # Entries begun and not ended; `_idle` is set while there are none.
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        # Closed: takes no input and re-evaluates nothing; acknowledged entries are still published. Stopped: publishes
        # nothing either, because another router may own the partition.
        self._closed = False
        self._stopped = False
        # Sites that were silent at the last tick, and what was true when the attempts there were last looked at.
        self._silent: frozenset[str] = frozenset()
        self._looked: tuple[frozenset[str], int] = (frozenset(), 0)
        self._journaled_policy = policy_version
        self._checkpointed: tuple[int, dict[str, int]] = (-1, {})
        self._last_append = self._monotonic()
        self.commands = PartitionCommands(
            partition=partition,
            journal=journal,
            publishers=Publishers(
                router_context.publisher,
                router_context.others,
                router_context.topic_limits,
                router_context.reply_tokens,
                router_context.weight_of,
            ),
            pending=router_context.pending_appends,
            metrics=self._metrics,
            monotonic=self._monotonic,
            publish_within=router_context.publish_within,
            bytes_limit=limits.unpublished_bytes,
            prove=self._checkpoint,
            due=self._is_running,
            smaller=self._decide_smaller,
            fail=self._fail,
        )

    @property
    def tasks(self) -> PartitionTasks:
        return self._state.tasks

    @property
    def positions(self) -> Mapping[str, int]:
        """Next offset of each input, by topic without prefix."""
        return self._positions

    @property
    def full(self) -> bool:
        """Whether so many entries are in flight, or so much waits to be published, that input should wait for
        `room`."""
        return not self._closed and (self._limiter.full or self.commands.full)

    async def room(self) -> None:
        """Wait until input may go on."""
        while self.full:
            if self.commands.full:
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                await self._limiter.room()

    @property
    def rests(self) -> bool:
        """Whether this router is drained and intact, so that a `successor` may continue from here."""
        return (
            self._closed
            and not self._stopped
            and self._open == 0
            and self.commands.idle
            and self._journal.fenced is None
        )

    @property
    def journal_end(self) -> int:
        """End of the journal if no other owner has written to it."""
        return self._journal.next_offset

    def resume(
        self,
        shadowed: Iterable[str] = (),
        unpublished: Iterable[tuple[int, JournalEntry, tuple[Command, ...]]] = (),
    ) -> None:
        """Start after a recovery: rewrite `shadowed` tasks, publish what may not have been published, set the timers,
        re-evaluate waiting tasks and those whose turn has come, and decide about followers whose leader has ended."""
        self.commands.adopt(unpublished)
        for task_id in sorted(shadowed):
            if not self._restate(task_id):
                self._replace(task_id)
        self._timers.set_all(self.tasks.wake_times())
        for digest in self.tasks.leaderless():
            end = self.tasks.end_for_followers(digest, self._view.clock())
            self._reevaluations.add_leaderless_followers(digest, end)
        self._reevaluations.add(self.tasks.ready(self._view.window))
        self.gained()

    def successor(self, broken: Callable[[BaseException], None]) -> PartitionRouter:
        """A router that continues with the same journal and state, if this one `rests` and no other owner has written.

        An owner that writes from now on is noticed as always: the next entry would not be at its expected offset.
        """
        return PartitionRouter(
            partition=self.partition,
            journal=self._journal,
            state=self._state,
            positions=self._positions,
            topic_ids=self.topic_ids,
            router_context=self._router_context,
            limits=self._limits,
            broken=broken,
            policy_version=self._journaled_policy,
        )

    def look_up(self, event: Submitted) -> asyncio.Future[StoredAnswer | None] | None:
        """Ask for the stored answer to a task before it is handled; None if there is nothing to ask for."""
        stored, task = self._router_context.stored_answers, event.task
        if stored is None or self._closed or event.refused is not None or not stored.available:
            return None
        if task.task_id in self.tasks or self.tasks.has_ended(task.task_id):
            return None
        digest = digest_to_look_up(task, self._context(task.tenant, task.user))
        return stored.find(task.tenant, digest) if digest else None

    def handle(self, event: Submitted | Cancelled | AttemptEnded, origin: Input) -> None:
        """Decide about an input event.

        Raises Overloaded and RegistryUnavailable if the caller must try again later, EntryTooLarge if no decision about
        it fits into an entry, ReportDisbelieved if nothing is to be decided on its word.
        """
        # Inputs restart at the journaled positions, so some are delivered a second time.
        if self._closed:
            return
        if origin.offset < self._positions.get(origin.topic, 0):
            # Or the topic was deleted and created again, and these are other records.
            self.doubtful = True
            return
        match event:
            case Submitted(task=task):
                if self._router_context.live_bytes.closed:
                    raise Overloaded("as many bytes of tasks are in flight as there may be")
                task_id = task.task_id
                # Its cancellation request may have arrived first, on a topic of its own.
                if (cancellation := self._state.cancellations.find(task_id, self._view.clock())) is not None:
                    event = replace(event, cancelled=cancellation)
            case Cancelled(cancellation=cancellation):
                task_id = cancellation.task_id
            case AttemptEnded(attempt=attempt):
                task_id = attempt.task_id
        if not self._decide(task_id, event, origin):
            self.skip(origin)
        self._reevaluate()

    def skip(self, origin: Input) -> None:
        """Move past an input record without a decision. The next entry or checkpoint records it."""
        # This router may have been closed while the record's dead letter was being written, and may have refused
        # earlier records since. All of them are delivered again, so a `successor` must not start after this one.
        if self._closed:
            return
        self._positions = {**self._positions, origin.topic: origin.offset + 1}

    def gained(self) -> None:
        """Re-evaluate the tasks that wait for a candidate."""
        if not self._closed:
            self._reevaluations.add(self.tasks.waiting())
            self._reevaluate()

    def committable(self) -> Mapping[str, int]:
        """Positions, by topic, below which everything is acknowledged by the journal."""
        certain = self._journal.fenced is None and self._journal.in_flight == 0
        return self._positions if certain else self._acknowledged

    def tick(self) -> None:
        """Keep the journal complete within its retention: restate tasks that were written long ago, and write a
        checkpoint when the published offset or the positions have changed, or when nothing has been written for a long
        time."""
        if self._closed:
            return
        self._look_at_silent_sites()
        self._tell_of_sessions()
        try:
            self._journal_policy()
            for task_id in list(islice(self._state.written_before(self._limits.restate_seconds), _RESTATED_AT_ONCE)):
                self._restate(task_id)
            if self._journal.in_flight:
                return
            quiet = self._monotonic() - self._last_append
            if (
                self._journal.published_offset,
                self._positions,
            ) != self._checkpointed or quiet >= self._limits.keep_alive_seconds:
                self._checkpoint()
        except (Overloaded, RegistryUnavailable, TransientError):
            # The next tick is early enough.
            return
        except (StreamsError, UnreadableValue) as error:
            self._fail(error)

    def _look_at_silent_sites(self) -> None:
        """Re-evaluate the tasks whose attempts are at sites that no worker reports from, once that has lasted from one
        tick to the next: reports come late when Kafka was away, those of one site before those of another."""
        before, self._silent = self._silent, self._view.silent_sites()
        lasting = before & self._silent
        looked = lasting, self._view.gains
        if looked == self._looked:
            return
        self._looked = looked
        topics = {work_topic(Place.LOCAL, lane, site).name for site in lasting for lane in Lane}
        if topics:
            self._reevaluations.add(self.tasks.tasks_in(topics))
            self._reevaluate()

    def _tell_of_sessions(self) -> None:
        """Tell the routers of other partitions which sessions are sensitive. Told again until it is seen in the topic:
        who reads it is then told too. Only what the journal has acknowledged counts, and only an owner knows that; a
        router that is none any more tells what is true all the same."""
        now = self._view.clock()
        for mark, at in self._state.sessions.untold(now):
            try:
                sent = self._router_context.others.send(
                    Publication(
                        spec=SESSIONS_SENSITIVE,
                        event=SensitiveSession(mark=mark, marked_at=at),
                        event_id=f"session/{mark.hex()}/{at}",
                        key=mark.hex().encode(),
                        tenant="",
                        time_ms=at,
                    )
                )
            except (Overloaded, RegistryUnavailable, TransientError) as error:
                _log.debug("a sensitive session was not told", reason=str(error))
                return
            sent.add_done_callback(_noted)

    async def drain(self) -> None:
        """Take no more input, publish what is recorded, and write a checkpoint. Returns at once if the partition is
        broken. What cannot be published within moments is left to the next owner."""
        self.close()
        await self._idle.wait()
        await self.commands.settle(_SETTLE_SECONDS)
        if not self._stopped:
            try:
                await self._checkpoint()
            except StreamsError as error:
                _log.warning("the last checkpoint was not written", partition=self.partition, reason=str(error))
        if not self.commands.idle:
            self._stop()

    def close(self) -> None:
        """Take no more input and re-evaluate nothing. What the journal acknowledges is still published."""
        self._closed = True
        self._live_bytes.leave()
        self._timers.close()
        self._reevaluations.clear()

    def abandon(self, reason: str) -> None:
        """Stop at once: another member may own the partition already."""
        # First, so that the failing acknowledgements do not report the partition as broken.
        self._stop()
        self._journal.fence(reason)

    def _decide(self, task_id: str, event: RouterEvent, origin: Input | None) -> bool:
        """Decide and record; returns whether there was anything to record."""
        state = self.tasks.get(task_id)
        if state is None and self.tasks.has_ended(task_id):
            self._metrics.ignored("finished")
            return False
        about = event.task if isinstance(event, Submitted) else None if state is None else state.task
        context = self._context("" if about is None else about.tenant, "" if about is None else about.user)
        result = decide(state, event, context)
        if isinstance(result, Noted) and self._state.cancellations.find(task_id, context.now) is not None:
            result = Ignored("duplicate")
        if isinstance(result, Disbelieved):
            raise ReportDisbelieved(result.reason)
        if isinstance(result, Ignored):
            self._metrics.ignored(result.reason)
            return False
        if isinstance(result, Noted):
            self._append_cancellation(result.cancellation, origin)
            return True
        cause = CAUSES[type(event)]
        for _ in range(_SMALLER_AT_MOST):
            try:
                self._append(task_id, cause, result, origin)
                return True
            except (EntryTooLarge, CommandTooLarge) as error:
                # The task would never end otherwise.
                result, cause = _smaller(result, error, context)
        # Not smaller any more: it is published when the topic takes it.
        self._append(task_id, cause, result, origin, measured=False)
        return True

    def _context(self, tenant: str, user: str) -> DecisionContext:
        return self._view.context(self.tasks, tenant, user, self._state.sessions)

    def _is_running(self, task_id: str, attempt: int) -> bool:
        state = self.tasks.get(task_id)
        return state is not None and attempt in running_numbers(state)

    def _decide_smaller(self, item: Waiting, limit: int) -> bool:
        """Decide something smaller than a record that its topic has refused; whether that was possible.

        Appended before the refused record counts as published, so that a takeover finds one or the other.
        """
        if self._closed:
            return False
        try:
            if item.kind is CommandKind.DISPATCH:
                failure = _no_room(item.topic, item.size, limit)
                self._decide(item.task_id, Undeliverable(item.attempt, failure), None)
                self._reevaluate()
                return True
            state = None if item.journaled is None else item.journaled.state
            if state is None or state.result is None:
                return False
            smaller = decide(state, Unrecordable(item.size, limit), self._context("", ""))
            assert isinstance(smaller, Decision)
            if (smaller.state.result, smaller.state.route_key) == (state.result, state.route_key):
                return False
            self._append(item.task_id, CAUSES[Unrecordable], smaller, None, measured=False)
        except Overloaded:
            raise
        except (StreamsError, UnreadableValue) as error:
            self._fail(error)
        return True

    def _append(
        self, task_id: str, cause: str, decision: Decision, origin: Input | None, *, measured: bool = True
    ) -> None:
        self._journal_policy()
        task = decision.state.task
        entry = self._entry(
            task_id, cause, origin,
            state=decision.state, commands=decision.commands, rejected=decision.rejected,
            policy_version=self._view.policy_of("" if task is None else task.tenant).version,
        )  # fmt: skip
        value = self._record(entry, origin, measured=measured)
        led = self.tasks.may_lead(task_id)
        self._state.apply(task_id, decision.state, value, self._read_back)
        self._state.mark(decision.state, entry.decided_at)
        self._live_bytes.set(self.tasks.live_bytes)
        self._timers.set(task_id, decision.state.wake_at)
        self._reevaluations.add(self.tasks.take_ready(self._view.window))
        self._metrics.decided(cause, decision.state, [rejection.code for rejection in decision.rejected])
        if decision.state.result is not None:
            self._router_context.answer_lengths.observe(decision.state.result)
        if decision.state.phase is TaskPhase.FINISHED and led:
            self._reevaluations.add_leaderless_followers(decision.state.digest, decision.state.result)

    def _append_cancellation(self, cancellation: TaskCancelled, origin: Input | None) -> None:
        entry = self._entry(cancellation.task_id, CAUSES[Cancelled], origin, cancellation=cancellation)
        self._record(entry, origin)
        self._state.keep(cancellation, entry.decided_at)

    def _restate(self, task_id: str) -> bool:
        """Whether anything is known of the task that could be written once more."""
        if (state := self.tasks.get(task_id)) is not None:
            self._append(task_id, "restated", Decision(state), None)
        elif (cancellation := self._state.cancellations.find(task_id, self._view.clock())) is not None:
            self._append_cancellation(cancellation, None)
        else:
            return False
        return True

    def _replace(self, task_id: str) -> None:
        """Replace a record that does not count as the newest of its key, where there is no live state to replace it
        with: the task has ended, or only an owner of the past has decided about it.

        Epoch starts share one key, so compaction removes the one that shows why the record does not count. Were the
        record left as it is, a later owner would find it in its place, in an epoch that nothing seems to have ended.
        Compaction also removes the entry in which the task ended, so this one has to say that it did: otherwise a later
        owner would take a repeated submission for a new task, and end it a second time.
        """
        state = None
        if self.tasks.has_ended(task_id):
            state = TaskState(phase=TaskPhase.FINISHED, route_key=b"", home_partition=self.partition)
        self._record(self._entry(task_id, "replaced", None, state=state), None)

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
            decided_at=self._view.clock(),
            **fields,
        )  # fmt: skip

    def _record(self, entry: JournalEntry, origin: Input | None, *, measured: bool = True) -> bytes:
        """Append an entry, and publish its commands when it is acknowledged; returns it encoded.

        Raises what `Journal.append` raises, and CommandTooLarge if `measured`; then nothing has changed here, so that
        the caller may decide again later.
        Callers apply the new state to memory only after this returns.
        """
        value = b""

        def allow(encoded: bytes) -> None:
            nonlocal value
            if measured and entry.commands:
                self.commands.check(entry, len(encoded))
            value = encoded

        appended = self._journal.append(entry, allow)
        self._positions = {position.topic: position.next_offset for position in entry.positions}
        positions, queued = self._positions, self._monotonic()
        self._begin(queued)
        since = entry.decided_at if origin is None else origin.timestamp_ms
        appended.add_done_callback(lambda done: self._acknowledge(entry, positions, queued, since, done))
        return value

    def _acknowledge(
        self, entry: JournalEntry, positions: dict[str, int], queued: float, since: int, done: asyncio.Future[int]
    ) -> None:
        if (error := _error_of(done)) is not None:
            self._fail(error)
            return
        # Acknowledgements come in the order of the appends (`Journal`), so positions and published commands only
        # advance.
        took = self._monotonic() - queued
        self._metrics.appended(took)
        if self._stopped:
            return
        # The journal has the entry, but this process may have been suspended: by now its successor may have read the
        # entry and published its commands. Publishing them here too could double a terminal state.
        if took > self._router_context.publish_within:
            self._fail(self._journal.fence(f"an entry was acknowledged only after {took:.1f} s"))
            return
        self._acknowledged = positions
        if self._router_context.stored_answers is not None and entry.state is not None:
            self._router_context.stored_answers.recorded(entry.state)
        if entry.state is not None and entry.state.sensitive_session is not None:
            self._tell_of_sessions()
        place = done.result()
        if not entry.commands:
            self._end()
            return
        try:
            self.commands.publish(
                place,
                entry,
                completed=self._end,
                published=lambda: self._metrics.published(entry.cause, (self._view.clock() - since) / 1000),
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the entry is unpublished: a recovery repeats it
            self._fail(self._journal.fence(f"the commands of the entry at {place} could not be queued: {error}"))

    def _reevaluate(self) -> None:
        """Re-evaluate tasks that are due or whose leader has ended: a slice now, the rest in later turns of the
        loop."""
        # Not re-entrant: a decision made here can add to the queue and call this again.
        if self._reevaluating or self._scheduled:
            return
        self._reevaluating = True
        pause = 0.0
        try:
            for _ in range(_SLICE):
                if self._closed or not self._reevaluations:
                    return
                if self.full:
                    pause = _PAUSE_SECONDS
                    break
                self._reevaluate_one(self._reevaluations.take())
        except (Overloaded, RegistryUnavailable, TransientError):
            pause = _PAUSE_SECONDS
        finally:
            self._reevaluating = False
        self._scheduled = True
        self._loop.call_later(pause, self._continue)

    def _continue(self) -> None:
        self._scheduled = False
        self._reevaluate()

    def _reevaluate_one(self, item: str | LeaderlessFollowers) -> None:
        try:
            if isinstance(item, str):
                if not self._decide(item, WakeUp(), None):
                    # The clock may have been set back since the timer fired.
                    state = self.tasks.get(item)
                    self._timers.set(item, None if state is None else state.wake_at)
                return
            digest, result = item
            leaderless_follower = self.tasks.next_leaderless_follower(digest)
            # One at a time: it may become the new leader, which the others then follow.
            if leaderless_follower is not None and self._decide(leaderless_follower, LeaderFinished(result), None):
                self._reevaluations.put_back(item)
        except (Overloaded, RegistryUnavailable, TransientError):
            self._reevaluations.put_back(item)
            raise
        except (StreamsError, UnreadableValue) as error:
            self._fail(error)
        except Exception:  # noqa: BLE001 - a defect in one task's decision must not stop the others; it is logged
            self._metrics.failed("wake_up" if isinstance(item, str) else "leader_finished")
            _log.exception("a decision failed; the task stays as it is", partition=self.partition)
            if isinstance(item, str):
                self._timers.set(item, self._view.clock() + _AFTER_DEFECT_MS)

    def _timer_fired(self, task_id: str) -> None:
        self._reevaluations.add((task_id,))
        self._reevaluate()

    def _journal_policy(self) -> None:
        """Record that the policies are other ones from here on. Before the first decision by them: a reader of the
        journal then knows for each entry which policies there were. Raises what `Journal.append` raises."""
        if self._journaled_policy != self._view.policy_in_use:
            self._checkpoint()
            self.tasks.limit_cache(self._view.policy.cache)

    def _checkpoint(self) -> asyncio.Future[int]:
        positions, policy = self._positions, self._view.policy_in_use
        appended = self._journal.checkpoint(self._as_positions(positions), self._view.clock(), policy)
        self._journaled_policy = policy
        self._begin(self._monotonic())
        self._checkpointed = (self._journal.published_offset, positions)

        def acknowledged(done: asyncio.Future[int]) -> None:
            if (error := _error_of(done)) is not None:
                self._fail(error)
                return
            self._acknowledged = positions
            self._checkpointed = (self._journal.published_offset, positions)
            self._end()

        appended.add_done_callback(acknowledged)
        return appended

    def _as_positions(self, positions: Mapping[str, int]) -> tuple[Position, ...]:
        return tuple(
            [
                Position(topic=topic, partition=self.partition, next_offset=offset, topic_id=self.topic_ids.get(topic))
                for topic, offset in positions.items()
            ]
        )

    def _begin(self, now: float) -> None:
        self._last_append = now
        self._open += 1
        self._limiter.enter()
        self._idle.clear()

    def _end(self) -> None:
        if self._stopped:
            return
        self._open -= 1
        self._limiter.leave()
        if self._open == 0:
            self._idle.set()

    def _stop(self) -> bool:
        """Whether this is the first time."""
        if self._stopped:
            return False
        self._stopped = True
        self.commands.stop()
        self.close()
        self._limiter.leave(self._open)
        self._idle.set()
        return True

    def _fail(self, error: BaseException) -> None:
        # Only the first failure is the cause; those that follow from it say nothing new.
        if self._stop():
            self._metrics.fenced()
            self._broken(error)


def _smaller(
    decision: Decision, error: EntryTooLarge | CommandTooLarge, context: DecisionContext
) -> tuple[Decision, str]:
    """What to decide in place of a decision that is too large to be recorded or carried out, and its cause."""
    owed = tuple(command for command in decision.commands if must_not_be_lost(command))
    if isinstance(error, CommandTooLarge) and error.command.kind is CommandKind.DISPATCH:
        failure = _no_room(error.command.topic, error.size, error.limit)
        smaller = decide(decision.state, Undeliverable(error.command.attempt, failure), context)
        assert isinstance(smaller, Decision), "the newest attempt is running"
        return replace(smaller, commands=(*smaller.commands, *owed)), CAUSES[Undeliverable]
    smaller = decide(decision.state, Unrecordable(error.size, error.limit, owed), context)
    assert isinstance(smaller, Decision)
    return smaller, CAUSES[Unrecordable]


def _no_room(topic: str, size: int, limit: int) -> Failure:
    return Failure(
        code=RECORD_TOO_LARGE,
        message=f"the request takes {size} bytes as a record, {topic} takes {limit}; send a smaller request",
    )


def _noted(sent: asyncio.Future[Any]) -> None:
    # A session of which nobody could be told is told again soon.
    if (error := _error_of(sent)) is not None and not isinstance(error, asyncio.CancelledError):
        _log.debug("a sensitive session was not told", reason=str(error))


def _error_of(done: asyncio.Future[Any]) -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()
