"""A defect that fails with every record of a partition: it rests, its records are not given up, the others go on."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.events import AccessKey
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import ACCESS_KEYS
from headrace_streams.errors import BatchRefused, PartitionsLost
from headrace_streams.log_identity import StoredPosition
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.parallel import Observer
from headrace_streams.projection import Moves, Projection
from headrace_streams.records import ProducerRecord, Record, TopicPartition
from headrace_streams.suspending import ErrorBudget
from headrace_testing.engine import GROUP, TOPIC, Letters, all_committed, eventually, running

LIMIT = 3


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    def budget() -> ErrorBudget:
        return ErrorBudget(LIMIT, 0.1, 0.2)

    monkeypatch.setattr("headrace_streams.work.ErrorBudget", budget)
    monkeypatch.setattr("headrace_streams.projection.ErrorBudget", budget)


@pytest.mark.parametrize(
    ("times", "answers"),
    [
        ([0, 1, 2], [None, None, 12.0]),
        ([0, 1, 61], [None, None, None]),
        ([0, 1, 2, 5, 12.5], [None, None, 12.0, 12.0, 32.5]),
        ([0, 1, 2, 12.5, 33, 200, 201, 202], [None, None, 12.0, 32.5, 63.0, None, None, 212.0]),
    ],
)
def test_a_budget_is_spent_rests_longer_and_recovers(times: list[float], answers: list[float | None]) -> None:
    budget = ErrorBudget(2, 10.0, 30.0)
    assert [budget.spend(time) for time in times] == answers


class Told(Observer):
    def __init__(self) -> None:
        self.told: list[tuple[int, str | None]] = []

    def suspended(self, partition: TopicPartition, reason: str | None) -> None:
        self.told.append((partition.partition, reason))


@pytest.mark.parametrize("error", [LookupError("content"), ZeroDivisionError(), RecursionError("content")])
@pytest.mark.parametrize("records", [8, 30])
async def test_the_engine_suspends_the_partition_and_gives_up_no_more(error: Exception, records: int) -> None:
    cluster = MemoryCluster()
    cluster.create_topic(TOPIC, 2)
    done: Counter[tuple[int, int]] = Counter()
    defect, told, letters, tries = True, Told(), Letters(), 0

    async def handle(record: Record) -> None:
        nonlocal tries
        await asyncio.sleep(0)
        tries += record.partition == 0
        if defect and record.partition == 0:
            raise error
        done[record.partition, record.offset] += 1

    for number in range(records):
        for partition in range(2):
            cluster.append(ProducerRecord(TOPIC, b"x", b"%d-%d" % (partition, number), partition=partition))
    async with running(cluster, handle, letters=letters, observer=told) as engine:
        await eventually(lambda: TopicPartition(TOPIC, 0) in engine.state().suspended, "suspended", 30.0)
        await eventually(lambda: len(done) == records, "the other partition goes on", 30.0)
        before = tries
        # It may be said to be suspended all the time: what is tried again may fail before the rest is over.
        await eventually(lambda: tries >= before + 2 * records, "tried again", 30.0)
        assert len(letters.kept) == LIMIT
        reason = next(reason for _, reason in told.told if reason)
        assert type(error).__name__ in reason
        assert "content" not in reason
        defect = False
        await eventually(lambda: len(done) == 2 * records - LIMIT, "all is handled", 30.0)
        await eventually(lambda: all_committed(cluster), "committed", 30.0)
        assert not engine.state().suspended
    assert set(done.values()) == {1}
    assert {partition for partition, _ in told.told} == {0}


async def test_nothing_of_a_suspended_partition_is_lost_in_a_rebalance() -> None:
    cluster = MemoryCluster()
    cluster.create_topic(TOPIC, 2)
    done: Counter[tuple[int, int]] = Counter()
    defect, letters = True, Letters()

    async def handle(record: Record) -> None:
        if defect and record.partition == 0:
            raise LookupError
        done[record.partition, record.offset] += 1

    for number in range(10):
        for partition in range(2):
            cluster.append(ProducerRecord(TOPIC, b"x", b"%d-%d" % (partition, number), partition=partition))
    async with running(cluster, handle, letters=letters) as first:
        await eventually(lambda: bool(first.state().suspended), "suspended", 30.0)
        async with running(cluster, handle, letters=letters) as second:
            await eventually(lambda: second.state().partitions == 1, "shared", 30.0)
            defect = False
            await eventually(lambda: len(done) + len(letters.kept) >= 20, "all is handled", 30.0)
            await eventually(lambda: all_committed(cluster), "committed", 30.0)
    assert set(done) | {(0, one[0].offset) for one in letters.kept} == {
        (partition, offset) for partition in range(2) for offset in range(10)
    }


@pytest.mark.parametrize("gone", ["revoked", "lost", "recreated"])
async def test_what_is_no_longer_ours_is_no_longer_said_to_be_suspended(gone: str) -> None:
    cluster = MemoryCluster(session_timeout=0.3)
    cluster.create_topic(TOPIC, 1)
    told, letters = Told(), Letters()

    async def handle(record: Record) -> None:
        raise LookupError

    for number in range(10):
        cluster.append(ProducerRecord(TOPIC, b"x", b"%d" % number, partition=0))
    async with running(cluster, handle, letters=letters, observer=told, watch_interval_seconds=0.1) as engine:
        await eventually(lambda: bool(engine.state().suspended), "suspended", 30.0)
        told.told.clear()
        if gone == "revoked":
            await engine.stop()
        elif gone == "lost":
            (member,) = cluster.group(GROUP).members
            cluster.group(GROUP).expel(asyncio.get_running_loop().time(), member)
        else:
            cluster.recreate_topic(TOPIC, forget_commits=False)
        await eventually(lambda: (0, None) in told.told, "it is said", 30.0)
        if gone == "recreated":
            await eventually(lambda: not engine.state().suspended, "the new log is not suspended", 30.0)
            await asyncio.sleep(0.3)
            assert {reason for _, reason in told.told} == {None}


class Store:
    """A database that fails with one partition's records."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.defect = True
        self.rows: Counter[tuple[int, int]] = Counter()
        self.stored: dict[TopicPartition, StoredPosition] = {}

    async def positions(self, partitions: object) -> dict[TopicPartition, StoredPosition]:
        return dict(self.stored)

    async def apply(self, batch: list[tuple[Record, object]], moves: Moves) -> None:
        await asyncio.sleep(0)
        if self.defect and any(record.partition == 0 for record, _ in batch):
            raise self.error
        for name, (expected, position) in moves.items():
            if self.stored.get(name) != expected:
                raise PartitionsLost(str(name))
            self.stored[name] = position
        self.rows.update((record.partition, record.offset) for record, _ in batch)


