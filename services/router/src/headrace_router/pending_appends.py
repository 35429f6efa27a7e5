"""What this process has sent and not heard of yet."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any


class PendingAppends:
    """Commands that are being appended, by home partition.

    A partition that was given up may be taken over by the same process at once. What it still has under way then must
    have arrived or failed before anybody looks which terminal states are there.
    """

    def __init__(self) -> None:
        self._sent: defaultdict[int, dict[asyncio.Future[Any], None]] = defaultdict(dict)

    def add(self, partition: int, sent: asyncio.Future[Any]) -> None:
        own = self._sent[partition]
        own[sent] = None
        sent.add_done_callback(lambda done: own.pop(done, None))

    async def settled(self, partition: int) -> None:
        """Wait until nothing is under way; the producer's time-out bounds it."""
        while sent := list(self._sent.get(partition, ())):
            await asyncio.wait(sent)
            # Their callbacks come first.
            await asyncio.sleep(0)
