"""Creates the topics and registers the schemas of an installation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.topics import TopicSpec

from headrace_streams.ports import Admin
from headrace_streams.records import NewTopic

# A journal record holds a whole task (1 MiB at most) and its state; a completed task holds question and answer.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
_DURABLE_REPLICATION: Final = 3


@dataclass(frozen=True, slots=True)
class Provisioned:
    """Result of provisioning: all topics that exist now, and those of them that are new."""

    topics: tuple[str, ...]
    created: tuple[str, ...]

    def __str__(self) -> str:
        return f"{len(self.topics)} topics ({len(self.created)} new), {len(self.topics)} schemas"


class PartitionsDiffer(Exception):
    """Make the partition counts equal by hand: topics that must be co-partitioned differ."""


def topic_of(spec: TopicSpec, prefix: str, replication: int) -> NewTopic:
    """The topic to create for a specification.

    From three replicas on, min.insync.replicas allows one of them to be missing, as is usual for durable topics.
    """
    config = {"cleanup.policy": spec.cleanup, "max.message.bytes": str(MAX_MESSAGE_BYTES)}
    if spec.retention_ms is not None:
        config["retention.ms"] = str(spec.retention_ms)
    if spec.min_compaction_lag_ms is not None:
        config["min.compaction.lag.ms"] = str(spec.min_compaction_lag_ms)
    if replication >= _DURABLE_REPLICATION:
        config["min.insync.replicas"] = str(replication - 1)
    return NewTopic(prefix + spec.name, spec.partitions, replication, tuple(sorted(config.items())))


async def provision(
    admin: Admin, codec: Codec, specs: Collection[TopicSpec], *, replication: int, create: bool = True
) -> Provisioned:
    """Create the missing topics and register all schemas; existing topics are not changed.

    With `create` false, topics are only checked: another tool creates them.

    Raises TransientError, RecordRefused, RegistryUnavailable, SchemaIncompatible, and PartitionsDiffer when
    co-partitioned topics that already existed have different numbers of partitions.
    """
    prefix = codec.topic_prefix
    missing = [topic_of(spec, prefix, replication) for spec in specs] if create else []
    created = await admin.create_topics(missing)
    counts = await admin.partition_counts([prefix + spec.name for spec in specs if spec.copartitioned])
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
        raise PartitionsDiffer(f"these topics must have the same number of partitions, but do not: {listed}")
    await codec.prepare(specs, register=True)
    return Provisioned(tuple(prefix + spec.name for spec in specs), tuple(created))
