"""A consumer that is a member of its group once for each of its topics.

With the incremental assignor, a member of several topics gets its number of partitions, whatever topics they are of:
librdkafka 2.16 gives two workers that joined one after the other all partitions of one lane each, and each worker's
share of the nodes' slots then serves one lane alone. Among members of one topic only, the partitions of each topic are
spread evenly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from headrace_streams.kafka.consumer import KafkaConsumer
from headrace_streams.ports import RebalanceListener
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition

K = TypeVar("K")

MakeMember = Callable[[int, int, asyncio.Event], KafkaConsumer]
"""Makes a member: its number, how many there are, and what it sets when it has something to say."""


class TopicMembersConsumer:
    """Create and use it within one event loop.

    The members' clients poll for themselves. Their calls of the listener come one at a time, as those of one member do.
    """

    def __init__(self, group: str, make: MakeMember) -> None:
        self._what = f"group {group}"
        self._make = make
        self._changed = asyncio.Event()
        self._members: dict[str, KafkaConsumer] = {}
        self._turn: list[str] = []

    async def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        if self._members:
            raise ValueError(f"{self._what}: this consumer is subscribed already")
        names = sorted(topics)
        self._members = {name: self._make(number, len(names), self._changed) for number, name in enumerate(names)}
        self._turn = names
        calls = _OneAtATime(listener)
        for name, member in self._members.items():
            await member.subscribe([name], calls)

    async def poll(self, max_records: int, timeout: float, *, max_bytes: int | None = None) -> Sequence[Record]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            self._changed.clear()
            found: list[Record] = []
            left = max_bytes
            for name in tuple(self._turn):
                if len(found) >= max_records or (found and left is not None and left <= 0):
                    break
                records = self._members[name].take(max_records - len(found), left, at_least_one=not found)
                if records:
                    # Who was served goes to the end.
                    self._turn.remove(name)
                    self._turn.append(name)
                    found += records
                    if left is not None:
                        left -= sum(len(record.value or b"") for record in records)
            if found:
                return found
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return ()

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        for member, names in self._by_member(offsets):
            await member.commit({name: offsets[name] for name in names})

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        found: dict[TopicPartition, OffsetAndMetadata] = {}
        for member, names in self._by_member(partitions):
            found.update(await member.committed(names))
        return found

    async def log_ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        found: dict[TopicPartition, int] = {}
        for member, names in self._by_member(partitions):
            found.update(await member.log_ends(names))
        return found

    async def log_starts(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        found: dict[TopicPartition, int] = {}
        for member, names in self._by_member(partitions):
            found.update(await member.log_starts(names))
        return found

    async def seek(self, partition: TopicPartition, offset: int, moved: Callable[[], None] = lambda: None) -> None:
        await self._members[partition.topic].seek(partition, offset, moved)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        for member, names in self._by_member(partitions):
            member.pause(names)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        for member, names in self._by_member(partitions):
            member.resume(names)

    async def close(self) -> None:
        """Close all members, at the same time; raises what the first of them raises."""
        closed = await asyncio.gather(*(one.close() for one in self._members.values()), return_exceptions=True)
        for result in closed:
            if isinstance(result, BaseException):
                raise result

    def _by_member(
        self, partitions: Iterable[TopicPartition]
    ) -> Iterable[tuple[KafkaConsumer, Sequence[TopicPartition]]]:
        names: dict[str, list[TopicPartition]] = {}
        for name in partitions:
            names.setdefault(name.topic, []).append(name)
        return [(self._members[topic], of_topic) for topic, of_topic in names.items()]


class _OneAtATime:
    """Passes the calls of several members on to one listener, one after the other."""

    def __init__(self, listener: RebalanceListener) -> None:
        self._listener = listener
        self._lock = asyncio.Lock()

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        async with self._lock:
            return await self._listener.assigned(partitions)

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        async with self._lock:
            await self._listener.revoked(partitions)

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        async with self._lock:
            await self._listener.lost(partitions)
