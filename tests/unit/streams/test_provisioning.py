"""Creating what is missing, leaving what is there."""

from __future__ import annotations

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import ACCESS_KEYS, TASKS_JOURNAL, TOPICS, with_partitions
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.provisioning import PartitionsDiffer, provision, topic_of


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def codec() -> Codec:
    return Codec(MemoryRegistry(), "test.")


async def test_everything_is_there_afterwards(cluster: MemoryCluster, codec: Codec) -> None:
    admin = MemoryLog(cluster).admin()
    done = await provision(admin, codec, TOPICS.values(), replication=1)
    names = {"test." + name for name in TOPICS}
    assert set(done.topics) == set(done.created) == names
    assert cluster.partition_counts(names) == {"test." + spec.name: spec.partitions for spec in TOPICS.values()}
    await codec.prepare(TOPICS.values())
    assert str(done) == f"{len(TOPICS)} topics ({len(TOPICS)} new), {len(TOPICS)} schemas"


async def test_what_is_there_stays_as_it_is(cluster: MemoryCluster, codec: Codec) -> None:
    admin = MemoryLog(cluster).admin()
    cluster.create_topic("test.usage.recorded", 17)
    await provision(admin, codec, with_partitions(TOPICS, {"tasks": 3}).values(), replication=1)
    again = await provision(admin, codec, TOPICS.values(), replication=1)
    assert again.created == ()
    assert len(again.topics) == len(TOPICS)
    counts = cluster.partition_counts(["test.usage.recorded", "test.tasks.submitted", "test.tasks.journal"])
    assert set(counts.values()) == {17, 3}


async def test_task_topics_with_different_partitions_are_refused(cluster: MemoryCluster, codec: Codec) -> None:
    cluster.create_topic("test.tasks.submitted", 17)
    cluster.create_topic("test.tasks.journal", 6)
    with pytest.raises(PartitionsDiffer, match=r"test.tasks.submitted: 17"):
        await provision(MemoryLog(cluster).admin(), codec, TOPICS.values(), replication=1)


@pytest.mark.parametrize("partitions", [1, 17, 24])
@pytest.mark.parametrize("added", ["attempts.finished.cloud", "tasks.cancelled", "tasks.completed"])
async def test_a_task_topic_that_is_added_later_has_as_many_partitions_as_the_others(
    cluster: MemoryCluster, codec: Codec, partitions: int, added: str
) -> None:
    """As after `headrace topics resize tasks`, which no setting knows of."""
    resized = with_partitions(TOPICS, {"tasks": partitions})
    earlier = [spec for spec in resized.values() if not spec.name.startswith(added)]
    await provision(MemoryLog(cluster).admin(), codec, earlier, replication=1)
    done = await provision(MemoryLog(cluster).admin(), codec, TOPICS.values(), replication=1)
    assert set(done.created) == {f"test.{added}", *(f"test.{name}" for name in TOPICS if name == f"{added}.dlq")}
    assert cluster.partition_counts([f"test.{added}"]) == {f"test.{added}": partitions}


def test_topics_are_configured_as_specified() -> None:
    journal = topic_of(TASKS_JOURNAL, "x.", 3)
    assert (journal.name, journal.partitions, journal.replication_factor) == ("x.tasks.journal", 6, 3)
    assert dict(journal.config) == {
        "cleanup.policy": "compact,delete",
        "max.message.bytes": "4194304",
        "min.compaction.lag.ms": "3600000",
        "min.insync.replicas": "2",
        "retention.ms": str(TASKS_JOURNAL.retention_ms),
    }
    keys = dict(topic_of(ACCESS_KEYS, "x.", 1).config)
    assert keys["cleanup.policy"] == "compact"
    assert {"retention.ms", "min.insync.replicas"}.isdisjoint(keys)


async def test_topics_that_others_make_are_left_to_them_and_schemas_are_registered(
    cluster: MemoryCluster, codec: Codec
) -> None:
    cluster.create_topic("test.tasks.submitted", 6)
    done = await provision(MemoryLog(cluster).admin(), codec, TOPICS.values(), replication=3, create=False)
    assert done.created == ()
    assert cluster.partition_counts(["test.tasks.submitted", "test.tasks.journal"]) == {"test.tasks.submitted": 6}
    await codec.prepare(TOPICS.values())


@pytest.mark.parametrize(
    ("present", "request_bytes", "limit"),
    [
        (4_194_304, 8_388_608, 18_874_368),
        (4_194_304, 2_000_000, 6_097_152),
        (1_000_000, 1_048_576, 4_194_304),
        (18_874_368, 1_048_576, 18_874_368),
    ],
)
async def test_topics_that_are_there_take_records_as_large_as_requests_may_be_now(
    codec: Codec, present: int, request_bytes: int, limit: int
) -> None:
    """They never take smaller ones than before: what is in them may be written again."""
    cluster = MemoryCluster(record_limit=present)
    admin = MemoryLog(cluster).admin()
    topics = ["test.tasks.submitted", "test.tasks.journal", "test.tasks.submitted.dlq"]
    for topic in topics:
        cluster.create_topic(topic, 6)
    await provision(admin, codec, TOPICS.values(), replication=1, request_bytes=request_bytes)
    assert set((await admin.topic_limits(topics)).values()) == {limit}
