"""The journal on the log's in-memory twin: who owns a partition, which entries count, what is left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import (
    Command,
    CommandKind,
    Content,
    EntryKind,
    JournalEntry,
    Message,
    Position,
    TaskPhase,
    TaskState,
    TaskSubmitted,
)
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_JOURNAL
from headrace_streams.errors import AppendUncertain, Fenced, StreamsError, TransientError
from headrace_streams.journal import EntryTooLarge, Journal, JournaledDecision, Recovered
from headrace_streams.journal_reading import JournalUnreadable
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.memory.network import NetworkRequest, Operation
from headrace_streams.publishing import Publisher
from headrace_streams.records import ProducerRecord, TopicPartition

TOPIC = "headrace.tasks.journal"
T = TypeVar("T")


class FaultyNetwork:
    """Carries requests until told to fail the next appends: before they are performed, or after."""

    def __init__(self) -> None:
        self.lose: list[StreamsError | None] = []
        self.lose_answer: list[StreamsError | None] = []

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if request.operation is Operation.APPEND:
            if self.lose and (error := self.lose.pop(0)) is not None:
                raise error
            if self.lose_answer and (error := self.lose_answer.pop(0)) is not None:
                perform()
                raise error
        return perform()


@dataclass
class Owner:
    """One process that owns, or believes it owns, the partition."""

    journal: Journal
    recovered: Recovered
    network: FaultyNetwork
    folded: list[JournaledDecision] = field(default_factory=list)

    async def append(self, entry: JournalEntry) -> int:
        return await asyncio.wait_for(self.journal.append(entry), 30)

    @property
    def tasks(self) -> list[str]:
        return [entry.task_id for entry in self.folded]


class Partition:
    """One journal partition on a cluster of its own."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster()
        self.cluster.create_topic(TOPIC, 2)
        self.codec = Codec(MemoryRegistry())

    async def take_over(self, name: str = "a", *, limit: int = 100_000) -> Owner:
        await self.codec.prepare([TASKS_JOURNAL], register=True)
        network = FaultyNetwork()
        log = MemoryLog(self.cluster, client=name, network=network)
        publisher = Publisher(log.producer(), self.codec, f"test/{name}")
        folded: list[JournaledDecision] = []
        reader = log.reader()
        journal, recovered = await asyncio.wait_for(
            Journal.take_over(
                publisher=publisher,
                reader=reader,
                codec=self.codec,
                partition=1,
                owner=name,
                now_ms=1000,
                fold=folded.append,
                limit=limit,
            ),
            5,
        )
        await reader.close()
        return Owner(journal, recovered, network, folded)

    def written(self) -> list[JournalEntry]:
        found = []
        for record in self.cluster.records(TOPIC, 1):
            if record.value is not None:
                origin = events_origin(record.offset)
                found.append(self.codec.decode(JournalEntry, record.value, origin))
        return found


def events_origin(offset: int) -> Origin:
    return Origin(TOPIC, 1, offset)


def entry(task: str, next_offset: int = 0, *, commands: int = 1, state: TaskState | None = None) -> JournalEntry:
    command = Command(kind=CommandKind.DISPATCH, event_id=f"{task}/1", topic="work.local.batch", attempt=1)
    return JournalEntry(
        kind=EntryKind.DECISION,
        task_id=task,
        cause="submitted",
        positions=(Position(topic="tasks.submitted", partition=1, next_offset=next_offset),) if next_offset else (),
        state=state,
        commands=(command,) * commands,
        decided_at=2000,
    )


@pytest.fixture
def partition() -> Partition:
    return Partition()


async def test_a_new_partition_holds_nothing(partition: Partition) -> None:
    owner = await partition.take_over()
    assert owner.journal.epoch == 0
    assert owner.recovered == Recovered({}, {}, (), None, frozenset(), 0, None)
    assert partition.cluster.records(TOPIC, 0) == ()


async def test_entries_stand_at_epoch_plus_sequence(partition: Partition) -> None:
    await partition.take_over("before")
    owner = await partition.take_over("a")
    assert [await owner.append(entry(task)) for task in "xyz"] == [2, 3, 4]
    epoch_start, *entries = partition.written()[1:]
    assert (epoch_start.kind, epoch_start.epoch, epoch_start.sequence) == (EntryKind.EPOCH_START, -1, 0)
    assert [(e.epoch, e.sequence, e.owner) for e in entries] == [(1, 1, "a"), (1, 2, "a"), (1, 3, "a")]


