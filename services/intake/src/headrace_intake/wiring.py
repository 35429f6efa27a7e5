"""Assembles intake: the only module that knows how its parts fit together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.events import AccessKey, Preferences
from headrace_contracts.groups import INTAKE_VIEW
from headrace_contracts.topics import (
    ACCESS_KEYS,
    AUDIT_RECORDED,
    FLEET_STATUS,
    HISTORY_CHANGED,
    PREFERENCES,
    REQUESTS_COUNTED,
    TASKS_CANCELLED,
    TASKS_COMPLETED,
    TASKS_REPLIES,
    TASKS_SUBMITTED,
)
from headrace_runtime.access import parse_key
from headrace_runtime.authentication import authentication
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.connections import Connections, wall_clock_ms
from headrace_runtime.database import Database, DatabaseMetrics
from headrace_runtime.health import Health
from headrace_runtime.http import new_app
from headrace_runtime.http_server import HttpServer, api_server
from headrace_runtime.lifecycle import Part, Service
from headrace_runtime.metrics import Metrics, discontinuities, suspensions
from headrace_runtime.open_requests import OpenRequests
from headrace_runtime.openapi_page import PUBLIC_PATHS, add_reference
from headrace_runtime.producers import ProducerVerification
from headrace_runtime.shared_rates import SharedRates
from headrace_runtime.tables import fleet_table, tables_part
from headrace_runtime.tenants import load_tenants, request_rates
from headrace_runtime.waiting import wait_until
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.ports import Log
from headrace_streams.projection import Projection
from headrace_streams.publishing import Publisher
from headrace_streams.tables import Table

from headrace_intake.adapters.answering import Answering
from headrace_intake.adapters.anthropic import AnthropicApi
from headrace_intake.adapters.batches import BatchesApi
from headrace_intake.adapters.chat import ChatApi
from headrace_intake.adapters.completions import CompletionsApi
from headrace_intake.adapters.confirmations import Confirmations
from headrace_intake.adapters.conversations import ConversationsApi
from headrace_intake.adapters.embeddings import EmbeddingsApi
from headrace_intake.adapters.files import FilesApi
from headrace_intake.adapters.history import History
from headrace_intake.adapters.history_changes import HistoryChanges
from headrace_intake.adapters.idempotency_keys import IdempotencyKeys
from headrace_intake.adapters.key_retention import KeyRetention
from headrace_intake.adapters.keys import KeyRecords, KeysApi
from headrace_intake.adapters.metrics import IntakeMetrics
from headrace_intake.adapters.ollama import OllamaApi
from headrace_intake.adapters.operations import ABOUT, OPERATIONS
from headrace_intake.adapters.preferences import PreferencesApi, demands
from headrace_intake.adapters.problems import error_shape_of, translating
from headrace_intake.adapters.replies import ReplyDispatcher
from headrace_intake.adapters.rereading import Rereaders
from headrace_intake.adapters.responses import ResponsesApi
from headrace_intake.adapters.retention import Retention
from headrace_intake.adapters.signing import sign_all
from headrace_intake.adapters.stored_responses import StoredResponsesApi
from headrace_intake.adapters.tasks import TasksApi
from headrace_intake.adapters.turns import TurnHistory
from headrace_intake.adapters.view_store import ViewStore
from headrace_intake.adapters.writing import NotWritten, Writer, WriteUncertain
from headrace_intake.batch_wiring import batching
from headrace_intake.decide.fleet_page import fleet_page
from headrace_intake.decide.models import provider_places
from headrace_intake.following import Following
from headrace_intake.hang_ups import HangUps
from headrace_intake.migrations import MIGRATIONS
from headrace_intake.service import Intake
from headrace_intake.settings import IntakeSettings

WRITES: Final = (
    TASKS_SUBMITTED, TASKS_CANCELLED, HISTORY_CHANGED, PREFERENCES, ACCESS_KEYS, REQUESTS_COUNTED, AUDIT_RECORDED,
)  # fmt: skip
READS: Final = (
    TASKS_SUBMITTED, TASKS_COMPLETED, HISTORY_CHANGED, TASKS_REPLIES, FLEET_STATUS, PREFERENCES, ACCESS_KEYS,
    REQUESTS_COUNTED,
)  # fmt: skip

_MS_IN_AN_HOUR: Final = 3_600_000
_MS_IN_A_DAY: Final = 24 * _MS_IN_AN_HOUR


@dataclass(frozen=True, slots=True)
class Bus:
    """The log, and what reads and writes it: Kafka's or the in-memory twin's."""

    log: Log
    codec: Codec
    publisher: Publisher
    dead_letters: DeadLetters
    authenticity: Authenticity


def build(settings: IntakeSettings) -> Service:
    """The service and its parts; opens no connection."""
    health = Health()
    metrics = Metrics("intake")
    authenticity = Authenticity(settings.key_pepper, settings.unsigned_records, metrics)
    connections = Connections(settings, health, metrics, writes=WRITES, reads=READS, mac=authenticity.mac)
    bus = Bus(connections.log, connections.codec, connections.publisher, connections.dead_letters, authenticity)
    parts, _ = assemble(settings, bus, health, metrics, wall_clock_ms)
    return Service([connections.part, *parts], metrics, health)


def assemble(
    settings: IntakeSettings, bus: Bus, health: Health, metrics: Metrics, clock: Callable[[], int]
) -> tuple[list[Part], HttpServer]:
    """Everything but the connections: the parts in start order, and the HTTP server, which is the last of them."""
    measured = IntakeMetrics(metrics)
    writer = Writer(bus.publisher, settings.ack_seconds)

    lost = discontinuities(metrics)
    key_changes: Confirmations[AccessKey] = Confirmations()
    preference_changes: Confirmations[Preferences] = Confirmations()
    open_requests = OpenRequests(settings.request_limits())
    tenants = load_tenants(settings.tenants_file)

    def key_changed(key_id: str, key: AccessKey | None) -> None:
        key_changes.changed(key_id, key)
        open_requests.key_changed(key_id, key)

    keys: Table[AccessKey] = Table(
        bus.log,
        bus.codec,
        ACCESS_KEYS,
        key_changed,
        on_discontinuity=lost,
        admits=bus.authenticity.admits,
    )
    preferences: Table[Preferences] = Table(
        bus.log,
        bus.codec,
        PREFERENCES,
        preference_changes.changed,
        on_discontinuity=lost,
        admits=bus.authenticity.admits,
    )
    fleet = fleet_table(bus.log, bus.codec, clock, metrics, on_discontinuity=lost)
    metrics.pages["fleet"] = lambda: fleet_page(fleet.items().values(), clock())

    dsn = settings.database_url.get_secret_value()
    database = Database(
        dsn,
        application="headrace-intake",
        pool_size=settings.database_pool_size,
        timeout_seconds=settings.database_timeout_seconds,
        migrate=lambda: MIGRATIONS.upgrade(dsn),
        on_change=DatabaseMetrics(metrics.for_subsystem("intake"), health, needed=False).changed,
    )
    history = History(database)
    projection = Projection(
        bus.log,
        settings.topic_prefix + INTAKE_VIEW.name,
        INTAKE_VIEW.topics,
        bus.codec,
        ViewStore(
            database,
            bus.dead_letters,
            on_reuse=lambda _: measured.task_ids_reused.inc(),
            producers=ProducerVerification(
                settings.key_pepper, settings.unsigned_submissions, keys, metrics, settings.topic_prefix, clock
            ),
        ),
        bus.dead_letters,
        on_waiting=lambda reason: health.degrade("history", reason and f"waits: {reason}"),
        on_standstill=lambda reason: health.degrade("history progress", reason),
        on_discontinuity=lost,
        on_suspension=suspensions(metrics, health.degrade),
    )
    retention = Retention(
        database,
        clock,
        task_ms=int(settings.history_days * _MS_IN_A_DAY),
        key_ms=int(settings.idempotency_hours * _MS_IN_AN_HOUR),
    )

    dispatcher = ReplyDispatcher(
        bus.log,
        bus.codec,
        instance_id=settings.instance_id,
        task_bytes=settings.task_buffer_bytes,
        total_bytes=settings.memory.replies if settings.reply_memory_bytes is None else settings.reply_memory_bytes,
        clock=clock,
        health=health,
        metrics=measured,
        authenticity=bus.authenticity,
        weight_of=lambda tenant: tenants.of(tenant).weight,
    )
    rereaders = Rereaders(bus.log, bus.codec, most=settings.rereaders, metrics=measured, authenticity=bus.authenticity)
    following = Following(dispatcher, rereaders, history, clock, measured)
    intake = Intake(
        writer=writer,
        dispatcher=dispatcher,
        keys=IdempotencyKeys(database),
        following=following,
        places=lambda: provider_places(fleet.items().values()),
        demands=partial(demands, preferences),
        clock=clock,
        metrics=measured,
        most_live=settings.pending_tasks_per_tenant,
        patience_seconds=settings.patience_seconds,
        fullness=lambda: open_requests.fullness,
    )

    hang_ups = HangUps(intake, measured)
    answering = Answering(
        intake,
        following,
        hang_ups,
        answer_seconds=settings.answer_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        clock=clock,
    )
    batches = batching(settings, database, intake, clock)

    bootstrap_key = settings.bootstrap_key and parse_key(settings.bootstrap_key.get_secret_value())
    key_retention = KeyRetention(
        keys,
        writer,
        clock,
        kept_ms=int(settings.revoked_keys_days * _MS_IN_A_DAY),
        never=() if not bootstrap_key else (bootstrap_key.key_id,),
    )
    key_records = KeyRecords(keys, key_changes, writer, settings.key_pepper, clock)
    turns = TurnHistory(database, following, bus.log, settings.topic_prefix + TASKS_SUBMITTED.name)
    history_changes = HistoryChanges(writer, clock)
    apis = (
        TasksApi(
            intake,
            following,
            history,
            hang_ups,
            longest_wait_seconds=settings.wait_seconds,
            heartbeat_seconds=settings.heartbeat_seconds,
        ),
        ChatApi(answering, fleet, clock),
        ResponsesApi(answering, intake, turns, most_bytes=settings.body_limit_bytes),
        StoredResponsesApi(answering, intake, dispatcher, turns, history_changes),
        CompletionsApi(answering),
        ConversationsApi(turns, history_changes),
        AnthropicApi(answering),
        EmbeddingsApi(answering),
        FilesApi(batches.files, batches.uploads, clock),
        BatchesApi(batches.batches, clock, batches.runner.wake),
        OllamaApi(answering, fleet, clock),
        KeysApi(key_records, settings.keys_per_tenant),
        PreferencesApi(preferences, preference_changes, writer, clock, settings.preferences_per_tenant),
    )
    rates = request_rates(settings, tenants)
    shared_rates = SharedRates(
        rates,
        keys,
        service=settings.service_name,
        log=bus.log,
        codec=bus.codec,
        publisher=bus.publisher,
        authenticity=bus.authenticity,
        clock=clock,
        health=health,
    )
    app = new_app(
        metrics=metrics,
        body_limit_bytes=settings.body_limit_bytes,
        origins=settings.cors_origins,
        error_shape=error_shape_of,
        middlewares=(
            authentication(keys, settings.key_pepper, open_requests, public=PUBLIC_PATHS, rates=rates),
            translating(),
        ),
    )
    for api in apis:
        app.add_routes(api.routes())
    add_reference(app, "Headrace", settings.release(), ABOUT, OPERATIONS)
    server = api_server(app, settings, health)

    async def store_bootstrap_key() -> None:
        await wait_until(
            "Kafka to take the bootstrap key",
            lambda: key_records.bootstrap(settings.bootstrap_key, settings.bootstrap_tenant),
            not_yet=(NotWritten, WriteUncertain),
            health=health,
        )

    async def sign_records() -> None:
        if settings.unsigned_records == "accept":
            await wait_until(
                "Kafka to take the signed records",
                lambda: sign_all(dict(keys.items()), dict(preferences.items()), writer, clock),
                not_yet=(NotWritten, WriteUncertain),
                health=health,
            )

    async def project() -> None:
        await database.prepared()
        await projection.run()

    parts = [
        tables_part({"keys": keys, "preferences": preferences, "fleet": fleet}),
        shared_rates.part,
        Part("signatures", start=sign_records),
        Part("bootstrap key", start=store_bootstrap_key),
        Part("revoked keys", run=key_retention.run),
        Part("database", run=database.run, stop=database.close),
        Part("view", run=project, drain=projection.close, stop=projection.close),
        Part("retention", run=retention.run),
        Part("replies", start=dispatcher.start, run=dispatcher.run, stop=dispatcher.close),
        Part("batches", run=batches.runner.run),
        Part("idempotency notes", drain=intake.close),
        Part("hang-ups", drain=hang_ups.close),
        Part("api", start=server.start, drain=server.drain, stop=server.stop),
    ]
    return parts, server
