"""One run of the demo on a running stack: tenants, team, evidence, figures, checks."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from headrace import Addresses, Client, Cluster, HeadraceError, KafkaClient, NewKey, NotAllowed, Preferences
from headrace.asking import Asking
from headrace_contracts.users import AGENT, CONTENT_READER
from rich.console import Console

from headrace_devstack.demo.answers import write_answers
from headrace_devstack.demo.checks import all_checks
from headrace_devstack.demo.corpus import Corpus, JobPrivacy, Plan, Way, make_plan, marker_of
from headrace_devstack.demo.display import shown
from headrace_devstack.demo.evidence import Collector, all_readers, ends_of_topics
from headrace_devstack.demo.exchange import Exchange, TenantClients
from headrace_devstack.demo.measure import figures, task_rows
from headrace_devstack.demo.openai_api import OpenAIApi
from headrace_devstack.demo.report import Run
from headrace_devstack.demo.repository import Repository
from headrace_devstack.demo.source import read_folder
from headrace_devstack.demo.team import TeamProgress, work
from headrace_devstack.demo.working import Workplace

_BEFORE = timedelta(seconds=5)
_KEY_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The input and the size of the demo."""

    folder: Path
    tasks: int
    agents: int
    sensitive: tuple[str, ...]
    seed: int
    answers: Path | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the demo, with its preferences."""

    name: str
    preferences: Preferences

    @property
    def floor(self) -> JobPrivacy:
        """The least that its agents may ask for."""
        levels = {"high": JobPrivacy.SENSITIVE, "standard": JobPrivacy.INTERNAL}
        return levels.get(self.preferences.privacy_level or "", JobPrivacy.PUBLIC)


def tenants_of(run: str) -> tuple[Tenant, ...]:
    """Three typical customers, with names unique to this run."""
    return (
        # Everything on local nodes.
        Tenant(f"oxbow-{run}", Preferences(ai_mode="local", privacy_level="high")),
        # Local nodes first; internal content may go to one named provider.
        Tenant(
            f"meander-{run}",
            Preferences(
                ai_mode="hybrid", privacy_level="standard", preferred_provider="groq", allowed_providers=("groq",)
            ),
        ),
        # The cloud first, for everything that is not sensitive.
        Tenant(
            f"estuary-{run}",
            Preferences(
                ai_mode="hybrid", privacy_level="low", preferred_provider="anthropic",
                allowed_providers=("anthropic", "groq"),
            ),
        ),
    )  # fmt: skip


async def run_demo(options: DemoOptions, addresses: Addresses, console: Console) -> Run:
    """Run it. Raises CorrectTheSetting for the folder, ValueError if there is too little to do, else HeadraceError."""
    corpus = read_folder(options.folder, options.sensitive)
    run = secrets.token_hex(3)
    tenants = tenants_of(run)
    plan = make_plan(
        corpus, tasks=options.tasks, agents=options.agents, tenants=[tenant.name for tenant in tenants], run=run,
        seed=options.seed,
    )  # fmt: skip
    _announce(console, corpus, plan, addresses)
    since = datetime.now(UTC) - _BEFORE
    async with _at_work(addresses, tenants) as desk, all_readers(addresses) as readers:
        start = await ends_of_topics(readers)
        exchange = Exchange(plan, desk.clients)
        progress = TeamProgress(jobs=len(plan.jobs))
        repository = Repository(corpus, run)
        floors = {tenant.name: tenant.floor for tenant in tenants}
        places = {
            agent.name: Workplace(desk.api(agent.tenant, agent.way), repository, floors[agent.tenant])
            for agent in plan.agents
        }
        async with exchange.listening():
            began = time.perf_counter()
            with shown(console, progress):
                outcomes = await work(plan, places, exchange, progress)
            seconds = time.perf_counter() - began
            exchanged = await exchange.result()
        console.print("  Reading the topics, the ledger and the requests sent to providers", style="dim")
        collector = Collector(readers, start, plan.tenants)
        evidence = await collector.collect(
            {tenant: clients.http for tenant, clients in desk.clients.items()},
            since,
            _simulator_url(addresses),
            sorted(marker_of(run, file.path) for file in corpus.files if file.sensitive),
        )
    if options.answers is not None:
        write_answers(options.answers, outcomes, evidence)
    return Run(
        run=run,
        folder=corpus.folder,
        files=len(corpus.files),
        sensitive_files=sum(file.sensitive for file in corpus.files),
        commits=len(corpus.commits),
        agents=len(plan.agents),
        simulated=simulated_providers(addresses),
        figures=figures(outcomes, evidence, exchanged, seconds),
        checks=all_checks(outcomes, evidence, exchanged, collector.unread),
        tasks=task_rows(outcomes, evidence),
    )


def simulated_providers(addresses: Addresses) -> tuple[str, ...]:
    """The simulated providers, according to the stack."""
    names = addresses.stack.get("simulated")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _simulator_url(addresses: Addresses) -> str | None:
    url = addresses.stack.get("simulator_url")
    return url if isinstance(url, str) else None


def _announce(console: Console, corpus: Corpus, plan: Plan, addresses: Addresses) -> None:
    sensitive = sum(file.sensitive for file in corpus.files)
    console.print(
        f"{len(plan.agents)} agents of {len(plan.tenants)} tenants do {len(plan.jobs)} jobs on {len(corpus.files)} "
        f"files of {corpus.folder}, {sensitive} of them sensitive",
        highlight=False,
        soft_wrap=True,
    )
    simulated = simulated_providers(addresses)
    if simulated:
        console.print(
            f"[yellow]Simulated providers: {', '.join(simulated)}[/]; no real model is called", highlight=False
        )


@dataclass(frozen=True, slots=True)
class _Desk:
    """The clients of the run, by tenant."""

    clients: dict[str, TenantClients]
    openai: dict[str, OpenAIApi]

    def api(self, tenant: str, way: Way) -> Asking:
        """What an agent has its tasks done by."""
        clients = self.clients[tenant]
        apis: dict[Way, Asking] = {Way.HTTP: clients.http, Way.OPENAI: self.openai[tenant], Way.KAFKA: clients.kafka}
        return apis[way]


@asynccontextmanager
async def _at_work(addresses: Addresses, tenants: Sequence[Tenant]) -> AsyncIterator[_Desk]:
    """Keys, preferences and clients of the tenants; the keys are revoked at the end."""
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(Client(addresses=addresses))
        cluster = await stack.enter_async_context(Cluster.at(addresses, user=AGENT))
        reading = await stack.enter_async_context(Cluster.at(addresses, user=CONTENT_READER))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_connect=10)
            )
        )
        desk = _Desk({}, {})
        for tenant in tenants:
            key = await admin.keys.create(tenant.name, name="demo")
            stack.push_async_callback(_revoke, admin, key)
            client = await stack.enter_async_context(Client(addresses=replace(addresses, api_key=key.key)))
            await _until_known(client)
            await _set_preferences(admin, addresses, tenant)
            kafka = await stack.enter_async_context(
                KafkaClient(
                    tenant.name,
                    cluster=cluster,
                    reading=reading,
                    signing_key=key.signing_key,
                    source="headrace/demo",
                )
            )
            desk.clients[tenant.name] = TenantClients(client, kafka)
            desk.openai[tenant.name] = OpenAIApi(session, addresses.require("url"), key.key)
        yield desk


async def _set_preferences(admin: Client, addresses: Addresses, tenant: Tenant) -> None:
    """With a key of its own: those of the agents may not change what their tenant demands."""
    key = await admin.keys.create(tenant.name, name="demo preferences", scopes=["preferences"])
    try:
        async with Client(addresses=replace(addresses, api_key=key.key)) as owner:
            for pause in _KEY_PAUSES:
                try:
                    await owner.set_preferences(tenant.preferences)
                    return
                except NotAllowed:
                    await asyncio.sleep(pause)
            raise HeadraceError("intake does not accept a key created seconds ago: check `headrace doctor`")
    finally:
        await admin.keys.revoke(key.info.id)


async def _revoke(admin: Client, key: NewKey) -> None:
    await admin.keys.revoke(key.info.id)


async def _until_known(client: Client) -> None:
    """Wait until all services know the new key, which takes moments."""
    calls: tuple[Callable[[], Awaitable[object]], ...] = (client.list, client.skills.search, client.costs)
    for call in calls:
        for pause in _KEY_PAUSES:
            try:
                await call()
                break
            except NotAllowed:
                await asyncio.sleep(pause)
        else:
            raise HeadraceError("a service does not accept a key created seconds ago: check `headrace doctor`")
