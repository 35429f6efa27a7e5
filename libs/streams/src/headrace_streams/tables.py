"""A compacted topic, read entirely into memory and then followed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Generic

from headrace_contracts.codec import Codec, E
from headrace_contracts.errors import Origin, RegistryUnavailable
from headrace_contracts.topics import TopicSpec

from headrace_streams.dead_letters import described
from headrace_streams.errors import TransientError
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.records import Record

_BATCH: Final = 1_000
_POLL_SECONDS: Final = 1.0
_REGISTRY_PAUSE_SECONDS: Final = 1.0
_TOPIC_PAUSE_SECONDS: Final = 0.2

_log = logging.getLogger(__name__)

OnChange = Callable[[str, E | None], None]
"""Called with the key and its new value, None if the key was removed."""


class Table(Generic[E]):
    """The newest event of each key of a topic.

    Usage: `await start()`, read with `get` and `items`, `await close()`. A value that cannot be decoded is logged and
    leaves its key unchanged, since the topic's other keys are still good; so is one that `on_change` fails with.

    Attributes:
        failure: Done when following the topic has failed, with the error; the table then no longer changes.

    Args:
        on_change: Called for every change, including the initial read, after it is visible in the table.
    """

    def __init__(self, log: Log, codec: Codec, spec: TopicSpec, on_change: OnChange[E] | None = None) -> None:
        self._log = log
        self._codec = codec
        self._spec = spec
        self._on_change = on_change
        self._rows: dict[str, E] = {}
        self._reader: PartitionReader | None = None
        self._following: asyncio.Task[None] | None = None
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Read the topic up to its end, then follow it in the background; waits while the cluster is unavailable.

        Raises TopicMissing.
        """
        reader = self._reader = self._log.reader()
        while True:
            try:
                await self._read_all(reader)
                break
            except TransientError as error:
                _log.warning("table %s is waiting for its topic: %s", self._spec.name, error)
                await asyncio.sleep(_TOPIC_PAUSE_SECONDS)
        self._following = asyncio.create_task(self._follow(reader), name=f"table {self._spec.name}")

    async def _read_all(self, reader: PartitionReader) -> None:
        partitions = await reader.partitions_of(self._codec.topic_prefix + self._spec.name)
        bounds = await reader.bounds(partitions)
        await reader.assign({partition: first for partition, (first, _) in bounds.items()})
        while any(reader.positions()[partition] < end for partition, (_, end) in bounds.items()):
            await self._read(reader)

    def get(self, key: str) -> E | None:
        """The newest event of a key."""
        return self._rows.get(key)

    def items(self) -> Mapping[str, E]:
        """All keys and their newest events; a view that changes with the table."""
        return MappingProxyType(self._rows)

    async def close(self) -> None:
        """Stop following."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None
        if self._reader is not None:
            await self._reader.close()
            self._reader = None

    async def _follow(self, reader: PartitionReader) -> None:
        try:
            while True:
                await self._read(reader)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - passed on through `failure`
            _log.error("table %s stopped following its topic: %s", self._spec.name, error)
            if not self.failure.done():
                self.failure.set_exception(error)
                # If nothing awaits `failure`, the log line above is enough; asyncio need not warn again.
                self.failure.exception()

    async def _read(self, reader: PartitionReader) -> None:
        for record in await reader.poll(_BATCH, _POLL_SECONDS):
            await self._apply(record)

    async def _apply(self, record: Record) -> None:
        if record.key is None:
            _log.warning("%s@%d has no key, so no table can hold it", record.topic_partition, record.offset)
            return
        key = record.key.decode("utf-8", "replace")
        event: E | None = None
        if record.value is not None:
            try:
                event = await self._decode(record)
            except Exception as error:  # noqa: BLE001 - one record must not end a table; outages are waited out below
                _log.warning("kept the former value of %s in table %s: %s", key, self._spec.name, described(error))
                return
        if event is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = event
        if self._on_change is not None:
            try:
                self._on_change(key, event)
            except Exception as error:  # noqa: BLE001 - as above
                _log.error("a change of %s in table %s was not taken: %s", key, self._spec.name, described(error))

    async def _decode(self, record: Record) -> E:
        origin = Origin(record.topic, record.partition, record.offset)
        while True:
            try:
                event: E = await self._codec.read(self._spec.record, record.value, origin)
            except RegistryUnavailable as error:
                _log.warning("table %s is waiting for the schema registry: %s", self._spec.name, error)
                await asyncio.sleep(_REGISTRY_PAUSE_SECONDS)
            else:
                return event
