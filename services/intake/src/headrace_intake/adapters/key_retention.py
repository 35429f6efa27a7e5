"""Removes keys from access.keys that were revoked long ago: every service with an API holds all of them in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from headrace_contracts.events import AccessKey
from headrace_contracts.topics import ACCESS_KEYS
from headrace_runtime.logging import get_logger

from headrace_intake.adapters.confirmations import TableView
from headrace_intake.adapters.writing import NeverWritable, NotWritten, Writer, WriteUncertain
from headrace_intake.decide.keys import past_retention

_log = get_logger("headrace.intake.keys")


class KeyRetention:
    """Sweeps periodically. Every intake does: a key that is removed twice is removed.

    Args:
        kept_ms: How long a key stays after it was revoked, in milliseconds.
        never: Ids of keys that stay.
        period_seconds: Time between two sweeps.
    """

    def __init__(
        self,
        table: TableView[AccessKey],
        writer: Writer,
        clock: Callable[[], int],
        *,
        kept_ms: int,
        never: Collection[str] = (),
        period_seconds: float = 3600.0,
    ) -> None:
        self._table = table
        self._writer = writer
        self._clock = clock
        self._kept_ms = kept_ms
        self._never = never
        self._period_seconds = period_seconds

    async def run(self) -> None:
        """As a part of the service."""
        while True:
            try:
                removed = await self.sweep()
                if removed:
                    _log.info("removed keys that were revoked long ago", keys=removed)
            except (NotWritten, WriteUncertain, NeverWritable) as error:
                _log.warning("revoked keys could not be removed, the next sweep will catch up", reason=str(error))
            await asyncio.sleep(self._period_seconds)

    async def sweep(self) -> int:
        """Remove what is past its retention; returns how many. Raises NotWritten, WriteUncertain, NeverWritable."""
        due = past_retention(self._table.items(), self._clock(), self._kept_ms, self._never)
        for key_id in due:
            await self._writer.remove(ACCESS_KEYS, key_id)
        return len(due)
