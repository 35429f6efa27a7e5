"""Assembles the router from its settings."""

from __future__ import annotations

import time
from dataclasses import dataclass

from headrace_contracts import topics
from headrace_contracts.events import AccessKey, PolicyPublished, Preferences, SensitiveSession, SwitchedOff
from headrace_contracts.groups import ROUTER_ANSWERS
from headrace_models.prices import load_price_book
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.connections import Connections, wall_clock_ms
from headrace_runtime.database import Database, DatabaseMetrics
from headrace_runtime.health import Health
from headrace_runtime.lifecycle import Part, Service
from headrace_runtime.metrics import Metrics, discontinuities, suspensions
from headrace_runtime.producers import ProducerVerification
from headrace_runtime.tables import fleet_table, tables_part
from headrace_runtime.tenants import load_tenants
from headrace_streams.projection import Projection
from headrace_streams.tables import Table
from headrace_streams.topic_limits import TopicLimits
from headrace_streams.watching import OnDiscontinuity

from headrace_router.adapters.answer_store import AnswerStore, Bounds
from headrace_router.adapters.policy_file import load_policy
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.adapters.stored_answers import AnswersMetrics, StoredAnswers
from headrace_router.decide.attempt_windows import AttemptWindow
from headrace_router.decide.tenant_quota import TenantQuota
from headrace_router.in_flight_limiter import InFlightLimiter
from headrace_router.limits import RouterLimits
from headrace_router.live_bytes import LiveBytes
from headrace_router.metrics import RouterMetrics
from headrace_router.migrations import MIGRATIONS
from headrace_router.partition import RouterContext
from headrace_router.service import INPUTS, RouterService
from headrace_router.settings import RouterSettings

WRITES = (
    topics.TASKS_JOURNAL,
    topics.WORK_LOCAL_INTERACTIVE,
    topics.WORK_LOCAL_BATCH,
    topics.WORK_CLOUD_INTERACTIVE,
    topics.WORK_CLOUD_BATCH,
    topics.ATTEMPTS_CANCELLED_LOCAL,
    topics.ATTEMPTS_CANCELLED_CLOUD,
    topics.TASKS_COMPLETED,
    topics.TASKS_REPLIES,
    topics.AUDIT_RECORDED,
    topics.SESSIONS_SENSITIVE,
)
READS_IF_STORING = (topics.HISTORY_CHANGED,)
READS = (
    *INPUTS, topics.FLEET_STATUS, topics.PREFERENCES, topics.POLICIES, topics.SWITCHES, topics.ACCESS_KEYS,
    topics.SESSIONS_SENSITIVE,
)  # fmt: skip