@pytest.mark.parametrize("offsets", [(5, 6, 7), (5, 7, 2)], ids=["one log", "another log from the last one on"])
async def test_a_new_owner_finds_decisions_in_order_and_the_newest_positions(
    partition: Partition, offsets: tuple[int, int, int]
) -> None:
    owner = await partition.take_over("a")
    for task, offset in zip("xyx", offsets, strict=True):
        await owner.append(entry(task, offset))
    successor = await partition.take_over("b")
    assert successor.tasks == ["x", "y", "x"]
    assert successor.recovered.positions == {("tasks.submitted", 1): offsets[-1]}
    assert successor.recovered.entries == 3


async def test_many_entries_are_in_flight_and_acknowledged_in_order(partition: Partition) -> None:
    owner = await partition.take_over()
    order: list[int] = []
    acks = [owner.journal.append(entry(f"t{n}")) for n in range(200)]
    for ack in acks:
        ack.add_done_callback(lambda done: order.append(done.result()))
    assert owner.journal.in_flight == 200
    await asyncio.gather(*acks)
    await asyncio.sleep(0)
    assert order == list(range(1, 201))
    assert owner.journal.in_flight == 0


async def test_only_entries_not_known_as_carried_out_are_left_to_do(partition: Partition) -> None:
    owner = await partition.take_over("a")
    first, second, third = [await owner.append(entry(task)) for task in "xyz"]
    owner.journal.published(first)
    owner.journal.published(third)
    await owner.append(entry("w"))
    successor = await partition.take_over("b")
    assert [(placed.offset, placed.entry.task_id) for placed in successor.recovered.unpublished] == [
        (second, "y"),
        (third, "z"),
        (4, "w"),
    ]


async def test_a_checkpoint_after_the_last_command_leaves_nothing_to_do(partition: Partition) -> None:
    owner = await partition.take_over("a")
    owner.journal.published(await owner.append(entry("x", 3)))
    await asyncio.wait_for(
        owner.journal.checkpoint((Position(topic="attempts.finished", partition=1, next_offset=9),), 3000), 5
    )
    successor = await partition.take_over("b")
    assert successor.recovered.unpublished == ()
    assert successor.recovered.positions == {("tasks.submitted", 1): 3, ("attempts.finished", 1): 9}
    assert successor.tasks == ["x"]


async def test_entries_without_commands_are_carried_out_by_being_written(partition: Partition) -> None:
    owner = await partition.take_over()
    await owner.append(entry("x", commands=0))
    assert owner.journal.published_offset == 2


async def test_what_a_predecessor_left_stays_open_until_it_is_settled(partition: Partition) -> None:
    owner = await partition.take_over("a")
    left = await owner.append(entry("x"))
    successor = await partition.take_over("b")
    done = await successor.append(entry("y"))
    successor.journal.published(done)
    assert successor.journal.published_offset == left
    await successor.append(entry("z"))
    third = await partition.take_over("c")
    assert [placed.entry.task_id for placed in third.recovered.unpublished] == ["x", "y", "z"]
    third.journal.settled(40)
    assert third.journal.published_offset == third.journal.epoch + 1


async def test_the_tail_of_terminal_states_begins_behind_the_last_one_known_to_be_written(partition: Partition) -> None:
    owner = await partition.take_over("a")
    owner.journal.settled(10)
    first, second, third = [await owner.append(entry(task)) for task in "xyz"]
    owner.journal.published(second, completed_at=12)
    await owner.append(entry("v"))
    owner.journal.published(first, completed_at=11)
    await owner.append(entry("w"))
    offsets = [e.completed_offset for e in partition.written()[1:]]
    # While the first one's was open, 12 could not be passed: its own might have stood anywhere from 10 on.
    assert offsets == [10, 10, 10, 10, 13]
    assert (await partition.take_over("b")).recovered.completed_offset == 13
    assert third == 3


async def test_a_zombie_is_fenced_by_its_first_entry_and_for_good(partition: Partition) -> None:
    zombie = await partition.take_over("a")
    await zombie.append(entry("x"))
    await partition.take_over("b")
    acks = [zombie.journal.append(entry(task)) for task in ("y", "z")]
    for ack in acks:
        with pytest.raises(Fenced, match="another owner has written"):
            await ack
    with pytest.raises(Fenced):
        zombie.journal.append(entry("w"))
    assert zombie.journal.fenced is not None


async def test_what_a_zombie_wrote_does_not_count(partition: Partition) -> None:
    zombie = await partition.take_over("a")
    await zombie.append(entry("x", 1))
    owner = await partition.take_over("b")
    await owner.append(entry("y", 2))
    with pytest.raises(Fenced):
        await zombie.append(entry("evil", 99))
    successor = await partition.take_over("c")
    assert successor.tasks == ["x", "y"]
    assert successor.recovered.positions == {("tasks.submitted", 1): 2}
    assert [placed.entry.task_id for placed in successor.recovered.unpublished] == ["x", "y"]


