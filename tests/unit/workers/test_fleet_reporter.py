"""What the fleet is told of endpoints, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from headrace_contracts import events, topics
from headrace_contracts.errors import Origin
from headrace_contracts.events import Lane
from headrace_models.errors import RetrySameProvider
from headrace_models.ports import ModelInfo, ProviderStatus
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.fleet import FleetOptions, FleetReporter, node_status, tells_more
from headrace_models.worker.pool import Pool
from headrace_testing.workers import ScriptedProvider, WorkerBench, first_of, now_ms

MODEL = "gemma2:2b"


@pytest.fixture
async def bench() -> WorkerBench:
    made = WorkerBench()
    await made.prepare()
    return made


def options(**changes: float) -> FleetOptions:
    base = FleetOptions(worker="worker-1", where=events.Place.LOCAL, look_seconds=60.0, report_seconds=60.0)
    return replace(base, **changes)  # type: ignore[arg-type]


def reporter(bench: WorkerBench, pool: Pool, **changes: float) -> FleetReporter:
    return FleetReporter(pool, bench.publisher, options(**changes), now_ms)


async def reports(bench: WorkerBench, enough: Callable[[list[events.NodeStatus]], bool]) -> list[events.NodeStatus]:
    async with asyncio.timeout(30):
        while not ((found := bench.read(topics.FLEET_STATUS)) and enough(found)):  # noqa: ASYNC110 - looks on
            await asyncio.sleep(0.002)
    return found


async def test_the_first_look_is_over_before_work_begins(bench: WorkerBench) -> None:
    provider = ScriptedProvider()
    provider.current = replace(provider.current, simulated=True)
    pool = Pool([Endpoint(provider, 4, {"gpu": "rtx4060"})], first_of)
    await reporter(bench, pool).start()
    assert (await pool.acquire("ollama", MODEL, Lane.BATCH, None)).name == "node-1"
    (status,) = await reports(bench, bool)
    assert (status.node, status.place, status.provider) == ("node-1", events.Place.LOCAL, "ollama")
    assert (status.healthy, status.simulated, status.slots, status.worker) == (True, True, 4, "worker-1")
    assert [(model.name, model.loaded) for model in status.models] == [(MODEL, True)]
    assert status.hardware == {"gpu": "rtx4060", "version": "1.2.3"}
    assert (status.valid_for_ms, status.latency_ms) == (180_000, 1.0)
    assert bench.records(topics.FLEET_STATUS)[0].key == b"node-1/worker-1", "no worker speaks for another"


async def test_a_change_is_told_at_once_and_a_down_endpoint_keeps_its_models(bench: WorkerBench) -> None:
    provider = ScriptedProvider()
    fleet = reporter(bench, Pool([Endpoint(provider, 4)], first_of), look_seconds=0.01)
    await fleet.start()
    running = asyncio.create_task(fleet.run())
    provider.current = ProviderStatus(False, "it does not answer")
    found = await reports(bench, lambda all: not all[-1].healthy)
    assert (found[-1].reason, len(found[-1].models)) == ("it does not answer", 1)
    provider.current = ScriptedProvider(models=(MODEL, "phi3:3.8b")).current
    found = await reports(bench, lambda all: all[-1].healthy)
    assert len(found[-1].models) == 2
    assert len(found) == 3
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_endpoint_that_a_call_could_not_reach_is_looked_at_at_once(bench: WorkerBench) -> None:
    provider = ScriptedProvider()
    pool = Pool([Endpoint(provider, 4)], first_of)
    fleet = reporter(bench, pool)
    await fleet.start()
    running = asyncio.create_task(fleet.run())
    await asyncio.sleep(0)
    endpoint = await pool.acquire("ollama", MODEL, Lane.BATCH, None)
    provider.current = ProviderStatus(False, "it is gone")
    pool.release(endpoint, RetrySameProvider("unreachable", "no way there", provider="ollama"), MODEL)
    found = await reports(bench, lambda all: all[-1].reason == "it is gone")
    assert [status.reason for status in found] in (["", "no way there", "it is gone"], ["", "it is gone"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_signs_of_life_come_well_before_a_report_runs_out(bench: WorkerBench) -> None:
    fleet = reporter(bench, Pool([Endpoint(ScriptedProvider(), 4)], first_of), report_seconds=0.02)
    await fleet.start()
    running = asyncio.create_task(fleet.run())
    found = await reports(bench, lambda all: len(all) >= 4)
    assert {status.valid_for_ms for status in found} == {60}
    assert all(later.reported_at >= sooner.reported_at for sooner, later in pairwise(found))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_leaving_is_told_before_it_returns(bench: WorkerBench) -> None:
    fleet = reporter(bench, Pool([Endpoint(ScriptedProvider(), 4), Endpoint(ScriptedProvider(node="b"), 4)], first_of))
    await fleet.start()
    await fleet.leave()
    last = bench.read(topics.FLEET_STATUS)[-2:]
    assert {status.node: status.healthy for status in last} == {"node-1": False, "b": False}
    assert {status.reason for status in last} == {"its worker is leaving"}


async def test_places_that_come_and_go_are_looked_at_and_told_at_once(bench: WorkerBench) -> None:
    pool = Pool([Endpoint(ScriptedProvider(), 4)], first_of)
    fleet = reporter(bench, pool)
    await fleet.start()
    running = asyncio.create_task(fleet.run())
    await asyncio.sleep(0)
    pool.join(Endpoint(ScriptedProvider(node="b", models=("phi3:3.8b",)), 1))
    await reports(bench, lambda all: all[-1].node == "b" and all[-1].healthy)
    assert (await pool.acquire("ollama", "phi3:3.8b", Lane.BATCH, None)).name == "b"

    left = pool.leave("b")
    assert not left.idle.is_set(), "its last call is still running"
    async with asyncio.timeout(30):
        while bench.records(topics.FLEET_STATUS)[-1].value is not None:  # noqa: ASYNC110 - looks on
            await asyncio.sleep(0.002)
    assert bench.records(topics.FLEET_STATUS)[-1].key == b"b/worker-1"
    pool.release(left, None, "phi3:3.8b")
    assert left.idle.is_set()

    count = len(bench.records(topics.FLEET_STATUS))
    pool.join(Endpoint(ScriptedProvider(node="b"), 2))
    async with asyncio.timeout(30):
        while len(bench.records(topics.FLEET_STATUS)) <= count:  # noqa: ASYNC110 - looks on
            await asyncio.sleep(0.002)
    again = bench.records(topics.FLEET_STATUS)[-1]
    status = bench.codec.decode(events.NodeStatus, again.value, Origin(again.topic, again.partition, again.offset))
    assert (status.node, status.slots, status.healthy) == ("b", 2, True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_only_what_decides_where_work_goes_is_worth_a_report_of_its_own() -> None:
    endpoint = Endpoint(ScriptedProvider(), 4)
    endpoint.seen(ScriptedProvider().current)
    before = node_status(endpoint, options(), objection=None, now=0.0, reported_at=1)
    for _ in range(3):
        endpoint.take("acme", 1, "gemma2:2b", 0.0)
    endpoint.tokens_per_second = 20.0
    endpoint.seen(replace(endpoint.status, latency_ms=9.0))
    assert not tells_more(before, node_status(endpoint, options(), objection=None, now=0.0, reported_at=2))
    assert tells_more(None, before)
    assert tells_more(before, node_status(endpoint, options(), objection="down", now=0.0, reported_at=2))
    endpoint.seen(replace(endpoint.status, models=(ModelInfo(MODEL, loaded=False),)))
    assert tells_more(before, node_status(endpoint, options(), objection=None, now=0.0, reported_at=2))
