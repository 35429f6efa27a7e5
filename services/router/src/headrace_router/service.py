"""The router: a member of the consumer group of the inputs, with a `PartitionSupervisor` for each home partition.

The group decides who tries to own a partition; the journal decides who does. A member that still believes in a
partition it has lost finds its entries invalid, so nothing here depends on the group being right, only on it being
right eventually.

The failure domain is the partition: one that cannot be taken over, or must be taken over again, is its supervisor's
concern, and the others go on. The membership ends, and the member joins again, only when its consumer is unusable.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from headrace_contracts.codec import Codec
from headrace_contracts.events import CommandKind, TaskPhase
from headrace_contracts.groups import ROUTER
from headrace_contracts.topics import TASKS_JOURNAL
from headrace_runtime.logging import get_logger
from headrace_runtime.producers import ProducerVerification
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import StreamsError, TransientError
from headrace_streams.partitioning import static_member_id
from headrace_streams.ports import Consumer, Log
from headrace_streams.records import OffsetAndMetadata, TopicPartition
from headrace_streams.watching import LogWatch, OnDiscontinuity, keep_looking

from headrace_router.input_logs import INPUTS as INPUTS
from headrace_router.input_logs import NOT_IN_01, InputLogs
from headrace_router.inputs import InputTaker
from headrace_router.limits import RouterLimits as RouterLimits
from headrace_router.partition import PartitionRouter, RouterContext
from headrace_router.recovery import recover
from headrace_router.supervisor import PartitionStatus, PartitionSupervisor
from headrace_router.waiting_work import WaitingWork

_POLL_SECONDS: Final = 5.0
_JOIN_SECONDS: Final = 30.0
_TURN_SECONDS: Final = 0.001
_RECOVERIES_AT_ONCE: Final = 4
_ADMITTED_AT_ONCE: Final = 50
"""Number of tasks that were put aside and are taken before the event loop gets its turn."""
_REST_SECONDS: Final = 60.0
"""How long routers of revoked partitions are kept in case they come back. The group does not tell a member that it will
get none."""
_GRACE_SECONDS: Final = 10.0
"""How long a partition may go without being routed before the process says that it is not ready."""

_log = get_logger("headrace.router")


class RouterService:
    """Joins the group, and joins again whenever its consumer has become unusable.

    Args:
        owner: Name of this instance in the journal.
        instance_id: Makes it a static member of the group; None makes it a dynamic one.
        producers: Decides whose tasks and cancellations to take; None takes all.
    """

    def __init__(
        self,
        *,
        log: Log,
        codec: Codec,
        dead_letters: DeadLetters,
        router_context: RouterContext,
        owner: str,
        instance_id: str | None = None,
        limits: RouterLimits | None = None,
        on_discontinuity: OnDiscontinuity = lambda partition, verdict: None,
        producers: ProducerVerification | None = None,
    ) -> None:
        self._log = log
        self._codec = codec
        watch = LogWatch(log.admin(), "router", repeats_are_harmless=False, on_discontinuity=on_discontinuity)
        self._input_logs = InputLogs(watch, codec.topic_prefix)
        self._taker = InputTaker(codec, dead_letters, router_context.metrics, router_context.view.clock, producers)
        self._router_context = router_context
        self.waiting_work = WaitingWork(
            router_context.view, router_context.metrics, router_context.answer_lengths, router_context.monotonic
        )
        self._owner = owner
        self._instance_id = instance_id
        self._limits = limits or RouterLimits()
        self._membership: _Membership | None = None
        self._trouble: str | None = None
        self._leaving = asyncio.Event()
        self._left = asyncio.Event()
        router_context.view.on_gain(self._gained)
        router_context.live_bytes.on_open(self._room_for_tasks)

    @property
    def partitions(self) -> Collection[int]:
        """Home partitions that this process routes now."""
        return () if self._membership is None else tuple(self._membership.routers)

    def statuses(self) -> Collection[PartitionStatus]:
        """The home partitions assigned to this process, in order."""
        return () if self._membership is None else self._membership.statuses()

    def document(self) -> Mapping[str, Any]:
        """The home partitions assigned to this process, as the ops server shows them."""
        return {
            "partitions": [
                {
                    "partition": each.partition,
                    "phase": each.phase.value,
                    "reason": each.reason,
                    "unwell_for_seconds": round(each.unwell_for, 1),
                    "retry_in_seconds": None if each.retry_in is None else round(each.retry_in, 1),
                    "unpublished": each.unpublished,
                    "tasks": each.tasks,
                    "task_bytes": each.task_bytes,
                    "put_aside": each.put_aside,
                    "positions": dict(each.positions),
                }
                for each in self.statuses()
            ],
            "incomplete": {} if self._membership is None else self._membership.incomplete(),
        }

    def health(self) -> str | None:
        """Which partitions are not routed here now, and why; None if healthy. A member without assigned partitions is
        healthy."""
        if self._membership is None:
            return "not in the group yet"
        if not self._membership.routers and not self._membership.statuses():
            return self._trouble or self._membership.waiting()
        return self._membership.sick()

    def degraded(self) -> str | None:
        """Which partitions are routed without one of their inputs, and why; None if there are none."""
        return None if self._membership is None else self._membership.late_outcomes()

    async def run(self) -> None:
        """Route until `drain` is called. Raises errors that joining again cannot cure."""
        wait = self._limits.rejoin_seconds
        while not self._leaving.is_set():
            try:
                instance_id = await self._member_id()
            except TransientError as error:
                self._trouble = f"cannot join the group: {error}"
                _log.warning("cannot join the group, trying again", reason=str(error), in_seconds=wait)
                await asyncio.sleep(wait)
                continue
            membership = _Membership(
                log=self._log,
                codec=self._codec,
                taker=self._taker,
                input_logs=self._input_logs,
                router_context=self._router_context,
                owner=self._owner,
                instance_id=instance_id,
                limits=self._limits,
                waiting_work=self.waiting_work,
            )
            self._membership = membership
            try:
                await membership.run()
            except StreamsError as error:
                if self._leaving.is_set():
                    break
                # It worked for a while, so this is new trouble and not the old one.
                if membership.routed:
                    wait = self._limits.rejoin_seconds
                self._trouble = f"left the group: {error}"
                _log.warning("left the group, joining again", reason=str(error), in_seconds=wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, self._limits.rejoin_seconds * 10)
        await self._left.wait()

    async def drain(self) -> None:
        """Take no more input, publish what is recorded, write checkpoints, and leave the group."""
        self._leaving.set()
        if self._membership is not None:
            await self._membership.close()
        self._left.set()

    async def _member_id(self) -> str | None:
        """As which static member to join, if as one. Raises TransientError."""
        if self._instance_id is None:
            return None
        topics = [self._codec.topic_prefix + spec.name for spec in INPUTS]
        return static_member_id(self._instance_id, await self._log.admin().partition_counts(topics))

    def _gained(self) -> None:
        if self._membership is not None:
            for router in self._membership.routers.values():
                router.gained()

    def _room_for_tasks(self) -> None:
        if self._membership is not None:
            self._membership.admit_soon()


class _Membership:
    """One membership in the group, from joining to leaving."""

    def __init__(
        self,
        *,
        log: Log,
        codec: Codec,
        taker: InputTaker,
        input_logs: InputLogs,
        router_context: RouterContext,
        owner: str,
        instance_id: str | None,
        limits: RouterLimits,
        waiting_work: WaitingWork,
    ) -> None:
        self._log = log
        self._codec = codec
        self._taker = taker
        self._input_logs = input_logs
        self._router_context = router_context
        self._owner = owner
        self._limits = limits
        self._waiting_work = waiting_work
        self._monotonic = router_context.monotonic
        self._prefix = codec.topic_prefix
        self._topics = tuple(codec.topic_prefix + spec.name for spec in INPUTS)
        self._consumer: Consumer = log.consumer(codec.topic_prefix + ROUTER.name, instance_id=instance_id)
        self._assigned: set[TopicPartition] = set()
        self._supervisors: dict[int, PartitionSupervisor] = {}
        # Routers drained by a revocation. An eager rebalance revokes everything and returns most of it at once; a
        # router continues if no other owner has written to its journal meanwhile, which saves reading it again.
        self._resting: dict[int, PartitionRouter] = {}
        self._resting_since = 0.0
        # Whether any record has been routed.
        self.routed = False
        self._doubtful = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        # First take-overs and repeated ones: partitions in trouble must not keep those from starting that are not.
        self._first_recoveries = asyncio.Semaphore(_RECOVERIES_AT_ONCE)
        self._later_recoveries = asyncio.Semaphore(_RECOVERIES_AT_ONCE)
        self._began = self._monotonic()
        self._live_bytes = router_context.live_bytes
        self._admitting = False

    @property
    def routers(self) -> Mapping[int, PartitionRouter]:
        """Those that take records now, by partition."""
        return {number: each.router for number, each in self._supervisors.items() if each.router is not None}

    async def run(self) -> None:
        """Consume until the consumer fails or `close` is called; raises the reason."""
        watching = keep_looking(self._doubtful, self._limits.watch_seconds, self._look)
        works = (self._tick(), self._keep_committing(), self._keep_counting(), watching)
        background = [asyncio.create_task(work) for work in works]
        try:
            await self._consumer.subscribe(self._topics, self)
            while True:
                records = await self._consumer.poll(self._limits.poll_records, _POLL_SECONDS)
                # A snapshot: in between, a partition may be given away and come back, or be taken over again. A record
                # then belongs to the previous router, and is delivered again to the new one. Looking the router up
                # later would give it a record from before its start.
                supervisors, routers = dict(self._supervisors), self.routers
                turn = self._monotonic()
                for record in records:
                    if self._monotonic() - turn > _TURN_SECONDS:
                        # Lets acknowledgements in, so that entries are published in between, not after the whole batch.
                        await asyncio.sleep(0)
                        turn = self._monotonic()
                    if (router := routers.get(record.partition)) is not None:
                        self.routed = True
                        supervisors[record.partition].offer(record, router)
                await self._wait_for_backlogs()
                if any(router.doubtful for router in routers.values()):
                    self._doubtful.set()
        finally:
            for each in background:
                each.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            self._waiting_work.forget()
            try:
                await self.close()
            finally:
                await asyncio.gather(*(each.abandon("this member left the group") for each in self._take_all()))

    def admit_soon(self) -> None:
        """Take tasks that were put aside, in a turn of the loop of its own, as long as there is room."""
        if not self._admitting and not self._live_bytes.closed:
            self._admitting = True
            asyncio.get_running_loop().call_soon(self._admit)

    def _admit(self) -> None:
        self._admitting = False
        left, waiting = _ADMITTED_AT_ONCE, list(self._supervisors.values())
        while waiting:
            more = []
            # In turns, so that no partition takes all the room.
            for supervisor in waiting:
                if self._live_bytes.closed:
                    return
                if supervisor.admit_one():
                    more.append(supervisor)
                left -= 1
            waiting = more
            if left <= 0:
                self.admit_soon()
                return

    def waiting(self) -> str | None:
        """A reason while the group may still be about to assign partitions, None afterwards."""
        waited = self._monotonic() - self._began
        return "joining the group" if waited < _JOIN_SECONDS else None

    def statuses(self) -> Collection[PartitionStatus]:
        return [self._supervisors[number].status() for number in sorted(self._supervisors)]

    def sick(self) -> str | None:
        """What operators should know of partitions that are not routed, or whose input waits."""
        said = [
            f"partition {each.partition} is {each.phase}, unwell for {each.unwell_for:.0f} s: {each.reason}"
            for each in self.statuses()
            if each.reason is not None and (each.unwell_for > _GRACE_SECONDS or not self.routers)
        ]
        troubles = [router.commands.trouble(_GRACE_SECONDS) for router in self.routers.values()]
        said += [trouble for trouble in troubles if trouble is not None]
        said += [
            f"partition {number} waits for {', '.join(missing)} to be assigned here as well"
            for number, missing in sorted(self.incomplete().items())
            if number not in self._supervisors
        ]
        return "; ".join(said) or None

    async def close(self) -> None:
        """Leave the group, which calls `revoked` first."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._consumer.close())
        await asyncio.shield(self._closing)

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Begin to take over the home partitions of which all inputs are assigned now, but for those that older members
        do not read. Waits a little, so that most of them can say where to start in their inputs; the others move them
        later."""
        self._assigned.update(partitions)
        fresh = frozenset(partitions)
        coming = [
            self._supervisor(number, inputs, fresh)
            for number, inputs in sorted(self._inputs_by_number().items())
            if not self._missing(inputs) - NOT_IN_01 and number not in self._supervisors
        ]
        for supervisor in coming:
            self._supervisors[supervisor.partition] = supervisor
            supervisor.start()
        if coming:
            tries = [asyncio.ensure_future(supervisor.tried.wait()) for supervisor in coming]
            await asyncio.wait(tries, timeout=self._limits.assign_seconds)
            for each in tries:
                each.cancel()
        starts: dict[TopicPartition, int] = {}
        for supervisor in coming:
            starts |= supervisor.hand_over()
        return starts

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Publish what is recorded, then release the partitions."""
        going = self._going(partitions)
        drained = await asyncio.gather(*(each.drain() for each in going))
        routers = {router.partition: router for router in drained if router is not None}
        await self._commit(routers)
        self._resting |= {number: router for number, router in routers.items() if router.rests}
        self._resting_since = self._monotonic()

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        """Release at once: other members may route these already."""
        going = self._going(partitions)
        await asyncio.gather(*(each.abandon("the partition was lost to another member") for each in going))

    def _going(self, partitions: Collection[TopicPartition]) -> Collection[PartitionSupervisor]:
        self._assigned.difference_update(partitions)
        numbers = {name.partition for name in partitions} & self._supervisors.keys()
        return [self._supervisors.pop(number) for number in sorted(numbers)]

    def _take_all(self) -> Collection[PartitionSupervisor]:
        supervisors, self._supervisors = self._supervisors, {}
        return supervisors.values()

    def _inputs_by_number(self) -> Mapping[int, Collection[TopicPartition]]:
        inputs: defaultdict[int, list[TopicPartition]] = defaultdict(list)
        for name in self._assigned:
            inputs[name.partition].append(name)
        return inputs

    def incomplete(self) -> Mapping[int, Collection[str]]:
        """Partitions of which only some inputs are assigned, with the others' names. That happens while partitions are
        being added, since the topics then differ in their number, and while the group has members of release 0.1. One
        of which this member has only what those do not read is another member's."""
        missing = {number: self._missing(inputs) for number, inputs in self._inputs_by_number().items()}
        theirs = self._missing(()) - NOT_IN_01
        return {
            number: sorted(self._prefix + name for name in names)
            for number, names in missing.items()
            if names and not theirs <= names
        }

    def _missing(self, inputs: Collection[TopicPartition]) -> frozenset[str]:
        """Which inputs are not among these."""
        present = {name.topic.removeprefix(self._prefix) for name in inputs}
        return frozenset(spec.name for spec in INPUTS if spec.name not in present)

    def late_outcomes(self) -> str | None:
        """Which partitions are routed here without an input that another member has."""
        routed = [number for number in sorted(self.incomplete()) if number in self._supervisors]
        if not routed:
            return None
        names, numbers = ", ".join(sorted(NOT_IN_01)), ", ".join(map(str, routed))
        return f"{names} of partitions {numbers} waits until all routers are of this release"

    def _supervisor(
        self, number: int, inputs: Collection[TopicPartition], fresh: Collection[TopicPartition]
    ) -> PartitionSupervisor:
        turns = itertools.chain((self._first_recoveries,), itertools.repeat(self._later_recoveries))

        async def take_over(broken: Callable[[BaseException], None]) -> PartitionRouter:
            resting = self._resting.pop(number, None)
            if resting is not None and await self._is_untouched(resting):
                router = resting.successor(broken)
                router.resume()
                _log.info("partition kept", partition=number)
                return router
            async with next(turns):
                return await recover(
                    partition=number,
                    owner=self._owner,
                    log=self._log,
                    codec=self._codec,
                    router_context=self._router_context,
                    limits=self._limits,
                    input_logs=self._input_logs,
                    broken=broken,
                )

        return PartitionSupervisor(
            partition=number,
            inputs=inputs,
            fresh=fresh,
            topic_prefix=self._prefix,
            consumer=self._consumer,
            take_over=take_over,
            taker=self._taker,
            limits=self._limits,
            monotonic=self._monotonic,
            live_bytes=self._live_bytes,
            admit_soon=self.admit_soon,
        )

    async def _is_untouched(self, router: PartitionRouter) -> bool:
        """Whether the journal ends where this router left it. A record that arrives later fences its next entry."""
        name = TopicPartition(self._prefix + TASKS_JOURNAL.name, router.partition)
        _, end = (await self._log.admin().bounds([name]))[name]
        return router.journal_end == end

    async def _wait_for_backlogs(self) -> None:
        """Give partitions whose records have to wait a moment, then go on without them."""
        waiting = [each.waiting for each in self._supervisors.values() if each.waiting is not None]
        if not waiting:
            return
        await asyncio.wait(waiting, timeout=self._limits.patience_seconds)
        for supervisor in self._supervisors.values():
            supervisor.hold()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._limits.tick_seconds)
            self._router_context.view.look_at_switches()
            for supervisor in list(self._supervisors.values()):
                supervisor.tick()
            phases: Counter[TaskPhase] = Counter()
            unpublished: Counter[CommandKind] = Counter()
            task_bytes, most, behind = 0, 0, 0
            for router in self.routers.values():
                phases.update(router.tasks.phases)
                task_bytes += router.tasks.live_bytes
                most = max(most, max((load.tasks for load in router.tasks.loads.values()), default=0))
                behind += router.tasks.behind_others
                unpublished.update(router.commands.waiting)
            self._router_context.metrics.unpublished(unpublished, sum(each.held for each in self._supervisors.values()))
            self._router_context.metrics.owning(Counter(each.phase for each in self._supervisors.values()), phases)
            self._router_context.metrics.loaded(task_bytes, self._live_bytes, most, behind)
            if self._monotonic() - self._resting_since > _REST_SECONDS:
                self._resting.clear()

    async def _keep_committing(self) -> None:
        """Apart from the ticks: a commit may hang, and what the ticks look at must not wait for it."""
        while True:
            await asyncio.sleep(self._limits.tick_seconds)
            await self._commit(self.routers)

    async def _keep_counting(self) -> None:
        """Tell autoscalers what waits here."""
        while True:
            await asyncio.sleep(self._limits.tick_seconds)
            try:
                await self._waiting_work.count([router.tasks for router in self.routers.values()])
            except Exception:  # noqa: BLE001 - a defect, which must not end the counting
                _log.exception("counting the waiting work failed")

    async def _look(self) -> None:
        """Compare the positions with the inputs."""
        routers = self.routers
        for router in routers.values():
            router.doubtful = False
        try:
            again = await self._input_logs.look(routers)
        except Exception:  # noqa: BLE001 - a defect, which must not end the comparisons
            _log.exception("comparing positions with the inputs failed")
            return
        for number, reason in again.items():
            if (supervisor := self._supervisors.get(number)) is not None and supervisor.router is routers[number]:
                supervisor.suspend(reason)

    async def _commit(self, routers: Mapping[int, PartitionRouter]) -> None:
        """Commit offsets for lag monitoring, and as a fallback for an expired journal. The journal's positions
        decide."""
        progress = {
            TopicPartition(self._prefix + topic, number): OffsetAndMetadata(offset)
            for number, router in routers.items()
            for topic, offset in router.committable().items()
        }
        if progress:
            try:
                await self._consumer.commit(progress)
            except StreamsError as error:
                _log.debug("offsets were not committed", reason=str(error))
