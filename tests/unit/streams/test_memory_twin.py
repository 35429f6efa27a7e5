"""What the in-memory twin offers beside the ports: deaths, faults, time, compaction."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import pytest
from headrace_streams.errors import (
    AppendUncertain,
    LeaveGroup,
    OffsetOutOfRange,
    Overloaded,
    PartitionsLost,
    TransientError,
)
from headrace_streams.memory import MemoryCluster, MemoryLog, NetworkRequest, Operation
from headrace_streams.memory import producer as memory_producer
from headrace_streams.memory.groups import GroupCoordinator, range_assignment
from headrace_streams.partitioning import murmur2, partition_of
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, TopicPartition
from headrace_testing.logs import Listener, take, until

T = TypeVar("T")
TOPIC = "t"
FIRST, SECOND = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)


class Network:
    """Delays each operation or holds it until an event, and fails those it is told to."""

    def __init__(self) -> None:
        self.delays: dict[Operation, float] = {}
        self.held: dict[Operation, asyncio.Event] = {}
        self.before: dict[Operation, list[Exception]] = {}
        self.after: dict[Operation, list[Exception]] = {}
        self.connected = asyncio.Event()
        self.connected.set()
        self.requests: list[NetworkRequest] = []

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        self.requests.append(request)
        await asyncio.sleep(self.delays.get(request.operation, 0.0))
        if held := self.held.get(request.operation):
            await held.wait()
        await self.connected.wait()
        if failures := self.before.get(request.operation):
            raise failures.pop(0)
        result = perform()
        if failures := self.after.get(request.operation):
            raise failures.pop(0)
        return result


@pytest.fixture
def cluster() -> MemoryCluster:
    cluster = MemoryCluster(session_timeout=0.2, rebalance_timeout=0.3)
    cluster.create_topic(TOPIC, 2)
    return cluster


@pytest.mark.parametrize(
    ("key", "java"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"abc", 479470107), (b"a-little-bit-long-string", -985981536)],
)
def test_keys_hash_as_in_java(key: bytes, java: int) -> None:
    assert murmur2(key) == java & 0xFFFFFFFF
    assert partition_of(key, 12) == (java & 0x7FFFFFFF) % 12


def test_range_gives_the_first_members_the_rest() -> None:
    topics = {"a": ["x", "y"], "b": ["x"], "c": ["x", "y"]}
    assigned = range_assignment(topics, {"x": 7, "y": 2})
    assert {member: len(own) for member, own in assigned.items()} == {"a": 3 + 1, "b": 2, "c": 2 + 1}
    assert {name.partition for name in assigned["a"] if name.topic == "x"} == {0, 1, 2}
    assert sum(len(own) for own in assigned.values()) == 9
    assert range_assignment({"a": ["missing"]}, {}) == {"a": frozenset()}


def test_who_has_given_its_partitions_up_holds_nothing_until_all_have() -> None:
    group = GroupCoordinator("g", lambda _topics: {TOPIC: 2}, session_timeout=6.0, rebalance_timeout=9.0)
    slow = group.join(0.0, [TOPIC], None, lambda: None)
    quick = group.join(0.0, [TOPIC], None, lambda: None)
    group.rejoin(0.1, slow)
    assert group.heartbeat(0.2, quick).assignment
    group.join(1.0, [TOPIC], None, lambda: None)
    # It has not heard of its partitions before, and must not take them now: it would never ask for them again.
    group.rejoin(1.1, quick)
    assert group.rebalancing
    assert not group.heartbeat(1.2, quick).assignment


async def test_a_killed_member_is_expelled_when_its_session_ends(cluster: MemoryCluster) -> None:
    dying, living = MemoryLog(cluster), MemoryLog(cluster)
    one, two = Listener(), Listener()
    await dying.consumer("g").subscribe([TOPIC], one)
    await until(lambda: len(one.owned) == 2)
    dying.kill()
    consumer = living.consumer("g")
    await consumer.subscribe([TOPIC], two)
    await until(lambda: len(two.owned) == 2)
    assert one.told == [("assigned", (FIRST, SECOND))]
    await consumer.close()


async def test_a_killed_producer_appends_nothing_more(cluster: MemoryCluster) -> None:
    network = Network()
    network.delays[Operation.APPEND] = 0.01
    log = MemoryLog(cluster, network=network)
    future = log.producer().send(ProducerRecord(TOPIC, b"x"))
    log.kill()
    await asyncio.sleep(0.03)
    assert not future.done()
    assert cluster.records(TOPIC) == ()


async def test_who_was_cut_off_learns_that_its_partitions_are_lost(cluster: MemoryCluster) -> None:
    network = Network()
    one, two = Listener(), Listener()
    zombie = MemoryLog(cluster, network=network).consumer("g")
    await zombie.subscribe([TOPIC], one)
    await until(lambda: len(one.owned) == 2)
    network.connected.clear()
    other = MemoryLog(cluster).consumer("g")
    await other.subscribe([TOPIC], two)
    await until(lambda: len(two.owned) == 2)
    assert one.owned == two.owned
    committing = asyncio.create_task(zombie.commit({FIRST: OffsetAndMetadata(1)}))
    await asyncio.sleep(0.01)
    network.connected.set()
    with pytest.raises(PartitionsLost):
        await committing
    await until(lambda: one.times_told("lost") == 1)
    assert one.told[1] == ("lost", (FIRST, SECOND))
    # It joins again by itself.
    await until(lambda: len(one.owned) == len(two.owned) == 1)
    assert cluster.group("g").committed_offsets == {}
    await asyncio.gather(zombie.close(), other.close())


async def test_who_holds_up_a_rebalance_for_too_long_is_expelled(cluster: MemoryCluster) -> None:
    one, two = Listener(), Listener()

    async def never_ready(partitions: Collection[TopicPartition]) -> None:
        await asyncio.sleep(0.6)

    one.on_revoked = never_ready
    slow = MemoryLog(cluster).consumer("g")
    await slow.subscribe([TOPIC], one)
    await until(lambda: len(one.owned) == 2)
    fast = MemoryLog(cluster).consumer("g")
    await fast.subscribe([TOPIC], two)
    await until(lambda: len(two.owned) == 2)
    assert one.owned == two.owned
    await until(lambda: len(one.owned) == len(two.owned) == 1)
    one.on_revoked = None
    await asyncio.gather(slow.close(), fast.close())


async def test_failed_appends_say_what_is_known(cluster: MemoryCluster) -> None:
    network = Network()
    network.before[Operation.APPEND] = [TransientError("not sent")]
    network.after[Operation.APPEND] = [AppendUncertain("no answer")]
    producer = MemoryLog(cluster, network=network).producer()
    with pytest.raises(TransientError, match="not sent"):
        await producer.send(ProducerRecord(TOPIC, b"lost", partition=0))
    with pytest.raises(AppendUncertain, match="no answer"):
        await producer.send(ProducerRecord(TOPIC, b"there all the same", partition=0))
    assert (await producer.send(ProducerRecord(TOPIC, b"next", partition=0))).offset == 1
    assert [record.value for record in cluster.records(TOPIC)] == [b"there all the same", b"next"]


async def test_a_slow_partition_does_not_hold_up_the_others(cluster: MemoryCluster) -> None:
    class SlowFirst(Network):
        async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
            await asyncio.sleep(0.05 if FIRST in request.partitions else 0)
            return perform()

    producer = MemoryLog(cluster, network=SlowFirst()).producer()
    slow = [producer.send(ProducerRecord(TOPIC, b"%d" % number, partition=0)) for number in range(3)]
    assert (await producer.send(ProducerRecord(TOPIC, b"fast", partition=1))).offset == 0
    assert not any(future.done() for future in slow)
    await producer.close()
    assert [future.result().offset for future in slow] == [0, 1, 2]


async def test_a_full_queue_says_so_at_once(cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_producer, "_QUEUE_LIMIT", 3)
    producer = MemoryLog(cluster).producer()
    for _ in range(3):
        producer.send(ProducerRecord(TOPIC, b"x"))
    with pytest.raises(Overloaded, match="3 records"):
        producer.send(ProducerRecord(TOPIC, b"x"))
    await producer.flush()
    await producer.send(ProducerRecord(TOPIC, b"x"))
    assert len(cluster.records(TOPIC)) == 4


async def test_members_repeat_what_keeps_them_in_the_group(cluster: MemoryCluster) -> None:
    network = Network()
    network.before = {
        Operation.JOIN: [TransientError("x")],
        Operation.HEARTBEAT: [TransientError("x"), TransientError("x")],
    }
    listener = Listener()
    consumer = MemoryLog(cluster, network=network).consumer("g")
    await consumer.subscribe([TOPIC], listener)
    await until(lambda: len(listener.owned) == 2)
    network.before[Operation.LEAVE] = [TransientError("x")]
    await consumer.close()
    assert len(cluster.group("g").members) == 1
    await until(lambda: not cluster.group("g").members)


async def test_a_fetch_under_way_brings_nothing_of_partitions_that_have_gone(cluster: MemoryCluster) -> None:
    network = Network()
    one, two = Listener(), Listener()
    consumer = MemoryLog(cluster, network=network).consumer("g")
    await consumer.subscribe([TOPIC], one)
    await until(lambda: len(one.owned) == 2)
    for number in range(2):
        cluster.append(ProducerRecord(TOPIC, b"x", partition=number))
    network.held[Operation.FETCH] = release = asyncio.Event()
    fetching = asyncio.create_task(consumer.poll(10, 0.0))
    await until(lambda: any(request.operation is Operation.FETCH for request in network.requests))
    other = MemoryLog(cluster).consumer("g")
    await other.subscribe([TOPIC], two)
    await until(lambda: len(one.owned) == len(two.owned) == 1)
    release.set()
    # Both partitions were revoked meanwhile; one has come back, and begins anew.
    records = list(await fetching) or await take(consumer, 1)
    assert [{record.topic_partition} for record in records] == [one.owned]
    assert [record.topic_partition for record in await take(other, 1)] == list(two.owned)
    await asyncio.gather(consumer.close(), other.close())


async def test_a_group_goes_on_at_the_start_where_retention_overtook_it(cluster: MemoryCluster) -> None:
    for number in range(10):
        cluster.append(ProducerRecord(TOPIC, b"%d" % number, partition=0))
    listener = Listener(starts={FIRST: 2})
    consumer = MemoryLog(cluster).consumer("g")
    cluster.delete_before(FIRST, 6)
    await consumer.subscribe([TOPIC], listener)
    assert [record.offset for record in await take(consumer, 4)] == [6, 7, 8, 9]
    await consumer.close()


async def test_compaction_keeps_the_newest_of_each_key_in_its_place(cluster: MemoryCluster) -> None:
    for number in range(9):
        cluster.append(ProducerRecord(TOPIC, b"%d" % number, key=b"%d" % (number % 3), partition=0))
    cluster.compact(TOPIC)
    reader = MemoryLog(cluster).reader()
    await reader.assign({FIRST: 1})
    assert [record.offset for record in await take(reader, 3)] == [6, 7, 8]
    assert await reader.bounds([FIRST]) == {FIRST: (0, 9)}
    assert reader.positions() == {FIRST: 9}


async def test_positions_move_over_a_compacted_end(cluster: MemoryCluster) -> None:
    for number in range(4):
        cluster.append(ProducerRecord(TOPIC, b"%d" % number, partition=0))
    del cluster.partition(FIRST).records[2:]
    reader = MemoryLog(cluster).reader()
    await reader.assign({FIRST: 0})
    await take(reader, 2)
    assert reader.positions() == {FIRST: 2}
    async with asyncio.timeout(1):
        assert not await reader.poll(1, 60.0)
    assert reader.positions() == {FIRST: 4}


async def test_timestamps_come_from_the_clock(cluster: MemoryCluster) -> None:
    times = iter([10, 20, 30])
    producer = MemoryLog(cluster, lambda: next(times)).producer()
    for _ in range(3):
        await producer.send(ProducerRecord(TOPIC, b"x", partition=0))
    assert [record.timestamp_ms for record in cluster.records(TOPIC, 0)] == [10, 20, 30]
    reader = MemoryLog(cluster).reader()
    assert await reader.offsets_at([FIRST, SECOND], 11) == {FIRST: 1, SECOND: 0}


async def test_every_operation_passes_the_network(cluster: MemoryCluster) -> None:
    network = Network()
    log = MemoryLog(cluster, client="me", network=network)
    consumer, reader, listener = log.consumer("g"), log.reader(), Listener()
    await log.producer().send(ProducerRecord(TOPIC, b"x", partition=0))
    await consumer.subscribe([TOPIC], listener)
    await take(consumer, 1)
    await consumer.commit({FIRST: OffsetAndMetadata(1)})
    await reader.bounds([FIRST])
    await log.admin().create_topics([])
    await log.admin().add_partitions({})
    await consumer.close()
    assert {request.operation for request in network.requests} == set(Operation)
    assert {request.client for request in network.requests} == {"me"}


async def test_what_a_listener_raises_while_closing_comes_out_of_close(cluster: MemoryCluster) -> None:
    listener = Listener()
    consumer = MemoryLog(cluster).consumer("g")
    await consumer.subscribe([TOPIC], listener)
    await until(lambda: len(listener.owned) == 2)

    async def fail(partitions: Collection[TopicPartition]) -> None:
        raise LookupError("cannot finish")

    listener.on_revoked = fail
    with pytest.raises(LookupError, match="cannot finish"):
        await consumer.close()
    await consumer.close()
    assert not cluster.group("g").members
    with pytest.raises(LookupError):
        await consumer.poll(1, 0.0)


async def test_a_reader_outside_of_the_log_may_be_assigned_anew(cluster: MemoryCluster) -> None:
    reader = MemoryLog(cluster).reader()
    await reader.assign({FIRST: 5})
    with pytest.raises(OffsetOutOfRange, match=r"t\[0\] has offsets 0 to 0, not 5"):
        await reader.poll(1, 0.0)
    await reader.assign({FIRST: 0})
    assert not await reader.poll(1, 0.0)


async def test_a_consumer_subscribes_once(cluster: MemoryCluster) -> None:
    consumer = MemoryLog(cluster).consumer("g")
    await consumer.subscribe([TOPIC], Listener())
    with pytest.raises(ValueError, match="already"):
        await consumer.subscribe([TOPIC], Listener())
    await consumer.close()
    closed = MemoryLog(cluster).consumer("g")
    await closed.close()
    with pytest.raises(LeaveGroup):
        await closed.subscribe([TOPIC], Listener())


async def _run_of(seed: int) -> list[str]:
    """One history of three members that come and go, as told to them."""
    chance = random.Random(seed)
    cluster = MemoryCluster(session_timeout=0.05)
    cluster.create_topic(TOPIC, 5)
    history: list[str] = []

    class Teller(Listener):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def assigned(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
            history.append(f"{self.name} + {[each.partition for each in partitions]}")
            return await super().assigned(partitions)

        async def revoked(self, partitions: Collection[TopicPartition]) -> None:
            history.append(f"{self.name} - {[each.partition for each in partitions]}")
            await super().revoked(partitions)

    open_members = []
    for number in range(6):
        consumer = MemoryLog(cluster).consumer("g")
        await consumer.subscribe([TOPIC], Teller(f"m{number}"))
        open_members.append(consumer)
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            await open_members.pop(chance.randrange(len(open_members))).close()
    for consumer in open_members:
        await consumer.close()
    return history


@pytest.mark.parametrize("seed", range(5))
async def test_the_same_run_is_the_same_history(seed: int) -> None:
    first = await _run_of(seed)
    assert first
    assert await _run_of(seed) == first
