"""What other parallel consumers got wrong, and this one must not: guards for the bugs reported to Confluent's Parallel
Consumer as 647 (the map of offsets outgrows the commit's metadata, and consumption stops), 857 and 547 (after a
rebalance partitions stay paused, or room is never given back), and 875 (a record is skipped after a rebalance, because
one of its offset from an earlier assignment is still in hand)."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from functools import partial

import pytest
from headrace_streams.memory import MemoryCluster
from headrace_streams.offsets import METADATA_LIMIT, OffsetTracker, decode, encode
from headrace_streams.parallel import Ordering
from headrace_streams.records import OffsetAndMetadata, ProducerRecord, Record
from headrace_testing.engine import (
    GROUP,
    TOPIC,
    all_committed,
    committed,
    eventually,
    fill,
    number_of,
    running,
    short_sessions,
)


def expel(cluster: MemoryCluster) -> None:
    """The only member's session ends, without its knowing."""
    group = cluster.group(GROUP)
    group.expel(asyncio.get_running_loop().time(), next(iter(group.members)))


def _have_begun(begun: Counter[int], times: int) -> bool:
    return begun.total() == times


def test_647_one_slow_record_lets_hundreds_of_thousands_pass() -> None:
    tracker = OffsetTracker(0)
    for offset in range(300_000):
        assert tracker.fits(offset)
        assert tracker.received(offset)
        if offset:
            tracker.finished(offset)
    progress = tracker.committable()
    assert progress is not None
    assert progress.next_offset == 0
    assert decode(progress) == ((1, 300_000),)


def test_647_at_the_limit_the_map_is_whole_and_the_next_record_is_refused_not_forgotten() -> None:
    """The worst there is: every second record finished, until no more fit."""
    tracker = OffsetTracker(0)
    offset = 0
    while tracker.fits(offset):
        tracker.received(offset)
        if offset % 2:
            tracker.finished(offset)
        offset += 1
    assert offset > 20_000, "so many records of one partition can be in hand at the worst"
    progress = tracker.committable()
    assert progress is not None
    assert len(progress.metadata) <= METADATA_LIMIT
    assert decode(progress) == tuple((odd, odd + 1) for odd in range(1, offset, 2))
    tracker.finished(0)
    assert tracker.fits(offset), "the first that ends makes room"


def test_647_what_does_not_fit_is_repeated_and_never_taken_for_done() -> None:
    finished = [(number * 3 + 1, number * 3 + 2) for number in range(30_000)]
    text = encode(0, finished, 100)
    assert 0 < len(text) <= 100
    kept = decode(OffsetAndMetadata(0, text))
    assert kept
    assert list(kept) == finished[: len(kept)]


async def test_647_a_full_map_pauses_its_partition_alone_and_ends_by_itself(cluster: MemoryCluster) -> None:
    for number in range(600):
        cluster.append(ProducerRecord(TOPIC, str(number).encode(), f"k{number}".encode(), partition=0))
    release = asyncio.Event()
    seen: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        if record.partition == 0 and record.offset % 2 == 0:
            await release.wait()
        seen[number_of(record)] += 1

    async with running(cluster, handle, max_in_flight=5000, metadata_limit=40) as consumer:
        await eventually(lambda: consumer.state().paused == 1, "the partition is paused")
        for number in range(1000, 1300):
            cluster.append(ProducerRecord(TOPIC, str(number).encode(), f"k{number}".encode(), partition=1 + number % 2))
        await eventually(lambda: sum(number >= 1000 for number in seen) == 300, "the other partitions go on")
        assert consumer.state().paused == 1
        release.set()
        await eventually(lambda: all_committed(cluster), "it goes on by itself")
    assert set(seen.values()) == {1}


