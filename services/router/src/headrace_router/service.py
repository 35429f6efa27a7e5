"""The router: a member of the consumer group of the inputs, with a `PartitionRouter` for each home partition it owns.

The group decides who tries to own a partition; the journal decides who does. A member that still believes in a
partition it has lost finds its entries invalid, so nothing here depends on the group being right, only on it being
right eventually.

When a `PartitionRouter` breaks, the whole membership ends and the member joins again. Leaving is the only way to get a
partition assigned anew, and after a fenced journal all state of the partition is void anyway.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, RegistryUnavailable, SchemaNotCached, UnreadableValue
from headrace_contracts.events import AttemptFinished, CommandKind, TaskCancelled, TaskPhase, TaskSubmitted
from headrace_contracts.headers import header, traceparent
from headrace_contracts.topics import ATTEMPTS_FINISHED, TASKS_CANCELLED, TASKS_JOURNAL, TASKS_SUBMITTED
from headrace_runtime.logging import get_logger
from headrace_streams.dead_letters import DeadLetters, described
from headrace_streams.errors import LeaveGroup, Overloaded, StreamsError
from headrace_streams.journal import EntryTooLarge
from headrace_streams.ports import Consumer, Log
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition

from headrace_router.decide.admission import Inadmissible, admitted_cancellation, admitted_task, event_id_of
from headrace_router.decide.model import CAUSES, AttemptEnded, Cancelled, Submitted
from headrace_router.held_records import LOOK_AGAIN_SECONDS, HeldRecords
from headrace_router.limits import RouterLimits as RouterLimits
from headrace_router.partition import Input, PartitionRouter, RouterContext
from headrace_router.recovery import recover

GROUP: Final = "router"
INPUTS: Final = (TASKS_SUBMITTED, TASKS_CANCELLED, ATTEMPTS_FINISHED)

_POLL_SECONDS: Final = 5.0
_JOIN_SECONDS: Final = 30.0
_TURN_SECONDS: Final = 0.001
_OVERLOAD_SECONDS: Final = 0.05
_RECOVERIES_AT_ONCE: Final = 4
_REST_SECONDS: Final = 60.0
"""How long routers of revoked partitions are kept in case they come back. The group does not tell a member that it will
get none."""

_log = get_logger("headrace.router")

_Event = Submitted | Cancelled | AttemptEnded


class RouterService:
    """Joins the group, and joins again whenever publishing for a partition is no longer safe.

    Args:
        owner: Name of this instance in the journal.
        instance_id: Makes it a static member of the group; None makes it a dynamic one.
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
    ) -> None:
        self._log = log
        self._codec = codec
        self._dead_letters = dead_letters
        self._router_context = router_context
        self._owner = owner
        self._instance_id = instance_id
        self._limits = limits or RouterLimits()
        self._membership: _Membership | None = None
        self._trouble: str | None = None
        self._leaving = asyncio.Event()
        self._left = asyncio.Event()
        router_context.view.on_gain(self._fleet_gained)

    @property
    def partitions(self) -> Collection[int]:
        """Home partitions that this process routes now."""
        return () if self._membership is None else tuple(self._membership.routers)

    def troubles(self) -> Collection[str]:
        """What keeps single partitions from publishing, in words for an operator."""
        routers = () if self._membership is None else self._membership.routers.values()
        return [trouble for router in routers if (trouble := router.commands.trouble()) is not None]

    def health(self) -> str | None:
        """Why no task is routed here now; None if healthy. A member without assigned partitions is healthy."""
        if self._membership is None:
            return "not in the group yet"
        return None if self._membership.routers else self._trouble or self._membership.waiting()

    async def run(self) -> None:
        """Route until `drain` is called. Raises errors that joining again cannot cure."""
        wait = self._limits.rejoin_seconds
        while not self._leaving.is_set():
            membership = _Membership(
                log=self._log,
                codec=self._codec,
                dead_letters=self._dead_letters,
                router_context=self._router_context,
                owner=self._owner,
                instance_id=self._instance_id,
                limits=self._limits,
            )
            self._membership = membership
            try:
                await membership.run()
            except (StreamsError, RegistryUnavailable) as error:
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

    def _fleet_gained(self) -> None:
        if self._membership is not None:
            for router in self._membership.routers.values():
                router.fleet_gained()


