"""The twin's reader of chosen partitions, and its admin client."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from headrace_streams.errors import LeaveGroup, TopicMissing
from headrace_streams.memory.ailments import Sense
from headrace_streams.memory.cluster import MemoryCluster
from headrace_streams.memory.cursors import Cursors
from headrace_streams.memory.network import Network, NetworkRequest, Operation
from headrace_streams.records import (
    GroupState,
    NewTopic,
    OffsetAndMetadata,
    Record,
    Replication,
    TopicDescription,
    TopicPartition,
)


async def bounds_of(
    cluster: MemoryCluster, network: Network, client: str, partitions: Collection[TopicPartition]
) -> Mapping[TopicPartition, tuple[int, int]]:
    """First offset, and the end of what can be read."""

    def perform() -> Mapping[TopicPartition, tuple[int, int]]:
        found = {name: cluster.partition(name) for name in partitions}
        return {name: (partition.start, partition.stable_end) for name, partition in found.items()}

    await cluster.ailments.endure(Sense.BOUNDS, partitions)
    return await network.call(NetworkRequest(client, Operation.OFFSETS, tuple(partitions)), perform)


Followed = dict[TopicPartition, "MemoryReader"]
"""Which follower reads which partition."""


class MemoryReader:
    """Reads by assign()."""

    def __init__(self, cluster: MemoryCluster, network: Network, client: str) -> None:
        self._cluster = cluster
        self._network = network
        self._client = client
        self._cursors = Cursors(cluster, network, client, reset_to_start=None)
        self._closed = False
        # A reader with a connection of its own knows of no other.
        self._followed: Followed = {}

    def share(self, followed: Followed) -> None:
        """Be one of the followers of a log."""
        self._followed = followed

    async def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        if self._closed:
            raise LeaveGroup("this reader is closed")
        taken = sorted(name for name in positions if self._followed.get(name, self) is not self)
        if taken:
            raise ValueError(f"{', '.join(map(str, taken))}: followed by another reader of this process already")
        self._give_up()
        self._cursors.add(positions)
        self._followed.update(dict.fromkeys(positions, self))

    async def poll(self, max_records: int, timeout: float) -> Sequence[Record]:
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            if self._closed:
                raise LeaveGroup("this reader is closed")
            self._cursors.changed.clear()
            before = self.positions()
            records = await self._cursors.fetch(max_records)
            if records or before != self.positions() or not await self._cursors.wait(deadline):
                return records

    def positions(self) -> Mapping[TopicPartition, int]:
        return self._cursors.positions()

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        return await bounds_of(self._cluster, self._network, self._client, partitions)

    async def offsets_at(
        self, partitions: Collection[TopicPartition], timestamp_ms: int
    ) -> Mapping[TopicPartition, int]:
        def perform() -> Mapping[TopicPartition, int]:
            return {name: self._cluster.partition(name).offset_at(timestamp_ms) for name in partitions}

        await self._cluster.ailments.endure(Sense.BOUNDS, partitions)
        return await self._network.call(NetworkRequest(self._client, Operation.OFFSETS, tuple(partitions)), perform)

    async def partitions_of(self, topic: str) -> Sequence[TopicPartition]:
        counts = await self._network.call(
            NetworkRequest(self._client, Operation.METADATA), lambda: self._cluster.partition_counts([topic])
        )
        if topic not in counts:
            raise TopicMissing(f"{topic} does not exist: provision the topics first")
        return [TopicPartition(topic, number) for number in range(counts[topic])]

    async def close(self) -> None:
        self.kill()

    def kill(self) -> None:
        """End as if the process was killed."""
        self._closed = True
        self._give_up()
        self._cursors.changed.set()

    def _give_up(self) -> None:
        for name in [name for name, reader in self._followed.items() if reader is self]:
            del self._followed[name]
        self._cursors.drop_all()


class MemoryAdmin:
    """Creates and describes topics, and describes groups."""

    def __init__(self, cluster: MemoryCluster, network: Network, client: str) -> None:
        self._cluster = cluster
        self._network = network
        self._client = client

    async def create_topics(self, topics: Collection[NewTopic]) -> Collection[str]:
        return await self._network.call(
            NetworkRequest(self._client, Operation.CREATE_TOPICS), lambda: self._cluster.create_topics(topics)
        )

    async def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        return await self._network.call(
            NetworkRequest(self._client, Operation.METADATA), lambda: self._cluster.partition_counts(topics)
        )

    async def topic_names(self, prefix: str) -> frozenset[str]:
        return await self._network.call(
            NetworkRequest(self._client, Operation.METADATA), lambda: self._cluster.topic_names(prefix)
        )

    async def describe_topics(self, topics: Collection[str]) -> Mapping[str, TopicDescription]:
        return await self._network.call(
            NetworkRequest(self._client, Operation.METADATA), lambda: self._cluster.describe_topics(topics)
        )

    async def readable(self, topics: Collection[str]) -> frozenset[str]:
        return frozenset(await self.describe_topics(topics))

    async def add_partitions(self, counts: Mapping[str, int]) -> None:
        def perform() -> None:
            present = self._cluster.partition_counts(counts)
            for name, count in sorted(counts.items(), key=lambda item: item[1] >= present.get(item[0], 0)):
                # Refused ones first, so that nothing has changed then.
                self._cluster.add_partitions(name, count)

        await self._network.call(NetworkRequest(self._client, Operation.CREATE_PARTITIONS), perform)

    async def topic_limits(self, topics: Collection[str]) -> Mapping[str, int]:
        return await self._network.call(
            NetworkRequest(self._client, Operation.METADATA), lambda: self._cluster.topic_limits(topics)
        )

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        return await bounds_of(self._cluster, self._network, self._client, partitions)

    async def topic_settings(self, topics: Collection[str]) -> Mapping[str, Mapping[str, str]]:
        return await self._network.call(
            NetworkRequest(self._client, Operation.METADATA), lambda: self._cluster.topic_settings(topics)
        )

    async def change_topic_settings(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        def perform() -> None:
            for name, changed in settings.items():
                self._cluster.change_topic_settings(name, changed)

        await self._network.call(NetworkRequest(self._client, Operation.CREATE_TOPICS), perform)

    async def replication(self, topics: Collection[str]) -> Replication:
        return await self._network.call(
            NetworkRequest(self._client, Operation.METADATA), lambda: self._cluster.replication(topics)
        )

    async def newest_timestamps(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        def perform() -> Mapping[TopicPartition, int]:
            logs = [self._cluster.partition(name) for name in partitions]
            return {log.name: max(record.timestamp_ms for record in log.records) for log in logs if log.records}

        await self._cluster.ailments.endure(Sense.BOUNDS, partitions)
        return await self._network.call(NetworkRequest(self._client, Operation.OFFSETS, tuple(partitions)), perform)

    async def group_states(self, groups: Collection[str]) -> Mapping[str, GroupState]:
        return await self._network.call(
            NetworkRequest(self._client, Operation.METADATA),
            lambda: {name: self._cluster.group_state(name) for name in groups},
        )

    async def committed(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        return await self._network.call(
            NetworkRequest(self._client, Operation.COMMITTED), lambda: self._cluster.committed(group)
        )
