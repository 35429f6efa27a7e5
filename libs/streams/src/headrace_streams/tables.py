"""A compacted topic, read entirely into memory and then followed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Generic

from headrace_contracts.codec import Codec, E
from headrace_contracts.topics import TopicSpec

from headrace_streams.dead_letters import described
from headrace_streams.errors import TransientError
from headrace_streams.holding import DecodedInLanes
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.records import Record

_BATCH: Final = 1_000
_POLL_SECONDS: Final = 1.0
_TOPIC_PAUSE_SECONDS: Final = 0.2

_log = logging.getLogger(__name__)

OnChange = Callable[[str, E | None], None]
"""Called with the key and its new value, None if the key was removed."""


class Table(Generic[E]):
    """The newest event of each key of a topic.

    Usage: `await start()`, read with `get` and `items`, `await close()`. A value that cannot be decoded is logged and
    leaves its key unchanged, since the topic's other keys are still good; so is one that `on_change` fails with. While
    the registry does not answer about a value's schema, its key alone waits.

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
        self._decoded: DecodedInLanes[E] = DecodedInLanes(
            f"table {spec.name}", codec, spec.record, lambda record: record.key, self._take
        )
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
                await self._decoded.close()
                _log.warning("table %s is waiting for its topic: %s", self._spec.name, error)
                await asyncio.sleep(_TOPIC_PAUSE_SECONDS)
        self._following = asyncio.create_task(self._follow(reader), name=f"table {self._spec.name}")

    async def _read_all(self, reader: PartitionReader) -> None:
        partitions = await reader.partitions_of(self._codec.topic_prefix + self._spec.name)
        bounds = await reader.bounds(partitions)
        await reader.assign({partition: first for partition, (first, _) in bounds.items()})
        while any(reader.positions()[partition] < end for partition, (_, end) in bounds.items()):
            for record in await reader.poll(_BATCH, _POLL_SECONDS):
                await self._apply(record)
                # Whoever starts next relies on every key.
                await self._decoded.settled()

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
        await self._decoded.close()
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
        await self._decoded.put(record)

    async def _take(self, record: Record, outcome: E | Exception) -> None:
        key = (record.key or b"").decode("utf-8", "replace")
        if record.value is None:
            event: E | None = None
            self._rows.pop(key, None)
        elif isinstance(outcome, Exception):
            _log.warning("kept the former value of %s in table %s: %s", key, self._spec.name, described(outcome))
            return
        else:
            event = self._rows[key] = outcome
        if self._on_change is not None:
            try:
                self._on_change(key, event)
            except Exception as error:  # noqa: BLE001 - one record must not end a table
                _log.error("a change of %s in table %s was not taken: %s", key, self._spec.name, described(error))
