"""The twin's consumer group member."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from headrace_streams.errors import LeaveGroup, PartitionsLost, TopicMissing, TransientError
from headrace_streams.memory.cluster import MemoryCluster
from headrace_streams.memory.cursors import Cursors
from headrace_streams.memory.groups import GroupCoordinator, MemberFenced, MemberUnknown, Standing
from headrace_streams.memory.network import Network, NetworkRequest, Operation
from headrace_streams.memory.reader import bounds_of
from headrace_streams.ports import RebalanceListener
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition

T = TypeVar("T")

_HEARTBEATS_PER_SESSION = 4


class MemoryConsumer:
    """Like librdkafka's consumer: heartbeats and rebalances happen in the background, whether or not it is polled.

    One task sends heartbeats; another follows the group, calls the listener and rejoins.
    """

    def __init__(
        self,
        cluster: MemoryCluster,
        network: Network,
        client: str,
        group: str,
        instance_id: str | None,
        from_start: bool,
    ) -> None:
        self._cluster = cluster
        self._network = network
        self._client = client
        self._group = group
        self._instance_id = instance_id
        self._from_start = from_start
        self._cursors = Cursors(cluster, network, client, reset_to_start=from_start)
        self._topics: frozenset[str] = frozenset()
        self._member_id: str | None = None
        self._epoch = 0
        self._owned: frozenset[TopicPartition] = frozenset()
        self._stirred = asyncio.Event()
        self._closing = False
        self._failure: Exception | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        if self._tasks:
            raise ValueError(f"this consumer is subscribed to {', '.join(sorted(self._topics))} already")
        known = await self._call(Operation.METADATA, lambda: self._cluster.partition_counts(topics))
        missing = sorted(set(topics) - known.keys())
        if missing:
            raise TopicMissing(f"{', '.join(missing)} missing on this cluster: provision the topics first")
        if self._closing:
            raise LeaveGroup(f"group {self._group}: this consumer is closed")
        self._topics = frozenset(topics)
        self._tasks = [asyncio.create_task(self._follow(listener)), asyncio.create_task(self._prove_life())]

    async def poll(self, max_records: int, timeout: float, *, max_bytes: int | None = None) -> Sequence[Record]:
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise LeaveGroup(f"group {self._group}: this consumer is closed")
            self._cursors.changed.clear()
            records = await self._cursors.fetch(max_records, max_bytes)
            if records or not await self._cursors.wait(deadline):
                return records

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        foreign = offsets.keys() - self._owned
        if foreign or self._member_id is None:
            raise PartitionsLost(f"group {self._group}: not assigned here: {', '.join(map(str, sorted(foreign)))}")
        member_id, epoch = self._member_id, self._epoch
        await self._call(Operation.COMMIT, lambda: self._cluster.group(self._group).commit(member_id, epoch, offsets))

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        def perform() -> Mapping[TopicPartition, OffsetAndMetadata]:
            stored = self._cluster.group(self._group).committed_offsets
            return {name: stored[name] for name in partitions if name in stored}

        return await self._call(Operation.COMMITTED, perform)

    async def log_ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {name: end for name, (_, end) in (await self._bounds(partitions)).items()}

    async def log_starts(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {name: start for name, (start, _) in (await self._bounds(partitions)).items()}

    async def _bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        ours = [name for name in partitions if name in self._cursors]
        if not ours:
            return {}
        return await bounds_of(self._cluster, self._network, self._client, ours)

    async def seek(self, partition: TopicPartition, offset: int, moved: Callable[[], None] = lambda: None) -> None:
        if partition in self._cursors:
            self._cursors.seek(partition, offset)
            moved()

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._cursors.pause(partitions, True)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._cursors.pause(partitions, False)

    async def close(self) -> None:
        if self._closing:
            if self._tasks:
                await asyncio.wait(self._tasks[:1])
            return
        self._closing = True
        self._stirred.set()
        self._cursors.changed.set()
        before = self._failure
        if self._tasks:
            await self._tasks[0]
        self.kill()
        if self._failure is not None and self._failure is not before:
            raise self._failure

    def kill(self) -> None:
        """End as if the process was killed: the session times out, and the listener is not called."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        self._cursors.drop_all()
        self._cursors.changed.set()

    async def _call(self, operation: Operation, perform: Callable[[], T]) -> T:
        return await self._network.call(NetworkRequest(self._client, operation), perform)

    def _then_schedule(self, change: Callable[[GroupCoordinator], T]) -> Callable[[], T]:
        """A change of the group that also reschedules the expiry of its members."""

        def perform() -> T:
            try:
                return change(self._cluster.group(self._group))
            finally:
                self._cluster.schedule(self._group)

        return perform

    async def _call_group(self, operation: Operation, change: Callable[[GroupCoordinator], T]) -> T:
        """Repeated until the network lets it through."""
        while True:
            try:
                return await self._call(operation, self._then_schedule(change))
            except TransientError:
                await asyncio.sleep(self._cluster.session_timeout / _HEARTBEATS_PER_SESSION)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _heartbeat(self, member_id: str) -> Standing:
        return await self._call_group(Operation.HEARTBEAT, lambda group: group.heartbeat(self._now(), member_id))

    async def _prove_life(self) -> None:
        while True:
            await asyncio.sleep(self._cluster.session_timeout / _HEARTBEATS_PER_SESSION)
            if self._member_id is None:
                continue
            try:
                await self._heartbeat(self._member_id)
            except (MemberUnknown, MemberFenced):
                self._stirred.set()

    async def _follow(self, listener: RebalanceListener) -> None:
        try:
            while not self._closing:
                self._stirred.clear()
                if await self._step(listener):
                    await self._stirred.wait()
            await self._revoke(listener)
        except Exception as error:  # noqa: BLE001 - raised to the caller of poll()
            self._failure = error
            self._cursors.drop_all()
            self._cursors.changed.set()
            self._owned = frozenset()
        await self._leave()

    async def _leave(self) -> None:
        member_id, self._member_id = self._member_id, None
        if member_id is None:
            return
        # If the network prevents it, the session times out.
        with contextlib.suppress(TransientError):
            await self._call(Operation.LEAVE, self._then_schedule(lambda group: group.leave(self._now(), member_id)))

    async def _step(self, listener: RebalanceListener) -> bool:
        """Take one step towards what the group asks for; returns whether nothing is left to do until it changes."""
        if self._member_id is None:
            self._member_id = await self._call_group(
                Operation.JOIN,
                lambda group: group.join(self._now(), self._topics, self._instance_id, self._stirred.set),
            )
            return False
        member_id = self._member_id
        try:
            standing = await self._heartbeat(member_id)
            if standing.rejoin:
                await self._revoke(listener)
                await self._call_group(Operation.JOIN, lambda group: group.rejoin(self._now(), member_id))
                return False
        except MemberUnknown:
            self._member_id = None
            await self._lose(listener)
            return False
        except MemberFenced as error:
            self._member_id = None
            await self._lose(listener)
            raise LeaveGroup(str(error)) from error
        if standing.epoch != self._epoch:
            await self._take(standing, listener)
            return False
        return True

    async def _take(self, standing: Standing, listener: RebalanceListener) -> None:
        self._epoch, self._owned = standing.epoch, standing.assignment
        if not standing.assignment:
            return
        starts = dict(await listener.assigned(sorted(standing.assignment)))
        rest = standing.assignment - starts.keys()
        if rest:
            stored = await self.committed(rest)
            for name in sorted(rest):
                partition = self._cluster.partition(name)
                begin = partition.start if self._from_start else partition.end
                starts[name] = stored[name].next_offset if name in stored else begin
        self._cursors.add({name: starts[name] for name in sorted(standing.assignment)})

    async def _revoke(self, listener: RebalanceListener) -> None:
        if self._owned:
            self._cursors.drop(self._owned)
            await listener.revoked(sorted(self._owned))
            self._owned = frozenset()

    async def _lose(self, listener: RebalanceListener) -> None:
        if self._owned:
            self._cursors.drop(self._owned)
            lost, self._owned = self._owned, frozenset()
            await listener.lost(sorted(lost))
