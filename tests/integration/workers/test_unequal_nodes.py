"""The local worker's runner with simulated Ollama nodes of different speed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from headrace_contracts import events, topics
from headrace_contracts.content import plain
from headrace_local_worker.decide.balancing import choose_node
from headrace_models.ollama import OllamaNode
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_models.worker.endpoint import Endpoint
from headrace_testing.workers import WorkerBench, attempt

MODEL = "gemma2:2b"
LONG = "document this\n" + "\n".join(f"def fun_{number}(x): pass" for number in range(80))
"""Answered with 118 tokens; `Say hello.` with 19."""


@pytest.fixture
async def nodes() -> AsyncIterator[dict[str, Endpoint]]:
    """One of 250 tokens a second, one of 10, and one that runs one call at a time."""
    kinds = {"fast": (10.0, 4), "slow": (0.4, 4), "serial": (10.0, 1)}
    made: dict[str, Endpoint] = {}
    servers = []
    for name, (factor, at_once) in kinds.items():
        server = Simulator(SimulatorConfig(speed=Speed(factor), nodes={name: (MODEL,)}, slots_per_node=at_once))
        await server.start()
        servers.append(server)
        made[name] = Endpoint(OllamaNode(name, server.ollama_url(name)), 4)
        made[name].seen(await made[name].provider.status())
    yield made
    for one in made.values():
        await one.provider.close()
    for server in servers:
        await server.stop()


def task(name: str, prompt: str = "Say hello.") -> events.AttemptRequested:
    message = events.Message(role="user", content=plain(prompt))
    return attempt(name, messages=(message,), sampling=events.Sampling())


async def test_twenty_short_calls_after_a_long_one_stay_with_the_fast_node(nodes: dict[str, Endpoint]) -> None:
    bench = WorkerBench()
    await bench.prepare()
    fast, slow = nodes["fast"], nodes["slow"]
    # Each has answered a call.
    for one in (slow, fast):
        await bench.runner([one]).handle(bench.submit(task(f"first-{one.name}")))
    runner = bench.runner([fast, slow], choose=choose_node)
    await runner.handle(bench.submit(task("long", LONG)))
    records = [bench.submit(task(f"short-{number}")) for number in range(20)]
    await asyncio.gather(*map(runner.handle, records))
    ends = [one for one in bench.read(topics.ATTEMPTS_FINISHED) if one.task_id.startswith(("short", "long"))]
    assert {one.outcome for one in ends} == {events.Outcome.ANSWERED}
    assert Counter(one.node for one in ends) == {"fast": 21}


async def test_a_server_that_runs_one_call_at_a_time_is_found_out(nodes: dict[str, Endpoint]) -> None:
    bench = WorkerBench()
    await bench.prepare()
    serial = nodes["serial"]
    runner = bench.runner([serial], choose=choose_node)
    # The first one loads the model.
    await runner.handle(bench.submit(task("first")))
    records = [bench.submit(task(f"task-{number}", LONG)) for number in range(6)]
    await asyncio.gather(*map(runner.handle, records))
    assert {one.outcome for one in bench.read(topics.ATTEMPTS_FINISHED)} == {events.Outcome.ANSWERED}
    assert serial.room(MODEL, asyncio.get_running_loop().time(), alone=True) == 1