async def test_857_partitions_paused_at_a_rebalance_go_on_after_it(cluster: MemoryCluster) -> None:
    """Again and again: a second member comes and goes while everything is paused."""
    fill(cluster, 1200)
    seen: Counter[int] = Counter()
    gate = asyncio.Event()

    async def handle(record: Record) -> None:
        await gate.wait()
        seen[number_of(record)] += 1

    limited = partial(
        running, cluster, handle, max_in_flight=4, max_buffered=20, max_poll_records=50, drain_seconds=0.02
    )
    async with limited() as first:
        for _ in range(3):
            await eventually(lambda: first.state().partitions == first.state().paused == 3, "all is paused")
            async with limited() as second:
                await eventually(lambda: second.state().paused == second.state().partitions > 0, "and there as well")
        await eventually(lambda: first.state().partitions == first.state().paused == 3, "all came back")
        gate.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
        assert first.state().paused == 0
    assert set(seen) == set(range(1200))


@short_sessions
async def test_547_room_is_given_back_however_often_partitions_go_with_work_in_hand(cluster: MemoryCluster) -> None:
    fill(cluster, 60)
    hanging = asyncio.Event()
    begun: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        begun[number_of(record)] += 1
        if not hanging.is_set():
            await asyncio.sleep(60)

    async with running(cluster, handle, max_in_flight=8, drain_seconds=0.0) as consumer:
        for times in range(1, 6):
            await eventually(partial(_have_begun, begun, 8 * times), "there is room for eight, every time")
            expel(cluster)
        await eventually(partial(_have_begun, begun, 48), "and once more")
        hanging.set()
        expel(cluster)
        await eventually(lambda: all_committed(cluster), "the end is committed")
        assert consumer.state().in_flight == 0
    assert set(begun) == set(range(60))


@short_sessions
@pytest.mark.parametrize("ordering", Ordering)
async def test_875_a_record_comes_again_though_its_former_self_is_still_in_hand(
    cluster: MemoryCluster, ordering: Ordering
) -> None:
    """A handler that will not be cancelled outlives the assignment it began in, and ends in the next one."""
    fill(cluster, 30, keys=5)
    stubborn = number_of(cluster.records(TOPIC, 0)[1])
    begun: Counter[int] = Counter()
    done: Counter[int] = Counter()
    release = asyncio.Event()

    async def handle(record: Record) -> None:
        begun[number_of(record)] += 1
        if number_of(record) == stubborn and begun[stubborn] == 1:
            while not release.is_set():
                with suppress(asyncio.CancelledError):
                    await release.wait()
        done[number_of(record)] += 1

    async with running(cluster, handle, ordering=ordering, drain_seconds=0.0) as consumer:
        await eventually(lambda: sum(done.values()) >= (29 if ordering is Ordering.UNORDERED else 25), "others go on")
        expel(cluster)
        await eventually(lambda: consumer.state().partitions == 3, "the partitions are back")
        if ordering is Ordering.UNORDERED:
            await eventually(lambda: done[stubborn] == 1, "it is done anew beside its former self")
        assert committed(cluster).get(0, OffsetAndMetadata(0)).next_offset <= len(cluster.records(TOPIC, 0))
        release.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
        await eventually(lambda: consumer.state().in_flight == 0, "its former self has ended as well")
    assert begun[stubborn] == 2, "what its former self did belongs to an assignment that is over"
    assert set(done) == set(range(30))


@short_sessions
async def test_875_what_ends_in_a_lost_assignment_is_not_counted_as_done_in_the_next(cluster: MemoryCluster) -> None:
    fill(cluster, 1)
    former, present = asyncio.Event(), asyncio.Event()
    begun = 0

    async def handle(record: Record) -> None:
        nonlocal begun
        begun += 1
        gate = former if begun == 1 else present
        while not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()

    async with running(cluster, handle, ordering=Ordering.UNORDERED, drain_seconds=0.0) as consumer:
        await eventually(lambda: begun == 1, "it has begun")
        expel(cluster)
        await eventually(lambda: begun == 2, "it has begun anew")
        former.set()
        await eventually(lambda: consumer.state().in_flight == 1, "its former self has ended")
        await asyncio.sleep(0.1)
        assert not any(reached.next_offset for reached in committed(cluster).values())
        present.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
