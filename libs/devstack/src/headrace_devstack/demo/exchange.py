"""Agents publish what they have learned, and receive what others have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from headrace import Client, HeadraceError, KafkaClient
from headrace_contracts.errors import ContractError
from headrace_streams.errors import StreamsError

from headrace_devstack.demo.corpus import Agent, Job, Plan, Way
from headrace_devstack.demo.outcomes import SkillDelivery, SkillExchange

_OPENING_SECONDS = 30.0
_ARRIVAL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class TenantClients:
    """The clients used by the agents of a tenant."""

    http: Client
    kafka: KafkaClient


class Exchange:
    """Keeps a feed open for every agent, and records when each skill was published and when it arrived where.

    Agents that use HTTP have a stream each. Those of a tenant that use Kafka share one reader of their domains'
    partitions, as agents in one process would.
    """

    def __init__(self, plan: Plan, clients: dict[str, TenantClients]) -> None:
        self._plan = plan
        self._clients = clients
        self._called: dict[tuple[str, str], float] = {}
        self._publish_ms: list[float] = []
        self._deliveries: list[SkillDelivery] = []
        self._expected: set[tuple[str, str]] = set()
        self._problems: list[str] = []
        self._arrived = asyncio.Event()
        self._opened = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """All feeds are open within the block."""
        streams = [agent for agent in self._plan.agents if agent.way is not Way.KAFKA]
        readers = [tenant for tenant in self._plan.tenants if self._kafka_agents(tenant)]
        all_open = asyncio.Event()

        def opened() -> None:
            self._opened += 1
            if self._opened >= len(streams) + len(readers):
                all_open.set()

        tasks = [asyncio.create_task(self._listen(agent, opened)) for agent in streams]
        tasks += [asyncio.create_task(self._listen_on_kafka(tenant, opened)) for tenant in readers]
        try:
            opening = asyncio.create_task(all_open.wait())
            await asyncio.wait([opening, *tasks], timeout=_OPENING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            opening.cancel()
            if not all_open.is_set():
                self._problems.append(f"only {self._opened} of {len(streams) + len(readers)} feeds could be opened")
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def publish(self, agent: Agent, job: Job) -> None:
        """Publish what the agent learned from a job as a skill of its domain."""
        if job.teaches is None:
            return
        interest = job.kind.replace(" ", "-")
        body = f"Learned from {job.subject} by {agent.name}: before you answer, check the names that the text uses."
        clients = self._clients[agent.tenant]
        self._expected |= {(job.teaches, listener.name) for listener in self._plan.listeners(agent.tenant, interest)}
        self._arrived.clear()
        began = time.perf_counter()
        self._called[(agent.tenant, job.teaches)] = began
        title = f"A lesson about {job.kind}"
        try:
            if agent.way is Way.KAFKA:
                await clients.kafka.publish_skill(
                    job.teaches, body, interests=[interest], title=title, author=agent.name
                )
            else:
                await clients.http.skills.publish(
                    job.teaches, body, interests=[interest], title=title, author=agent.name
                )
        except (HeadraceError, StreamsError, ContractError) as error:
            self._problems.append(f"{job.teaches} was not published: {type(error).__name__}: {error}")
            return
        self._publish_ms.append((time.perf_counter() - began) * 1000)

    async def result(self) -> SkillExchange:
        """Everything that was exchanged, after allowing the last deliveries time to arrive."""
        try:
            async with asyncio.timeout(_ARRIVAL_SECONDS):
                while not self._expected <= {(delivery.skill, delivery.receiver) for delivery in self._deliveries}:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass  # the check of the deliveries reports what is missing
        return SkillExchange(
            publish_ms=tuple(self._publish_ms),
            deliveries=tuple(self._deliveries),
            expected=frozenset(self._expected),
            problems=tuple(self._problems),
        )

    def _kafka_agents(self, tenant: str) -> list[Agent]:
        return [agent for agent in self._plan.agents if agent.tenant == tenant and agent.way is Way.KAFKA]

    async def _listen(self, agent: Agent, opened: Callable[[], None]) -> None:
        # Counted once: a stream reopened after a break is not another one.
        first = [opened]
        try:
            feed = self._clients[agent.tenant].http.skills.feed(
                *agent.interests, on_open=lambda: first.pop()() if first else None
            )
            async with aclosing(feed) as changes:
                async for news in changes:
                    published = news.skill.published_at
                    self._note(agent, news.skill.name, news.skill.author, published.timestamp() if published else 0.0)
        except HeadraceError as error:
            self._problems.append(f"the feed of {agent.name} broke: {type(error).__name__}: {error}")

    async def _listen_on_kafka(self, tenant: str, opened: Callable[[], None]) -> None:
        agents = self._kafka_agents(tenant)
        interests = sorted({interest for agent in agents for interest in agent.interests})
        told: set[tuple[str, int, str]] = set()
        try:
            async with self._clients[tenant].kafka.skill_changes(*interests) as changes:
                opened()
                async for change in changes:
                    event = change.event
                    for agent in agents:
                        seen = (event.name, event.version, agent.name)
                        if event.interest in agent.interests and seen not in told:
                            told.add(seen)
                            self._note(agent, event.name, event.author, event.published_at / 1000)
        except (HeadraceError, StreamsError, ContractError) as error:
            self._problems.append(f"the feed of {tenant} over Kafka broke: {type(error).__name__}: {error}")

    def _note(self, agent: Agent, skill: str, author: str, published_at: float) -> None:
        called = self._called.get((agent.tenant, skill))
        if called is None:
            return  # from an earlier run on the same stack
        self._deliveries.append(
            SkillDelivery(
                skill=skill,
                author=author,
                receiver=agent.name,
                after_call_ms=(time.perf_counter() - called) * 1000,
                after_publishing_ms=max(0.0, (time.time() - published_at) * 1000),
            )
        )
        self._arrived.set()
