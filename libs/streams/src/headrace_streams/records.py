"""Records, partitions and offsets, and the contexts that records are read in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

Headers = tuple[tuple[str, bytes | None], ...]

UNREADABLE_NAME: Final = "\ufffd"
"""Stands for the name of a header that is not UTF-8."""


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """One partition of a topic; the topic's name carries the prefix."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read from a log.

    Attributes:
        timestamp_ms: Milliseconds since the epoch, as the producer or the broker set it.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def topic_partition(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


def leading(records: Sequence[Record], most_bytes: int, *, at_least: int) -> int:
    """How many of these, from the first on, have values of at most so many bytes together; not fewer than `at_least`
    of them."""
    for number, record in enumerate(records):
        most_bytes -= len(record.value or b"")
        if most_bytes < 0 and number >= at_least:
            return number
    return len(records)


@dataclass(frozen=True, slots=True)
class ProducerRecord:
    """One record to be written. Without a partition, the key determines it (murmur2, as in Java)."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class RecordMetadata:
    """Partition and offset of an acknowledged record."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class OffsetAndMetadata:
    """A group's committed position in a partition: the next offset, and metadata of at most 4,095 characters."""

    next_offset: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as it is now.

    Attributes:
        topic_id: The cluster's id of it: a topic that is deleted and created again gets another one.
        partitions: Number of partitions.
    """

    topic_id: str
    partitions: int


def partitions_of(described: Mapping[str, TopicDescription]) -> Iterator[TopicPartition]:
    """All partitions of these topics, by their names."""
    return (TopicPartition(topic, number) for topic, found in described.items() for number in range(found.partitions))


@dataclass(frozen=True, slots=True)
class PartitionReplicas:
    """Ids of the brokers that keep a partition.

    Attributes:
        leader: None while it has none: it can be neither read nor written.
        in_sync: Those that have all acknowledged records.
    """

    leader: int | None
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Replication:
    """The brokers that answer the cluster's controller, and what they keep."""

    brokers: frozenset[int]
    partitions: Mapping[TopicPartition, PartitionReplicas]

    def replicas_of(self, topic: str) -> int:
        """The smallest number of replicas of its partitions; 1 if it has none."""
        return min((len(kept.replicas) for name, kept in self.partitions.items() if name.topic == topic), default=1)


class GroupPhase(StrEnum):
    """MISSING: the cluster knows no such group. EMPTY: it has positions, and no members."""

    MISSING = "missing"
    EMPTY = "empty"
    REBALANCING = "rebalancing"
    STABLE = "stable"


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of a consumer group.

    Attributes:
        instance_id: Of a static member; None for a dynamic one.
        host: Where it connects from, as the broker writes it.
        assigned: Its partitions.
    """

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    assigned: frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class GroupState:
    """A consumer group at one moment."""

    phase: GroupPhase
    members: tuple[GroupMember, ...] = ()


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to create; `config` holds Kafka's topic settings."""

    name: str
    partitions: int
    replication_factor: int
    config: tuple[tuple[str, str], ...] = ()
