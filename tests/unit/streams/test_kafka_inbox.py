"""Between the polling thread and the caller of `poll`."""

from __future__ import annotations

import asyncio
from itertools import islice

from headrace_streams.kafka import inbox as inbox_module
from headrace_streams.kafka.inbox import Inbox
from headrace_streams.kafka.records import Chunk
from headrace_streams.records import Record, TopicPartition

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


class Bench:
    def __init__(self) -> None:
        self.throttled: list[bool] = []
        self.inbox = Inbox(self.throttled.append, full_bytes=32 * 1024 * 1024)

    def put(self, name: TopicPartition, count: int, size: int = 1, start: int = 0) -> None:
        records = [Record(name.topic, name.partition, start + n, 0, None, bytes(size)) for n in range(count)]
        self.inbox.put([Chunk(name, records, count * size)] if records else [])

    def take(self, limit: int, max_bytes: int | None = None) -> list[tuple[int, int]]:
        taken = self.inbox.take(limit, max_bytes)
        return [(record.partition, record.offset) for chunk in taken for record in chunk.records]


def test_records_of_a_partition_keep_their_order() -> None:
    bench = Bench()
    bench.put(A, 3)
    bench.put(A, 2, start=3)
    assert bench.take(2) + bench.take(10) == [(0, n) for n in range(5)]
    assert bench.take(10) == []


def test_no_partition_keeps_the_others_waiting() -> None:
    bench = Bench()
    bench.put(A, 100)
    bench.put(B, 1)
    taken = bench.take(10) + bench.take(10)
    assert (1, 0) in taken
    assert len(taken) == 11 or len(taken) == 20


def test_a_paused_partition_keeps_what_it_has() -> None:
    bench = Bench()
    bench.put(A, 2)
    bench.put(B, 1)
    bench.inbox.pause([A])
    assert bench.take(10) == [(1, 0)]
    bench.put(A, 1, start=2)
    assert bench.take(10) == []
    bench.inbox.resume([A])
    assert bench.take(10) == [(0, 0), (0, 1), (0, 2)]


def test_what_was_dropped_is_gone_and_not_paused_any_more() -> None:
    bench = Bench()
    bench.put(A, 2)
    bench.put(B, 2)
    bench.inbox.pause([A])
    bench.inbox.drop([A, TopicPartition("t", 9)])
    assert not bench.inbox.paused
    bench.put(A, 1, start=7)
    assert sorted(bench.take(10)) == [(0, 7), (1, 0), (1, 1)]
    bench.put(A, 1)
    bench.inbox.drop_all()
    assert bench.take(10) == []


def test_fetching_stops_when_much_has_piled_up_and_goes_on_when_little_is_left() -> None:
    bench = Bench()
    full, empty = inbox_module._FULL_RECORDS, inbox_module._EMPTY_RECORDS
    bench.put(A, full)
    assert bench.throttled == []
    bench.put(A, 1, start=full)
    assert bench.throttled == [True]
    bench.take(full + 1 - empty)
    assert bench.throttled == [True]
    bench.take(1)
    assert bench.throttled == [True, False]


def test_large_records_count_by_their_bytes() -> None:
    bench = Bench()
    bench.put(A, 33, size=1024 * 1024)
    assert bench.throttled == [True]
    bench.take(24)
    assert bench.throttled == [True]
    bench.take(2)
    assert bench.throttled == [True, False]


def test_a_caller_with_little_room_gets_few_bytes_and_at_least_one_record() -> None:
    bench = Bench()
    bench.put(A, 3, size=100)
    bench.put(B, 3, size=10)
    assert bench.take(10, max_bytes=250) == [(0, 0), (0, 1)]
    assert bench.take(10, max_bytes=25) == [(1, 0), (1, 1)]
    assert bench.take(10, max_bytes=1) == [(0, 2)], "one record, whatever its size"
    assert bench.take(10, max_bytes=1) == [(1, 2)]
    assert bench.take(10, max_bytes=1) == []


def test_bytes_are_counted_exactly_when_records_of_a_fetch_differ_in_size() -> None:
    bench = Bench()
    sizes = [20 * 1024 * 1024, 1, 1, 20 * 1024 * 1024]
    records = [Record("t", 0, offset, 0, None, bytes(size)) for offset, size in enumerate(sizes)]
    bench.inbox.put([Chunk(A, records, sum(sizes))])
    assert bench.throttled == [True]
    assert bench.take(3) == [(0, 0), (0, 1), (0, 2)]
    assert bench.throttled == [True], "20 MiB are left, and a quarter of 32 is little"
    assert bench.take(9, max_bytes=1) == [(0, 3)]
    assert bench.throttled == [True, False]


def test_a_paused_partition_does_not_hold_up_the_others() -> None:
    bench = Bench()
    many = inbox_module._FULL_RECORDS + 1
    bench.put(A, many)
    assert bench.throttled == [True]
    bench.inbox.pause([A])
    assert bench.throttled == [True, False]
    bench.put(A, many, start=many)
    assert bench.throttled == [True, False]
    bench.inbox.resume([A])
    assert bench.throttled == [True, False, True]
    bench.inbox.drop([A])
    assert bench.throttled == [True, False, True, False]


def test_counting_is_exact_over_any_order_of_events() -> None:
    bench = Bench()
    for step in range(50):
        bench.put(A, step % 7, start=step * 10)
        bench.put(B, step % 5, start=step * 10)
        if step % 3 == 0:
            bench.inbox.pause([A])
        bench.take(step % 11)
        if step % 4 == 0:
            bench.inbox.resume([A, B])
        if step % 13 == 0:
            bench.inbox.drop([B])
    bench.inbox.resume([A, B])
    list(islice(iter(lambda: bench.take(100), []), 100))
    bench.put(A, inbox_module._FULL_RECORDS)
    assert bench.throttled == []
    bench.put(A, 1)
    assert bench.throttled == [True]


async def test_waiting_ends_with_the_first_record_or_in_time() -> None:
    bench = Bench()
    loop = asyncio.get_running_loop()
    assert not await bench.inbox.wait(loop.time() + 0.01)
    loop.call_later(0.01, bench.put, A, 1)
    assert await bench.inbox.wait(loop.time() + 5)
