"""The journals that benchmarks write are such as a router takes over."""

from __future__ import annotations

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.events import TaskPhase
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_JOURNAL, TOPICS
from headrace_streams.journal_reading import JournaledDecision, read_journal
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.provisioning import provision
from headrace_streams.records import TopicPartition
from headrace_testing.journaled_tasks import write_journal


@pytest.mark.parametrize(("whole", "entries"), [(False, 10), (True, 17)])
async def test_every_entry_counts(whole: bool, entries: int) -> None:
    log = MemoryLog(MemoryCluster())
    codec = Codec(MemoryRegistry(), "headrace.")
    await provision(log.admin(), codec, list(TOPICS.values()), replication=1)
    folded: list[JournaledDecision] = []

    written, _ = await write_journal(log, codec, 2, 3, 7, whole=whole)
    place = TopicPartition(f"headrace.{TASKS_JOURNAL.name}", 2)
    recovered = await read_journal(log.reader(), codec, place, written, folded.append)

    assert written == recovered.entries == len(folded) == entries
    assert not recovered.shadowed
    newest = {each.task_id: each.phase for each in folded}
    assert sorted(phase is TaskPhase.FINISHED for phase in newest.values()) == [False] * 3 + [True] * 7