@pytest.mark.parametrize("error", [LookupError("content"), TypeError(), ArithmeticError("content")])
async def test_a_projection_suspends_the_partition_and_gives_up_no_more(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_streams.projection._FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr("headrace_streams.projection._POLL_SECONDS", 0.05)
    cluster, codec, store, letters = MemoryCluster(), Codec(MemoryRegistry(), "test."), Store(error), Letters()
    await codec.prepare([ACCESS_KEYS], register=True)
    topic = "test.access.keys"
    cluster.create_topic(topic, 2)
    event = AccessKey(key_id="k", tenant="acme", name="k", secret_hash="h", created_at=1)
    for _ in range(12):
        for partition in range(2):
            cluster.append(ProducerRecord(topic, codec.encode(ACCESS_KEYS, event), b"k", partition=partition))
    told: list[tuple[int, str | None]] = []
    projection = Projection(
        MemoryLog(cluster), "view", [ACCESS_KEYS], codec, store, letters, max_wait_seconds=0.01,  # type: ignore[arg-type]
        on_suspension=lambda partition, reason: told.append((partition.partition, reason)),
    )  # fmt: skip
    task = asyncio.create_task(projection.run())
    await eventually(lambda: len([p for p, _ in store.rows if p == 1]) == 12, "the other partition goes on", 30.0)
    await eventually(lambda: told.count((0, None)) >= 2, "tried again", 30.0)
    assert len(letters.kept) == LIMIT
    assert type(error).__name__ in str(told[0])
    assert "content" not in str(told)
    store.defect = False
    await eventually(lambda: len(store.rows) == 24 - LIMIT, "all is applied", 30.0)
    assert set(store.rows.values()) == {1}
    await projection.close()
    await task


async def test_what_the_store_refuses_as_such_is_put_aside_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, codec, letters = MemoryCluster(), Codec(MemoryRegistry(), "test."), Letters()
    store = Store(BatchRefused("no column holds it"))
    await codec.prepare([ACCESS_KEYS], register=True)
    topic = "test.access.keys"
    cluster.create_topic(topic, 1)
    event = AccessKey(key_id="k", tenant="acme", name="k", secret_hash="h", created_at=1)
    for _ in range(12):
        cluster.append(ProducerRecord(topic, codec.encode(ACCESS_KEYS, event), b"k", partition=0))
    projection = Projection(MemoryLog(cluster), "view", [ACCESS_KEYS], codec, store, letters)  # type: ignore[arg-type]
    task = asyncio.create_task(projection.run())
    await eventually(lambda: len(letters.kept) == 12, "put aside", 30.0)
    await projection.close()
    await task
