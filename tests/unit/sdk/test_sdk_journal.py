"""An operator looks at a journal, checks it, and passes over what cannot be read."""

from __future__ import annotations

import pytest
from headrace import journal
from headrace.connecting import Cluster
from headrace_contracts.events import EntryKind, JournalEntry
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_JOURNAL
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.records import ProducerRecord

TOPIC = "headrace.tasks.journal"


class _Registry(MemoryRegistry):
    async def close(self) -> None: ...


@pytest.fixture
async def memory() -> MemoryCluster:
    made = MemoryCluster()
    made.create_topic(TOPIC, 2)
    return made


@pytest.fixture
async def cluster(memory: MemoryCluster) -> Cluster:
    made = Cluster.over(MemoryLog(memory), _Registry())
    await made.codec.prepare([TASKS_JOURNAL], register=True)
    return made


def put(memory: MemoryCluster, cluster: Cluster, *entries: JournalEntry | bytes | None, partition: int = 0) -> None:
    for entry in entries:
        value = cluster.codec.encode(TASKS_JOURNAL, entry) if isinstance(entry, JournalEntry) else entry
        memory.append(ProducerRecord(TOPIC, value, b"k", partition))


START = JournalEntry(kind=EntryKind.EPOCH_START, owner="r1", decided_at=1)


def decision(sequence: int, task: str = "t") -> JournalEntry:
    return JournalEntry(
        kind=EntryKind.DECISION, task_id=task, epoch=0, sequence=sequence, cause="submitted", owner="r1", decided_at=2
    )


async def test_records_are_shown_with_what_readers_make_of_them(memory: MemoryCluster, cluster: Cluster) -> None:
    put(memory, cluster, START, decision(1), decision(7), b"junk", None)
    found = [each async for each in journal.records(cluster, 0)]
    assert [each.counts for each in found] == [True, True, False, False, False]
    assert [each.error is not None for each in found] == [False, False, False, True, False]
    assert [each.entry is not None for each in found] == [True, True, True, False, False]


async def test_an_empty_partition_is_in_order(cluster: Cluster) -> None:
    verdicts = await journal.verify(cluster)
    assert [(each.partition, each.ok, each.records) for each in verdicts] == [(0, True, 0), (1, True, 0)]


@pytest.mark.parametrize("junk", [b"", b"x", b"\x00\x00\x00\x00\x63abc"])
async def test_what_cannot_be_read_is_named_and_can_be_skipped(
    memory: MemoryCluster, cluster: Cluster, junk: bytes
) -> None:
    put(memory, cluster, START, decision(1), junk)
    put(memory, cluster, START, partition=1)
    bad, good = await journal.verify(cluster)
    assert (bad.ok, list(bad.unreadable), bad.entries, bad.epochs) == (False, [2], 1, 1)
    assert good.ok
    at = await journal.skip(cluster, 0, 2, reason="a test gone astray", operator="eve@desk")
    (after,) = await journal.verify(cluster, [0])
    assert after.ok
    assert (after.skipped[2].owner, after.skipped[2].note) == ("eve@desk", "a test gone astray")
    assert at == 3


@pytest.mark.parametrize("offset", [0, 1, 3, 99])
async def test_only_what_cannot_be_read_can_be_skipped(memory: MemoryCluster, cluster: Cluster, offset: int) -> None:
    put(memory, cluster, START, decision(1), b"junk", None)
    with pytest.raises(journal.NothingToSkip, match="unreadable in this partition: 2"):
        await journal.skip(cluster, 0, offset, reason="r", operator="o")
    assert len(memory.records(TOPIC, 0)) == 4


async def test_nothing_is_skipped_twice(memory: MemoryCluster, cluster: Cluster) -> None:
    put(memory, cluster, b"junk")
    await journal.skip(cluster, 0, 0, reason="first", operator="eve")
    with pytest.raises(journal.NothingToSkip, match="was skipped by eve: first"):
        await journal.skip(cluster, 0, 0, reason="second", operator="o")


async def test_looking_changes_nothing(memory: MemoryCluster, cluster: Cluster) -> None:
    put(memory, cluster, START, decision(1), b"junk")
    before = memory.records(TOPIC)
    await journal.verify(cluster)
    _ = [each async for each in journal.records(cluster, 0)]
    assert memory.records(TOPIC) == before
