"""Attempts are put together, recorded, and handed over, or stay ordinary calls."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts import events, topics
from headrace_contracts.events import BatchMember, BatchPhase
from headrace_models.worker.batches.batch_log import BatchLog
from headrace_models.worker.batches.choosing import BatchKind, BatchOptions
from headrace_models.worker.batches.gathering import Gatherer
from headrace_streams.errors import RecordRefused, TransientError
from headrace_streams.records import ProducerRecord, Record
from headrace_testing.workers import PREFIX, WorkerBench, now_ms

KIND = BatchKind("groq", "m", 1)


class Gathering(WorkerBench):
    """A gatherer on topics in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = BatchLog(self.log, self.codec, self.publisher)
        self._ids = itertools.count(1)

    def gatherer(self, **changes: Any) -> Gatherer:
        options = replace(BatchOptions(gather_seconds=0.02, most_attempts=100, most_bytes=1_000), **changes)
        return Gatherer(
            self.batches, options, clock_ms=now_ms, new_id=lambda: f"batch-{next(self._ids)}", worker="worker-1"
        )

    def recorded(self) -> list[list[str]]:
        return [[member.attempt_id for member in batch.members] for batch in self.read(topics.PROVIDER_BATCHES)]


@pytest.fixture
async def bench() -> Gathering:
    made = Gathering()
    await made.prepare()
    return made


def member(number: int) -> BatchMember:
    return BatchMember(attempt_id=f"task-{number}/1", tenant="acme", partition=0, offset=number)


def added(gatherer: Gatherer, *numbers: int, kind: BatchKind = KIND, size: int = 10) -> Awaitable[list[bool]]:
    return asyncio.gather(*(gatherer.add(kind, member(number), now_ms() + 10**7, size) for number in numbers))


async def test_what_comes_within_the_time_goes_together(bench: Gathering) -> None:
    assert await added(bench.gatherer(), 1, 2, 3) == [True] * 3
    assert bench.recorded() == [["task-1/1", "task-2/1", "task-3/1"]]
    (batch,) = bench.read(topics.PROVIDER_BATCHES)
    assert (batch.phase, batch.provider, batch.model, batch.worker) == (BatchPhase.GATHERED, "groq", "m", "worker-1")


async def test_each_kind_has_a_batch_of_its_own(bench: Gathering) -> None:
    gatherer = bench.gatherer()
    both = await asyncio.gather(added(gatherer, 1), added(gatherer, 2, kind=KIND._replace(band=2)))
    assert list(both) == [[True], [True]]
    assert sorted(bench.recorded()) == [["task-1/1"], ["task-2/1"]]


async def test_a_full_batch_does_not_wait(bench: Gathering) -> None:
    gatherer = bench.gatherer(gather_seconds=3_600.0, most_attempts=2)
    async with asyncio.timeout(10):
        assert await added(gatherer, 1, 2, 3, 4) == [True] * 4
    assert sorted(bench.recorded()) == [["task-1/1", "task-2/1"], ["task-3/1", "task-4/1"]]


async def test_no_batch_exceeds_its_bytes(bench: Gathering) -> None:
    assert await added(bench.gatherer(), 1, 2, 3, size=400) == [True] * 3
    assert sorted(bench.recorded()) == [["task-1/1", "task-2/1"], ["task-3/1"]]


async def test_a_call_that_fits_into_no_batch_is_an_ordinary_one(bench: Gathering) -> None:
    assert await added(bench.gatherer(), 1, size=1_001) == [False]


async def test_an_attempt_that_is_in_a_batch_is_not_put_into_another(bench: Gathering) -> None:
    await added(bench.gatherer(), 1, 2)
    # As after a crash before the commit, with another worker.
    fresh = BatchLog(bench.log, bench.codec, bench.publisher)
    gatherer = Gatherer(
        fresh, BatchOptions(gather_seconds=0.02), clock_ms=now_ms, new_id=lambda: "batch-9", worker="worker-2"
    )
    assert await added(gatherer, 2, 3) == [True] * 2
    assert sorted(bench.recorded()) == [["task-1/1", "task-2/1"], ["task-3/1"]]


async def test_beyond_the_most_open_batches_calls_are_ordinary(bench: Gathering) -> None:
    gatherer = bench.gatherer(most_open=1)
    assert await added(gatherer, 1) == [True]
    assert await added(gatherer, 2) == [False]
    await bench.batches.remove("batch-1")
    assert await added(gatherer, 3) == [True]


async def test_an_attempt_that_goes_away_is_not_recorded(bench: Gathering) -> None:
    gatherer = bench.gatherer(gather_seconds=0.2)
    gone = asyncio.ensure_future(gatherer.add(KIND, member(1), None, 10))
    stays = asyncio.ensure_future(gatherer.add(KIND, member(2), None, 10))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays
    assert bench.recorded() == [["task-2/1"]]


async def test_a_worker_that_stops_records_what_it_has_at_once(bench: Gathering) -> None:
    gatherer = bench.gatherer(gather_seconds=3_600.0)
    waiting = asyncio.ensure_future(added(gatherer, 1, 2))
    await asyncio.sleep(0)
    await gatherer.flush()
    async with asyncio.timeout(10):
        assert await waiting == [True] * 2
        assert await added(gatherer, 3) == [True]
    await gatherer.close()
    await bench.batches.close()


async def test_an_outage_is_waited_out(bench: Gathering, monkeypatch: pytest.MonkeyPatch) -> None:
    refresh, failures = bench.batches.refresh, iter([TransientError("away"), TransientError("away")])

    async def failing() -> None:
        if (error := next(failures, None)) is not None:
            raise error
        await refresh()

    monkeypatch.setattr(bench.batches, "refresh", failing)
    monkeypatch.setattr("headrace_models.worker.batches.gathering._RETRY_SECONDS", 0.01)
    assert await added(bench.gatherer(), 1) == [True]


@pytest.mark.parametrize("error", [RecordRefused("too large"), ValueError("a bug")])
async def test_what_cannot_be_recorded_is_an_ordinary_call(
    bench: Gathering, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def refused(_batch: events.ProviderBatch) -> None:
        raise error

    monkeypatch.setattr(bench.batches, "write", refused)
    assert await added(bench.gatherer(), 1, 2) == [False] * 2


async def test_the_log_is_read_anew_when_its_topic_was_created_again(bench: Gathering) -> None:
    await added(bench.gatherer(), 1)
    await bench.batches.refresh()
    bench.cluster.delete_topic(PREFIX + topics.PROVIDER_BATCHES.name)
    bench.cluster.create_topic(PREFIX + topics.PROVIDER_BATCHES.name, topics.PROVIDER_BATCHES.partitions)

    # Until then its clients know the former one.
    await asyncio.sleep(2 * bench.cluster.metadata_age)
    await bench.batches.refresh()
    assert bench.batches.batches == {}


async def test_a_record_that_cannot_be_read_hides_no_other(bench: Gathering) -> None:
    await added(bench.gatherer(), 1)
    (good,) = bench.records(topics.PROVIDER_BATCHES)
    for key in (b"batch-1", b"batch-2", b"\xff"):
        bench.cluster.append(nonsense(good, key), now_ms())
    fresh = BatchLog(bench.log, bench.codec, bench.publisher)
    await fresh.refresh()
    assert set(fresh.batches) == {"batch-1"}
    assert fresh.batch_of("task-1/1") == "batch-1"


def nonsense(record: Record, key: bytes) -> ProducerRecord:
    return ProducerRecord(record.topic, b"\x00\x00\x00\x00\x63nonsense", key, record.partition)
