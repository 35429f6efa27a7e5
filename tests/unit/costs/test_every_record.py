"""Every record is handled once and in order, whatever happens to the group and to the log."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from headrace_cost_accountant.adapters.every_record import EveryRecord, Membership, RecordHandling
from headrace_streams.errors import OffsetOutOfRange
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, Record, TopicPartition

TOPIC, GROUP = "usage", "windows"
PARTITION = TopicPartition(TOPIC, 0)


STEPS = ("append", "append", "read", "read", "write", "commit", "move", "leave", "truncate", "crash")


class Stumbled(Exception):
    """What the test makes a record fail with."""


class Member:
    """One life of a member of the group, which adds as the windows do, and what it needs."""

    def __init__(self, cluster: MemoryCluster, membership: int = 1, added: Sequence[int] = ()) -> None:
        log = MemoryLog(cluster)
        self.cluster = cluster
        self.added = list(added)
        self.membership: int | None = membership
        self.partitions = [0]
        self.in_hand: list[int] = []
        self.steps: list[tuple[int, list[int]]] = []
        # As the windows, which keep what they have added for a while before it is in the changelog.
        self.unwritten: list[int] = []
        self.moves_at = -1
        self.stumbles_at = -1
        self.records = EveryRecord[int](
            TOPIC, GROUP, RecordHandling(self._read, self._add, self.unwritten.clear), log.admin(), log.reader(),
            Membership(lambda: self.membership, lambda: self.partitions),
        )  # fmt: skip

    async def _read(self, record: Record) -> int:
        self.in_hand.append(record.offset)
        if record.offset == self.moves_at:
            self.membership = 2
        if record.offset == self.stumbles_at:
            raise Stumbled
        return record.offset

    def _add(self, partition: int, piece: Sequence[tuple[Record, int]]) -> None:
        offsets = [read for _, read in piece]
        assert [(record.partition, record.offset) for record, _ in piece] == [(partition, each) for each in offsets]
        self.steps.append((partition, offsets))
        known = max([-1, *self.added, *self.unwritten])
        if partition == 0:
            self.unwritten += [offset for offset in offsets if offset > known]

    def write(self) -> None:
        if self.records.positions():
            self.added += self.unwritten
            self.unwritten.clear()

    async def read(self) -> None:
        """Read and write, as most tests do."""
        await self.records.read()
        self.write()

    def commit(self) -> None:
        self.write()
        for partition, offset in self.records.positions().items():
            commit(self.cluster, offset, partition)


def commit(cluster: MemoryCluster, offset: int, partition: int = 0) -> None:
    cluster.group(GROUP).committed_offsets[TopicPartition(TOPIC, partition)] = OffsetAndMetadata(offset, "")


def fill(cluster: MemoryCluster, count: int, partition: int = 0) -> None:
    for _ in range(count):
        cluster.append(ProducerRecord(TOPIC, b"v", b"k", partition=partition))


@pytest.fixture
def cluster() -> MemoryCluster:
    made = MemoryCluster()
    made.create_topic(TOPIC, 2)
    return made


async def test_everything_is_added_in_few_steps(cluster: MemoryCluster) -> None:
    fill(cluster, 1_200)
    fill(cluster, 300, partition=1)
    member = Member(cluster)
    member.partitions = [0, 1]
    await member.read()
    assert member.added == list(range(1_200))
    assert [offset for partition, step in member.steps if partition for offset in step] == list(range(300))
    assert len(member.steps) <= 8
    assert member.records.positions() == {0: 1_200, 1: 300}
    await member.read()
    assert len(member.in_hand) == 1_500
    fill(cluster, 3)
    await member.read()
    assert member.steps[-1] == (0, [1_200, 1_201, 1_202])


async def test_it_returns_after_a_while_though_there_is_more(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_cost_accountant.adapters.every_record._LONGEST_SECONDS", 0.0)
    fill(cluster, 1_200)
    member = Member(cluster)
    await member.read()
    assert member.records.positions() == {0: 500}
    for _ in range(2):
        await member.read()
    assert member.added == list(range(1_200))


async def test_it_begins_where_the_group_stands(cluster: MemoryCluster) -> None:
    fill(cluster, 20)
    commit(cluster, 10)
    member = Member(cluster)
    await member.read()
    assert member.added == list(range(10, 20))


@pytest.mark.parametrize("committed", [None, 2, 100])
async def test_it_begins_with_the_log_where_the_position_is_not_in_it(
    cluster: MemoryCluster, committed: int | None
) -> None:
    fill(cluster, 20)
    cluster.partition(PARTITION).delete_before(5)
    if committed is not None:
        commit(cluster, committed)
    member = Member(cluster)
    await member.read()
    assert member.added == list(range(5, 20))


async def test_what_is_not_in_the_log_any_more_is_passed_over(cluster: MemoryCluster) -> None:
    fill(cluster, 1)
    member = Member(cluster)
    await member.read()
    fill(cluster, 19)
    cluster.partition(PARTITION).delete_before(10)
    await member.read()
    await member.read()
    assert member.added == [0, *range(10, 20)]
    fill(cluster, 5)
    cluster.partition(PARTITION).compact()
    await member.read()
    assert member.records.positions() == {0: 25}


async def test_nothing_is_added_for_partitions_that_have_changed_hands(cluster: MemoryCluster) -> None:
    fill(cluster, 10)
    member = Member(cluster)
    await member.read()
    member.membership = None
    assert member.records.positions() == {}
    fill(cluster, 10)
    await member.read()
    assert member.added == list(range(10))
    # Another member has gone on.
    commit(cluster, 15)
    member.membership = 2
    assert member.records.positions() == {}
    await member.read()
    assert member.added == [*range(10), *range(15, 20)]


async def test_what_is_unwritten_when_partitions_change_hands_is_forgotten(cluster: MemoryCluster) -> None:
    fill(cluster, 10)
    member = Member(cluster)
    await member.records.read()
    assert member.unwritten == list(range(10))
    # Another member has read these again, and five more.
    fill(cluster, 10)
    commit(cluster, 15)
    member.membership = 2
    await member.read()
    assert member.added == list(range(15, 20))


async def test_partitions_that_are_no_longer_its_own_are_not_read(cluster: MemoryCluster) -> None:
    member = Member(cluster)
    member.partitions = [0, 1]
    await member.read()
    member.membership, member.partitions = 2, [1]
    fill(cluster, 3)
    fill(cluster, 2, partition=1)
    await member.read()
    assert member.steps == [(1, [0, 1])]
    assert member.records.positions() == {1: 2}


async def test_what_is_in_hand_while_partitions_change_hands_is_not_added(cluster: MemoryCluster) -> None:
    fill(cluster, 10)
    member = Member(cluster)
    member.moves_at = 4
    await member.read()
    assert member.steps == []
    assert member.in_hand == list(range(10))
    assert member.records.positions() == {}
    await member.read()
    assert member.added == list(range(10))


async def test_what_fails_comes_again(cluster: MemoryCluster) -> None:
    fill(cluster, 10)
    member = Member(cluster)
    member.stumbles_at = 5
    with pytest.raises(Stumbled):
        await member.read()
    assert (member.added, member.records.positions()) == ([], {})
    member.stumbles_at = -1
    await member.read()
    assert member.added == list(range(10))


async def test_a_log_that_was_cut_short_ends_it(cluster: MemoryCluster) -> None:
    fill(cluster, 10)
    member = Member(cluster)
    await member.read()
    cluster.truncate_after(PARTITION, 5)
    with pytest.raises(OffsetOutOfRange):
        await member.read()
    assert member.added == list(range(10))


@pytest.mark.parametrize("seed", range(100))
async def test_any_schedule_of_rebalances_failures_and_crashes_is_exact(cluster: MemoryCluster, seed: int) -> None:
    dice = random.Random(seed)
    member, kept = Member(cluster), 0
    for _ in range(dice.randrange(5, 60)):
        match dice.choice(STEPS):
            case "append":
                fill(cluster, dice.randrange(1, 6))
            case "read":
                member.stumbles_at = dice.choice([-1, dice.randint(0, len(cluster.records(TOPIC, 0)))])
                try:
                    await member.records.read()
                except Stumbled:
                    member.stumbles_at = -1
            case "write":
                member.write()
            case "commit":
                member.commit()
                kept = len(member.added)
            case "move":
                member.moves_at = dice.choice([-1, dice.randint(0, len(cluster.records(TOPIC, 0)))])
                member.membership = (member.membership or 0) + 1
            case "leave":
                member.membership = None
            case "truncate":
                # What is committed may be deleted.
                committed = cluster.group(GROUP).committed_offsets.get(PARTITION)
                cluster.partition(PARTITION).delete_before(dice.randint(0, committed.next_offset if committed else 0))
            case _:
                # Of what is not committed yet, some has got into the changelog.
                member = Member(cluster, 1, member.added[: dice.randint(kept, len(member.added))])
    member.stumbles_at = member.moves_at = -1
    member.membership = 1_000
    await member.read()
    await member.read()
    end = member.records.positions()[0]
    assert member.added == list(range(end))
