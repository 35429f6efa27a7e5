"""Creates the topics and registers the schemas of an installation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.limits import DEFAULT_REQUEST_BYTES, record_bytes
from headrace_contracts.topics import TopicSpec, with_partitions

from headrace_streams.ports import Admin
from headrace_streams.records import NewTopic

LARGEST_RECORD: Final = "max.message.bytes"
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


def topic_of(spec: TopicSpec, prefix: str, replication: int, request_bytes: int = DEFAULT_REQUEST_BYTES) -> NewTopic:
    """The topic to create for a specification.

    Args:
        request_bytes: Largest request that the installation takes.

    From three replicas on, min.insync.replicas allows one of them to be missing, as is usual for durable topics.
    """
    config = {"cleanup.policy": spec.cleanup, LARGEST_RECORD: str(record_bytes(request_bytes))}
    if spec.retention_ms is not None:
        config["retention.ms"] = str(spec.retention_ms)
    if spec.min_compaction_lag_ms is not None:
        config["min.compaction.lag.ms"] = str(spec.min_compaction_lag_ms)
    if replication >= _DURABLE_REPLICATION:
        config["min.insync.replicas"] = str(replication - 1)
    return NewTopic(prefix + spec.name, spec.partitions, replication, tuple(sorted(config.items())))


async def provision(
    admin: Admin,
    codec: Codec,
    specs: Collection[TopicSpec],
    *,
    replication: int,
    create: bool = True,
    request_bytes: int = DEFAULT_REQUEST_BYTES,
) -> Provisioned:
    """Create the missing topics and register all schemas.

    Existing topics are changed in one thing: those that take smaller records than requests of `request_bytes` need
    take larger ones from then on.

    A co-partitioned topic that a later release adds gets as many partitions as the others have by then.
    With `create` false, topics are only checked: another tool creates them.

    Raises TransientError, RecordRefused, RegistryUnavailable, SchemaIncompatible, and PartitionsDiffer when
    co-partitioned topics that already existed have different numbers of partitions.
    """
    prefix = codec.topic_prefix
    together = [prefix + spec.name for spec in specs if spec.copartitioned]
    created: Collection[str] = ()
    if create:
        present = set((await admin.partition_counts(together)).values())
        partitions = {"tasks": present.pop()} if len(present) == 1 else {}
        fitting = with_partitions({spec.name: spec for spec in specs}, partitions)
        wanted = [topic_of(spec, prefix, replication, request_bytes) for spec in fitting.values()]
        created = await admin.create_topics(wanted)
        await _take_larger_records(admin, [topic.name for topic in wanted if topic.name not in created], request_bytes)
    counts = await admin.partition_counts(together)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))
        raise PartitionsDiffer(f"these topics must have the same number of partitions, but do not: {listed}")
    await codec.prepare(specs, register=True)
    return Provisioned(tuple(prefix + spec.name for spec in specs), tuple(created))


async def _take_larger_records(admin: Admin, topics: Collection[str], request_bytes: int) -> None:
    least = record_bytes(request_bytes)
    small = [name for name, limit in (await admin.topic_limits(topics)).items() if limit < least]
    await admin.change_topic_settings({name: {LARGEST_RECORD: str(least)} for name in small})
