"""State of the in-memory twin: topics with their records, and consumer groups."""

from __future__ import annotations

import asyncio
import base64
import uuid
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from headrace_streams.errors import OffsetOutOfRange, RecordRefused, RecordTooLarge, TopicMissing
from headrace_streams.memory.ailments import Ailment, Ailments, Sense
from headrace_streams.memory.groups import GroupCoordinator
from headrace_streams.partitioning import partition_of
from headrace_streams.records import (
    GroupPhase,
    GroupState,
    NewTopic,
    OffsetAndMetadata,
    PartitionReplicas,
    ProducerRecord,
    Record,
    RecordMetadata,
    Replication,
    TopicDescription,
    TopicPartition,
)

_RECORD_LIMIT = 4 * 1024 * 1024
_LIMIT = "max.message.bytes"
BROKER = 1
"""Id of the only broker."""
_DEFAULT_SETTINGS = {
    "cleanup.policy": "delete",
    "min.compaction.lag.ms": "0",
    "min.insync.replicas": "1",
    "retention.bytes": "-1",
    "retention.ms": "604800000",
    "unclean.leader.election.enable": "false",
}


class PartitionLog:
    """Records by ascending offset; compaction leaves gaps.

    Attributes:
        exists: False once its topic was deleted; clients that still hold it read nothing.
        held_at: Offset of the first record of an open transaction; None if there is none.
    """

    def __init__(self, name: TopicPartition) -> None:
        self.name = name
        self.start = 0
        self.end = 0
        self.records: list[Record] = []
        self.exists = True
        self.held_at: int | None = None
        # A dict, for its order: waiters are woken in the same order in every run.
        self.watchers: dict[asyncio.Event, None] = {}

    def append(self, record: ProducerRecord, timestamp_ms: int) -> RecordMetadata:
        appended = Record(
            self.name.topic, self.name.partition, self.end, timestamp_ms, record.key, record.value, record.headers
        )
        self.records.append(appended)
        self.end += 1
        self.stir()
        return RecordMetadata(appended.topic, appended.partition, appended.offset)

    @property
    def stable_end(self) -> int:
        """The offset that read-committed clients can read up to, and see as the log's end."""
        return self.end if self.held_at is None else min(self.end, self.held_at)

    def stir(self) -> None:
        """Wake those who wait for a change."""
        for watcher in self.watchers:
            watcher.set()

    def read(self, offset: int, limit: int) -> Sequence[Record]:
        """At most `limit` records from an offset on. Raises OffsetOutOfRange outside the log's bounds."""
        if not self.exists:
            return ()
        if not self.start <= offset <= self.end:
            raise OffsetOutOfRange(f"{self.name} has offsets {self.start} to {self.end}, not {offset}")
        first = self._index(offset)
        found = self.records[first : first + limit]
        return found if self.held_at is None else [record for record in found if record.offset < self.held_at]

    def offset_at(self, timestamp_ms: int) -> int:
        return next((record.offset for record in self.records if record.timestamp_ms >= timestamp_ms), self.end)

    def delete_before(self, offset: int) -> None:
        self.start = max(self.start, min(offset, self.end))
        del self.records[: self._index(self.start)]

    def truncate_after(self, offset: int) -> None:
        """Remove the records from this offset on: the next append gets it."""
        del self.records[self._index(offset) :]
        self.end = min(self.end, max(offset, self.start))
        self.stir()

    def clear(self, *, exists: bool) -> None:
        """Remove everything, as when the topic is deleted."""
        self.start = self.end = 0
        self.records = []
        self.held_at = None
        self.exists = exists
        self.stir()

    def compact(self) -> None:
        newest = {record.key: record.offset for record in self.records}
        self.records = [record for record in self.records if newest[record.key] == record.offset]

    def _index(self, offset: int) -> int:
        return bisect_left(self.records, offset, key=lambda record: record.offset)


