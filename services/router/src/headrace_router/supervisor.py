"""Keeps one home partition routed while the group assigns it to this member (phases: `decide.partition_life`).

 1. Take the partition over (`recovery`), or go on where this member left it.
 2. Move its inputs to the journaled positions.
 3. Route, until its journal is fenced or too many of its records fail.
 4. Wait, twice as long after each failure in a row, ask the group whether the partition is still this member's, and
    begin again.

Invariants:

- Nothing here raises into the loop that all partitions share, and nothing that this loop calls waits. Whatever a record
  has to wait for, such as the registry or the dead-letter topic, its own partition waits for, with its inputs paused.
- While the process holds as many bytes of tasks as it may, tasks.submitted alone is paused, and what has been read of
  it is put aside. Outcomes and cancellations go on, and end tasks.
- Records reach a router only in the order of their offsets and without gaps. Whenever it may have missed one, the
  inputs are paused, moved back to its positions, and resumed only once it takes records. A gap would be journaled as if
  it had been decided.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from headrace_contracts.errors import RegistryUnavailable, UnreadableValue
from headrace_contracts.topics import TASKS_SUBMITTED
from headrace_runtime.logging import get_logger
from headrace_streams.dead_letters import described
from headrace_streams.errors import Overloaded, PartitionsLost, StreamsError, TransientError
from headrace_streams.ports import Consumer
from headrace_streams.records import Record, TopicPartition
from headrace_streams.retries import RetryPolicy

from headrace_router.decide.partition_life import PartitionEvent, PartitionPhase, after
from headrace_router.inputs import InputTaker, PartitionUnusable, is_foreseen
from headrace_router.limits import RouterLimits
from headrace_router.live_bytes import LiveBytes
from headrace_router.partition import PartitionRouter

TakeOver = Callable[[Callable[[BaseException], None]], Awaitable[PartitionRouter]]
"""Takes the partition over; the argument is called when it breaks."""

_SEEK_SECONDS: Final = 0.05
_LONGEST_SEEK_SECONDS: Final = 30.0
_OVERLOAD_SECONDS: Final = 0.05
_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 5.0
_STEADY_SECONDS: Final = 30.0
"""A partition that has been routed for this long has recovered from its former trouble."""
_BREAKS_WORTH_SAYING: Final = 3
_MINUTE: Final = 60.0

_log = get_logger("headrace.router.supervisor")


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """A home partition as operators see it.

    Attributes:
        unwell_for: Seconds since it was last routed, and took its input, without trouble; 0 if all is well.
        reason: Why it is not routed, or what its input waits for; None if all is well.
        retry_in: Seconds until it is taken over again; None unless that is what it waits for.
        unpublished: Which of its commands cannot be published, and why; None if there are none.
        tasks, task_bytes: Number of its live tasks, and the bytes that they are counted with; None while it is not
            routed.
        put_aside: Records of tasks that were read, and wait until this process has room for them.
        positions: Next offset of each input; empty while it is not routed.
    """

    partition: int
    phase: PartitionPhase
    unwell_for: float
    reason: str | None
    retry_in: float | None
    unpublished: str | None
    tasks: int | None
    task_bytes: int | None
    put_aside: int
    positions: Mapping[str, int]


class PartitionSupervisor:
    """One home partition, from its assignment to its release.

    Args:
        inputs: Its partition in each input topic.
        fresh: Partitions that are being assigned at this moment, and start where `hand_over` says.
        live_bytes: Says whether more tasks may become live.
        admit_soon: Has `admit_one` called soon, if there is room.
    """

    def __init__(
        self,
        *,
        partition: int,
        inputs: Collection[TopicPartition],
        fresh: Collection[TopicPartition],
        topic_prefix: str,
        consumer: Consumer,
        take_over: TakeOver,
        taker: InputTaker,
        limits: RouterLimits,
        monotonic: Callable[[], float],
        live_bytes: LiveBytes,
        admit_soon: Callable[[], None],
    ) -> None:
        self.partition = partition
        self.phase = PartitionPhase.RECOVERING
        self.router: PartitionRouter | None = None
        # Whether the first take-over has succeeded or failed.
        self.tried = asyncio.Event()
        self._inputs = tuple(sorted(inputs))
        self._fresh = frozenset(fresh).intersection(inputs)
        self._topic_prefix = topic_prefix
        self._consumer = consumer
        self._take_over = take_over
        self._taker = taker
        self._limits = limits
        self._retries = RetryPolicy(
            first_delay_seconds=limits.rejoin_seconds, longest_delay_seconds=limits.longest_wait_seconds
        )
        self._monotonic = monotonic
        self._live_bytes = live_bytes
        self._admit_soon = admit_soon
        self._submissions = TopicPartition(topic_prefix + TASKS_SUBMITTED.name, partition)
        self._since = monotonic()
        self._unwell_since: float | None = self._since
        self._reason: str | None = "being taken over"
        # How often it has ceased to be routed without having been routed for long.
        self._breaks = 0
        self._last_break = ""
        self._retry_at: float | None = None
        self._failures = 0
        self._down = asyncio.Event()
        # Records that wait, and the task that works them off while there are any.
        self._backlog: deque[Record] = deque()
        self._working: asyncio.Task[None] | None = None
        self._held = False
        # Tasks that wait for room, a heap by offset; while there are any, their input is paused.
        self._aside: list[tuple[int, Record]] = []
        self._unforeseen: deque[float] = deque()
        self._life: asyncio.Task[None] | None = None

    # Called by the membership.

    def start(self) -> None:
        self._life = asyncio.create_task(self._live(), name=f"partition {self.partition}")

    def hand_over(self) -> Mapping[TopicPartition, int]:
        """Where the group should start to read the fresh inputs, as far as that is known. Called once: from now on the
        inputs are being read from somewhere, and a take-over that succeeds later moves them itself."""
        fresh, self._fresh = self._fresh, frozenset()
        return {} if self.router is None else self._journaled(self.router, fresh)

    def offer(self, record: Record, router: PartitionRouter) -> None:
        """Take a record that was read for this router; never waits."""
        if router is not self.router:
            return
        if self._must_wait(record):
            self._put_aside(record)
        else:
            self._give(record, router)

    def admit_one(self) -> bool:
        """Take one of the tasks that were put aside, if nothing else waits; returns whether there are more."""
        router = self.router
        if not self._aside or self._backlog or router is None:
            return False
        self._give(heapq.heappop(self._aside)[1], router)
        if not self._aside and not self._held:
            self._consumer.resume((self._submissions,))
        return bool(self._aside)

    @property
    def waiting(self) -> asyncio.Task[None] | None:
        """The task that works off the backlog, while the partition is not held."""
        return None if self._held else self._working

    @property
    def held(self) -> bool:
        """Whether its inputs are paused because its records have to wait."""
        return self._held

    def hold(self) -> None:
        """Let the others go on without this one until its backlog is worked off."""
        if self.waiting is not None:
            self._held = True
            self._consumer.pause(self._inputs)

    def tick(self) -> None:
        if self.router is None:
            return
        try:
            self.router.tick()
        except Exception as error:  # noqa: BLE001 - it is logged, and only this partition has it
            _log.exception("keeping a journal complete failed", partition=self.partition)
            self.suspend(described(error))

    def suspend(self, reason: str) -> None:
        """Stop routing and begin anew after a wait."""
        if self.router is not None and self.phase is PartitionPhase.ROUTING:
            self.router.abandon(reason)
            self._stop_routing(PartitionEvent.FAILED, reason)

    async def drain(self) -> PartitionRouter | None:
        """Publish what is recorded, and end. Returns the router if there was one."""
        router = self.router
        self._to(PartitionEvent.REVOKED, "being given back to the group")
        await self._end()
        if router is not None:
            await router.drain()
            # It may have been lost meanwhile.
            if self.phase is PartitionPhase.DRAINING:
                self._to(PartitionEvent.DRAINED, None)
        return router

    async def abandon(self, reason: str) -> None:
        """End at once: another member may own the partition already."""
        router = self.router
        if self.phase is not PartitionPhase.RELEASED:
            self._to(PartitionEvent.LOST, reason)
        if router is not None:
            router.abandon(reason)
        await self._end()

    def status(self) -> PartitionStatus:
        now = self._monotonic()
        unwell_since, reason = self._unwell_since, self._reason
        if reason is None and self._breaks >= _BREAKS_WORTH_SAYING and now - self._since < _STEADY_SECONDS:
            unwell_since = self._since - _STEADY_SECONDS
            reason = (
                f"had to be taken over again {self._breaks} times in a row, the last time because: {self._last_break}"
            )
        return PartitionStatus(
            partition=self.partition,
            phase=self.phase,
            unwell_for=0.0 if unwell_since is None else max(0.0, now - unwell_since),
            reason=reason,
            retry_in=None if self._retry_at is None else max(0.0, self._retry_at - now),
            unpublished=None if self.router is None else self.router.commands.trouble(),
            tasks=None if self.router is None else len(self.router.tasks),
            task_bytes=None if self.router is None else self.router.tasks.live_bytes,
            put_aside=len(self._aside),
            positions={} if self.router is None else dict(self.router.positions),
        )

    def _must_wait(self, record: Record) -> bool:
        """Whether it is a task for which there is no room, or an earlier one has been put aside."""
        if record.topic != self._submissions.topic:
            return False
        return self._live_bytes.closed or (bool(self._aside) and record.offset > self._aside[0][0])

    def _put_aside(self, record: Record) -> None:
        heapq.heappush(self._aside, (record.offset, record))
        if not self._held:
            self._consumer.pause((self._submissions,))

    def _give(self, record: Record, router: PartitionRouter) -> None:
        if self._backlog:
            self._taker.foresee(record, router)
        if self._backlog or not self._taker.take_now(record, router):
            self._backlog.append(record)
            if self._working is None:
                self._working = asyncio.create_task(self._work_off(router), name=f"backlog {self.partition}")

    def _resume_inputs(self) -> None:
        self._consumer.resume([name for name in self._inputs if not self._aside or name != self._submissions])

    # Its own life.

    async def _live(self) -> None:
        while True:
            await self._attempt()
            self.tried.set()
            await self._down.wait()
            wait = self._retries.delay(self._failures)
            self._retry_at = self._monotonic() + wait
            _log.warning("partition is not routed", partition=self.partition, phase=str(self.phase),
                         reason=self._reason, retry_in_seconds=round(wait, 3))  # fmt: skip
            await asyncio.sleep(wait)
            await self._until_confirmed()
            self._to(PartitionEvent.RETRIED, self._reason)

    async def _attempt(self) -> None:
        """Take the partition over, and route it or say why not."""
        self._down.clear()
        router: PartitionRouter | None = None
        try:
            router = await self._take_over(self._on_broken)
            await self._move_inputs(router)
        except BaseException as error:
            if router is not None:
                # Its timers run already.
                router.abandon("its inputs could not be moved")
            if not isinstance(error, Exception):
                raise
            # Whatever it is, only this partition has it, and it is said.
            foreseen = isinstance(error, (StreamsError, RegistryUnavailable, UnreadableValue))
            if not foreseen:
                _log.exception("taking over a partition failed", partition=self.partition)
            if self.phase is PartitionPhase.RECOVERING:
                self._stop_routing(PartitionEvent.FAILED, str(error) if foreseen else described(error))
            return
        if self.phase is not PartitionPhase.RECOVERING:
            return
        self.router = router
        self._to(PartitionEvent.RECOVERED, None)
        if not self._fresh:
            self._resume_inputs()

    async def _move_inputs(self, router: PartitionRouter) -> None:
        """Move the inputs that the group did not start at the journaled positions, and leave them paused."""
        if len(self._fresh) == len(self._inputs):
            return
        # The fresh ones among them are not read before the assignment has ended, and it need not wait for this.
        self._fresh = frozenset()
        self.tried.set()
        self._consumer.pause(self._inputs)
        until = self._monotonic() + _LONGEST_SEEK_SECONDS
        for name, start in (await self._positions(router)).items():
            while not await self._move_input(name, start):
                if self._monotonic() > until:
                    raise TransientError(f"{name} could not be read from {start}")
                # The group has not begun to read it yet.
                await asyncio.sleep(_SEEK_SECONDS)

    async def _move_input(self, name: TopicPartition, start: int) -> bool:
        moved = False

        def at_the_start() -> None:
            nonlocal moved
            moved = True
            # It may have been too early to pause it before.
            self._consumer.pause((name,))

        try:
            await self._consumer.seek(name, start, at_the_start)
        except TransientError as error:
            _log.debug("an input was not moved", input=str(name), reason=str(error))
        return moved

    async def _positions(self, router: PartitionRouter) -> dict[TopicPartition, int]:
        """Where to read each input from: the journaled position, else the committed one, else the start."""
        found = self._journaled(router, self._inputs)
        if rest := [name for name in self._inputs if name not in found]:
            found |= {name: stored.next_offset for name, stored in (await self._consumer.committed(rest)).items()}
        if rest := [name for name in self._inputs if name not in found]:
            found |= await self._consumer.log_starts(rest)
        if rest := [name for name in self._inputs if name not in found]:
            raise TransientError(f"not being read yet: {', '.join(map(str, rest))}")
        return found

    async def _until_confirmed(self) -> None:
        """Wait while the group denies that the partition is this member's.

        The group gives up a member before the member learns of it. Taking over meanwhile would cost nobody a task, but
        would fence the rightful owner.
        """
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                await self._consumer.commit(await self._consumer.committed(self._inputs))
                return
            except PartitionsLost:
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            except StreamsError:
                # Without an answer, the journal decides.
                return

    async def _work_off(self, router: PartitionRouter) -> None:
        wait = _FIRST_WAIT_SECONDS
        try:
            while self._backlog and router is self.router:
                if self._must_wait(self._backlog[0]):
                    self._put_aside(self._backlog.popleft())
                    continue
                try:
                    error = await self._taker.take(self._backlog[0], router)
                except Overloaded:
                    await asyncio.sleep(_OVERLOAD_SECONDS)
                except (RegistryUnavailable, StreamsError) as trouble:
                    self._say(router, f"its input waits: {trouble}")
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
                else:
                    self._say(router, None)
                    wait = _FIRST_WAIT_SECONDS
                    if router is self.router and self._backlog:
                        self._backlog.popleft()
                    if error is not None:
                        self._count(error)
        except PartitionUnusable as error:
            if router is self.router:
                self.suspend(str(error))
        finally:
            if self._working is asyncio.current_task():
                self._working = None
                if self._held:
                    self._held = False
                    self._resume_inputs()
                if self._aside:
                    self._admit_soon()

    def _count(self, error: Exception) -> None:
        """Suspend the partition if too many records fail with errors that nobody foresaw."""
        if is_foreseen(error):
            return
        now = self._monotonic()
        self._unforeseen.append(now)
        while self._unforeseen[0] < now - _MINUTE:
            self._unforeseen.popleft()
        if (number := len(self._unforeseen)) > self._limits.failures_per_minute:
            self._unforeseen.clear()
            self.suspend(f"{number} records failed within a minute, the last one with {described(error)}")

    def _say(self, router: PartitionRouter, reason: str | None) -> None:
        if router is not self.router or self._reason == reason:
            return
        self._reason = reason
        self._unwell_since = None if reason is None else self._unwell_since or self._monotonic()
        if reason is not None:
            _log.warning("the input of a partition waits", partition=self.partition, reason=reason)

    def _on_broken(self, error: BaseException) -> None:
        # While it drains, or is taken over, its router is gone already or not here yet.
        self._stop_routing(PartitionEvent.BROKEN, str(error))

    def _stop_routing(self, event: PartitionEvent, reason: str) -> None:
        if self.router is not None:
            self._consumer.pause(self._inputs)
            if self._monotonic() - self._since > _STEADY_SECONDS:
                self._failures = self._breaks = 0
            self._breaks += 1
            self._last_break = reason
        self._failures += 1
        self._fresh = frozenset()
        self._detach()
        self._to(event, reason)
        self._down.set()

    def _detach(self) -> asyncio.Task[None] | None:
        """Give no more records to the router. Returns the task that still works off its backlog; it is ending."""
        self.router = None
        self._backlog.clear()
        self._aside.clear()
        self._held = False
        working, self._working = self._working, None
        # The task itself may have found out that the partition is broken.
        if working is None or working is asyncio.current_task():
            return None
        working.cancel()
        return working

    async def _end(self) -> None:
        ending = [task for task in (self._life, self._detach()) if task is not None]
        self.tried.set()
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _to(self, event: PartitionEvent, reason: str | None) -> None:
        following = after(self.phase, event)
        now = self._monotonic()
        if following is not self.phase:
            self._since = now
        if following is PartitionPhase.ROUTING:
            self._unwell_since = None
        elif self._unwell_since is None:
            self._unwell_since = now
        self.phase, self._reason, self._retry_at = following, reason, None

    def _journaled(self, router: PartitionRouter, names: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The positions that the router has of these inputs."""
        positions = router.positions
        return {
            name: positions[topic]
            for name in names
            if (topic := name.topic.removeprefix(self._topic_prefix)) in positions
        }
