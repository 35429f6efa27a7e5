"""The forecast on a real Postgres: read from the ledger, kept current, and told to admins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_cost_accountant.adapters.demand_reader import DemandReader
from headrace_cost_accountant.adapters.forecast_api import ForecastApi
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.metrics import ForecastMetrics, LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_models.prices import load_price_book
from headrace_runtime.access import Caller
from headrace_runtime.authentication import CALLER
from headrace_runtime.database import Database
from headrace_runtime.health import Health
from headrace_runtime.http import new_app
from headrace_runtime.metrics import Metrics
from headrace_streams.errors import TransientError
from headrace_streams.records import Record, TopicPartition
from headrace_testing.databases import prepared
from headrace_testing.dead_letters import KeptDeadLetters
from headrace_testing.stored_positions import moving
from prometheus_client import CollectorRegistry

pytestmark = pytest.mark.stack

HOUR_MS = 3_600_000
NOW = 3_000 * 168 * HOUR_MS + 30 * 60_000
TOPIC = "headrace.usage.recorded"


def usage(number: int, hours_ago: int, seconds: float, role: str | None = "scribe") -> UsageRecorded:
    return UsageRecorded(
        event_id=f"t-{number}/1/x", tenant=f"tenant-{number % 3}", task_id=f"t-{number}", attempt_id=f"t-{number}/1",
        execution_id="x", role=role, provider="ollama", model="gemma2:2b", outcome=Outcome.ANSWERED,
        usage=Usage(input_tokens=1, output_tokens=1), model_ms=seconds * 1000,
        recorded_at=NOW - 30 * 60_000 - hours_ago * HOUR_MS + 1,
    )  # fmt: skip


class _Clock:
    def __init__(self) -> None:
        self.ms = NOW

    def __call__(self) -> int:
        return self.ms


class _Bench:
    def __init__(self, database: Database) -> None:
        self.clock = _Clock()
        self.registry = CollectorRegistry()
        metrics = Metrics("cost_accountant", self.registry)
        self.store = LedgerStore(database, load_price_book(), KeptDeadLetters(), LedgerMetrics(metrics))
        self.health = Health()
        self.reader = DemandReader(database, ForecastMetrics(metrics), self.health, self.clock, 900.0)
        self._offset: int | None = None

    async def book(self, *events: UsageRecorded) -> None:
        start = self._offset
        first = start or 0
        records = [(Record(TOPIC, 0, first + place, NOW, b"", b""), event) for place, event in enumerate(events)]
        self._offset = first + len(events)
        await self.store.apply(records, {TopicPartition(TOPIC, 0): moving(start, self._offset)})

    def told(self) -> float | None:
        labels = {"place": "local", "provider": "ollama", "model": "gemma2:2b"}
        return self.registry.get_sample_value("headrace_forecast_busy_calls", labels)


async def test_the_ledger_of_all_tenants_tells_what_to_expect(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        bench = _Bench(database)
        await bench.reader.refresh()
        assert bench.told() is None, "nothing is known"
        # Yesterday at this hour and the next, two calls ran at once.
        await bench.book(
            *(usage(number, hours, 720.0) for hours in (24, 23) for number in range(hours, hours + 600, 60))
        )
        await bench.reader.refresh()
        assert bench.told() is None, "the weeks are read once in an hour"
        fresh = _Bench(database)
        await fresh.reader.refresh()
        assert fresh.told() == pytest.approx(2.0)
        fresh.clock.ms += 2 * HOUR_MS
        await fresh.reader.refresh()
        assert fresh.told() == pytest.approx(0.0, abs=0.1)
        # A ledger that catches up a day later is noticed.
        bench.clock.ms += 24 * HOUR_MS
        await bench.reader.refresh()
        assert bench.told() is not None


async def test_late_usage_of_the_last_hours_counts(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        bench = _Bench(database)
        await bench.book(usage(1, 24, 3600.0), usage(2, 2, 60.0))
        await bench.reader.refresh()
        before = bench.reader.past
        await bench.book(usage(3, 2, 3_540.0, role=None))
        bench.clock.ms += HOUR_MS
        await bench.reader.refresh()
        hour = bench.reader.hour - 3
        seconds = [sum(past._hours.get(hour, {}).values()) for past in (before, bench.reader.past)]
        assert seconds == pytest.approx([60.0, 3_600.0])


async def test_while_postgres_is_away_the_last_forecast_stands(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        bench = _Bench(database)
        await bench.book(usage(1, 24, 3_600.0))
        await bench.reader.refresh()
        assert bench.told() == pytest.approx(1.0)
    bench.clock.ms += HOUR_MS
    with pytest.raises(TransientError):
        await bench.reader.refresh()
    assert bench.told() == pytest.approx(1.0)
    running = asyncio.create_task(bench.reader.run())
    await asyncio.sleep(0.05)
    assert not running.done(), "the service goes on without it"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_only_admins_get_it(postgres_dsn: str) -> None:
    async with prepared(postgres_dsn, MIGRATIONS) as database:
        bench = _Bench(database)
        await bench.book(usage(1, 24, 3_600.0))
        await bench.reader.refresh()
        for scopes, status in ((frozenset({"admin"}), 200), (frozenset({"costs"}), 403)):
            app = new_app(
                metrics=Metrics("x", CollectorRegistry()), body_limit_bytes=1024, middlewares=(as_caller(scopes),)
            )
            ForecastApi(bench.reader).add_to(app)
            async with (
                TestClient(TestServer(app)) as client,
                client.get("/v1/costs/forecast?hours=2&by=role") as reply,
            ):
                assert reply.status == status
                said = await reply.json()
        assert status == 403
        assert said["type"].endswith("scope-missing")


def as_caller(scopes: frozenset[str]) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        request[CALLER] = Caller(tenant="acme", key_id="k", scopes=scopes)
        response: web.StreamResponse = await handler(request)
        return response

    return middleware
