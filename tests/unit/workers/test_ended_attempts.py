"""Which attempts are recognised as ended, and what they wait for."""

from __future__ import annotations

import time

import pytest
from headrace_contracts import topics
from headrace_contracts.ids import usage_id
from headrace_models.worker.ended_attempts import EndedAttempts
from headrace_streams.memory import HANGS, Ailment
from headrace_streams.records import ProducerRecord, Record, TopicPartition
from headrace_testing.workers import PREFIX, WorkerBench, now_ms

WORK = TopicPartition(f"{PREFIX}work.local.batch", 2)
USAGE = f"{PREFIX}usage.recorded"


@pytest.fixture
async def bench() -> WorkerBench:
    made = WorkerBench()
    await made.prepare()
    return made


def ended(bench: WorkerBench, attempt_id: str, partition: int = 0, at: int | None = None) -> None:
    """A usage record; its value is not looked at."""
    headers = (("ce_id", usage_id(attempt_id, "execution").encode()),)
    made = ProducerRecord(USAGE, b"unreadable", headers=headers, partition=partition)
    bench.cluster.append(made, now_ms() if at is None else at)


def work(partition: TopicPartition = WORK, at: int | None = None) -> Record:
    return Record(partition.topic, partition.partition, 0, now_ms() if at is None else at, b"k", b"")


def recogniser(bench: WorkerBench, read_seconds: float = 0.2) -> EndedAttempts:
    return EndedAttempts(bench.log, PREFIX, now_ms, read_seconds=read_seconds, retry_seconds=read_seconds + 0.1)


@pytest.mark.parametrize("attempt_id", ["task/1", "a/task/with/slashes/3", "ü"])
async def test_attempts_of_doubtful_partitions_are_recognised(bench: WorkerBench, attempt_id: str) -> None:
    for partition in range(topics.USAGE_RECORDED.partitions):
        ended(bench, f"other-{partition}", partition)
    ended(bench, attempt_id, 3)
    attempts = recogniser(bench)
    assert not await attempts.has(work(), attempt_id), "its position is as this group stored it"
    attempts.doubt(WORK)
    assert await attempts.has(work(), attempt_id)
    assert await attempts.has(work(), "other-5")
    assert not await attempts.has(work(), attempt_id + "0")
    assert not await attempts.has(work(TopicPartition(WORK.topic, 3)), attempt_id)


async def test_records_without_an_id_are_passed_over(bench: WorkerBench) -> None:
    for headers in ((), (("ce_id", None),), (("ce_id", b"\xff"),), (("ce_id", b"no slash"),)):
        bench.cluster.append(ProducerRecord(USAGE, b"", headers=headers, partition=0), now_ms())
    ended(bench, "task/1")
    attempts = recogniser(bench)
    attempts.doubt(WORK)
    assert await attempts.has(work(), "task/1")


async def test_older_work_is_looked_up_from_its_own_time_on(bench: WorkerBench) -> None:
    hour = 3_600_000
    ended(bench, "old/1", at=now_ms() - hour)
    ended(bench, "new/1")
    attempts = recogniser(bench)
    attempts.doubt(WORK)
    assert await attempts.has(work(), "new/1")
    assert not await attempts.has(work(), "old/1")
    assert await attempts.has(work(at=now_ms() - hour), "old/1")


async def test_what_ended_between_two_doubts_is_recognised(bench: WorkerBench) -> None:
    attempts = recogniser(bench)
    attempts.doubt(WORK)
    assert not await attempts.has(work(), "task/1")
    ended(bench, "task/1")
    attempts.doubt(WORK)
    assert await attempts.has(work(), "task/1")


async def test_new_work_ends_the_doubt(bench: WorkerBench) -> None:
    ended(bench, "task/1")
    attempts = recogniser(bench)
    attempts.doubt(WORK)
    assert await attempts.has(work(), "task/1")
    assert not await attempts.has(work(at=now_ms() + 3_600_000), "task/2")
    assert not await attempts.has(work(), "task/1")


@pytest.mark.parametrize("sick", [{"reads": HANGS}, {"bounds": HANGS}])
async def test_a_sick_partition_delays_attempts_once_and_heals(bench: WorkerBench, sick: dict[str, Ailment]) -> None:
    ended(bench, "task/1")
    attempts = recogniser(bench, read_seconds=1.5)
    attempts.doubt(WORK)
    bench.cluster.sicken(TopicPartition(USAGE, 0), **sick)
    assert not await attempts.has(work(), "task/1")
    began = time.monotonic()
    assert not await attempts.has(work(), "task/1")
    assert time.monotonic() - began < 1.2, "the next ones do not wait"
    bench.cluster.heal(TopicPartition(USAGE, 0))
    while not await attempts.has(work(), "task/1"):
        assert time.monotonic() - began < 20
