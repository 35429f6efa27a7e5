"""Which topics and partitions there have ever been: what has been there may come back, what never was is a mistake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_ASK_AGAIN_SECONDS = 0.5


class KnownTopics:
    """Asks for each topic at most once at a time and every half second, however many records wait for the answer.

    Args:
        ask: The number of a topic's partitions now, 0 if it does not exist, None if the cluster does not answer. Called
            in a thread.
    """

    def __init__(self, ask: Callable[[str], int | None]) -> None:
        self._ask = ask
        self._most: dict[str, int] = {}
        self._asking: dict[str, asyncio.Task[bool]] = {}

    async def may_come(self, topic: str, partition: int | None) -> bool:
        """Whether records for it may be taken later: it is there or has been, or nobody answers.

        Asking also tells the client what it did not know.
        """
        asking = self._asking.get(topic)
        if asking is None:
            asking = self._asking[topic] = asyncio.create_task(self._learn(topic))
            asking.add_done_callback(lambda _: self._forget_later(topic))
        answered = await asyncio.shield(asking)
        return not answered or (partition or 0) < self._most.get(topic, 0)

    async def _learn(self, topic: str) -> bool:
        count = await asyncio.to_thread(self._ask, topic)
        if count is None:
            return False
        self._most[topic] = max(count, self._most.get(topic, 0))
        return True

    def seen(self, topic: str, partition: int) -> None:
        """A record was appended there."""
        if partition >= self._most.get(topic, 0):
            self._most[topic] = partition + 1

    def _forget_later(self, topic: str) -> None:
        asyncio.get_running_loop().call_later(_ASK_AGAIN_SECONDS, self._asking.pop, topic, None)
