"""The open batches, as the topic `provider.batches` tells: read to its end whenever somebody must be sure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import ProviderBatch
from headrace_contracts.topics import PROVIDER_BATCHES
from headrace_streams.dead_letters import described
from headrace_streams.errors import AppendUncertain, OffsetOutOfRange, Overloaded, TransientError
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.reading import up_to
from headrace_streams.records import Record, TopicPartition

_log = logging.getLogger(__name__)

_MOST: Final = 1_000
_POLL_SECONDS: Final = 1.0
_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 5.0


class BatchLog:
    """What is known of open batches. Only `refresh` reads; between two of them nothing changes but by `write`."""

    def __init__(self, log: Log, codec: Codec, publisher: Publisher) -> None:
        self._log = log
        self._codec = codec
        self._publisher = publisher
        self._topic = codec.topic_prefix + PROVIDER_BATCHES.name
        self._reader: PartitionReader | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._open: dict[str, ProviderBatch] = {}
        self._batch_of: dict[str, str] = {}
        self._one_at_a_time = asyncio.Lock()

    @property
    def batches(self) -> Mapping[str, ProviderBatch]:
        """The open batches by their ids, as of the last `refresh`."""
        return self._open

    def batch_of(self, attempt_id: str) -> str | None:
        """The id of the open batch with an attempt, as of the last `refresh`."""
        return self._batch_of.get(attempt_id)

    async def refresh(self) -> None:
        """Read the topic to the end that it has now. Raises TransientError, RegistryUnavailable."""
        async with self._one_at_a_time:
            try:
                await self._read_on()
            except OffsetOutOfRange:
                # It was created again, or compaction has removed what was read last: from its start, then.
                await self._forget()
                try:
                    await self._read_on()
                except OffsetOutOfRange as error:
                    raise TransientError(str(error)) from error
            except BaseException:
                # What was polled and not taken must be read again.
                await self._close_reader()
                raise

    async def write(self, batch: ProviderBatch) -> None:
        """Record a batch; returns once that is acknowledged. A repeat changes nothing. Raises RecordRefused."""
        publication = Publication(
            spec=PROVIDER_BATCHES,
            event=batch,
            event_id=f"{batch.batch_id}/{batch.phase.value}/{batch.changed_at}",
            key=batch.batch_id.encode(),
            tenant="",
            time_ms=batch.changed_at,
        )
        delay = _FIRST_DELAY_SECONDS
        while True:
            try:
                await self._publisher.send_record(self._publisher.record_of(publication))
            except (TransientError, AppendUncertain, Overloaded) as error:
                delay = await self._after(batch.batch_id, error, delay)
            else:
                self._take(batch.batch_id, batch)
                return

    async def remove(self, batch_id: str) -> None:
        """Record that a batch is closed; returns once that is acknowledged. Raises RecordRefused."""
        delay = _FIRST_DELAY_SECONDS
        while True:
            try:
                await self._publisher.send_tombstone(PROVIDER_BATCHES, batch_id.encode())
            except (TransientError, AppendUncertain, Overloaded) as error:
                delay = await self._after(batch_id, error, delay)
            else:
                self._take(batch_id, None)
                return

    async def close(self) -> None:
        """Close the reader."""
        async with self._one_at_a_time:
            await self._close_reader()

    async def _after(self, batch_id: str, error: Exception, delay: float) -> float:
        _log.warning("batch %s cannot be recorded yet, retrying: %s", batch_id, described(error))
        await asyncio.sleep(delay)
        return min(delay * 2, _LONGEST_DELAY_SECONDS)

    async def _read_on(self) -> None:
        reader = self._reader
        if reader is None:
            reader = self._reader = self._log.reader()
        partitions = await reader.partitions_of(self._topic)
        bounds = await reader.bounds(partitions)
        wanted = {name: max(self._positions.get(name, 0), first) for name, (first, _) in bounds.items()}
        if any(position > bounds[name][1] for name, position in wanted.items()):
            raise OffsetOutOfRange(f"{self._topic} ends before what was read of it")
        await reader.assign(wanted)
        async for records in up_to(
            reader, {name: end for name, (_, end) in bounds.items()}, most=_MOST, poll_seconds=_POLL_SECONDS
        ):
            for record in records:
                await self._apply(record)
                self._positions[record.topic_partition] = record.offset + 1
        self._positions.update(reader.positions())

    async def _apply(self, record: Record) -> None:
        batch_id = (record.key or b"").decode("utf-8", "replace")
        if record.value is None:
            self._take(batch_id, None)
            return
        try:
            batch = await self._codec.read(
                ProviderBatch, record.value, Origin(record.topic, record.partition, record.offset)
            )
        except UnreadableValue as error:
            _log.warning("a record of batch %s is passed over: %s", batch_id, described(error))
            return
        self._take(batch_id, replace(batch, batch_id=batch_id))

    def _take(self, batch_id: str, batch: ProviderBatch | None) -> None:
        before = self._open.pop(batch_id, None)
        for member in before.members if before is not None else ():
            if self._batch_of.get(member.attempt_id) == batch_id:
                del self._batch_of[member.attempt_id]
        if batch is not None:
            self._open[batch_id] = batch
            for member in batch.members:
                # The batch that stands there first has it.
                self._batch_of.setdefault(member.attempt_id, batch_id)

    async def _forget(self) -> None:
        await self._close_reader()
        self._positions.clear()
        self._open.clear()
        self._batch_of.clear()

    async def _close_reader(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await reader.close()
