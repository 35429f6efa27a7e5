"""Records that are handled without being queued, and tasks that handle one record after the other."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter, defaultdict
from collections.abc import Awaitable

import pytest
from headrace_streams.errors import RetryRecord
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.parallel import Ending, Ordering, ParallelConsumer, Sharing, TopicLane
from headrace_streams.records import ProducerRecord, Record
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


async def test_what_a_plain_function_handles_is_never_queued(cluster: MemoryCluster) -> None:
    fill(cluster, 500)
    seen: list[int] = []

    def queued(_record: Record) -> str:
        raise AssertionError("asked whose turn it is")

    consumer = ParallelConsumer(
        MemoryLog(cluster), GROUP, [TopicLane(TOPIC)], lambda record: seen.append(number_of(record)),
        dead_letters=Letters(), options=options(), sharing=Sharing(tenant_of=queued),
    )  # fmt: skip
    task = asyncio.create_task(consumer.run())
    await eventually(lambda: all_committed(cluster), "the end is committed")
    await consumer.stop()
    await task
    assert sorted(seen) == list(range(500))


@pytest.mark.parametrize("stuck", ["waits", "fails", "is parked"])
async def test_behind_a_record_that_is_stuck_its_key_waits_and_others_go_on(cluster: MemoryCluster, stuck: str) -> None:
    fill(cluster, 90, keys=9)
    first = number_of(cluster.records(TOPIC, 0)[5])
    order: dict[bytes | None, list[int]] = defaultdict(list)
    ahead: list[int] = []
    tries = 0

    async def wait(record: Record) -> None:
        await asyncio.sleep(0.05)
        note(record)

    def note(record: Record) -> None:
        order[record.key].append(number_of(record))
        ahead.append(number_of(record))

    def handle(record: Record) -> Awaitable[None] | None:
        nonlocal tries
        if number_of(record) == first:
            tries += 1
            if stuck == "waits":
                return wait(record)
            if tries == 1:
                raise ValueError("once") if stuck == "fails" else RetryRecord("later", 0.05)
        note(record)
        return None

    async with running(cluster, handle):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert Counter(number for numbers in order.values() for number in numbers) == Counter(range(90))
    assert all(numbers == sorted(numbers) for numbers in order.values()), "a key was overtaken"
    assert ahead.index(first) > 45, "the others did not wait"
    assert tries == (1 if stuck == "waits" else 2)


async def test_a_handler_may_wait_for_some_records_and_not_for_others(cluster: MemoryCluster) -> None:
    fill(cluster, 600, keys=7)
    order: dict[bytes | None, list[int]] = defaultdict(list)

    async def slowly(record: Record) -> None:
        await asyncio.sleep(0.001)
        order[record.key].append(number_of(record))

    def handle(record: Record) -> Awaitable[None] | None:
        if number_of(record) % 3 == 0:
            return slowly(record)
        order[record.key].append(number_of(record))
        return None

    async with running(cluster, handle, max_poll_records=50):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert sorted(number for numbers in order.values() for number in numbers) == list(range(600))
    assert all(numbers == sorted(numbers) for numbers in order.values())


async def test_the_observer_hears_of_records_that_are_never_queued(cluster: MemoryCluster) -> None:
    fill(cluster, 100)
    observer = Counting()
    async with running(cluster, lambda record: None, observer=observer):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert observer.endings == {Ending.DONE: 100}


async def test_of_what_comes_together_the_first_lane_goes_first(cluster: MemoryCluster) -> None:
    cluster.create_topic("z-urgent", 2)
    fill(cluster, 20)
    fill(cluster, 20, topic="z-urgent")
    order: list[str] = []
    async with running(
        cluster, lambda record: order.append(record.topic), lanes=(TopicLane("z-urgent"), TopicLane(TOPIC))
    ):
        await eventually(lambda: len(order) == 40, "all are done")
    assert order == ["z-urgent"] * 20 + [TOPIC] * 20


async def test_holes_and_what_was_finished_before_are_passed_over(cluster: MemoryCluster) -> None:
    for number in range(60):
        cluster.append(ProducerRecord(TOPIC, str(number).encode(), f"k{number % 20}".encode(), partition=0))
    hang = number_of(cluster.records(TOPIC, 0)[45])

    async def hang_on_one(record: Record) -> None:
        if number_of(record) == hang:
            await asyncio.sleep(60)

    async with running(cluster, hang_on_one, drain_seconds=0.0, ordering=Ordering.UNORDERED):
        await eventually(
            lambda: GROUP in cluster._groups and bool(cluster.group(GROUP).committed_offsets), "there is progress"
        )
    cluster.compact(TOPIC)
    for number in range(60, 70):
        cluster.append(ProducerRecord(TOPIC, str(number).encode(), f"n{number}".encode(), partition=0))
    seen: list[int] = []
    async with running(cluster, lambda record: seen.append(number_of(record))):
        await eventually(lambda: len(seen) >= 11, "what was left is done")
    assert seen == [hang, *range(60, 70)]


MARK: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="clean")


async def test_context_variables_of_one_record_are_not_seen_by_another(cluster: MemoryCluster) -> None:
    fill(cluster, 300, keys=30)
    found: Counter[str] = Counter()

    async def handle(record: Record) -> None:
        found[MARK.get()] += 1
        MARK.set(f"of {number_of(record)}")
        await asyncio.sleep(0.001)
        assert MARK.get() == f"of {number_of(record)}"

    async with running(cluster, handle, max_in_flight=5):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert found == {"clean": 300}


async def test_a_task_goes_on_with_the_next_record(cluster: MemoryCluster) -> None:
    fill(cluster, 400)
    tasks: set[asyncio.Task[None] | None] = set()

    async def handle(record: Record) -> None:
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0)

    async with running(cluster, handle, max_in_flight=5):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert len(tasks) < 60


async def test_handlers_that_never_wait_let_others_run(cluster: MemoryCluster) -> None:
    fill(cluster, 3000)
    gate = asyncio.Event()
    turns = 0
    at_the_end = 0
    done = 0

    async def handle(record: Record) -> None:
        nonlocal done, at_the_end
        await gate.wait() if done == 0 else None
        done += 1
        at_the_end = turns

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with running(cluster, handle, max_in_flight=1):
        await asyncio.sleep(0.05)
        counting = asyncio.create_task(count_turns())
        await asyncio.sleep(0)
        before = turns
        gate.set()
        await eventually(lambda: done == 3000, "all are done")
        counting.cancel()
    assert at_the_end - before >= 3000 // 64


async def test_a_handler_may_return_a_future(cluster: MemoryCluster) -> None:
    fill(cluster, 50)
    loop = asyncio.get_running_loop()
    started = 0

    def handle(record: Record) -> Awaitable[None]:
        nonlocal started
        started += 1
        future: asyncio.Future[None] = loop.create_future()
        loop.call_later(0.001, future.set_result, None)
        return future

    async with running(cluster, handle, max_in_flight=3):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert started == 50


async def test_a_handler_that_cancels_its_own_task_is_tried_again(cluster: MemoryCluster) -> None:
    fill(cluster, 20)
    tries: Counter[int] = Counter()

    async def handle(record: Record) -> None:
        tries[number_of(record)] += 1
        if number_of(record) == 7 and tries[7] == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)

    async with running(cluster, handle, max_in_flight=2):
        await eventually(lambda: all_committed(cluster), "the end is committed")
    assert tries == Counter(range(20)) + Counter({7: 1})
