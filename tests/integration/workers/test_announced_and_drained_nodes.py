"""Nodes that agents announce, and nodes that operators drain, at a whole worker on the in-memory log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts import events, topics
from headrace_contracts.node_keys import NodeKey
from headrace_local_worker.announced_nodes import AnnouncedNodes
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_runtime.metrics import Metrics
from headrace_streams.publishing import Publication, Publisher
from headrace_testing.worker_on_nodes import worker_on
from headrace_testing.workers import WorkerBench, attempt, now_ms

SECRET = "the installation's secret"
NODES = {"desk": ("gemma2:2b",), "mac": ("gemma2:2b",)}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes=NODES)) as running:
        yield running


def worker(
    bench: WorkerBench, nodes: Sequence[str] = ("http://127.0.0.1:11434",), **changes: Any
) -> AbstractAsyncContextManager[Metrics]:
    return worker_on(bench, nodes, report_seconds=0.2, **changes)


def announcement(node: str, url: str, **changes: Any) -> events.NodeAnnounced:
    made = events.NodeAnnounced(node=node, url=url, slots=2, agent="a1", started_at=now_ms(), announced_at=now_ms())
    return replace(made, **changes)


async def announce(bench: WorkerBench, said: events.NodeAnnounced, *, signed_by: NodeKey | None = None) -> None:
    signer = (signed_by or NodeKey.of(SECRET, said.node)).signer()
    publisher = Publisher(bench.producer, bench.codec, "headrace/node", signer)
    await publisher.send(
        Publication(
            spec=topics.NODES_ANNOUNCED, event=said, event_id=f"{said.node}/{said.announced_at}",
            key=said.node.encode(), tenant="", time_ms=said.announced_at,
        )
    )  # fmt: skip


async def drain(bench: WorkerBench, node: str, reason: str | None) -> None:
    if reason is None:
        await bench.publisher.send_tombstone(topics.NODES_DRAINED, node.encode())
        return
    drained = events.NodeDrained(node=node, reason=reason, drained_by="ann@box", drained_at=now_ms())
    await bench.publisher.send(
        Publication(
            spec=topics.NODES_DRAINED, event=drained, event_id=f"{node}/{now_ms()}", key=node.encode(), tenant="",
            time_ms=now_ms(),
        )
    )  # fmt: skip


def fleet(bench: WorkerBench) -> dict[str, events.NodeStatus]:
    """The newest report of each node; none of those that have left."""
    origin = topics.FLEET_STATUS
    found: dict[str, events.NodeStatus] = {}
    for record in bench.records(origin):
        name = (record.key or b"").decode().split("/")[0]
        if record.value is None:
            found.pop(name, None)
        else:
            found[name] = bench.codec.decode(origin.record, record.value, _origin(record))
    return found


def _origin(record: Any) -> Any:
    from headrace_contracts.errors import Origin

    return Origin(record.topic, record.partition, record.offset)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - looks on
            await asyncio.sleep(0.01)


def nodes_of(bench: WorkerBench) -> list[str]:
    return [event.node for event in bench.read(topics.ATTEMPTS_FINISHED)]


async def test_an_announced_node_gets_calls_and_a_forged_one_gets_none(
    bench: WorkerBench, simulator: Simulator
) -> None:
    mac = announcement("mac", simulator.ollama_url("mac"))
    thief = NodeKey.of(SECRET, "mac")
    await announce(bench, announcement("thief", simulator.ollama_url("desk")), signed_by=thief)
    async with worker(bench, discovery=("announced",), key_pepper=SECRET):
        await announce(bench, mac)
        await until(lambda: "mac" in fleet(bench) and fleet(bench)["mac"].healthy)
        for number in range(4):
            bench.submit(attempt(f"task-{number}"))
        await until(lambda: len(nodes_of(bench)) == 4)
        assert set(nodes_of(bench)) == {"mac"}
        assert set(fleet(bench)) == {"mac"}
        await announce(bench, replace(mac, drained=True, reason="its agent stops", announced_at=now_ms() + 1))
        await until(lambda: fleet(bench)["mac"].reason == "drained: its agent stops")
        signer = NodeKey.of(SECRET, "mac").signer()
        await Publisher(bench.producer, bench.codec, "headrace/node", signer).send_tombstone(
            topics.NODES_ANNOUNCED, b"mac"
        )
        await until(lambda: "mac" not in fleet(bench))


async def test_a_drained_node_gets_no_call_until_it_is_undrained_also_after_a_restart(
    bench: WorkerBench, simulator: Simulator
) -> None:
    listed = tuple(f"{name}={simulator.ollama_url(name)};slots=1" for name in NODES)
    async with worker(bench, listed):
        await drain(bench, "mac", "more memory")
        await until(lambda: "mac" in fleet(bench) and not fleet(bench)["mac"].healthy)
        assert fleet(bench)["mac"].reason == "drained: more memory (ann@box)"
    async with worker(bench, listed):
        for number in range(6):
            bench.submit(attempt(f"task-{number}"))
        await until(lambda: len(nodes_of(bench)) == 6)
        assert set(nodes_of(bench)) == {"desk"}
        await drain(bench, "mac", None)
        await drain(bench, "desk", "its turn")
        await until(lambda: fleet(bench)["mac"].healthy and not fleet(bench)["desk"].healthy)
        for number in range(6, 9):
            bench.submit(attempt(f"task-{number}"))
        await until(lambda: len(nodes_of(bench)) == 9)
        assert set(nodes_of(bench)[6:]) == {"mac"}


async def test_a_silent_agent_draws_no_calls_to_its_address(bench: WorkerBench) -> None:
    told: list[Any] = []
    nodes = AnnouncedNodes(bench.log, bench.codec, SECRET, tell=told.append)
    # An agent whose clock is ten minutes behind is as good as any other.
    said = announcement("mac", "http://10.0.0.7:11434", announced_at=now_ms() - 600_000, valid_for_ms=300)
    await announce(bench, said)
    following = asyncio.create_task(nodes.follow(lambda: None))
    try:
        await until(lambda: bool(nodes.nodes))
        began = time.monotonic()
        assert nodes.nodes is not None
        assert nodes.nodes["mac"].withheld is None
        await until(lambda: (nodes.nodes or {})["mac"].withheld == "its agent has fallen silent")
        assert time.monotonic() - began < 3
        await announce(bench, replace(said, valid_for_ms=30_000))
        await until(lambda: (nodes.nodes or {})["mac"].withheld is None)
        assert told == []
        await announce(bench, announcement("x", "http://10.0.0.9:1"), signed_by=NodeKey("x", "0" * 64))
        await until(lambda: len(told) == 1)
        assert set(nodes.nodes) == {"mac"}
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_an_old_announcement_brings_no_address_back(bench: WorkerBench) -> None:
    nodes = AnnouncedNodes(bench.log, bench.codec, SECRET)
    old = announcement("mac", "http://10.0.0.7:11434", announced_at=now_ms() - 60_000)
    moved = announcement("mac", "http://10.0.0.8:11434")
    await announce(bench, old)
    await announce(bench, moved)
    following = asyncio.create_task(nodes.follow(lambda: None))
    try:
        await until(lambda: bool(nodes.nodes))
        await announce(bench, old)
        await announce(bench, announcement("desk", "http://10.0.0.9:11434"))
        await until(lambda: "desk" in (nodes.nodes or {}))
        assert nodes.nodes is not None
        assert nodes.nodes["mac"].url == moved.url
        signer = NodeKey.of(SECRET, "mac").signer()
        publisher = Publisher(bench.producer, bench.codec, "headrace/node", signer)
        await publisher.send_tombstone(topics.NODES_ANNOUNCED, b"mac")
        await announce(bench, old)
        await announce(bench, announcement("third", "http://10.0.0.10:11434"))
        await until(lambda: "third" in (nodes.nodes or {}))
        assert "mac" not in nodes.nodes
        # A clock that was set back is no reason to lose a node at its own address.
        await announce(bench, announcement("desk", "http://10.0.0.9:11434", announced_at=1, slots=7))
        await until(lambda: (nodes.nodes or {})["desk"].slots == 7)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
