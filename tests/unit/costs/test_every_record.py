"""Every record is handled once and in order, whatever is not delivered."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import pytest
from headrace_cost_accountant.adapters.every_record import EveryRecord, RecordHandling
from headrace_streams.errors import OffsetOutOfRange
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, Record, TopicPartition

TOPIC, GROUP = "usage", "windows"
PARTITION = TopicPartition(TOPIC, 0)


STEPS = ("append", "append", "deliver", "deliver", "drop", "repeat", "look", "commit", "move", "crash")


class Member:
    """One life of a member of the group, which adds as the windows do, and what it needs."""

    def __init__(self, cluster: MemoryCluster, membership: int = 1, added: Sequence[int] = ()) -> None:
        log = MemoryLog(cluster)
        self.cluster = cluster
        self.added = list(added)
        self.missed = 0
        self.membership: int | None = membership
        self.in_hand: list[int] = []
        self.moves_at = -1
        self.records = EveryRecord[int](
            TOPIC, GROUP, RecordHandling(self._read, self._add, self._miss), log.admin(), log.reader(),
            lambda: self.membership,
        )  # fmt: skip

    async def _read(self, record: Record) -> int:
        self.in_hand.append(record.offset)
        if record.offset == self.moves_at:
            self.membership = 2
        return record.offset

    def _add(self, record: Record, read: int) -> None:
        assert record.offset == read
        if not self.added or self.added[-1] < record.offset:
            self.added.append(record.offset)

    def _miss(self) -> None:
        self.missed += 1

    async def deliver(self, offset: int, membership: int | None = None) -> None:
        (record,) = [record for record in self.cluster.records(TOPIC, 0) if record.offset == offset]
        await self.records.deliver(record, membership or self.membership or 0)

    async def look(self, partitions: Collection[int] = (0,)) -> None:
        await self.records.look(lambda: partitions)

    def commit(self) -> None:
        for partition, offset in self.records.positions().items():
            commit(self.cluster, offset, partition)


def commit(cluster: MemoryCluster, offset: int, partition: int = 0) -> None:
    cluster.group(GROUP).committed_offsets[TopicPartition(TOPIC, partition)] = OffsetAndMetadata(offset, "")


def fill(cluster: MemoryCluster, count: int) -> None:
    for _ in range(count):
        cluster.append(ProducerRecord(TOPIC, b"v", b"k", partition=0))


@pytest.fixture
def cluster() -> MemoryCluster:
    made = MemoryCluster()
    made.create_topic(TOPIC, 2)
    return made


async def test_what_is_missing_before_a_record_is_added_first(cluster: MemoryCluster) -> None:
    fill(cluster, 1_200)
    member = Member(cluster)
    await member.deliver(3)
    assert member.added == [0, 1, 2, 3]
    await member.deliver(1_190)
    assert member.added == list(range(1_191))
    assert member.missed == 1_189
    assert member.records.positions() == {0: 1_191}


async def test_it_begins_where_the_group_stands(cluster: MemoryCluster) -> None:
    fill(cluster, 20)
    commit(cluster, 10)
    member = Member(cluster)
    await member.deliver(12)
    assert member.added == [10, 11, 12]


@pytest.mark.parametrize("committed", [None, 2, 100])
async def test_it_begins_with_the_log_where_the_position_is_not_in_it(
    cluster: MemoryCluster, committed: int | None
) -> None:
    fill(cluster, 20)
    cluster.partition(PARTITION).delete_before(5)
    if committed is not None:
        commit(cluster, committed)
    member = Member(cluster)
    await member.deliver(8)
    assert member.added == [5, 6, 7, 8]


async def test_what_is_not_in_the_log_any_more_is_passed_over(cluster: MemoryCluster) -> None:
    fill(cluster, 20)
    member = Member(cluster)
    await member.deliver(0)
    cluster.partition(PARTITION).delete_before(10)
    await member.deliver(12)
    assert member.added == [0, 10, 11, 12]
    cluster.partition(PARTITION).compact()
    await member.look()
    await member.look()
    assert member.records.positions() == {0: 20}


async def test_the_end_is_added_once_its_partition_stands_still(cluster: MemoryCluster) -> None:
    fill(cluster, 10)
    member = Member(cluster)
    await member.look()
    assert member.added == []
    await member.deliver(0)
    await member.look()
    assert member.added == [0]
    await member.look([])
    await member.look()
    assert member.added == [0], "was not being read in between"
    await member.look([0, 1])
    assert member.added == list(range(10))
    for offset in range(1, 10):
        await member.deliver(offset)
    assert member.added == list(range(10))
    assert member.records.positions() == {0: 10, 1: 0}


async def test_nothing_is_added_for_partitions_that_have_changed_hands(cluster: MemoryCluster) -> None:
    fill(cluster, 10)
    member = Member(cluster)
    await member.deliver(0)
    member.membership = None
    await member.deliver(1, membership=1)
    await member.look()
    assert (member.added, member.records.positions()) == ([0], {})
    member.membership = 2
    await member.deliver(1, membership=1)
    assert member.added == [0]
    # Another member has gone on.
    commit(cluster, 5)
    await member.deliver(6)
    assert member.added == [0, 5, 6]


async def test_what_is_in_hand_while_partitions_change_hands_is_not_added(cluster: MemoryCluster) -> None:
    fill(cluster, 10)
    member = Member(cluster)
    await member.deliver(0)
    member.moves_at = 4
    await member.deliver(6)
    assert (member.added, member.in_hand) == ([0, 1, 2, 3], [0, 1, 2, 3, 4])
    assert member.records.positions() == {}


async def test_a_log_that_was_cut_short_ends_it(cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_streams.reading._STANDS_STILL_SECONDS", 0.05)
    monkeypatch.setattr("headrace_cost_accountant.adapters.every_record._POLL_SECONDS", 0.01)
    fill(cluster, 10)
    member = Member(cluster)
    last = cluster.records(TOPIC, 0)[-1]
    cluster.truncate_after(PARTITION, 5)
    with pytest.raises(OffsetOutOfRange):
        await member.records.deliver(last, 1)
    assert member.added == list(range(5))


@pytest.mark.parametrize("seed", range(100))
async def test_any_schedule_of_drops_repeats_rebalances_and_crashes_is_exact(cluster: MemoryCluster, seed: int) -> None:
    dice = random.Random(seed)
    member, next_offset, kept = Member(cluster), 0, 0
    for _ in range(dice.randrange(5, 60)):
        match dice.choice(STEPS):
            case "append":
                fill(cluster, dice.randrange(1, 6))
            case "deliver":
                for offset in range(next_offset, len(cluster.records(TOPIC, 0))):
                    await member.deliver(offset)
                next_offset = len(cluster.records(TOPIC, 0))
            case "drop":
                next_offset = min(next_offset + dice.randrange(1, 5), len(cluster.records(TOPIC, 0)))
            case "repeat":
                next_offset = dice.randint(0, next_offset)
            case "look":
                await member.look()
            case "commit":
                member.commit()
                kept = len(member.added)
            case "move":
                member.membership = (member.membership or 0) + 1
            case _:
                # Of what is not committed yet, some has got into the changelog.
                member = Member(cluster, 1, member.added[: dice.randint(kept, len(member.added))])
    for _ in range(3):
        await member.look()
    assert member.added == list(range(len(cluster.records(TOPIC, 0))))
