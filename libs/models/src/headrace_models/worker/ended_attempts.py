"""Attempts that have ended, for records that are read again.

A group's offsets may be reset by an operator, expire, or belong to a topic that was restored. The worker then receives
records whose attempts it, or another worker, has run to the end; to run them again would pay for each model call twice.
A partition whose position no worker had stored is therefore doubtful: its attempts that could still run are looked up
among the ids in `usage.recorded`, which has a record for every execution that called a model. Only the records' headers
are read.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final

from headrace_contracts.headers import header
from headrace_contracts.ids import attempt_of_usage
from headrace_contracts.topics import USAGE_RECORDED
from headrace_streams.dead_letters import described
from headrace_streams.errors import OffsetOutOfRange, TransientError
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.reading import up_to
from headrace_streams.records import Record, TopicPartition

_log = logging.getLogger(__name__)

_BATCH: Final = 5_000
_POLL_SECONDS: Final = 1.0
_SKEW_MS: Final = 60_000
"""Most that the clocks of two hosts may differ: the times of work and of usage are compared."""


class EndedAttempts:
    """Recognises attempts that have ended.

    Args:
        clock_ms: Milliseconds since the epoch.
        read_seconds: Longest time that an attempt waits for `usage.recorded`; then it runs, possibly again.
        retry_seconds: After reading failed, attempts do not wait for this long.
    """

    def __init__(
        self,
        log: Log,
        topic_prefix: str,
        clock_ms: Callable[[], int],
        *,
        read_seconds: float = 10.0,
        retry_seconds: float = 30.0,
    ) -> None:
        self._log = log
        self._topic = topic_prefix + USAGE_RECORDED.name
        self._clock_ms = clock_ms
        self._read_seconds = read_seconds
        self._retry_ms = round(retry_seconds * 1000)
        self._doubtful: dict[TopicPartition, int] = {}
        self._ids: set[str] = set()
        self._read_since: float = math.inf
        self._failed_at: float = -math.inf
        self._one_at_a_time = asyncio.Lock()

    def doubt(self, partition: TopicPartition) -> None:
        """Attempts in this partition that are older than now may have ended."""
        self._doubtful[partition] = self._clock_ms() + _SKEW_MS
        # What has ended since the last look is not among the ids.
        self._read_since = math.inf

    async def has(self, record: Record, attempt_id: str) -> bool:
        """Whether the attempt in a work record has called its model to the end before. Does not raise."""
        before = self._doubtful.get(record.topic_partition)
        if before is None:
            return False
        if record.timestamp_ms >= before:
            self._trust(record.topic_partition)
            return False
        since = record.timestamp_ms - _SKEW_MS
        async with self._one_at_a_time:
            if since < self._read_since and self._clock_ms() >= self._failed_at + self._retry_ms:
                await self._read(since)
        return attempt_id in self._ids

    def _trust(self, partition: TopicPartition) -> None:
        # Records come in the order of their offsets, so all that follow are new as well.
        self._doubtful.pop(partition, None)
        if not self._doubtful:
            self._ids.clear()
            self._read_since = math.inf

    async def _read(self, since: int) -> None:
        reader = self._log.reader()
        try:
            async with asyncio.timeout(self._read_seconds):
                await self._read_to_end(reader, since)
        except (TransientError, OffsetOutOfRange, TimeoutError) as error:
            self._failed_at = self._clock_ms()
            _log.warning("attempts that have ended cannot be recognised, and may run again: %s", described(error))
        else:
            self._read_since = since
            _log.info("%d executions since %d are known, their attempts do not run again", len(self._ids), since)
        finally:
            await reader.close()

    async def _read_to_end(self, reader: PartitionReader, since: int) -> None:
        partitions = await reader.partitions_of(self._topic)
        await reader.assign(await reader.offsets_at(partitions, since))
        ends = {name: end for name, (_, end) in (await reader.bounds(partitions)).items()}
        async for records in up_to(reader, ends, most=_BATCH, poll_seconds=_POLL_SECONDS):
            for record in records:
                event_id = header(record.headers, "ce_id")
                if event_id is not None:
                    self._ids.add(attempt_of_usage(event_id))
