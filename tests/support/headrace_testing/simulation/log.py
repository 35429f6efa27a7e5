"""The twin's clients for simulated processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import Event
from headrace_streams.errors import TransientError
from headrace_streams.memory import MemoryCluster, MemoryLog, Network
from headrace_streams.memory.consumer import MemoryConsumer
from headrace_streams.memory.producer import MemoryProducer
from headrace_streams.memory.reader import MemoryReader
from headrace_streams.records import ProducerRecord, Record, RecordMetadata, TopicPartition

from headrace_testing.simulation.loop import VirtualLoop

E = TypeVar("E", bound=Event)

_IDLE_SECONDS = 1.0
_PATIENCE = 30.0
_REMEMBERED = 20_000


class SimulatedLog(MemoryLog):
    """Its clients wait longer when there is nothing to read: an empty poll is not worth simulating.

    Args:
        delivery_seconds: A record that could not be sent within this time expires, as by delivery.timeout.ms.
    """

    def __init__(
        self,
        cluster: MemoryCluster,
        clock: Callable[[], int],
        *,
        client: str,
        network: Network,
        delivery_seconds: float = 120.0,
    ) -> None:
        super().__init__(cluster, clock, client=client, network=network)
        self._delivery_seconds = delivery_seconds

    def producer(self) -> MemoryProducer:
        producer = _Producer(self._cluster, self._network, self._client, self._clock)
        producer.delivery_seconds = self._delivery_seconds
        self._clients.append(producer)
        return producer

    def consumer(self, group: str, *, instance_id: str | None = None, from_start: bool = True) -> MemoryConsumer:
        consumer = _Consumer(self._cluster, self._network, self._client, group, instance_id, from_start)
        self._clients.append(consumer)
        return consumer

    def reader(self) -> MemoryReader:
        reader = _Reader(self._cluster, self._network, self._client)
        self._clients.append(reader)
        return reader


class _Producer(MemoryProducer):
    delivery_seconds: float

    def __init__(self, cluster: MemoryCluster, network: Network, client: str, clock: Callable[[], int]) -> None:
        super().__init__(cluster, network, client, clock)
        self._queued_at: dict[asyncio.Future[RecordMetadata], float] = {}

    def send(self, record: ProducerRecord) -> asyncio.Future[RecordMetadata]:
        future = super().send(record)
        self._queued_at[future] = asyncio.get_running_loop().time()
        return future

    async def _append(
        self, place: TopicPartition, batch: Sequence[tuple[ProducerRecord, asyncio.Future[RecordMetadata]]]
    ) -> None:
        oldest = asyncio.get_running_loop().time() - self.delivery_seconds
        fresh = []
        for entry in batch:
            if self._queued_at.pop(entry[1]) >= oldest:
                fresh.append(entry)
            else:
                self._queued -= 1
                # Whoever waited for it may have been cancelled.
                if not entry[1].done():
                    entry[1].set_exception(TransientError(f"{place}: not sent in time (simulated)"))
        if fresh:
            await super()._append(place, fresh)


class _Consumer(MemoryConsumer):
    async def poll(self, max_records: int, timeout: float, *, max_bytes: int | None = None) -> Sequence[Record]:
        patience = timeout * _PATIENCE if timeout >= _IDLE_SECONDS else timeout
        return await super().poll(max_records, patience, max_bytes=max_bytes)


class _Reader(MemoryReader):
    async def poll(self, max_records: int, timeout: float) -> Sequence[Record]:
        return await super().poll(max_records, timeout * _PATIENCE if timeout >= _IDLE_SECONDS else timeout)


class SharedCodec(Codec):
    """The codec of all simulated processes, each of which has one of its own in reality."""

    def fetch(self, schema_id: int, origin: Origin | None = None) -> asyncio.Future[None]:
        """On behalf of no process: a lookup of a killed one would never end, and the others would wait for it."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop.as_process(None, lambda: super(SharedCodec, self).fetch(schema_id, origin))


class SimulatedCodec(SharedCodec):
    """Decodes each value once for all readers: events are immutable."""

    def __init__(self, topic_prefix: str) -> None:
        # Its registry never forgets: real time must not decide whether it is asked again.
        super().__init__(MemoryRegistry(), topic_prefix, clock=lambda: 0.0)
        self._read: dict[tuple[type, bytes], Event] = {}

    def decode(self, record: type[E], value: bytes | None, origin: Origin) -> E:
        key = (record, value or b"")
        found = self._read.get(key)
        if found is None:
            found = super().decode(record, value, origin)
            if len(self._read) > _REMEMBERED:
                self._read.clear()
            self._read[key] = found
        return found  # type: ignore[return-value]
