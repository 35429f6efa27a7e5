"""The parallel consumer on the in-memory twin: nothing lost, nothing out of order, nothing in the way of others."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from headrace_contracts.errors import BadBytes, Origin
from headrace_contracts.headers import UNORDERED
from headrace_streams.errors import LeaveGroup, RetryRecord, SendToDeadLetters, TransientError
from headrace_streams.memory import MemoryCluster, MemoryLog, NetworkRequest, Operation
from headrace_streams.memory.consumer import MemoryConsumer
from headrace_streams.offsets import decode
from headrace_streams.parallel import (
    Ending,
    Observer,
    Ordering,
    ParallelConsumer,
    TopicLane,
)
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, Record, TopicPartition
from headrace_testing.engine import (
    GROUP,
    TOPIC,
    Counting,
    Letters,
    all_committed,
    committed,
    eventually,
    fill,
    number_of,
    options,
    running,
    short_sessions,
)

T = TypeVar("T")


async def test_every_record_is_handled_once_and_committed(cluster: MemoryCluster) -> None:
    fill(cluster, 500)
    seen: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        await asyncio.sleep(0)
        seen[number_of(record)] += 1

    async with running(cluster, handle):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert seen == Counter(range(500))


async def test_a_plain_function_handles_as_well(cluster: MemoryCluster) -> None:
    fill(cluster, 500)
    seen: list[int] = []

    def handle(record: Record) -> None:
        seen.append(number_of(record))
        if number_of(record) == 7:
            raise SendToDeadLetters("seven")

    letters = Letters()
    async with running(cluster, handle, letters=letters):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert sorted(seen) == list(range(500))
    assert [str(error) for _, error, _ in letters.kept] == ["seven"]


async def test_room_is_used_and_not_exceeded(cluster: MemoryCluster) -> None:
    fill(cluster, 40)
    now = most = 0

    async def handle(record: Record) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1

    async with running(cluster, handle, max_in_flight=7):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert most == 7


async def test_records_of_a_key_keep_their_order_one_at_a_time(cluster: MemoryCluster) -> None:
    fill(cluster, 200, keys=5)
    order: dict[bytes | None, list[int]] = defaultdict(list)
    busy: set[bytes | None] = set()

    async def handle(record: Record) -> None:
        assert record.key not in busy
        busy.add(record.key)
        await asyncio.sleep(0.001 * (number_of(record) % 3))
        order[record.key].append(number_of(record))
        busy.remove(record.key)

    async with running(cluster, handle):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert len(order) == 5
    assert all(numbers == sorted(numbers) for numbers in order.values())


async def test_unordered_records_of_one_key_run_at_once(cluster: MemoryCluster) -> None:
    fill(cluster, 20, keys=1)
    release = asyncio.Event()

    async def handle(record: Record) -> None:
        await release.wait()

    async with running(cluster, handle, ordering=Ordering.UNORDERED) as consumer:
        await eventually(lambda: consumer.state().in_flight == 20, "all run")
        release.set()


async def test_records_that_say_so_run_beside_others_of_their_key(cluster: MemoryCluster) -> None:
    free, bound = ((UNORDERED, b"1"),), (("ce_tenant", b"acme"),)
    for number in range(20):
        cluster.append(ProducerRecord(TOPIC, str(number).encode(), b"k", headers=bound if number % 4 == 0 else free))
    release = asyncio.Event()
    bound_order: list[int] = []

    async def handle(record: Record) -> None:
        if number_of(record) % 4 == 0:
            bound_order.append(number_of(record))
        await release.wait()

    async with running(cluster, handle) as consumer:
        # All fifteen that keep no order, and the first of the five that keep it.
        await eventually(lambda: consumer.state().in_flight == 16, "all run that may")
        await asyncio.sleep(0.05)
        assert consumer.state().in_flight == 16
        release.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert bound_order == [0, 4, 8, 12, 16]


async def test_what_finished_beyond_a_slow_record_is_not_done_again(cluster: MemoryCluster) -> None:
    fill(cluster, 60)
    slow = number_of(cluster.records(TOPIC, 0)[0])
    seen: Counter[int] = Counter()

    async def hang_on_one(record: Record) -> None:
        seen[number_of(record)] += 1
        if number_of(record) == slow:
            await asyncio.sleep(60)

    async with running(cluster, hang_on_one, drain_seconds=0.05):
        await eventually(lambda: len(seen) == 60, "all are started")
        await eventually(
            lambda: committed(cluster).get(0, OffsetAndMetadata(1)).next_offset == 0, "the slow one holds the commit"
        )
        assert decode(committed(cluster)[0]) == ((1, len(cluster.records(TOPIC, 0))),)

    async def handle(record: Record) -> None:
        seen[number_of(record)] += 1

    async with running(cluster, handle):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert {number for number, times in seen.items() if times > 1} == {slow}


async def test_a_key_that_waits_lets_others_pass_and_keeps_its_order(cluster: MemoryCluster) -> None:
    fill(cluster, 30, keys=3)
    order: list[tuple[bytes | None, int]] = []
    tries = 0

    async def handle(record: Record) -> None:
        nonlocal tries
        if number_of(record) == 0:
            tries += 1
            if tries < 4:
                raise RetryRecord("not yet", 0.03)
        order.append((record.key, number_of(record)))

    observer = Counting()
    async with running(cluster, handle, observer=observer):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert [number for key, number in order if key == b"k0"] == list(range(0, 30, 3))
    assert {key for key, _ in order[:20]} == {b"k1", b"k2"}
    assert observer.endings == {Ending.DONE: 30, Ending.PARKED: 3}


async def test_poison_ends_in_the_dead_letters_and_blocks_nobody(cluster: MemoryCluster) -> None:
    fill(cluster, 30, keys=3)
    tries: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        number = number_of(record)
        tries[number] += 1
        if number == 3:
            raise ValueError("poison")
        if number == 4:
            raise BadBytes(Origin(record.topic, record.partition, record.offset), "garbage")
        if number == 5:
            raise SendToDeadLetters("never")

    letters = Letters()
    observer = Counting()
    async with running(cluster, handle, letters=letters, observer=observer):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert {number_of(record): (type(error), attempts) for record, error, attempts in letters.kept} == {
        3: (ValueError, 3),
        4: (BadBytes, 1),
        5: (SendToDeadLetters, 1),
    }
    assert tries == Counter(range(30)) + Counter({3: 2})
    assert observer.endings[Ending.DEAD_LETTER] == 3


@pytest.mark.parametrize("delay", [0.0, 0.0001, 0.0004, 0.0005, 0.0009, 0.003])
async def test_a_retry_that_is_due_at_once_or_soon_leaves_nothing_in_flight(
    cluster: MemoryCluster, delay: float
) -> None:
    fill(cluster, 30, keys=5)
    tries: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        tries[number_of(record)] += 1
        if tries[number_of(record)] <= 3:
            raise RetryRecord("not yet", delay * tries[number_of(record)])

    async with running(cluster, handle):
        await eventually(lambda: all_committed(cluster), "the end is committed", 30)
    assert tries == Counter(list(range(30)) * 4)


async def test_an_outage_counts_against_no_record(cluster: MemoryCluster) -> None:
    fill(cluster, 1)
    tries = 0

    async def handle(record: Record) -> None:
        nonlocal tries
        tries += 1
        if tries <= 8:
            raise TransientError("no broker")

    letters = Letters()
    async with running(cluster, handle, letters=letters):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert (tries, letters.kept) == (9, [])


async def test_a_record_is_finished_only_after_the_dead_letters_have_it(cluster: MemoryCluster) -> None:
    fill(cluster, 1)
    tries = 0

    async def handle(record: Record) -> None:
        nonlocal tries
        tries += 1
        raise SendToDeadLetters("never")

    letters = Letters(failures=5)
    async with running(cluster, handle, letters=letters):
        await eventually(lambda: letters.failures == 2, "the outage lasts")
        assert not any(reached.next_offset for reached in committed(cluster).values())
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert tries == 1
    assert len(letters.kept) == 1


async def test_a_handler_cancelled_from_within_is_tried_again(cluster: MemoryCluster) -> None:
    fill(cluster, 1)
    tries = 0

    async def handle(record: Record) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise asyncio.CancelledError

    async with running(cluster, handle):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert tries == 2


async def test_urgent_work_overtakes_a_flood_that_fills_its_lane(cluster: MemoryCluster) -> None:
    cluster.create_topic("urgent", 1)
    fill(cluster, 2000)
    order: list[str] = []

    async def handle(record: Record) -> None:
        await asyncio.sleep(0.001)
        order.append(record.topic)

    lanes = (TopicLane("urgent", weight=8), TopicLane(TOPIC))
    async with running(
        cluster, handle, lanes=lanes, max_in_flight=4, max_buffered=50, max_poll_records=100
    ) as consumer:
        await eventually(lambda: len(order) > 20, "the flood is worked on")
        assert consumer.state().paused == 3
        assert consumer.state().waiting[TOPIC] <= 150
        before = len(order)
        fill(cluster, 20, topic="urgent")
        await eventually(lambda: order.count("urgent") == 20, "the urgent ones are done")
        assert len(order) - before < 60
        await eventually(lambda: all_committed(cluster) and all_committed(cluster, "urgent"), "all is done")
    assert len(order) == 2020


async def test_tenants_take_turns(cluster: MemoryCluster) -> None:
    cluster.create_topic("one", 1)
    for number in range(100):
        cluster.append(ProducerRecord("one", b"1", f"a{number}".encode(), headers=(("ce_tenant", b"loud"),)))
    for number in range(5):
        cluster.append(ProducerRecord("one", b"1", f"b{number}".encode(), headers=(("ce_tenant", b"quiet"),)))
    order: list[bytes] = []

    async def handle(record: Record) -> None:
        await asyncio.sleep(0.001)
        order.append(record.key or b"")

    async with running(cluster, handle, lanes=(TopicLane("one"),), max_in_flight=1):
        await eventually(lambda: len(order) == 105, "all are done")
    assert sum(key.startswith(b"b") for key in order[:10]) == 5


async def test_the_map_of_finished_offsets_never_outgrows_its_limit(cluster: MemoryCluster) -> None:
    """Every second record hangs: the map grows with each one, and the partition is paused in time."""
    fill(cluster, 3000)
    release = asyncio.Event()
    done: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        if record.offset % 2 == 0:
            await release.wait()
        done[number_of(record)] += 1

    def told(partition: int) -> bool:
        reached = committed(cluster)[partition]
        assert len(reached.metadata) <= 60
        beyond = {offset for start, end in decode(reached) for offset in range(start, end)}
        numbers = [number_of(record) for record in cluster.records(TOPIC, partition)]
        finished = {offset for offset, number in enumerate(numbers) if number in done}
        assert beyond <= finished
        return beyond == finished != set()

    async with running(cluster, handle, max_in_flight=5000, metadata_limit=60) as consumer:
        await eventually(lambda: consumer.state().paused == 3, "all partitions are paused")
        assert 3 * 20 < consumer.state().in_flight < 1500
        await eventually(lambda: len(committed(cluster)) == 3, "all have committed")
        await eventually(lambda: all(map(told, range(3))), "the maps tell what is finished, and nothing else")
        release.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
        assert consumer.state().paused == 0
    assert done == Counter(range(3000))


async def test_a_new_member_gets_its_share_and_nothing_is_done_twice(cluster: MemoryCluster) -> None:
    fill(cluster, 300)
    seen: Counter[int] = Counter()
    by: dict[str, set[int]] = {"first": set(), "second": set()}

    def handler(name: str) -> Callable[[Record], Awaitable[None]]:
        async def handle(record: Record) -> None:
            await asyncio.sleep(0.01)
            seen[number_of(record)] += 1
            by[name].add(record.partition)

        return handle

    async with running(cluster, handler("first"), max_in_flight=10):
        await eventually(lambda: len(seen) > 20, "the first one works")
        async with running(cluster, handler("second"), max_in_flight=10):
            await eventually(lambda: all_committed(cluster), "the end is committed")
    assert seen == Counter(range(300))
    assert by["second"]


async def test_a_record_that_outlasts_the_drain_is_left_to_the_next_owner(cluster: MemoryCluster) -> None:
    fill(cluster, 1)
    cancelled = asyncio.Event()

    async def hang(record: Record) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with running(cluster, hang, drain_seconds=0.05) as consumer:
        await eventually(lambda: consumer.state().in_flight == 1, "it is in hand")
    assert cancelled.is_set()
    assert not any(reached.next_offset for reached in committed(cluster).values())


@short_sessions
async def test_what_is_in_hand_of_lost_partitions_is_dropped(cluster: MemoryCluster) -> None:
    fill(cluster, 30)
    started: Counter[int] = Counter()
    finished: Counter[int] = Counter()
    release = asyncio.Event()

    async def handle(record: Record) -> None:
        started[number_of(record)] += 1
        await release.wait()
        finished[number_of(record)] += 1

    observer = Counting()
    async with running(cluster, handle, observer=observer) as consumer:
        await eventually(lambda: consumer.state().in_flight == 30, "all are in hand")
        group = cluster.group(GROUP)
        group.expel(asyncio.get_running_loop().time(), next(iter(group.members)))
        await eventually(lambda: observer.endings[Ending.ABANDONED] == 30, "all are dropped")
        assert not finished
        await eventually(lambda: consumer.state().in_flight == 30, "the member is back")
        release.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert finished == Counter(range(30))
    assert set(started.values()) == {2}


async def test_a_rebalance_while_paused_leaves_no_partition_asleep(cluster: MemoryCluster) -> None:
    fill(cluster, 1500)
    seen: Counter[int] = Counter()
    gate = asyncio.Event()

    async def handle(record: Record) -> None:
        await gate.wait()
        seen[number_of(record)] += 1

    async with running(cluster, handle, max_in_flight=4, max_buffered=20, drain_seconds=0.05) as first:
        await eventually(lambda: first.state().paused == 3, "all is paused")
        async with running(cluster, handle, max_in_flight=4, max_buffered=20) as second:
            await eventually(lambda: second.state().paused == second.state().partitions > 0, "paused there too")
        await eventually(lambda: first.state().partitions == first.state().paused == 3, "all came back, and is paused")
        gate.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert set(seen) == set(range(1500))


async def test_a_pause_that_the_client_has_forgotten_is_asked_for_again(cluster: MemoryCluster) -> None:
    fill(cluster, 3000)
    made: list[MemoryConsumer] = []

    class RecordingLog(MemoryLog):
        def consumer(self, group: str, *, instance_id: str | None = None, from_start: bool = True) -> MemoryConsumer:
            made.append(super().consumer(group, instance_id=instance_id, from_start=from_start))
            return made[-1]

    async def hang(record: Record) -> None:
        await asyncio.sleep(60)

    async with running(
        RecordingLog(cluster), hang, max_in_flight=4, max_buffered=20, max_poll_records=20, drain_seconds=0.0
    ) as consumer:
        await eventually(lambda: consumer.state().paused == 3, "all is paused")
        made[0].resume([TopicPartition(TOPIC, number) for number in range(3)])
        await asyncio.sleep(0.1)
        assert consumer.state().waiting[TOPIC] <= 120


async def test_what_was_put_aside_goes_with_its_partition(cluster: MemoryCluster) -> None:
    fill(cluster, 600)
    release = asyncio.Event()
    seen: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        await release.wait()
        seen[number_of(record)] += 1

    async with running(cluster, handle, max_in_flight=5000, metadata_limit=30) as first:
        await eventually(lambda: first.state().paused == 3, "records are put aside")
        async with running(cluster, handle, max_in_flight=5000) as second:
            await asyncio.sleep(0.05)
            release.set()
            await eventually(lambda: all_committed(cluster), "the end is committed")
            assert second.state().partitions
    assert seen == Counter(range(600))


async def test_stopping_finishes_what_runs_and_starts_nothing(cluster: MemoryCluster) -> None:
    fill(cluster, 50)
    started: list[int] = []
    finished: list[int] = []

    async def handle(record: Record) -> None:
        started.append(number_of(record))
        await asyncio.sleep(0.05)
        finished.append(number_of(record))

    async with running(cluster, handle, max_in_flight=5) as consumer:
        await eventually(lambda: len(started) == 5, "five run")
        await consumer.stop()
        assert sorted(finished) == sorted(started)
        assert len(started) == 5
    done = sum(
        reached.next_offset + sum(end - start for start, end in decode(reached))
        for reached in committed(cluster).values()
    )
    assert done == 5


class _NoCommits:
    """A network on which commits fail as long as told to."""

    def __init__(self) -> None:
        self.failing = True
        self.failed = 0
        self.commits = 0

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        self.commits += request.operation is Operation.COMMIT
        if self.failing and request.operation in (Operation.COMMIT, Operation.COMMITTED):
            self.failed += 1
            raise TransientError("no coordinator")
        return perform()


async def test_a_commit_that_fails_is_made_up_for(cluster: MemoryCluster) -> None:
    fill(cluster, 20)
    network = _NoCommits()
    network.failing = False

    async def handle(record: Record) -> None:
        network.failing = network.failed == 0

    async with running(MemoryLog(cluster, network=network), handle):
        await eventually(lambda: network.failed > 2, "commits fail")
        assert not committed(cluster)
        network.failing = False
        await eventually(lambda: all_committed(cluster), "the end is committed")


async def test_nothing_new_is_not_committed_again(cluster: MemoryCluster) -> None:
    fill(cluster, 20)
    network = _NoCommits()
    network.failing = False
    async with running(MemoryLog(cluster, network=network), lambda record: None):
        await eventually(lambda: all_committed(cluster), "the end is committed")
        commits = network.commits
        await asyncio.sleep(0.1)
    assert network.commits == commits


async def test_progress_that_cannot_be_read_is_waited_for(cluster: MemoryCluster) -> None:
    fill(cluster, 20)
    network = _NoCommits()
    seen: list[int] = []

    def handle(record: Record) -> None:
        seen.append(number_of(record))

    async with running(MemoryLog(cluster, network=network), handle):
        await eventually(lambda: network.failed > 2, "the progress is asked for")
        assert not seen
        network.failing = False
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert sorted(seen) == list(range(20))


async def test_foreign_commit_metadata_is_ignored(cluster: MemoryCluster) -> None:
    fill(cluster, 20)
    first = len(cluster.records(TOPIC, 0))
    cluster.group(GROUP).committed_offsets[TopicPartition(TOPIC, 0)] = OffsetAndMetadata(2, "written by something else")
    seen: list[Record] = []
    async with running(cluster, seen.append):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert sorted(record.offset for record in seen if record.partition == 0) == list(range(2, first))


async def test_a_fenced_member_ends_with_an_error_and_drops_what_it_has(cluster: MemoryCluster) -> None:
    fill(cluster, 3)

    async def hang(record: Record) -> None:
        await asyncio.sleep(60)

    def consumer() -> ParallelConsumer:
        return ParallelConsumer(
            MemoryLog(cluster),
            GROUP,
            (TopicLane(TOPIC),),
            hang,
            dead_letters=Letters(),
            options=options(drain_seconds=0.0),
            instance_id="pod-1",
        )

    first, second = consumer(), consumer()
    old = asyncio.create_task(first.run())
    await eventually(lambda: first.state().in_flight == 3, "the first one works")
    new = asyncio.create_task(second.run())
    with pytest.raises(LeaveGroup):
        await old
    assert first.state().partitions == 0
    await second.stop()
    await new


async def test_a_record_starts_without_waiting_for_anything(cluster: MemoryCluster) -> None:
    loop = asyncio.get_running_loop()
    started: list[float] = []

    async def handle(record: Record) -> None:
        started.append(loop.time())

    async with running(cluster, handle) as consumer:
        await eventually(lambda: consumer.state().partitions == 3, "partitions are assigned")
        delays = []
        for count in range(20):
            sent = loop.time()
            cluster.append(ProducerRecord(TOPIC, b"1", b"k"))
            await eventually(lambda count=count: len(started) > count, "it has started")  # type: ignore[misc]
            delays.append(started[-1] - sent)
    assert sorted(delays)[2] < 0.005, "a timer would hold up every one; a busy machine holds up some"


async def test_ten_thousand_in_flight(cluster: MemoryCluster) -> None:
    fill(cluster, 10_000, tenants=50)
    release = asyncio.Event()

    async def handle(record: Record) -> None:
        await release.wait()

    async with running(
        cluster, handle, max_in_flight=10_000, max_buffered=10_000, commit_interval_seconds=0.5
    ) as consumer:
        await eventually(lambda: consumer.state().in_flight == 10_000, "all run at once", 120)
        release.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")


async def test_it_runs_once(cluster: MemoryCluster) -> None:
    async with running(cluster, lambda record: None) as consumer:
        await eventually(lambda: consumer.state().partitions == 3, "it runs")
        with pytest.raises(RuntimeError, match="once"):
            await consumer.run()


async def test_an_error_of_the_engine_itself_ends_it(cluster: MemoryCluster) -> None:
    class Broken(Observer):
        def ended(self, record: Record, ending: Ending, seconds: float) -> None:
            raise ZeroDivisionError

    fill(cluster, 1)

    async def handle(record: Record) -> None:
        await asyncio.sleep(0)

    consumer = ParallelConsumer(
        MemoryLog(cluster), GROUP, (TopicLane(TOPIC),), handle, dead_letters=Letters(), observer=Broken()
    )
    async with asyncio.timeout(30):
        with pytest.raises(ZeroDivisionError):
            await consumer.run()
