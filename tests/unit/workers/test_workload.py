"""Outstanding work in seconds, by model."""

from __future__ import annotations

import asyncio

import pytest
from headrace_contracts import topics
from headrace_models.worker.runner import ModelName, WorkInHand
from headrace_models.worker.workload import (
    PRIOR_SECONDS,
    UNKNOWN,
    ServiceTimes,
    WorkloadReader,
    model_of,
    workload,
)
from headrace_streams.handling import EngineOptions, Load, TopicLane
from headrace_streams.parallel import ParallelConsumer
from headrace_streams.records import ProducerRecord
from headrace_testing.dead_letters import NoDeadLetters
from headrace_testing.workers import PREFIX, ScriptedProvider, WorkerBench, attempt, healthy, now_ms

SMALL, LARGE = ModelName("ollama", "gemma2:2b"), ModelName("ollama", "llama3:70b")
TOPIC = PREFIX + topics.WORK_LOCAL_INTERACTIVE.name


def test_before_the_first_observation_a_call_is_reckoned_at_the_prior() -> None:
    times = ServiceTimes()
    assert times.of(SMALL) == times.average == PRIOR_SECONDS
    times.observe(SMALL, 1.0)
    assert times.of(SMALL) == 1.0
    assert times.of(LARGE) == 1.0, "of a model that is not known yet: as all others"


def test_the_usual_time_follows_what_is_observed() -> None:
    times = ServiceTimes()
    times.observe(SMALL, 1.0)
    times.observe(LARGE, 30.0)
    assert times.of(SMALL) == 1.0
    assert 1.0 < times.average < 30.0
    for _ in range(100):
        times.observe(SMALL, 3.0)
    assert times.of(SMALL) == pytest.approx(3.0, abs=0.01)
    assert times.of(LARGE) == 30.0


def test_ten_records_may_be_a_second_of_work_or_an_hour() -> None:
    times = ServiceTimes()
    times.observe(SMALL, 0.1)
    times.observe(LARGE, 360.0)
    assert workload({SMALL: Load(10, 0)}, [], 0, times).outstanding_seconds == pytest.approx(1.0)
    assert workload({LARGE: Load(10, 0)}, [], 0, times).outstanding_seconds == pytest.approx(3600.0)


def test_of_calls_in_hand_what_is_expected_to_be_left_counts() -> None:
    times = ServiceTimes()
    times.observe(SMALL, 10.0)
    calls = [WorkInHand(SMALL, True, 40.0), WorkInHand(SMALL, True, 0.5), WorkInHand(SMALL, False, 7.0)]
    found = workload({SMALL: Load(2, 3)}, calls, 0, times).models[SMALL]
    assert (found.queued, found.running) == (3, 2), "one in flight waits for a slot"
    assert found.outstanding == pytest.approx(2 * 10 + 40 + 0.5 + 7)
    unknown = [WorkInHand(LARGE, False, None)]
    assert workload({}, unknown, 0, times).models[LARGE].outstanding == pytest.approx(10.0), "as the others"


def test_what_the_log_still_holds_counts_at_the_average() -> None:
    times = ServiceTimes()
    times.observe(SMALL, 2.0)
    found = workload({}, [], 50, times)
    assert (found.backlog_seconds, found.outstanding_seconds) == (100.0, 100.0)


async def test_the_model_is_read_from_the_beginning_of_a_record() -> None:
    bench = WorkerBench()
    await bench.prepare()
    read = model_of(bench.codec)
    assert read(bench.submit(attempt())) == SMALL
    broken = bench.cluster.append(ProducerRecord(TOPIC, b"garbage", b"k"), now_ms())
    assert read(bench.cluster.records(TOPIC, broken.partition)[broken.offset]) == UNKNOWN


async def test_a_worker_tells_what_waits_what_runs_and_what_it_has_not_received() -> None:
    bench = WorkerBench()
    await bench.prepare()
    provider = ScriptedProvider(models=("gemma2:2b", "phi3:3.8b"))
    gate = asyncio.Event()
    provider.script = [gate]
    runner = bench.runner([healthy(provider, slots=1)])
    for number in range(30):
        model = "phi3:3.8b" if number % 3 == 0 else "gemma2:2b"
        bench.submit(attempt(f"task-{number}", model=model), key=b"same")
    engine = ParallelConsumer(
        bench.log,
        "g",
        [TopicLane(TOPIC)],
        runner.handle,
        dead_letters=NoDeadLetters(),
        options=EngineOptions(max_buffered=10, max_poll_records=12, lag_interval_seconds=0.01),
    )
    times = ServiceTimes()
    reader = WorkloadReader(engine, runner, bench.codec, times)
    running = asyncio.create_task(engine.run())
    async with asyncio.timeout(30):
        while not provider.running or not reader().to_receive:  # noqa: ASYNC110 - looks at what has no event
            await asyncio.sleep(0.005)
    found = reader()
    in_hand = sum(work.queued + work.running for work in found.models.values())
    assert in_hand + found.to_receive == 30
    assert sum(work.running for work in found.models.values()) == 1
    assert found.models[ModelName("ollama", "phi3:3.8b")].queued > 0
    assert found.outstanding_seconds == pytest.approx(30 * PRIOR_SECONDS, rel=0.1)
    document = reader.document()
    assert document["outstanding_work_seconds"] == pytest.approx(30 * PRIOR_SECONDS, rel=0.1)
    assert document["to_receive"] == found.to_receive
    assert sum(partition["lag"] for partition in document["partitions"]) == 30
    assert document["oldest_waiting_seconds"] > 0
    gate.set()
    async with asyncio.timeout(30):
        while reader().outstanding_seconds:  # noqa: ASYNC110 - looks at what has no event
            await asyncio.sleep(0.005)
    assert reader.document()["models"] == []
    await engine.stop()
    await running
