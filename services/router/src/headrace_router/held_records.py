"""Records of partitions that take no input for a while, so that those of all others do not wait behind them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from headrace_streams.ports import Consumer
from headrace_streams.records import Record, TopicPartition

from headrace_router.partition import PartitionRouter

LOOK_AGAIN_SECONDS: Final = 0.05
"""Time between two looks at whether a held partition takes input again."""


class HeldRecords:
    """Keeps what has been fetched already and fetches no more of a held partition; at most one batch of each.

    Args:
        topics: The inputs, with their prefix.
    """

    def __init__(self, consumer: Consumer, topics: Collection[str]) -> None:
        self._consumer = consumer
        self._topics = tuple(topics)
        self._kept: defaultdict[PartitionRouter, deque[Record]] = defaultdict(deque)

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def partitions(self) -> int:
        """How many are held."""
        return len(self._kept)

    def keeps(self, record: Record, router: PartitionRouter) -> bool:
        """Keep the record if its partition takes no input now, or older ones of it are kept."""
        if router not in self._kept:
            if not router.held:
                return False
            self._consumer.pause(self._inputs(router))
        self._kept[router].append(record)
        return True

    def released(self, routers: Mapping[int, PartitionRouter]) -> Iterator[tuple[Record, PartitionRouter]]:
        """Kept records of partitions that take input, one by one, for as long as they do.

        Of a partition that is now somebody else's they are dropped: they are delivered again.
        """
        for router in list(self._kept):
            if routers.get(router.partition) is not router:
                del self._kept[router]
                continue
            kept = self._kept[router]
            while kept and not router.held:
                yield kept.popleft(), router
            if not kept and not router.held:
                del self._kept[router]
                self._consumer.resume(self._inputs(router))

    def _inputs(self, router: PartitionRouter) -> list[TopicPartition]:
        return [TopicPartition(topic, router.partition) for topic in self._topics]
