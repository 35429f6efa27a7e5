"""Commands that this process has sent and whose acknowledgement is pending."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any


class PendingAppends:
    """Appends in progress, by home partition.

    A partition that was released may be taken over by the same process at once. Its pending appends must have arrived
    or failed before the recovery reads which terminal states exist.
    """

    def __init__(self) -> None:
        self._sent: defaultdict[int, dict[asyncio.Future[Any], None]] = defaultdict(dict)

    def add(self, partition: int, sent: asyncio.Future[Any]) -> None:
        own = self._sent[partition]
        own[sent] = None
        sent.add_done_callback(lambda done: own.pop(done, None))

    async def settled(self, partition: int) -> None:
        """Wait until none is pending; the producer's delivery timeout bounds the wait."""
        while sent := list(self._sent.get(partition, ())):
            await asyncio.wait(sent)
            # Their callbacks run first.
            await asyncio.sleep(0)
