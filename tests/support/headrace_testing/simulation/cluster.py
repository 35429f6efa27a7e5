"""The twin, with a history that neither compaction nor retention removes, and with a hook for commits."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace_contracts.headers import header
from headrace_streams.memory import MemoryCluster
from headrace_streams.memory.cluster import PartitionLog
from headrace_streams.memory.groups import GroupCoordinator
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, Record, RecordMetadata, TopicPartition

from headrace_testing.simulation.loop import VirtualLoop
from headrace_testing.simulation.trace import Trace

SESSION_SECONDS = 10.0
REBALANCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A record as it was appended.

    Attributes:
        index: Number of the append among all appends to all topics.
        at: Virtual seconds.
        client: Its writer.
    """

    index: int
    at: float
    client: str
    record: Record

    @property
    def event_id(self) -> str:
        return header(self.record.headers, "ce_id") or ""


class Witness(Protocol):
    """Receives what the cluster accepts."""

    def appended(self, seen: Seen) -> None: ...
    def committed(self, group: str, client: str, progress: Mapping[TopicPartition, OffsetAndMetadata]) -> None: ...


class History:
    """All records ever appended, by topic and partition, in order of their offsets."""

    def __init__(self) -> None:
        self.count = 0
        self._retired: list[Seen] = []
        self._seen: dict[str, dict[int, list[Seen]]] = defaultdict(lambda: defaultdict(list))

    def add(self, seen: Seen) -> None:
        self.count += 1
        self._seen[seen.record.topic][seen.record.partition].append(seen)

    def partition(self, topic: str, partition: int) -> Sequence[Seen]:
        """The records of a partition's present log: what was cut off or deleted with the topic is not among them."""
        return self._seen[topic][partition]

    def retire(self, topic: str, partition: int, offset: int) -> None:
        """The records of a partition from this offset on are gone, and others will have their offsets."""
        seen = self._seen[topic][partition]
        self._retired += [each for each in seen if each.record.offset >= offset]
        seen[:] = [each for each in seen if each.record.offset < offset]

    def topic(self, topic: str) -> Sequence[Seen]:
        """All records of a topic, in the order of their appends."""
        retired = [seen for seen in self._retired if seen.record.topic == topic]
        present = [seen for part in self._seen[topic].values() for seen in part]
        return sorted(retired + present, key=lambda seen: seen.index)


class SimulatedCluster(MemoryCluster):
    """The cluster of one simulation."""

    def __init__(self, loop: VirtualLoop, trace: Trace) -> None:
        super().__init__(session_timeout=SESSION_SECONDS, rebalance_timeout=REBALANCE_SECONDS)
        self.history = History()
        self.witness: Witness | None = None
        self.client = ""
        """The client whose request is being executed."""
        self._virtual = loop
        self._trace = trace

    def _new_partition(self, name: TopicPartition) -> PartitionLog:
        return _Remembering(name, self)

    def group(self, name: str) -> GroupCoordinator:
        if name not in self._groups:
            self._groups[name] = _PendingTask(self, name)
        return self._groups[name]

    def schedule(self, name: str) -> None:
        # The coordinator outlives a member that dies while its request is executed.
        self._virtual.as_process(None, lambda: super(SimulatedCluster, self).schedule(name))

    def _later(self, seconds: float, call: Callable[[str], None], name: str) -> None:
        self._virtual.as_process(None, lambda: super(SimulatedCluster, self)._later(seconds, call, name))

    def client_of(self, group: str, member_id: str) -> str:
        """The process of a member."""
        found = self._groups.get(group)
        return found.clients.get(member_id, "") if isinstance(found, _PendingTask) else ""

    def expel_client(self, client: str) -> None:
        """Remove the members of a process from their groups, as when their sessions expire."""
        for name in sorted(self._groups):
            for member_id in sorted(self._groups[name].members):
                if self.client_of(name, member_id) == client:
                    self._groups[name].expel(self._virtual.time(), member_id)
                    self.schedule(name)

    def expelled_from(self, group: str) -> Collection[str]:
        """Processes that have been removed from a group and may have continued without knowing it."""
        found = self.group(group)
        return found.expelled if isinstance(found, _PendingTask) else ()

    def groups(self) -> Collection[str]:
        """Names of all groups."""
        return self._groups.keys()

    def compact_below(self, name: TopicPartition, offset: int) -> int:
        """Compact below an offset; returns the number of records removed.

        As in Kafka, a record is removed only if a newer one with its key is below the offset as well.
        """
        part = self.partition(name)
        old = [record for record in part.records if record.offset < offset]
        newest = {record.key: record.offset for record in old}
        kept = [record for record in old if newest[record.key] == record.offset]
        part.records = kept + part.records[len(old) :]
        return len(old) - len(kept)

    def saw(self, record: Record) -> None:
        seen = Seen(self.history.count, self._virtual.time(), self.client, record)
        self.history.add(seen)
        digest = zlib.crc32(record.value or b"", zlib.crc32(record.key or b""))
        self._trace.note(f"= {record.topic}[{record.partition}]@{record.offset} {seen.event_id} {digest:08x}")
        if self.witness is not None:
            self.witness.appended(seen)


class _Remembering(PartitionLog):
    def __init__(self, name: TopicPartition, cluster: SimulatedCluster) -> None:
        super().__init__(name)
        self._cluster = cluster

    def append(self, record: ProducerRecord, timestamp_ms: int) -> RecordMetadata:
        where = super().append(record, timestamp_ms)
        self._cluster.saw(self.records[-1])
        return where


class _PendingTask(GroupCoordinator):
    """A group that knows the processes of its members and reports commits."""

    def __init__(self, cluster: SimulatedCluster, name: str) -> None:
        super().__init__(name, cluster.partition_counts, SESSION_SECONDS, REBALANCE_SECONDS)
        self.clients: dict[str, str] = {}
        self.expelled: set[str] = set()
        """Processes that were removed and may not know it yet."""
        self._cluster = cluster

    def join(self, now: float, topics: Collection[str], instance_id: str | None, wake: Callable[[], None]) -> str:
        member_id = super().join(now, topics, instance_id, wake)
        self.clients[member_id] = self._cluster.client
        return member_id

    def expel(self, now: float, member_id: str) -> None:
        if member_id in self.clients:
            self.expelled.add(self.clients[member_id])
        super().expel(now, member_id)

    def commit(self, member_id: str, epoch: int, progress: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        super().commit(member_id, epoch, progress)
        if self._cluster.witness is not None:
            self._cluster.witness.committed(self.name, self.clients.get(member_id, ""), progress)
