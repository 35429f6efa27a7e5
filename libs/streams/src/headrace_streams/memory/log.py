"""The in-memory twin of `Log`."""

from __future__ import annotations

import time
from collections.abc import Callable

from headrace_streams.memory.cluster import MemoryCluster
from headrace_streams.memory.consumer import MemoryConsumer
from headrace_streams.memory.network import Network, PerfectNetwork
from headrace_streams.memory.producer import MemoryProducer
from headrace_streams.memory.reader import Followed, MemoryAdmin, MemoryReader


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryLog:
    """Creates the clients of one process.

    Args:
        cluster: The cluster they connect to.
        clock: Milliseconds since the epoch, for the timestamps of records.
        client: Name of the process, as a fault-injecting network sees it.
        network: The connection to the cluster.
    """

    def __init__(
        self,
        cluster: MemoryCluster,
        clock: Callable[[], int] = _wall_clock_ms,
        *,
        client: str = "client",
        network: Network | None = None,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._client = client
        self._network: Network = network or PerfectNetwork()
        self._clients: list[MemoryProducer | MemoryConsumer | MemoryReader] = []
        self._followed: Followed = {}

    def producer(self) -> MemoryProducer:
        producer = MemoryProducer(self._cluster, self._network, self._client, self._clock)
        self._clients.append(producer)
        return producer

    def consumer(self, group: str, *, instance_id: str | None = None, from_start: bool = True) -> MemoryConsumer:
        consumer = MemoryConsumer(self._cluster, self._network, self._client, group, instance_id, from_start)
        self._clients.append(consumer)
        return consumer

    def reader(self) -> MemoryReader:
        reader = MemoryReader(self._cluster, self._network, self._client)
        self._clients.append(reader)
        return reader

    def follower(self) -> MemoryReader:
        reader = self.reader()
        reader.share(self._followed)
        return reader

    def admin(self) -> MemoryAdmin:
        return MemoryAdmin(self._cluster, self._network, self._client)

    def kill(self) -> None:
        """End all clients as if the process was killed: nothing is flushed or committed, sessions time out."""
        for client in self._clients:
            client.kill()