async def test_an_owner_disturbed_by_a_zombie_takes_over_once_more(partition: Partition) -> None:
    zombie = await partition.take_over("a")
    owner = await partition.take_over("b")
    with pytest.raises(Fenced):
        await zombie.append(entry("evil"))
    with pytest.raises(Fenced):
        await owner.append(entry("y"))
    again = await partition.take_over("b")
    assert again.tasks == []
    assert [await again.append(entry(task)) for task in "yz"] == [5, 6]


async def test_an_entry_behind_a_lost_one_is_ignored_by_readers(partition: Partition) -> None:
    owner = await partition.take_over("a")
    owner.network.lose = [TransientError("lost")]
    first = owner.journal.append(entry("x", 1))
    await asyncio.sleep(0)
    second = owner.journal.append(entry("y", 2))
    for ack in (first, second):
        with pytest.raises(Fenced):
            await ack
    await asyncio.sleep(0.01)
    assert [e.task_id for e in partition.written()] == ["", "y"]
    successor = await partition.take_over("b")
    assert successor.tasks == []
    assert successor.recovered.positions == {}


async def test_a_foreign_record_in_the_place_of_a_lost_entry_does_not_make_the_next_one_count(
    partition: Partition,
) -> None:
    owner = await partition.take_over("a")
    owner.network.lose = [TransientError("lost")]
    first = owner.journal.append(entry("x", 1))
    await asyncio.sleep(0)
    partition.cluster.append(ProducerRecord(TOPIC, None, b"foreign", 1))
    second = owner.journal.append(entry("y", 2))
    for ack in (first, second):
        with pytest.raises(Fenced):
            await ack
    await asyncio.sleep(0.01)
    assert (partition.written()[-1].task_id, partition.cluster.records(TOPIC, 1)[-1].offset) == ("y", 2)
    assert (await partition.take_over("b")).tasks == []


async def test_an_entry_of_unknown_fate_fences_its_owner_and_counts_if_it_is_there(partition: Partition) -> None:
    owner = await partition.take_over("a")
    owner.network.lose_answer = [AppendUncertain("no answer")]
    with pytest.raises(Fenced, match="no answer"):
        await owner.append(entry("x", 1))
    successor = await partition.take_over("b")
    assert successor.tasks == ["x"]
    assert [placed.entry.task_id for placed in successor.recovered.unpublished] == ["x"]


async def test_a_epoch_start_that_may_have_been_written_is_harmless(partition: Partition) -> None:
    before = await partition.take_over("before")
    await before.append(entry("x"))
    network = FaultyNetwork()
    network.lose_answer = [AppendUncertain("no answer")]
    log = MemoryLog(partition.cluster, network=network)
    with pytest.raises(AppendUncertain):
        await Journal.take_over(
            publisher=Publisher(log.producer(), partition.codec, "test"),
            reader=log.reader(),
            codec=partition.codec,
            partition=1,
            owner="a",
            now_ms=0,
            fold=lambda _: None,
        )
    owner = await partition.take_over("a")
    assert owner.tasks == ["x"]
    assert await owner.append(entry("y")) == 4


async def test_compaction_keeps_what_is_needed(partition: Partition) -> None:
    for name in ("a", "b", "c"):
        owner = await partition.take_over(name)
        owner.journal.settled(0)
        for number in range(5):
            owner.journal.published(await owner.append(entry(f"t{number}", number + 1)))
    await owner.append(entry("open"))
    partition.cluster.compact(TOPIC)
    kept = partition.cluster.records(TOPIC, 1)
    assert len(kept) == 7
    assert sum(e.kind is EntryKind.EPOCH_START for e in partition.written()) == 1
    successor = await partition.take_over("d")
    assert sorted(successor.tasks) == ["open", "t0", "t1", "t2", "t3", "t4"]
    assert [placed.entry.task_id for placed in successor.recovered.unpublished] == ["open"]


async def test_entries_whose_epoch_start_was_compacted_away_count(partition: Partition) -> None:
    first = await partition.take_over("a")
    await first.append(entry("x"))
    second = await partition.take_over("b")
    await second.append(entry("y"))
    await partition.take_over("c")
    partition.cluster.compact(TOPIC)
    assert (await partition.take_over("d")).tasks == ["x", "y"]


