"""How large the records of each topic may be, as the cluster says now."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Final

from headrace_contracts.limits import DEFAULT_REQUEST_BYTES, record_bytes

from headrace_streams.errors import StreamsError
from headrace_streams.ports import Admin
from headrace_streams.records import ProducerRecord

_FRAME_BYTES: Final = 128
"""What a batch adds to its one record, in bytes: its header, lengths and times."""
_HEADER_BYTES: Final = 10
DEFAULT_LIMIT: Final = record_bytes(DEFAULT_REQUEST_BYTES)
"""In bytes; that of topics provisioned by Headrace, assumed of those that cannot be asked about."""


class TopicLimits:
    """Asks once and then now and then: an operator may change a limit at any time.

    Args:
        topics: With their prefix.
        every_seconds: Time between two questions.
    """

    def __init__(self, admin: Admin, topics: Collection[str], every_seconds: float = 30.0) -> None:
        self._admin = admin
        self._topics = tuple(topics)
        self._every_seconds = every_seconds
        self._limits: dict[str, int] = {}

    def of(self, topic: str) -> int:
        """Largest batch of a topic, in bytes."""
        return self._limits.get(topic, DEFAULT_LIMIT)

    def fits(self, record: ProducerRecord) -> bool:
        """Whether a record fits into a batch of its own, uncompressed."""
        return size_of(record) <= self.of(record.topic)

    async def refresh(self) -> None:
        """Ask the cluster. Raises TransientError and LeaveGroup; what was known then stays."""
        self._limits |= await self._admin.topic_limits(self._topics)

    async def start(self) -> None:
        """Ask for the first time. If the cluster does not answer, `run` asks again."""
        with contextlib.suppress(StreamsError):
            await self.refresh()

    async def run(self) -> None:
        """Refresh until cancelled. A cluster that does not answer has not changed anything, as far as is known."""
        while True:
            await asyncio.sleep(self._every_seconds)
            with contextlib.suppress(StreamsError):
                await self.refresh()


def size_of(record: ProducerRecord) -> int:
    """Bytes of a batch that holds just this record, whose header names are ASCII, at most."""
    headers = sum([len(name) + len(value or b"") + _HEADER_BYTES for name, value in record.headers])
    return _FRAME_BYTES + len(record.key or b"") + len(record.value or b"") + headers
