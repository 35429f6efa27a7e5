"""Assembles the cost accountant."""

from __future__ import annotations

from typing import Final

from headrace_contracts.events import AccessKey, SpendWindows
from headrace_contracts.groups import LEDGER
from headrace_contracts.topics import ACCESS_KEYS, REQUESTS_COUNTED, SPEND_WINDOWS, USAGE_RECORDED
from headrace_models.prices import load_price_book
from headrace_runtime.authentication import authentication
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.connections import Connections, wall_clock_ms
from headrace_runtime.database import Database, DatabaseMetrics
from headrace_runtime.health import Health
from headrace_runtime.http import new_app
from headrace_runtime.http_server import api_server
from headrace_runtime.lifecycle import Part, Service
from headrace_runtime.metrics import Metrics, discontinuities, suspensions
from headrace_runtime.open_requests import OpenRequests
from headrace_runtime.openapi_page import PUBLIC_PATHS, add_reference
from headrace_runtime.shared_rates import SharedRates
from headrace_runtime.tables import tables_part
from headrace_runtime.tenants import load_tenants, request_rates
from headrace_streams.projection import Projection
from headrace_streams.tables import Table

from headrace_cost_accountant.adapters.cost_reports import CostReports
from headrace_cost_accountant.adapters.costs_api import CostsApi
from headrace_cost_accountant.adapters.demand_reader import DemandReader
from headrace_cost_accountant.adapters.forecast_api import ForecastApi
from headrace_cost_accountant.adapters.ledger_store import LedgerStore
from headrace_cost_accountant.adapters.operations import ABOUT, OPERATIONS
from headrace_cost_accountant.adapters.windows_app import WindowsApp, WindowsTools
from headrace_cost_accountant.metrics import ForecastMetrics, LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS
from headrace_cost_accountant.service import LiveWindowsRunner
from headrace_cost_accountant.settings import CostAccountantSettings

WRITES: Final = (SPEND_WINDOWS, REQUESTS_COUNTED)
READS: Final = (USAGE_RECORDED, SPEND_WINDOWS, ACCESS_KEYS, REQUESTS_COUNTED)

_FETCH_MS: Final = 250
"""How long usage may wait at the broker for more of it."""
_LEDGER_WAIT_SECONDS: Final = 0.5
"""How long it may wait for others to share its transaction, of which each takes milliseconds. Reports are as late."""


def build(settings: CostAccountantSettings) -> Service:
    """The service and its parts; opens no connection. Raises PriceBookInvalid, OSError for an unusable price book."""
    metrics = Metrics("cost_accountant")
    health = Health()
    measures = LedgerMetrics(metrics)
    lost = discontinuities(metrics)
    prices = load_price_book(settings.price_book)
    authenticity = Authenticity(settings.key_pepper, settings.unsigned_records, metrics)
    connections = Connections(settings, health, metrics, writes=WRITES, reads=READS, mac=authenticity.mac)
    log, codec = connections.log, connections.codec
    batches = connections.patient_log(_FETCH_MS)

    dsn = settings.database_url.get_secret_value()
    database = Database(
        dsn,
        application="headrace-cost-accountant",
        pool_size=settings.database_pool_size,
        timeout_seconds=settings.database_timeout_seconds,
        migrate=lambda: MIGRATIONS.upgrade(dsn),
        on_change=DatabaseMetrics(metrics.for_subsystem("costs"), health, needed=True).changed,
    )
    ledger = Projection(
        batches,
        settings.topic_prefix + LEDGER.name,
        LEDGER.topics,
        codec,
        LedgerStore(database, prices, connections.dead_letters, measures),
        connections.dead_letters,
        max_batch=settings.ledger_batch,
        max_wait_seconds=_LEDGER_WAIT_SECONDS,
        on_waiting=lambda reason: _ledger_waits(health, measures, reason),
        on_discontinuity=lost,
        on_standstill=lambda reason: health.report("ledger progress", reason),
        on_suspension=suspensions(metrics, health.report),
    )
    tools = WindowsTools(
        kafka=settings.kafka_config(),
        log=batches,
        codec=codec,
        prices=prices,
        publisher=connections.publisher,
        measures=measures,
        replication=settings.windows_replication,
        publish_seconds=settings.windows_publish_seconds,
        clock=wall_clock_ms,
    )

    windows = LiveWindowsRunner(lambda: WindowsApp(tools), health, measures)
    demand = DemandReader(database, ForecastMetrics(metrics), health, wall_clock_ms, settings.forecast_lead_seconds)
    live: Table[SpendWindows] = Table(log, codec, SPEND_WINDOWS, on_discontinuity=lost)
    open_requests = OpenRequests(settings.request_limits())
    keys: Table[AccessKey] = Table(
        log,
        codec,
        ACCESS_KEYS,
        open_requests.key_changed,
        on_discontinuity=lost,
        admits=authenticity.admits,
    )
    rates = request_rates(settings, load_tenants(settings.tenants_file))
    shared_rates = SharedRates(
        rates,
        keys,
        service=settings.service_name,
        log=log,
        codec=codec,
        publisher=connections.publisher,
        authenticity=authenticity,
        clock=wall_clock_ms,
        health=health,
    )
    app = new_app(
        metrics=metrics,
        body_limit_bytes=settings.body_limit_bytes,
        origins=settings.cors_origins,
        middlewares=(authentication(keys, settings.key_pepper, open_requests, public=PUBLIC_PATHS, rates=rates),),
    )
    CostsApi(CostReports(database), live, wall_clock_ms).add_to(app)
    ForecastApi(demand).add_to(app)
    add_reference(app, "Headrace costs", settings.release(), ABOUT, OPERATIONS)
    server = api_server(app, settings, health)

    return Service(
        [
            connections.part,
            tables_part({"keys": keys, "live windows": live}),
            shared_rates.part,
            Part("postgres", start=database.prepare, stop=database.close),
            Part("ledger", run=ledger.run, drain=ledger.close),
            Part("live windows", run=windows.run),
            Part("forecast", run=demand.run),
            Part("api", start=server.start, drain=server.drain, stop=server.stop),
        ],
        metrics,
        health,
    )


def _ledger_waits(health: Health, measures: LedgerMetrics, reason: str | None) -> None:
    measures.ledger_waiting.set(reason is not None)
    health.set("ledger", reason and f"waits: {reason}")