class MemoryCluster:
    """A cluster in this process's memory, shared by the MemoryLogs created on it; use it within one event loop.

    The methods here bypass the clients, for tests and simulations.

    Args:
        session_timeout: Seconds without a heartbeat after which a group expels a member.
        rebalance_timeout: Seconds that a group waits for its members to rejoin.
        record_limit: Largest record (key, value, headers), in bytes.
        metadata_age: Seconds until the clients of a group learn of a changed number of partitions.

    Attributes:
        record_limits: Largest record of single topics.
        denied: Topics that no client may write to.
    """

    def __init__(
        self,
        *,
        session_timeout: float = 10.0,
        rebalance_timeout: float = 60.0,
        record_limit: int = _RECORD_LIMIT,
        metadata_age: float = 0.2,
    ) -> None:
        self.session_timeout = session_timeout
        self.rebalance_timeout = rebalance_timeout
        self.record_limit = record_limit
        self.metadata_age = metadata_age
        self.ailments = Ailments()
        self._ids: dict[str, str] = {}
        self._created = 0
        # The logs of deleted topics, which clients may still hold.
        self._deleted: dict[str, list[PartitionLog]] = {}
        self.record_limits: dict[str, int] = {}
        self._settings: dict[str, dict[str, str]] = {}
        self.denied: set[str] = set()
        self._topics: dict[str, list[PartitionLog]] = {}
        self._groups: dict[str, GroupCoordinator] = {}
        self._timers: dict[str, asyncio.Handle] = {}
        self._keyless = 0

    def create_topic(self, name: str, partitions: int = 1) -> bool:
        """Create the topic if it is missing; returns whether it was."""
        if name in self._topics:
            return False
        former = self._deleted.pop(name, [])
        for log in former[:partitions]:
            log.clear(exists=True)
        self._topics[name] = former[:partitions]
        self._grow(name, partitions)
        self._deleted[name] = former[partitions:]
        self._created += 1
        # As Kafka writes its ids.
        topic_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {self._created}")
        self._ids[name] = base64.urlsafe_b64encode(topic_id.bytes).decode().rstrip("=")
        self._tell_groups(name)
        return True

    def delete_topic(self, name: str, *, forget_commits: bool = True) -> None:
        """Delete a topic and, as Kafka does, what groups have committed for it. Raises TopicMissing.

        Args:
            forget_commits: False for what a restored cluster may have: a new topic under the old commits.
        """
        if name not in self._topics:
            raise TopicMissing(f"{name} does not exist")
        logs = self._topics.pop(name)
        for log in logs:
            log.clear(exists=False)
        self._deleted[name] = logs + self._deleted.get(name, [])
        del self._ids[name]
        self._settings.pop(name, None)
        for group in self._groups.values() if forget_commits else ():
            group.forget_topic(name)

    def recreate_topic(self, name: str, partitions: int | None = None, *, forget_commits: bool = True) -> None:
        """Delete a topic and create it again, empty and with another id. Raises TopicMissing."""
        count = len(self._topics.get(name, ())) if partitions is None else partitions
        self.delete_topic(name, forget_commits=forget_commits)
        self.create_topic(name, count)

    def add_partitions(self, name: str, count: int) -> None:
        """Let a topic have `count` partitions. Raises TopicMissing, and RecordRefused if it has more."""
        if name not in self._topics:
            raise TopicMissing(f"{name} does not exist: provision the topics first")
        present = len(self._topics[name])
        if count < present:
            raise RecordRefused(f"{name} has {present} partitions, and can never have fewer: not {count}")
        if count > present:
            self._grow(name, count)
            self._tell_groups(name)

    def topic_names(self, prefix: str) -> frozenset[str]:
        """The topics whose names begin so."""
        return frozenset(name for name in self._topics if name.startswith(prefix))

    def describe_topics(self, topics: Iterable[str]) -> Mapping[str, TopicDescription]:
        """Identity and number of partitions of the topics that exist."""
        return {
            name: TopicDescription(self._ids[name], len(self._topics[name])) for name in topics if name in self._topics
        }

    def truncate_after(self, partition: TopicPartition, offset: int) -> None:
        """Remove the records from this offset on, as when the only replica that had them is lost."""
        self.partition(partition).truncate_after(offset)

    def hold_stable_offset(self, partition: TopicPartition, offset: int | None) -> None:
        """Let an open transaction begin at this offset (None: let it end): nothing from there on can be read."""
        log = self.partition(partition)
        log.held_at = offset
        log.stir()

    def sicken(
        self,
        partition: TopicPartition,
        *,
        appends: Ailment | None = None,
        reads: Ailment | None = None,
        bounds: Ailment | None = None,
    ) -> None:
        """Let appends to a partition, reads from it or queries of its bounds fail or hang from now on.

        Consumers and readers get nothing of a partition whose reads hang, and go on with their others.
        """
        found = ((Sense.APPENDS, appends), (Sense.READS, reads), (Sense.BOUNDS, bounds))
        self.ailments.sicken(partition, [(sense, ailment) for sense, ailment in found if ailment is not None])

    def heal(self, partition: TopicPartition) -> None:
        """End what `sicken` began; requests that hang are answered."""
        self.ailments.heal(partition)
        self.partition(partition).stir()

    def create_topics(self, topics: Collection[NewTopic]) -> Collection[str]:
        """Create the missing topics and return their names. Raises RecordRefused, creating none, for an invalid one."""
        for topic in topics:
            if topic.partitions < 1:
                raise RecordRefused(f"topic {topic.name} must have at least one partition, not {topic.partitions}")
        created = [topic for topic in topics if self.create_topic(topic.name, topic.partitions)]
        self._settings |= {topic.name: dict(topic.config) for topic in created}
        return [topic.name for topic in created]

    def partition_counts(self, topics: Iterable[str]) -> Mapping[str, int]:
        """Numbers of partitions of the topics that exist."""
        return {name: len(self._topics[name]) for name in topics if name in self._topics}

    def topic_limits(self, topics: Iterable[str]) -> Mapping[str, int]:
        """Largest records of the topics that exist, in bytes."""
        return {name: self.record_limits.get(name, self.record_limit) for name in topics if name in self._topics}

    def topic_settings(self, topics: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
        """Settings of the topics that exist. The twin obeys max.message.bytes alone, and only a changed one."""
        return {
            name: {**_DEFAULT_SETTINGS, **self._settings.get(name, {}), _LIMIT: str(limit)}
            for name, limit in self.topic_limits(topics).items()
        }

    def change_topic_settings(self, name: str, settings: Mapping[str, str]) -> None:
        """Raises TopicMissing."""
        if name not in self._topics:
            raise TopicMissing(f"{name} does not exist: provision the topics first")
        self._settings.setdefault(name, {}).update(settings)
        if _LIMIT in settings:
            self.record_limits[name] = int(settings[_LIMIT])

    def replication(self, topics: Iterable[str]) -> Replication:
        """Every partition has one replica."""
        kept = PartitionReplicas(BROKER, (BROKER,), (BROKER,))
        names = [log.name for topic in topics for log in self._topics.get(topic, ())]
        return Replication(frozenset({BROKER}), dict.fromkeys(names, kept))

    def group_state(self, name: str) -> GroupState:
        """Of a group that may not exist."""
        return self._groups[name].state() if name in self._groups else GroupState(GroupPhase.MISSING)

    def committed(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """Of a group that may not exist."""
        return dict(self._groups[group].committed_offsets) if group in self._groups else {}

    def partition(self, name: TopicPartition) -> PartitionLog:
        """Raises TopicMissing."""
        partitions = self._topics.get(name.topic)
        if partitions is None or not 0 <= name.partition < len(partitions):
            raise TopicMissing(f"{name} does not exist: provision the topics first")
        return partitions[name.partition]

    def place(self, record: ProducerRecord) -> TopicPartition:
        """The partition a record belongs to. Raises RecordRefused for one that can never be appended."""
        count = len(self._topics.get(record.topic, ()))
        if count == 0:
            raise RecordRefused(f"topic {record.topic} does not exist: provision the topics first")
        if record.topic in self.denied:
            raise RecordRefused(f"{record.topic}: not authorised to write")
        if record.partition is not None:
            if not 0 <= record.partition < count:
                raise RecordRefused(f"{record.topic} has {count} partitions, none numbered {record.partition}")
            number = record.partition
        elif record.key is not None:
            number = partition_of(record.key, count)
        else:
            number = self._keyless % count
            self._keyless += 1
        size = len(record.key or b"") + len(record.value or b"")
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
        if size > (limit := self.record_limits.get(record.topic, self.record_limit)):
            raise RecordTooLarge(f"{record.topic}[{number}]: a record of {size} bytes, more than {limit}")
        return TopicPartition(record.topic, number)

    def append(self, record: ProducerRecord, timestamp_ms: int = 0) -> RecordMetadata:
        """Append at once. Raises RecordRefused."""
        return self.partition(self.place(record)).append(record, timestamp_ms)

    def records(self, topic: str, partition: int | None = None) -> Sequence[Record]:
        """All records of a topic (partition by partition) or of one partition. Raises TopicMissing."""
        if partition is not None:
            return tuple(self.partition(TopicPartition(topic, partition)).records)
        if topic not in self._topics:
            raise TopicMissing(f"{topic} does not exist: provision the topics first")
        return tuple(record for part in self._topics[topic] for record in part.records)

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        """Delete records below this offset, as retention does."""
        self.partition(partition).delete_before(offset)

    def compact(self, topic: str) -> None:
        """Keep only the newest record of each key, as the log cleaner does. Tombstones stay as well."""
        for part in self._topics[topic]:
            part.compact()

    def group(self, name: str) -> GroupCoordinator:
        """A consumer group, created on first use. Call `schedule` after changing it."""
        if name not in self._groups:
            self._groups[name] = GroupCoordinator(
                name, self.partition_counts, self.session_timeout, self.rebalance_timeout
            )
        return self._groups[name]

    def _new_partition(self, name: TopicPartition) -> PartitionLog:
        return PartitionLog(name)

    def _grow(self, name: str, count: int) -> None:
        logs = self._topics[name]
        logs += [self._new_partition(TopicPartition(name, number)) for number in range(len(logs), count)]

    def _tell_groups(self, topic: str) -> None:
        """Clients look at the metadata of their topics now and then, and join their group again if these changed."""
        for name, group in self._groups.items():
            if group.reads(topic):
                self._later(self.metadata_age, self._refresh_metadata, name)

    def _later(self, seconds: float, call: Callable[[str], None], name: str) -> None:
        asyncio.get_running_loop().call_later(seconds, call, name)

    def _refresh_metadata(self, name: str) -> None:
        self._groups[name].refresh_metadata(asyncio.get_running_loop().time())
        self.schedule(name)

    def schedule(self, name: str) -> None:
        """Schedule the expiry of the group's members."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        deadline = self._groups[name].next_deadline()
        if deadline is not None:
            self._timers[name] = asyncio.get_running_loop().call_at(deadline, self._expire, name)

    def _expire(self, name: str) -> None:
        self._groups[name].expire(asyncio.get_running_loop().time())
        self.schedule(name)
