"""The log as the rest of Headrace sees it. `kafka/` and `memory/` implement these ports and pass one test suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from headrace_streams.records import (
    GroupState,
    NewTopic,
    OffsetAndMetadata,
    ProducerRecord,
    Record,
    RecordMetadata,
    Replication,
    TopicDescription,
    TopicPartition,
)


class Producer(Protocol):
    """Writes records. A record counts as appended once all in-sync replicas have it; retries make no duplicates."""

    def send(self, record: ProducerRecord) -> asyncio.Future[RecordMetadata]:
        """Queue a record without waiting; records of one partition are appended in the order of these calls.

        The future raises TransientError when the record was certainly not appended, AppendUncertain when its fate is
        unknown, and RecordRefused when it never can be (too large, no such topic, not authorised). Overloaded is raised
        at once when the queue is full.
        """
        ...

    async def flush(self) -> None:
        """Wait until every queued record is appended or has failed."""
        ...

    async def close(self) -> None:
        """Flush, then close the connection."""
        ...


class RebalanceListener(Protocol):
    """Called by a consumer on assignment and revocation of partitions. The consumer waits for it to return."""

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Partitions were assigned. Returns start offsets; the others start at their committed offset."""
        ...

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions are about to be revoked: finish and commit what is in progress. Commits still succeed."""
        ...

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        """Partitions were lost: discard what is in progress, another member may own them. Commits fail."""
        ...


class Consumer(Protocol):
    """One member of a consumer group."""

    async def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        """Join the group for these topics, once in a consumer's life. Raises TopicMissing, TransientError.

        The listener is called in the background, whether or not `poll` is being called. An error that it raises is
        raised by `poll` from then on, and the consumer leaves the group.
        """
        ...

    async def poll(self, max_records: int, timeout: float, *, max_bytes: int | None = None) -> Sequence[Record]:
        """Return as soon as there are records, at most `max_records`; empty after `timeout` seconds without any.

        With `max_bytes`, their values have at most so many bytes together, except that the first record is returned
        whatever its size. Records of one partition are adjacent and in order. Raises LeaveGroup when the consumer is
        unusable (fenced static member, not authorised, closed).
        """
        ...

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Commit the group's offsets and metadata.

        Raises PartitionsLost for partitions that are not (or no longer) assigned to this member, TransientError, and
        RecordRefused for metadata that is too long.
        """
        ...

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """The group's committed offsets; partitions without one are missing. Raises TransientError."""
        ...

    async def log_ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """End offsets of assigned partitions (the offset of the next record), as last seen by the client.

        The cluster is only asked about partitions that are not being fetched. Partitions whose end is unknown are
        missing. Raises TransientError.
        """
        ...

    async def log_starts(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """First offsets of assigned partitions, asked from the cluster. Raises TransientError."""
        ...

    async def seek(self, partition: TopicPartition, offset: int, moved: Callable[[], None] = lambda: None) -> None:
        """Go on at this offset: what was fetched of the partition before is not delivered any more.

        `moved` is called after the last `poll` that returned records from before, and before the first one with those
        from the offset on. A partition that is not (or no longer) assigned is ignored, and `moved` not called; one
        that is paused stays paused. Raises TransientError.
        """
        ...

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Deliver no records of these until resumed or reassigned. Partitions that are not assigned are ignored."""
        ...

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Deliver records of these again."""
        ...

    async def close(self) -> None:
        """Leave the group, after calling the listener's `revoked` for all assigned partitions.

        Raises what the listener raises.
        """
        ...


class PartitionReader(Protocol):
    """Reads chosen partitions, outside any group."""

    async def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions, starting at these offsets. Raises TopicMissing, TransientError, and ValueError
        if another follower of this log reads one of them."""
        ...

    async def poll(self, max_records: int, timeout: float) -> Sequence[Record]:
        """Return as soon as there are records, at most `max_records`; empty after `timeout` seconds without any.

        Also returns empty, without waiting, when positions moved over a range without records. Raises
        OffsetOutOfRange when an offset is not (or no longer) in the log, LeaveGroup when the reader is closed.
        """
        ...

    def positions(self) -> Mapping[TopicPartition, int]:
        """Next offset of each assigned partition: all records below it have been delivered or no longer exist.

        At the end of a partition this is the offset of the next record, even if compaction has removed the last ones.
        """
        ...

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        """First offset in the log, and the offset up to which it can be read at present.

        That is the offset of the next record or, if a transaction is open, of the first record in it: what stands
        behind it is not delivered before the transaction ends. Raises TopicMissing, TransientError.
        """
        ...

    async def offsets_at(
        self, partitions: Collection[TopicPartition], timestamp_ms: int
    ) -> Mapping[TopicPartition, int]:
        """The first offset at or after a time; the log's end if there is none. Raises TopicMissing, TransientError."""
        ...

    async def partitions_of(self, topic: str) -> Sequence[TopicPartition]:
        """All partitions of a topic, in order. Raises TopicMissing, TransientError."""
        ...

    async def close(self) -> None:
        """Read nothing any more; the connection is closed with its last reader."""
        ...


class Admin(Protocol):
    """Creates and describes topics, and describes consumer groups."""

    async def create_topics(self, topics: Collection[NewTopic]) -> Collection[str]:
        """Create the missing topics; returns the names of those created. Raises TransientError, RecordRefused."""
        ...

    async def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """Number of partitions of each topic that exists. Raises TransientError."""
        ...

    async def topic_names(self, prefix: str) -> frozenset[str]:
        """The topics whose names begin so, as far as this user may know of them. Raises TransientError."""
        ...

    async def describe_topics(self, topics: Collection[str]) -> Mapping[str, TopicDescription]:
        """Identity and number of partitions of each topic that exists. Raises TransientError."""
        ...

    async def readable(self, topics: Collection[str]) -> frozenset[str]:
        """Those of these topics that exist and whose records may be read. Raises TransientError."""
        ...

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        """See `PartitionReader.bounds`. Raises TopicMissing, TransientError."""
        ...

    async def add_partitions(self, counts: Mapping[str, int]) -> None:
        """Give each of these topics this number of partitions; those that have it are left as they are.

        Raises TopicMissing, TransientError, and RecordRefused for a number below the present one. Some topics may then
        have been changed.
        """
        ...

    async def topic_limits(self, topics: Collection[str]) -> Mapping[str, int]:
        """Largest batch of records of each topic, in bytes (max.message.bytes), of those topics that exist and may be
        asked about. Raises TransientError."""
        ...

    async def topic_settings(self, topics: Collection[str]) -> Mapping[str, Mapping[str, str]]:
        """All settings in force, defaults included, of those topics that exist and may be asked about. Raises
        TransientError."""
        ...

    async def change_topic_settings(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        """Change these settings of these topics, one topic after another. Raises TopicMissing, TransientError, and
        RecordRefused for a setting that the cluster does not accept."""
        ...

    async def replication(self, topics: Collection[str]) -> Replication:
        """The brokers, and which of them keep the partitions of those topics that exist. Raises TransientError."""
        ...

    async def newest_timestamps(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The highest timestamp of a record in each partition, in milliseconds; empty partitions are missing. Raises
        TopicMissing, TransientError."""
        ...

    async def group_states(self, groups: Collection[str]) -> Mapping[str, GroupState]:
        """Phase and members of consumer groups. Raises TransientError, LeaveGroup if they may not be asked about."""
        ...

    async def committed(self, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """All that a group has committed; empty if it does not exist. Raises TransientError, LeaveGroup if it may not
        be asked about."""
        ...


class Log(Protocol):
    """Makes producers, consumers and readers of one cluster (or of its in-memory twin)."""

    def producer(self) -> Producer: ...

    def consumer(self, group: str, *, instance_id: str | None = None, from_start: bool = True) -> Consumer:
        """A member of a group. `instance_id` makes it static; `from_start` is where a group without offsets begins."""
        ...

    def reader(self) -> PartitionReader:
        """A reader with a connection of its own: for what is read once, and perhaps fast."""
        ...

    def follower(self) -> PartitionReader:
        """A reader that shares the connection of all followers of this log: for what is read as long as the process
        runs. Each has its own partitions; what is wrong with them, or that it is slow, is nothing to the others."""
        ...

    def admin(self) -> Admin: ...
