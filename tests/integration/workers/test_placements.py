"""Models put onto nodes and taken away by a whole worker, on nodes that behave as Ollama servers do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from headrace_contracts.events import NodeStatus, PlacementAction, PlacementPhase, PlacementRequested, PlacementStatus
from headrace_contracts.topics import FLEET_STATUS, PLACEMENTS_REQUESTED, dead_letters_of
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_streams.publishing import Publication
from headrace_testing.worker_on_nodes import worker_on
from headrace_testing.workers import WorkerBench, now_ms

PULL, LOAD, UNLOAD, REMOVE = (
    PlacementAction.PULL, PlacementAction.LOAD, PlacementAction.UNLOAD, PlacementAction.REMOVE
)  # fmt: skip


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    nodes: dict[str, tuple[str, ...]] = {"box": ("gemma2:2b", "nomic-embed-text:v1.5"), "laptop": ("phi3:3.8b",)}
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes=nodes)) as running:
        yield running


@asynccontextmanager
async def working(bench: WorkerBench, simulator: Simulator) -> AsyncIterator[None]:
    nodes = (
        simulator.ollama_url("box"),
        simulator.ollama_url("laptop"),
        f"gpu={simulator.vllm_url('box')};server=vllm",
    )
    async with worker_on(bench, nodes):
        yield


async def ask(
    bench: WorkerBench, name: str, action: PlacementAction, model: str, node: str = "box", valid_ms: int = 60_000
) -> None:
    request = PlacementRequested(
        request_id=name, node=node, model=model, action=action, requested_at=now_ms(), valid_until=now_ms() + valid_ms
    )
    sent = Publication(
        spec=PLACEMENTS_REQUESTED, event=request, event_id=name, key=node.encode(), tenant="", time_ms=now_ms()
    )  # fmt: skip
    await bench.publisher.send(sent)


async def until(bench: WorkerBench, enough: Callable[[dict[str, NodeStatus]], bool]) -> list[NodeStatus]:
    async with asyncio.timeout(20):
        while True:
            seen: list[NodeStatus] = bench.read(FLEET_STATUS)
            if enough({one.node: one for one in seen}):
                return seen
            await asyncio.sleep(0.02)


async def ended(bench: WorkerBench, name: str, node: str = "box") -> PlacementStatus:
    def status(newest: dict[str, NodeStatus]) -> PlacementStatus | None:
        reported = newest[node].placements if node in newest else ()
        return next((one for one in reported if one.request_id == name), None)

    def over(newest: dict[str, NodeStatus]) -> bool:
        found = status(newest)
        return found is not None and found.phase in (PlacementPhase.DONE, PlacementPhase.FAILED)

    seen = await until(bench, over)
    found = status({one.node: one for one in seen})
    assert found is not None
    return found


def loaded(simulator: Simulator, node: str = "box") -> set[str]:
    return {one["model"] for one in simulator.nodes[node].running()}


async def test_a_model_is_pulled_loaded_unloaded_and_removed(bench: WorkerBench, simulator: Simulator) -> None:
    async with working(bench, simulator):
        for number, (action, has, runs) in enumerate(
            ((PULL, True, False), (LOAD, True, True), (UNLOAD, True, False), (REMOVE, False, False))
        ):
            await ask(bench, f"r{number}", action, "llama3:8b")
            status = await ended(bench, f"r{number}")
            assert (status.phase, status.reason, status.action) == (PlacementPhase.DONE, "", action)
            assert ("llama3:8b" in simulator.nodes["box"].models) == has
            assert ("llama3:8b" in loaded(simulator)) == runs
            # The fleet learns of it from the next look, which comes at once.
            await until(
                bench, lambda newest, has=has: ("llama3:8b" in {m.name for m in newest["box"].models}) == has  # type: ignore[misc]
            )  # fmt: skip
        assert status.total_bytes is None
        await ask(bench, "embeds", LOAD, "nomic-embed-text:v1.5")
        assert (await ended(bench, "embeds")).phase is PlacementPhase.DONE
        assert loaded(simulator) == {"nomic-embed-text:v1.5"}


async def test_progress_is_told_and_one_node_pulls_one_model_at_a_time(
    bench: WorkerBench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_local_worker.placements._REPORT_SECONDS", 0.0)
    simulator.nodes["box"].settings.change({"pull_gb_per_second": 40})
    async with working(bench, simulator):
        for name in ("first", "second"):
            await ask(bench, name, PULL, "llama3:8b")
        await ask(bench, "elsewhere", PULL, "gemma2:2b", node="laptop")
        assert (await ended(bench, "elsewhere", "laptop")).phase is PlacementPhase.DONE
        done = await ended(bench, "second")
        seen = [one for one in bench.read(FLEET_STATUS) if one.node == "box"]
    assert done.completed_bytes == done.total_bytes == 4_700_000_000
    phases = [{status.request_id: status.phase for status in one.placements} for one in seen]
    assert not [one for one in phases if one.get("first") is PlacementPhase.RUNNING and "second" in one]
    told = [s.completed_bytes for one in seen for s in one.placements if s.request_id == "first" and s.completed_bytes]
    assert told == sorted(told)
    assert len(set(told)) > 2


@pytest.mark.parametrize(
    ("model", "node", "reason"),
    [
        ("no-such-model", "box", "pull model manifest: file does not exist"),
        ("gpt-oss:120b-cloud", "box", "runs at another host"),
        ("llama3:8b", "gpu", "placed by other means"),
    ],
)
async def test_what_cannot_be_placed_is_told_with_the_reason(
    bench: WorkerBench, simulator: Simulator, model: str, node: str, reason: str
) -> None:
    async with working(bench, simulator):
        await ask(bench, "r", PULL, model, node)
        status = await ended(bench, "r", node)
    assert status.phase is PlacementPhase.FAILED
    assert reason in status.reason


async def test_a_full_disk_and_a_late_request_are_told(bench: WorkerBench, simulator: Simulator) -> None:
    simulator.nodes["box"].settings.change({"disk_gb": 3})
    async with working(bench, simulator):
        await ask(bench, "large", PULL, "llama3:8b")
        assert "no space left" in (await ended(bench, "large")).reason
        await ask(bench, "late", LOAD, "gemma2:2b", valid_ms=-1)
        assert (await ended(bench, "late")).reason == "it has expired before it was begun"
        await ask(bench, "unknown", PlacementAction.UNKNOWN, "gemma2:2b")
        await ask(bench, "nowhere", PULL, "gemma2:2b", node="nobody")
        async with asyncio.timeout(20):
            while not (letters := bench.read(dead_letters_of(PLACEMENTS_REQUESTED))):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert "does not know" in letters[0].error_message
    assert loaded(simulator) == set()


async def test_a_node_that_is_away_is_asked_again(
    bench: WorkerBench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_local_worker.placements._AGAIN_SECONDS", 0.05)
    async with working(bench, simulator):
        simulator.nodes["box"].settings.change({"max_queue": 0})
        await ask(bench, "r", LOAD, "gemma2:2b")
        await until(
            bench, lambda newest: "box" in newest and any("busy" in one.reason for one in newest["box"].placements)
        )
        simulator.nodes["box"].settings.change({"max_queue": 512})
        assert (await ended(bench, "r")).phase is PlacementPhase.DONE
