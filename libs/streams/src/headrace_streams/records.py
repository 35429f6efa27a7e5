"""Records, partitions and offsets, and the contexts that records are read in."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to create; `config` holds Kafka's topic settings."""

    name: str
    partitions: int
    replication_factor: int
    config: tuple[tuple[str, str], ...] = ()
