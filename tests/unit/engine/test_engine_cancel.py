"""Cancelled records: those that wait never start, and none is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from headrace_streams.errors import RetryRecord, SendToDeadLetters, TransientError
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.parallel import Ending, ParallelConsumer, TopicLane
from headrace_streams.records import Record
from headrace_testing.engine import (
    GROUP,
    TOPIC,
    Counting,
    Letters,
    all_committed,
    eventually,
    fill,
    number_of,
    options,
    running,
)


def numbers(*wanted: int) -> Callable[[Record], bool]:
    return lambda record: number_of(record) in wanted


class Work:
    """Hangs until released; keeps what was begun, and what was skipped."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.begun: Counter[int] = Counter()
        self.skipped: Counter[int] = Counter()

    async def handle(self, record: Record) -> None:
        self.begun[number_of(record)] += 1
        await self.release.wait()

    async def skip(self, record: Record) -> None:
        await asyncio.sleep(0)
        self.skipped[number_of(record)] += 1


async def test_what_waits_is_never_begun_and_what_runs_goes_on(cluster: MemoryCluster) -> None:
    fill(cluster, 40, keys=4)
    work, observer = Work(), Counting()
    async with running(cluster, work.handle, skip=work.skip, observer=observer, max_in_flight=10) as consumer:
        await eventually(lambda: len(work.begun) == 4, "one of each key runs")
        await eventually(lambda: sum(consumer.state().waiting.values()) == 36, "the others wait")
        begun = set(work.begun)
        assert consumer.cancel(lambda record: number_of(record) >= 20) == 20
        assert consumer.cancel(lambda record: number_of(record) >= 20) == 0, "once is enough"
        await eventually(lambda: len(work.skipped) == 20, "they are skipped while their keys still wait")
        assert set(work.begun) == begun
        assert consumer.state().waiting == {TOPIC: 16}
        work.release.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert work.begun == Counter(range(20))
    assert work.skipped == Counter(range(20, 40))
    assert observer.endings == {Ending.DONE: 20, Ending.CANCELLED: 20}


async def test_what_is_parked_is_never_tried_again(cluster: MemoryCluster) -> None:
    fill(cluster, 6, keys=3)
    tries: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        tries[number_of(record)] += 1
        if number_of(record) == 0:
            raise RetryRecord("much later", 3600.0)

    async with running(cluster, handle) as consumer:
        await eventually(lambda: consumer.state().parked == 1 and len(tries) == 5, "one is parked")
        assert consumer.cancel(numbers(0)) == 1
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert tries == Counter(range(6)), "the one behind it came, it itself did not come again"


async def test_what_was_put_aside_is_not_begun_either(cluster: MemoryCluster) -> None:
    fill(cluster, 900)
    work = Work()
    async with running(cluster, work.handle, skip=work.skip, max_in_flight=5000, metadata_limit=30) as consumer:
        await eventually(
            lambda: consumer.state().paused == 3 and 0 < len(work.begun) == consumer.state().in_flight,
            "records are put aside, and what there is room for runs",
        )
        begun = set(work.begun)
        assert consumer.cancel(lambda record: number_of(record) not in begun) == 900 - len(begun)
        assert consumer.loads(lambda _record: "all")["all"].running == len(begun)
        work.release.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert set(work.begun) == begun
    assert set(work.skipped) == set(range(900)) - begun


async def test_without_room_they_go_first_when_there_is_some(cluster: MemoryCluster) -> None:
    fill(cluster, 30)
    order: list[tuple[str, int]] = []
    gate = asyncio.Event()

    async def handle(record: Record) -> None:
        await gate.wait()
        order.append(("begun", number_of(record)))

    async with running(
        cluster, handle, skip=lambda record: order.append(("skipped", number_of(record))), max_in_flight=1
    ) as consumer:
        await eventually(lambda: sum(consumer.state().waiting.values()) == 29, "one runs")
        last = sorted(record.offset for record in cluster.records(TOPIC, 0))[-1]
        wanted = number_of(cluster.records(TOPIC, 0)[last])
        assert consumer.cancel(numbers(wanted)) == 1
        gate.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert order[1] == ("skipped", wanted)


async def test_a_skip_that_fails_is_tried_again_and_at_last_kept(cluster: MemoryCluster) -> None:
    fill(cluster, 4)
    tries: Counter[int] = Counter()
    work, letters = Work(), Letters()

    async def skip(record: Record) -> None:
        tries[number_of(record)] += 1
        if number_of(record) == 2 and tries[2] < 4:
            raise TransientError("no broker")
        if number_of(record) == 3:
            raise SendToDeadLetters("never")

    async with running(cluster, work.handle, skip=skip, letters=letters, max_in_flight=1) as consumer:
        await eventually(lambda: len(work.begun) == 1 and sum(consumer.state().waiting.values()) == 3, "one runs")
        begun = set(work.begun)
        consumer.cancel(lambda record: number_of(record) not in begun)
        work.release.set()
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert set(work.begun) == begun
    assert tries[2] == (0 if 2 in begun else 4)
    assert [number_of(record) for record, _, _ in letters.kept] == ([] if 3 in begun else [3])


async def test_what_is_on_its_way_to_the_dead_letters_gets_there(cluster: MemoryCluster) -> None:
    fill(cluster, 1)
    letters = Letters(failures=10)

    async def poison(record: Record) -> None:
        raise SendToDeadLetters("never")

    async with running(cluster, poison, letters=letters) as consumer:
        await eventually(lambda: consumer.state().parked == 1, "the dead letters do not take it yet")
        assert consumer.cancel(lambda _record: True) == 0
        letters.failures = 0
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert len(letters.kept) == 1


async def test_before_it_runs_there_is_nothing_to_cancel(cluster: MemoryCluster) -> None:
    consumer = ParallelConsumer(
        MemoryLog(cluster), GROUP, [TopicLane(TOPIC)], lambda _record: None, dead_letters=Letters(), options=options()
    )
    assert consumer.cancel(lambda _record: True) == 0
