"""What is switched off gets no more calls from a worker, also for attempts that were sent to it before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from headrace_contracts import events, topics
from headrace_contracts.switches import switch_key, switch_of
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_streams.publishing import Publication
from headrace_testing.worker_on_nodes import until, worker_on
from headrace_testing.workers import WorkerBench, attempt, now_ms

MODEL = "gemma2:2b"
SLOW = Speed(0.5)


async def switch(bench: WorkerBench, text: str, *, on: bool = False, for_ms: int | None = None) -> None:
    kind, name = switch_of(text)
    ends = None if for_ms is None else now_ms() + for_ms
    off = events.SwitchedOff(kind=kind, name=name, reason="it burns", until=ends, switched_at=now_ms())
    key = switch_key(off).encode()
    if on:
        await bench.publisher.send_tombstone(topics.SWITCHES, key)
        return
    await bench.publisher.send(
        Publication(spec=topics.SWITCHES, event=off, event_id=text, key=key, tenant="", time_ms=now_ms())
    )


def number_of(count: int) -> Callable[[list[events.AttemptFinished]], bool]:
    return lambda found: len(found) >= count


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("provider/ollama", "switched_off"),
        (f"model/{MODEL}", "switched_off"),
        (f"model/ollama/{MODEL}", "switched_off"),
        ("tenant/acme", "tenant_switched_off"),
    ],
)
async def test_attempts_that_wait_are_given_back_and_the_running_one_is_finished(
    bench: WorkerBench, text: str, code: str
) -> None:
    config = SimulatorConfig(speed=SLOW, nodes={"desk": (MODEL,)})
    async with Simulator(config) as simulator, worker_on(bench, (f"desk={simulator.ollama_url('desk')};slots=1",)):
        for number in range(4):
            bench.submit(attempt(f"task-{number}"), key=str(number).encode())
        async with asyncio.timeout(10):
            while not simulator.nodes["desk"].running():  # noqa: ASYNC110 - looks at a server
                await asyncio.sleep(0.01)
        await switch(bench, text)
        given_back = await until(bench, topics.ATTEMPTS_FINISHED, number_of(3))
        for each in given_back:
            assert (each.outcome, each.failure.code) == (events.Outcome.FAILED_RETRYABLE, code), "not the running one"
            assert each.failure.message == f"{text.replace('/', ' ', 1)} is switched off: it burns"
        ended = await until(bench, topics.ATTEMPTS_FINISHED, number_of(4))
        assert ended[-1].outcome is events.Outcome.ANSWERED
        bench.submit(attempt("task-4"))
        assert (await until(bench, topics.ATTEMPTS_FINISHED, number_of(5)))[-1].failure.code == code
        assert len(bench.read(topics.USAGE_RECORDED)) == 1, "nobody else was called"
        await switch(bench, text, on=True)
        bench.submit(attempt("task-5"))
        assert (await until(bench, topics.ATTEMPTS_FINISHED, number_of(6)))[-1].outcome is events.Outcome.ANSWERED


async def test_a_switch_holds_after_a_restart_and_until_its_time(bench: WorkerBench) -> None:
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes={"desk": (MODEL,)})) as simulator:
        node = f"desk={simulator.ollama_url('desk')}"
        await switch(bench, "provider/ollama", for_ms=2_000)
        async with worker_on(bench, (node,)):
            bench.submit(attempt("task-0"))
            assert (await until(bench, topics.ATTEMPTS_FINISHED, number_of(1)))[0].failure.code == "switched_off"
            await asyncio.sleep(2.0)
            bench.submit(attempt("task-1"))
            ended = await until(bench, topics.ATTEMPTS_FINISHED, number_of(2))
            assert ended[-1].outcome is events.Outcome.ANSWERED


@pytest.mark.parametrize("text", ["provider/groq", "feature/cloud", "model/mistral:7b", "tenant/other"])
async def test_others_go_on(bench: WorkerBench, text: str) -> None:
    await switch(bench, text)
    async with (
        Simulator(SimulatorConfig(speed=Speed(None), nodes={"desk": (MODEL,)})) as simulator,
        worker_on(bench, (f"desk={simulator.ollama_url('desk')}",)),
    ):
        bench.submit(attempt())
        ended = await until(bench, topics.ATTEMPTS_FINISHED, number_of(1))
        assert ended[0].outcome is events.Outcome.ANSWERED