def build(settings: RouterSettings) -> Service:
    """Raises PolicyInvalid, PriceBookInvalid, TenantsInvalid and OSError for unusable files."""
    health = Health()
    metrics = Metrics("router")
    writes = (*WRITES, *topics.site_topics(settings.sites))
    reads = READS if settings.database_url is None else (*READS, *READS_IF_STORING)
    connections = Connections(settings, health, metrics, writes=writes, reads=reads)
    policy = load_policy(settings.policy_file)
    quota = TenantQuota(settings.live_tasks_per_tenant, settings.live_bytes_per_tenant)
    tenants = load_tenants(settings.tenants_file)
    window = AttemptWindow.of(settings.attempts_per_tenant)
    prices = load_price_book(settings.price_file)
    view = RoutingView(policy, prices, wall_clock_ms, quota, tenants, window, settings.sites)
    lost = discontinuities(metrics)
    fleet = fleet_table(
        connections.log, connections.codec, wall_clock_ms, metrics, view.node_changed, on_discontinuity=lost
    )
    authenticity = Authenticity(settings.key_pepper, settings.unsigned_records, metrics)
    preferences: Table[Preferences] = Table(
        connections.log,
        connections.codec,
        topics.PREFERENCES,
        view.preferences_changed,
        on_discontinuity=lost,
        admits=authenticity.admits,
    )
    policies: Table[PolicyPublished] = Table(
        connections.log, connections.codec, topics.POLICIES, view.policy_changed, on_discontinuity=lost
    )
    switches: Table[SwitchedOff] = Table(
        connections.log, connections.codec, topics.SWITCHES, view.switch_changed, on_discontinuity=lost
    )
    sessions: Table[SensitiveSession] = Table(
        connections.log,
        connections.codec,
        topics.SESSIONS_SENSITIVE,
        view.session_changed,
        on_discontinuity=lost,
        keeps_rows=False,
    )
    keys: Table[AccessKey] = Table(
        connections.log,
        connections.codec,
        topics.ACCESS_KEYS,
        on_discontinuity=lost,
        admits=authenticity.admits,
    )
    storing = None if settings.database_url is None else _storing(settings, connections, view, health, metrics, lost)
    # Its own, so that no trouble of the topics of attempts, audit records and replies reaches the journal.
    others = connections.log.producer()
    limits = TopicLimits(connections.log.admin(), [settings.topic_prefix + spec.name for spec in writes])
    service = RouterService(
        log=connections.log,
        codec=connections.codec,
        dead_letters=connections.dead_letters,
        router_context=RouterContext(
            view=view,
            publisher=connections.publisher,
            others=connections.another_publisher(others),
            topic_limits=limits,
            metrics=RouterMetrics(metrics),
            limiter=InFlightLimiter(settings.in_flight),
            publish_within=settings.act_within_seconds,
            monotonic=_steady_seconds,
            live_bytes=LiveBytes(settings.memory.live_tasks),
            settle_seconds=settings.act_within_seconds + settings.produce_within_seconds,
            reply_tokens=authenticity.reply_tokens,
            weight_of=lambda tenant: tenants.of(tenant).weight,
            stored_answers=None if storing is None else storing.answers,
        ),
        owner=settings.instance_id,
        instance_id=settings.instance_id if settings.static_member else None,
        limits=RouterLimits(
            tick_seconds=settings.commit_seconds,
            remembered=settings.remembered_tasks,
            largest_entry=settings.largest_entry_bytes,
        ),
        on_discontinuity=lost,
        producers=ProducerVerification(
            settings.key_pepper, settings.unsigned_submissions, keys, metrics, settings.topic_prefix, wall_clock_ms
        ),
    )
    health.add("router", service.health)
    health.add_degradation("router inputs", service.degraded)
    health.add_degradation("sites", view.undeclared_sites)
    health.add_degradation("policies", view.policy_problem)
    if settings.key_pepper is None:
        health.degrade("replies", "HEADRACE_KEY_PEPPER is not set: without tokens, intake passes no reply on")
    metrics.documents["partitions"] = service.document
    metrics.documents["waiting"] = service.waiting_work.document
    return Service(
        [
            connections.part,
            tables_part(
                {
                    "fleet": fleet,
                    "preferences": preferences,
                    "policies": policies,
                    "switches": switches,
                    "keys": keys,
                    "sessions": sessions,
                }
            ),
            *(() if storing is None else storing.parts),
            Part("topic limits", start=limits.start, run=limits.run),
            Part("commands", stop=others.close),
            Part("router", run=service.run, drain=service.drain),
        ],
        metrics,
        health,
    )


@dataclass(frozen=True, slots=True)
class _Storing:
    answers: StoredAnswers
    parts: tuple[Part, ...]


def _storing(
    settings: RouterSettings,
    connections: Connections,
    view: RoutingView,
    health: Health,
    metrics: Metrics,
    lost: OnDiscontinuity,
) -> _Storing:
    """Stored answers in Postgres. The router waits for none of it: without them, models answer."""
    assert settings.database_url is not None
    dsn = settings.database_url.get_secret_value()
    database = Database(
        dsn,
        application="headrace-router",
        pool_size=settings.database_pool_size,
        timeout_seconds=settings.database_timeout_seconds,
        migrate=lambda: MIGRATIONS.upgrade(dsn),
        on_change=DatabaseMetrics(metrics, health, needed=False).changed,
    )
    bounds = Bounds(
        settings.stored_answers_per_tenant, settings.stored_answer_bytes_per_tenant, settings.stored_answer_bytes
    )
    store = AnswerStore(database, bounds)
    answers = StoredAnswers(
        store,
        connections.codec,
        AnswersMetrics(metrics),
        kept_ms=lambda: view.policy.cache.stored_ttl,
        clock=wall_clock_ms,
        timeout_seconds=settings.stored_answer_wait_seconds,
    )
    forgetting = Projection(
        connections.log,
        settings.topic_prefix + ROUTER_ANSWERS.name,
        ROUTER_ANSWERS.topics,
        connections.codec,
        store,
        connections.dead_letters,
        on_waiting=lambda reason: health.degrade("forgetting", reason and f"waits: {reason}"),
        on_standstill=lambda reason: health.degrade("forgetting progress", reason),
        on_discontinuity=lost,
        on_suspension=suspensions(metrics, health.degrade),
    )

    async def write() -> None:
        await database.prepared()
        await answers.run()

    async def forget() -> None:
        await database.prepared()
        await forgetting.run()

    return _Storing(
        answers,
        (
            Part("database", run=database.run, stop=database.close),
            Part("stored answers", run=write, drain=answers.drain),
            Part("forgetting", run=forget, drain=forgetting.close, stop=forgetting.close),
        ),
    )


def _steady_seconds() -> float:
    """A monotonic clock that, where the system has one, keeps running while the machine is suspended."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)
