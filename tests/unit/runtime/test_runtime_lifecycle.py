"""The life of a service: order, readiness, failures, drains, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field

import pytest
from headrace_runtime.health import Health
from headrace_runtime.lifecycle import EXIT_CLEAN, EXIT_FAILED, Part, Service, run
from headrace_runtime.metrics import Metrics
from headrace_runtime.waiting import NotReady, wait_until


@dataclass
class Recorder:
    """Makes parts that write down what happens to them."""

    events: list[str] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def part(self, name: str) -> Part:
        async def start() -> None:
            self.events.append(f"start {name}")

        async def go() -> None:
            self.events.append(f"run {name}")
            self.started.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.events.append(f"end {name}")

        async def drain() -> None:
            self.events.append(f"drain {name}")

        async def stop() -> None:
            self.events.append(f"stop {name}")

        return Part(name, start=start, run=go, drain=drain, stop=stop)


@pytest.fixture
async def stop_requested() -> asyncio.Event:
    return asyncio.Event()


def _service(*parts: Part) -> Service:
    return Service(parts, Metrics("test"), Health())


async def _until(condition: asyncio.Event) -> None:
    await asyncio.wait_for(condition.wait(), 30)


async def test_parts_start_in_order_and_drain_and_stop_in_reverse(stop_requested: asyncio.Event) -> None:
    recorder = Recorder()
    service = _service(recorder.part("producer"), recorder.part("engine"))
    life = asyncio.create_task(run(service, drain_seconds=1, stop_requested=stop_requested))
    await _until(recorder.started)
    await asyncio.sleep(0)
    assert service.health.ready().ok
    stop_requested.set()
    assert await life == EXIT_CLEAN
    assert recorder.events[:2] == ["start producer", "start engine"]
    assert recorder.events[-6:] == [
        "drain engine",
        "drain producer",
        "end engine",
        "stop engine",
        "end producer",
        "stop producer",
    ]
    assert not service.health.ready().ok


async def test_a_signal_stops_the_service() -> None:
    recorder = Recorder()
    life = asyncio.create_task(run(_service(recorder.part("only")), drain_seconds=1))
    await _until(recorder.started)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(life, 30) == EXIT_CLEAN
    assert recorder.events[-1] == "stop only"


async def test_a_second_signal_ends_the_drain() -> None:
    recorder, draining = Recorder(), asyncio.Event()

    async def drain_forever() -> None:
        draining.set()
        await asyncio.Event().wait()

    slow = Part("slow", drain=drain_forever)
    life = asyncio.create_task(run(_service(recorder.part("first"), slow), drain_seconds=60))
    await _until(recorder.started)
    os.kill(os.getpid(), signal.SIGTERM)
    await _until(draining)
    os.kill(os.getpid(), signal.SIGINT)
    assert await asyncio.wait_for(life, 30) == EXIT_CLEAN


async def test_a_part_that_fails_ends_the_service_with_a_drain(stop_requested: asyncio.Event) -> None:
    recorder = Recorder()

    async def fail() -> None:
        await recorder.started.wait()
        raise RuntimeError("lost the connection for good")

    parts = (recorder.part("first"), Part("loop", run=fail))
    assert await run(_service(*parts), drain_seconds=1, stop_requested=stop_requested) == EXIT_FAILED
    assert recorder.events[-3:] == ["drain first", "end first", "stop first"]


async def test_a_part_that_ends_unasked_is_a_failure(stop_requested: asyncio.Event) -> None:
    async def end() -> None:
        return

    service = _service(Part("loop", run=end))
    assert await run(service, drain_seconds=1, stop_requested=stop_requested) == EXIT_FAILED


async def test_a_part_may_end_once_it_is_drained(stop_requested: asyncio.Event) -> None:
    drained = asyncio.Event()

    async def drain() -> None:
        drained.set()
        await asyncio.sleep(0.01)

    async def loop() -> None:
        stop_requested.set()
        await drained.wait()

    service = _service(Part("loop", run=loop, drain=drain))
    assert await run(service, drain_seconds=1, stop_requested=stop_requested) == EXIT_CLEAN


async def test_a_failed_start_stops_what_was_started(stop_requested: asyncio.Event) -> None:
    recorder = Recorder()
    stopped: list[str] = []

    async def fail() -> None:
        raise OSError("port taken")

    async def stop() -> None:
        stopped.append("half started")

    parts = (recorder.part("first"), Part("second", start=fail, stop=stop), recorder.part("third"))
    assert await run(_service(*parts), drain_seconds=1, stop_requested=stop_requested) == EXIT_FAILED
    assert stopped == ["half started"]
    assert "stop first" in recorder.events
    assert "start third" not in recorder.events


async def test_a_part_that_fails_while_another_waits_to_start_ends_the_service(stop_requested: asyncio.Event) -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    async def wait_forever() -> None:
        await asyncio.Event().wait()

    service = _service(Part("loop", run=fail), Part("waiting", start=wait_forever))
    life = run(service, drain_seconds=1, stop_requested=stop_requested)
    assert await asyncio.wait_for(life, 30) == EXIT_FAILED


async def test_stopping_during_the_start_is_clean(stop_requested: asyncio.Event) -> None:
    waiting = asyncio.Event()

    async def wait_forever() -> None:
        waiting.set()
        await asyncio.Event().wait()

    service = _service(Part("kafka", start=wait_forever))
    life = asyncio.create_task(run(service, drain_seconds=1, stop_requested=stop_requested))
    await _until(waiting)
    assert service.health.ready().reasons["lifecycle"] == "starting kafka"
    stop_requested.set()
    assert await asyncio.wait_for(life, 30) == EXIT_CLEAN


async def test_a_drain_is_cut_off_when_its_time_is_over() -> None:
    recorder = Recorder()

    async def drain_forever() -> None:
        recorder.events.append("draining")
        await asyncio.Event().wait()

    service = _service(recorder.part("first"), Part("slow", drain=drain_forever))
    life = asyncio.create_task(run(service, drain_seconds=0.05))
    await _until(recorder.started)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(life, 30) == EXIT_CLEAN
    assert recorder.events.index("draining") < recorder.events.index("stop first")


async def test_one_part_that_cannot_stop_does_not_keep_the_others(stop_requested: asyncio.Event) -> None:
    recorder = Recorder()

    async def fail() -> None:
        raise RuntimeError("cannot flush")

    service = _service(recorder.part("first"), Part("bad", stop=fail))
    life = asyncio.create_task(run(service, drain_seconds=1, stop_requested=stop_requested))
    await _until(recorder.started)
    stop_requested.set()
    assert await life == EXIT_FAILED
    assert recorder.events[-1] == "stop first"


async def test_waiting_asks_again_with_growing_delays_and_says_why_in_readiness() -> None:
    health, delays, answers = Health(), list[float](), iter([OSError("refused"), NotReady("no broker yet"), None])
    seen: list[str | None] = []

    async def probe() -> str:
        answer = next(answers)
        if answer is not None:
            raise answer
        return "there"

    async def sleep(seconds: float) -> None:
        delays.append(seconds)
        seen.append(health.ready().reasons["waiting for Kafka at host:9092"])

    assert await wait_until("Kafka at host:9092", probe, health=health, sleep=sleep) == "there"
    assert delays == sorted(delays)
    assert len(delays) == 2
    assert seen == ["refused", "no broker yet"]
    assert health.ready().ok


async def test_waiting_does_not_hide_other_errors() -> None:
    async def probe() -> None:
        raise ValueError("wrong password")

    with pytest.raises(ValueError, match="wrong password"):
        await wait_until("Postgres", probe)


async def test_waiting_can_be_told_of_more_errors_that_mean_not_yet() -> None:
    answers = iter([KeyError("starting up"), None])

    async def probe() -> int:
        answer = next(answers)
        if answer is not None:
            raise answer
        return 1

    async def sleep(_: float) -> None:
        return

    assert await wait_until("Postgres", probe, not_yet=(KeyError,), sleep=sleep) == 1
