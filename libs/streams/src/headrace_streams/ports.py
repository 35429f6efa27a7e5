"""The log as the rest of Headrace sees it. `kafka/` and `memory/` stand behind these ports and pass one test suite."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from headrace_streams.records import NewTopic, OffsetAndMetadata, ProducerRecord, Record, RecordMetadata, TopicPartition


class Producer(Protocol):
    """Writes records. All replicas have a record before it counts as appended, and retries make no duplicates."""

    def send(self, record: ProducerRecord) -> asyncio.Future[RecordMetadata]:
        """Queue a record at once; records of one partition are appended in the order of these calls.

        The future raises TransientError when the record was surely not appended, AppendUncertain when nobody knows, and
        RecordRefused when it never can be (too large, no such topic, not authorised). Raises Overloaded at once when
        the queue is full.
        """
        ...

    async def flush(self) -> None:
        """Wait until every queued record is appended or has failed."""
        ...

    async def close(self) -> None:
        """Flush, then let go of the connection."""
        ...


class RebalanceListener(Protocol):
    """Told by a consumer when partitions come and go. The consumer waits for the answer."""

    async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """These partitions are now ours. Returns where to start; what is left out starts at its committed offset."""
        ...

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """These partitions are about to go: finish and commit what is in hand. Commits still count."""
        ...

    async def lost(self, partitions: Collection[TopicPartition]) -> None:
        """These partitions are gone already: drop what is in hand, others may work on it. Commits do not count."""
        ...


class Consumer(Protocol):
    """One member of a consumer group."""

    async def subscribe(self, topics: Collection[str], listener: RebalanceListener) -> None:
        """Join the group for these topics, once in a consumer's life. Raises TopicMissing, TransientError.

        The listener is called in the background, whether or not `poll` is being called. What it raises comes out of
        `poll` from then on, and the consumer leaves the group.
        """
        ...

    async def poll(self, max_records: int, timeout: float) -> Sequence[Record]:
        """Records as soon as there are any, at most `max_records`; empty after `timeout` seconds without.

        Those of one partition stand together, in order. Raises LeaveGroup when the consumer is unusable (fenced
        static member, not authorised, closed).
        """
        ...

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Store the group's offsets and metadata.

        Raises PartitionsLost for partitions that are not assigned to this member (any more), TransientError, and
        RecordRefused for a note that is too long.
        """
        ...

    async def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, OffsetAndMetadata]:
        """The group's committed offsets; partitions without one are left out. Raises TransientError."""
        ...

    async def log_ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where assigned partitions end: the offset that the next record will get, as the client last heard it.

        The cluster is asked only about those that are not being read. Partitions that nothing is known of are left
        out. Raises TransientError.
        """
        ...

    async def log_starts(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where assigned partitions begin, by asking the cluster. Raises TransientError."""
        ...

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Deliver no more of these until resumed or assigned anew. Partitions that are not assigned are ignored."""
        ...

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Fetch again."""
        ...

    async def close(self) -> None:
        """Leave the group, after the listener has been told `revoked` for all that is assigned.

        Raises what the listener raises meanwhile.
        """
        ...


class PartitionReader(Protocol):
    """Reads chosen partitions, outside of any group."""

    async def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions from these offsets on. Raises TopicMissing, TransientError."""
        ...

    async def poll(self, max_records: int, timeout: float) -> Sequence[Record]:
        """Records as soon as there are any, at most `max_records`; empty after `timeout` seconds without.

        Empty at once as well when positions moved over a stretch that holds no records (any more). Raises
        OffsetOutOfRange when an offset is not in the log (any more), LeaveGroup when the reader is closed.
        """
        ...

    def positions(self) -> Mapping[TopicPartition, int]:
        """How far each assigned partition has been read: all below has been delivered, or holds no record (any more).

        At the end of a partition this is the offset that the next record will get, even where compaction has taken
        the last ones.
        """
        ...

    async def bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        """First offset in the log, and the offset that the next record will get. Raises TopicMissing,
        TransientError."""
        ...

    async def offsets_at(
        self, partitions: Collection[TopicPartition], timestamp_ms: int
    ) -> Mapping[TopicPartition, int]:
        """The first offset at or after a time; the log's end where there is none. Raises TopicMissing,
        TransientError."""
        ...

    async def partitions_of(self, topic: str) -> Sequence[TopicPartition]:
        """All partitions of a topic, in order. Raises TopicMissing, TransientError."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class Admin(Protocol):
    """Creates topics."""

    async def create_topics(self, topics: Collection[NewTopic]) -> Collection[str]:
        """Create those that are missing; the names of those created. Raises TransientError, RecordRefused."""
        ...

    async def partition_counts(self, topics: Collection[str]) -> Mapping[str, int]:
        """Number of partitions of each topic that exists. Raises TransientError."""
        ...


class Log(Protocol):
    """Makes producers, consumers and readers of one cluster (or of its in-memory twin)."""

    def producer(self) -> Producer: ...

    def consumer(self, group: str, *, instance_id: str | None = None, from_start: bool = True) -> Consumer:
        """A member of a group. `instance_id` makes it static; `from_start` is where a new group begins."""
        ...

    def reader(self) -> PartitionReader: ...

    def admin(self) -> Admin: ...