class _Membership:
    """One membership in the group, from joining to leaving."""

    def __init__(
        self,
        *,
        log: Log,
        codec: Codec,
        dead_letters: DeadLetters,
        router_context: RouterContext,
        owner: str,
        instance_id: str | None,
        limits: RouterLimits,
    ) -> None:
        self.routers: dict[int, PartitionRouter] = {}
        self.routed = False
        self._log = log
        self._codec = codec
        self._dead_letters = dead_letters
        self._router_context = router_context
        self._owner = owner
        self._limits = limits
        self._prefix = codec.topic_prefix
        self._topics = {codec.topic_prefix + spec.name: spec for spec in INPUTS}
        self._consumer: Consumer = log.consumer(codec.topic_prefix + GROUP, instance_id=instance_id)
        self._held = HeldRecords(self._consumer, self._topics)
        # Routers drained by a revocation. An eager rebalance revokes everything and returns most of it at once; a
        # router continues if no other owner has written to its journal meanwhile, which saves reading it again.
        self._resting: dict[int, PartitionRouter] = {}
        self._resting_since = 0.0
        self._broken: BaseException | None = None
        self._closing: asyncio.Task[None] | None = None
        self._recoveries = asyncio.Semaphore(_RECOVERIES_AT_ONCE)
        self._began = router_context.monotonic()

    async def run(self) -> None:
        """Consume until something breaks or `close` is called; raises the reason."""
        ticking = asyncio.create_task(self._tick())
        try:
            await self._consumer.subscribe(list(self._topics), self)
            while True:
                wait = LOOK_AGAIN_SECONDS if self._held else _POLL_SECONDS
                records = await self._consumer.poll(self._limits.poll_records, wait)
                # A snapshot: while a record waits below, its partition may be revoked and assigned again. The record
                # then belongs to the previous router, which is closed and ignores it, and it is delivered again to the
                # new one. Looking the router up later would give it a record from before its start.
                routers = dict(self.routers)
                turn = self._router_context.monotonic()
                for record, waited_for in self._held.released(self.routers):
                    await self._take(record, waited_for)
                for record in records:
                    if self._router_context.monotonic() - turn > _TURN_SECONDS:
                        # Lets acknowledgements in, so that entries are published in between, not after the whole batch.
                        await asyncio.sleep(0)
                        turn = self._router_context.monotonic()
                    router = routers.get(record.partition)
                    if router is not None and not self._held.keeps(record, router):
                        await self._take(record, router)
        except LeaveGroup as error:
            raise error if self._broken is None else LeaveGroup(str(self._broken)) from self._broken
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
            await self.close()
            for router in self.routers.values():
                router.abandon("this member left the group")
            self.routers.clear()

    def waiting(self) -> str | None:
        """A reason while the group may still be about to assign partitions, None afterwards."""
        waited = self._router_context.monotonic() - self._began
        return "joining the group" if waited < _JOIN_SECONDS else None

    async def close(self) -> None:
        """Leave the group, which calls `revoked` first."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._consumer.close())
        await asyncio.shield(self._closing)

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Take over the home partitions; returns where to start in their inputs."""
        coming = {name.partition for name in partitions} - self.routers.keys()
        self._resting = {number: router for number, router in self._resting.items() if number in coming}
        kept = await self._untouched(self._resting)
        self._resting.clear()
        new = sorted(coming - kept.keys())
        results = await asyncio.gather(*(self._recover(number) for number in new), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        for number, router in kept.items():
            self.routers[number] = router.successor(self._break)
            self.routers[number].resume()
        self._router_context.limiter.shared_by(len(self.routers))
        if kept:
            _log.info("partitions kept", partitions=sorted(kept))
        positions = {number: self.routers[number].positions for number in sorted(coming)}
        return {
            name: positions[name.partition][topic]
            for name in partitions
            if (topic := name.topic.removeprefix(self._prefix)) in positions.get(name.partition, {})
        }

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Publish what is recorded, then release the partitions."""
        going = self._going(partitions)
        await asyncio.gather(*(router.drain() for router in going.values()))
        await self._commit(going)
        self._resting |= {number: router for number, router in going.items() if router.rests}
        self._resting_since = self._router_context.monotonic()

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        """Release at once: other members may route these already."""
        for router in self._going(partitions).values():
            router.abandon("the partition was lost to another member of the group")

    async def _untouched(self, routers: Mapping[int, PartitionRouter]) -> Mapping[int, PartitionRouter]:
        """The routers whose journal ends where they left it. A record that arrives later fences their next entry."""
        if not routers:
            return {}
        reader = self._log.reader()
        try:
            names = {TopicPartition(self._prefix + TASKS_JOURNAL.name, number): number for number in routers}
            bounds = await reader.bounds(list(names))
        finally:
            await reader.close()
        ends = {number: bounds[name][1] for name, number in names.items()}
        return {number: router for number, router in routers.items() if router.journal_end == ends[number]}

    async def _recover(self, partition: int) -> None:
        async with self._recoveries:
            self.routers[partition] = await recover(
                partition=partition,
                owner=self._owner,
                log=self._log,
                codec=self._codec,
                router_context=self._router_context,
                limits=self._limits,
                broken=self._break,
            )

    def _going(self, partitions: Collection[TopicPartition]) -> Mapping[int, PartitionRouter]:
        numbers = {name.partition for name in partitions}
        going = {number: router for number, router in self.routers.items() if number in numbers}
        for number in going:
            del self.routers[number]
        self._router_context.limiter.shared_by(len(self.routers))
        return going

    def _break(self, error: BaseException) -> None:
        _log.warning("a partition must be taken over again", reason=str(error))
        if self._broken is None:
            self._broken = error
            if self._closing is None:
                self._closing = asyncio.create_task(self._consumer.close())

    async def _take(self, record: Record, router: PartitionRouter) -> None:
        origin = Input(
            topic=record.topic.removeprefix(self._prefix),
            offset=record.offset,
            event_id=event_id_of(header(record.headers, "ce_id"), f"{record.topic}/{record.partition}/{record.offset}"),
            timestamp_ms=record.timestamp_ms,
        )
        try:
            event = await self._event(record)
        except (RegistryUnavailable, StreamsError):
            raise
        except Exception as error:  # noqa: BLE001 - one record must not stop the others
            if not isinstance(error, UnreadableValue | Inadmissible):
                _log.error("a record cannot be read", record=str(origin), reason=described(error))
            await self._give_up(router, record, origin, error)
            return
        self.routed = True
        while True:
            try:
                router.handle(event, origin)
                return
            except Overloaded:
                await asyncio.sleep(_OVERLOAD_SECONDS)
            except EntryTooLarge as error:
                await self._give_up(router, record, origin, error)
                return
            except (StreamsError, UnreadableValue) as error:
                # Not the record's fault: the journal is fenced, or a journaled state cannot be decoded.
                self._break(error)
                return
            except Exception as error:  # noqa: BLE001 - a defect shown by one record must not stop the others
                self._router_context.metrics.failed(CAUSES[type(event)])
                _log.exception("a decision failed; the record goes to the dead letters", record=str(origin))
                await self._give_up(router, record, origin, error)
                return

    async def _give_up(self, router: PartitionRouter, record: Record, origin: Input, error: Exception) -> None:
        await self._dead_letters.keep(record, error)
        self._router_context.metrics.dead_letter(origin.topic)
        _log.warning("record sent to the dead letters", topic=record.topic, partition=record.partition,
                     offset=record.offset, reason=str(error))  # fmt: skip
        router.skip(origin)

    async def _event(self, record: Record) -> _Event:
        """The event of a record. Raises UnreadableValue, Inadmissible, RegistryUnavailable."""
        origin = Origin(record.topic, record.partition, record.offset)
        spec = self._topics[record.topic]
        try:
            event = self._codec.decode(spec.record, record.value, origin)
        except SchemaNotCached as missing:
            await self._codec.learn(missing.schema_id)
            event = self._codec.decode(spec.record, record.value, origin)
        match event:
            case TaskSubmitted():
                now = self._router_context.view.clock()
                return admitted_task(event, record.key, record.partition, traceparent(record.headers), now)
            case TaskCancelled():
                return admitted_cancellation(event, self._router_context.view.clock())
            case AttemptFinished():
                return AttemptEnded(event)
        raise TypeError(f"{record.topic} holds {type(event).__name__}, which the router does not know")

    async def _tick(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._limits.tick_seconds)
                phases: Counter[TaskPhase] = Counter()
                unpublished: Counter[CommandKind] = Counter()
                for router in list(self.routers.values()):
                    router.tick()
                    phases.update(router.tasks.phases)
                    unpublished.update(router.commands.waiting)
                self._router_context.metrics.owning(len(self.routers), phases)
                self._router_context.metrics.unpublished(unpublished, self._held.partitions)
                if self._router_context.monotonic() - self._resting_since > _REST_SECONDS:
                    self._resting.clear()
                await self._commit(self.routers)
        except Exception as error:  # noqa: BLE001 - without ticks nothing is restated: leave and join again
            self._break(error)

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