async def test_a_task_whose_newest_record_does_not_count_is_named(partition: Partition) -> None:
    zombie = await partition.take_over("a")
    owner = await partition.take_over("b")
    await owner.append(entry("x", 1))
    await owner.append(entry("y", 2))
    with pytest.raises(Fenced):
        await zombie.append(entry("x", 9))
    successor = await partition.take_over("c")
    assert successor.recovered.shadowed == {"x"}
    await successor.append(entry("x", 1))
    assert (await partition.take_over("d")).recovered.shadowed == frozenset()


async def test_a_tombstone_does_not_forget_a_task(partition: Partition) -> None:
    owner = await partition.take_over("a")
    await owner.append(entry("x", 1))
    partition.cluster.append(ProducerRecord(TOPIC, None, b"x", 1))
    with pytest.raises(Fenced):
        await owner.append(entry("y"))
    successor = await partition.take_over("b")
    assert successor.tasks == ["x"]
    assert successor.recovered.shadowed == {"x", "y"}


async def test_an_entry_too_large_leaves_no_trace(partition: Partition) -> None:
    owner = await partition.take_over(limit=2000)
    task = TaskSubmitted(
        task_id="x",
        tenant="t",
        messages=(Message(role="user", content=Content(data=b"x" * 3000)),),
        submitted_at=1,
    )
    state = TaskState(phase=TaskPhase.WAITING, task=task, route_key=b"k", home_partition=1)
    with pytest.raises(EntryTooLarge) as caught:
        owner.journal.append(entry("x", state=state))
    assert caught.value.size > caught.value.limit == 2000
    assert await owner.append(entry("y")) == 1


async def test_an_unreadable_record_stops_the_recovery(partition: Partition) -> None:
    await partition.take_over("a")
    partition.cluster.append(ProducerRecord(TOPIC, b"not avro", b"x", 1))
    with pytest.raises(JournalUnreadable, match=r"headrace\.tasks\.journal\[1\]@1.*headrace journal skip 1 1 --rea"):
        await partition.take_over("b")


async def skip(partition: Partition, offset: int) -> None:
    made = JournalEntry(kind=EntryKind.SKIP, owner="eve@desk", skipped_offset=offset, note="junk", decided_at=1)
    value = partition.codec.encode(TASKS_JOURNAL, made)
    partition.cluster.append(ProducerRecord(TOPIC, value, b"skip", 1))


@pytest.mark.parametrize("junk", [b"", b"x", b"\x00\x00\x00\x00\x00", b"\x00\xff\xff\xff\xff" + b"x" * 99])
async def test_a_skip_lets_the_next_owner_go_on_without_a_record(partition: Partition, junk: bytes) -> None:
    owner = await partition.take_over("a")
    await owner.append(entry("t1", 1))
    partition.cluster.append(ProducerRecord(TOPIC, junk, b"x", 1))
    for _ in range(2):
        with pytest.raises(JournalUnreadable):
            await partition.take_over("b")
    await skip(partition, 2)
    successor = await partition.take_over("b")
    assert successor.tasks == ["t1"]
    await successor.append(entry("t2", 2))
    # Its owner notices nothing of the old trouble, and the next one neither.
    assert (await partition.take_over("c")).tasks == ["t1", "t2"]


async def test_each_unreadable_record_needs_its_own_skip(partition: Partition) -> None:
    await partition.take_over("a")
    for _ in range(3):
        partition.cluster.append(ProducerRecord(TOPIC, b"junk", b"x", 1))
    await skip(partition, 1)
    await skip(partition, 3)
    with pytest.raises(JournalUnreadable, match=r"@2"):
        await partition.take_over("b")
    await skip(partition, 2)
    assert (await partition.take_over("b")).tasks == []


async def test_a_skip_written_under_a_live_owner_fences_it_once_and_loses_nothing(partition: Partition) -> None:
    owner = await partition.take_over("a")
    await owner.append(entry("t1", 1))
    await skip(partition, 99)
    with pytest.raises(Fenced, match="another owner has written"):
        await owner.append(entry("t2", 2))
    successor = await partition.take_over("a")
    assert successor.tasks == ["t1"]
    await successor.append(entry("t2", 2))
    assert (await partition.take_over("b")).tasks == ["t1", "t2"]


async def test_retention_may_have_removed_the_beginning(partition: Partition) -> None:
    owner = await partition.take_over("a")
    for number in range(10):
        await owner.append(entry(f"t{number}", number + 1))
    partition.cluster.delete_before(TopicPartition(TOPIC, 1), 8)
    successor = await partition.take_over("b")
    assert successor.tasks == ["t7", "t8", "t9"]
    assert successor.recovered.positions == {("tasks.submitted", 1): 10}
