"""The twin's producer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from headrace_streams.errors import Overloaded, RecordRefused, StreamsError
from headrace_streams.memory.ailments import Sense
from headrace_streams.memory.cluster import MemoryCluster
from headrace_streams.memory.network import Network, NetworkRequest, Operation
from headrace_streams.records import ProducerRecord, RecordMetadata, TopicPartition

_QUEUE_LIMIT = 100_000

_Entry = tuple[ProducerRecord, "asyncio.Future[RecordMetadata]"]


class MemoryProducer:
    """Appends in batches: in order within a partition, independently across partitions."""

    def __init__(self, cluster: MemoryCluster, network: Network, client: str, clock: Callable[[], int]) -> None:
        self._cluster = cluster
        self._network = network
        self._client = client
        self._clock = clock
        self._queues: dict[TopicPartition, deque[_Entry]] = {}
        self._tasks: dict[TopicPartition, asyncio.Task[None]] = {}
        self._queued = 0
        self._closed = False

    def send(self, record: ProducerRecord) -> asyncio.Future[RecordMetadata]:
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(RecordRefused(f"{record.topic}: this producer is closed"))
            return future
        if self._queued >= _QUEUE_LIMIT:
            raise Overloaded(f"{self._queued} records are waiting to be appended: wait for some of them")
        try:
            place = self._cluster.place(record)
        except RecordRefused as error:
            future.set_exception(error)
            return future
        self._queued += 1
        self._queues.setdefault(place, deque()).append((record, future))
        if place not in self._tasks:
            self._tasks[place] = asyncio.create_task(self._drain(place))
        return future

    async def flush(self) -> None:
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def close(self) -> None:
        self._closed = True
        await self.flush()

    def kill(self) -> None:
        """End as if the process was killed: queued records are gone, and their futures never complete."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()

    async def _drain(self, place: TopicPartition) -> None:
        queue = self._queues[place]
        try:
            while queue:
                batch = list(queue)
                queue.clear()
                await self._append(place, batch)
        finally:
            del self._tasks[place]

    async def _append(self, place: TopicPartition, batch: Sequence[_Entry]) -> None:
        partition = self._cluster.partition(place)

        def perform() -> Sequence[RecordMetadata]:
            now = self._clock()
            return [partition.append(record, now) for record, _ in batch]

        try:
            ailment = await self._cluster.ailments.endure(Sense.APPENDS, (place,))
            appended = await self._network.call(NetworkRequest(self._client, Operation.APPEND, (place,)), perform)
            if ailment is not None and ailment.error is not None:
                raise ailment.error
        except StreamsError as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), where in zip(batch, appended, strict=True):
                if not future.done():
                    future.set_result(where)
        finally:
            self._queued -= len(batch)
