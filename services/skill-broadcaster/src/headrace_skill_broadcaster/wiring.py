"""Assembles the skill broadcaster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from headrace_contracts.events import AccessKey, SkillPublished
from headrace_contracts.ids import new_id
from headrace_contracts.topics import ACCESS_KEYS, REQUESTS_COUNTED, SKILLS_CATALOG, SKILLS_FEED, SKILLS_SUBMITTED
from headrace_runtime.authentication import authentication
from headrace_runtime.authenticity import Authenticity
from headrace_runtime.connections import Connections, wall_clock_ms
from headrace_runtime.health import Health
from headrace_runtime.http import new_app
from headrace_runtime.http_server import api_server
from headrace_runtime.lifecycle import Part, Service
from headrace_runtime.metrics import Metrics, discontinuities
from headrace_runtime.open_requests import OpenRequests
from headrace_runtime.openapi_page import PUBLIC_PATHS, add_reference
from headrace_runtime.producers import ProducerVerification
from headrace_runtime.shared_rates import SharedRates
from headrace_runtime.tables import tables_part
from headrace_runtime.tenants import load_tenants, request_rates
from headrace_runtime.waiting import wait_until
from headrace_streams.errors import TransientError
from headrace_streams.partitioning import partition_of
from headrace_streams.tables import Table

from headrace_skill_broadcaster.adapters.feed_api import FeedApi, FeedLimits
from headrace_skill_broadcaster.adapters.operations import ABOUT, OPERATIONS
from headrace_skill_broadcaster.adapters.search_index import SearchIndex
from headrace_skill_broadcaster.adapters.skills_api import ApiTools, SkillsApi
from headrace_skill_broadcaster.decide.rules import SkillLimits
from headrace_skill_broadcaster.feed import Feed
from headrace_skill_broadcaster.keeper import Tools
from headrace_skill_broadcaster.metrics import SkillMetrics
from headrace_skill_broadcaster.replay import Replay
from headrace_skill_broadcaster.service import SubmissionService
from headrace_skill_broadcaster.settings import SkillBroadcasterSettings
from headrace_skill_broadcaster.view import CatalogView


async def _patiently(what: str, start: Callable[[], Awaitable[None]], health: Health) -> None:
    await wait_until(what, start, not_yet=(TransientError,), health=health)


WRITES: Final = (SKILLS_SUBMITTED, SKILLS_CATALOG, SKILLS_FEED, REQUESTS_COUNTED)
READS: Final = (SKILLS_SUBMITTED, SKILLS_CATALOG, SKILLS_FEED, ACCESS_KEYS, REQUESTS_COUNTED)


def build(settings: SkillBroadcasterSettings) -> Service:
    """The service and its parts; opens no connection."""
    metrics = Metrics("skill_broadcaster")
    health = Health()
    measures = SkillMetrics(metrics)
    limits = SkillLimits(
        body_bytes=settings.skill_body_bytes,
        skills_per_tenant=settings.skills_per_tenant,
        bytes_per_tenant=settings.skill_bytes_per_tenant,
        revoked_ms=round(settings.revoked_skills_days * 86_400_000),
    )
    authenticity = Authenticity(settings.key_pepper, settings.unsigned_records, metrics)
    connections = Connections(settings, health, metrics, writes=WRITES, reads=READS, mac=authenticity.mac)
    log, codec = connections.log, connections.codec

    lost = discontinuities(metrics)
    view = CatalogView(SearchIndex())
    measures.entries.set_function(lambda: len(view))
    catalog: Table[SkillPublished] = Table(log, codec, SKILLS_CATALOG, view.apply, on_discontinuity=lost)
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
    submissions = SubmissionService(
        Tools(
            log=log,
            codec=codec,
            publisher=connections.publisher,
            dead_letters=connections.dead_letters,
            limits=limits,
            measures=measures,
            clock=wall_clock_ms,
            elsewhere=view.by_key,
            held_by=view.held_by,
            forgotten_version=view.forgotten_version,
            producers=ProducerVerification(
                settings.key_pepper, settings.unsigned_submissions, keys, metrics, settings.topic_prefix, wall_clock_ms
            ),
        ),
        health,
    )
    feed = Feed(
        log,
        codec,
        measures,
        partition_of=partition_of,
        memory_bytes=settings.feed_memory_bytes,
        clock=wall_clock_ms,
    )
    feed_api = FeedApi(
        feed,
        Replay(feed, log, settings.topic_prefix),
        FeedLimits(
            heartbeat_seconds=settings.heartbeat_seconds,
            interests=settings.feed_interests,
            buffer_bytes=settings.feed_buffer_bytes,
        ),
        limits,
        measures,
    )
    skills_api = SkillsApi(
        ApiTools(
            view=view,
            publisher=connections.publisher,
            limits=limits,
            measures=measures,
            wait_seconds=settings.publish_wait_seconds,
            clock=wall_clock_ms,
            new_id=new_id,
        ),
        feed_api,
    )
    app = new_app(
        metrics=metrics,
        body_limit_bytes=settings.body_limit_bytes,
        origins=settings.cors_origins,
        middlewares=(authentication(keys, settings.key_pepper, open_requests, public=PUBLIC_PATHS, rates=rates),),
    )
    skills_api.add_to(app)
    add_reference(app, "Headrace skills", settings.release(), ABOUT, OPERATIONS)
    server = api_server(app, settings, health)

    return Service(
        [
            connections.part,
            Part("search index", run=view.run, stop=view.close),
            tables_part({"keys": keys, "catalog": catalog}),
            shared_rates.part,
            Part("feed", start=lambda: _patiently("the feed", feed.start, health), run=feed.run, stop=feed.close),
            Part(
                "submissions",
                start=lambda: _patiently("the submissions", submissions.start, health),
                run=submissions.run,
                drain=submissions.drain,
            ),
            Part("api", start=server.start, drain=server.drain, stop=server.stop),
            # After the API, so that it drains before: the API's drain waits until all streams have ended.
            Part("agents", drain=feed.drain),
        ],
        metrics,
        health,
    )
