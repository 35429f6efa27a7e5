"""The local worker whole, on the in-memory log, with nodes that speak Ollama's wire format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from headrace_contracts import events, topics
from headrace_contracts.topics import TopicSpec
from headrace_local_worker.settings import LocalWorkerSettings
from headrace_local_worker.wiring import worker_parts
from headrace_runtime.health import Health
from headrace_runtime.lifecycle import Part, Service, run
from headrace_runtime.metrics import Metrics
from headrace_streams.dead_letters import DeadLetters

from headrace_testing.workers import PREFIX, WorkerBench, now_ms


@asynccontextmanager
async def working(parts: Sequence[Part], metrics: Metrics) -> AsyncIterator[None]:
    """A service of these parts, which must end well."""
    stop = asyncio.Event()
    life = asyncio.create_task(run(Service(parts, metrics), drain_seconds=5.0, stop_requested=stop))
    try:
        yield
    finally:
        stop.set()
        assert await life == 0


@asynccontextmanager
async def worker_on(bench: WorkerBench, nodes: Sequence[str], **changes: Any) -> AsyncIterator[Metrics]:
    """A worker with these nodes, as in its setting.

    Args:
        changes: Further settings.
    """
    settings = LocalWorkerSettings(
        **{"ollama_nodes": tuple(nodes), "instance_id": "local-1", "look_seconds": 0.05, **changes}
    )
    metrics = Metrics("local_worker")
    parts = worker_parts(
        settings,
        metrics,
        log=bench.log,
        codec=bench.codec,
        publisher=bench.publisher,
        dead_letters=DeadLetters(bench.publisher, "local-worker", PREFIX, now_ms),
        health=Health(),
    )
    async with working(parts, metrics):
        yield metrics


async def until(
    bench: WorkerBench, spec: TopicSpec, enough: Callable[[list[Any]], bool], seconds: float = 20
) -> list[Any]:
    """The events of a topic, once there are enough."""
    async with asyncio.timeout(seconds):
        while not enough(found := bench.read(spec)):  # noqa: ASYNC110 - looks at what has no event
            await asyncio.sleep(0.01)
    return found


async def healthy_nodes(bench: WorkerBench, *names: str) -> None:
    """Wait until these nodes, and no others, are reported as healthy."""

    def are_healthy(found: list[events.NodeStatus]) -> bool:
        newest = {status.node: status.healthy for status in found}
        return {name for name, healthy in newest.items() if healthy} == set(names)

    await until(bench, topics.FLEET_STATUS, are_healthy)
