"""Callers of one running platform."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest
from headrace import Addresses, Client
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually

SCOPES = ("tasks", "skills", "costs", "preferences")
"""What a tenant's own administrator may do."""


@pytest.fixture
def addresses(platform: RunningStack) -> Addresses:
    """All addresses of the platform, with the administrator's key."""
    return Addresses(
        url=platform.intake_url,
        skills_url=platform.skills_url,
        costs_url=platform.costs_url,
        api_key=platform.api_key,
        bootstrap_servers=platform.bootstrap_servers,
        registry_url=platform.registry_url,
        topic_prefix=platform.topic_prefix,
    )


@pytest.fixture
async def admin(addresses: Addresses) -> AsyncIterator[Client]:
    """A client with the administrator's key."""
    async with Client(addresses=addresses) as client:
        yield client


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test has."""
    return f"tenant-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def tenant_key(platform: RunningStack, admin: Client, tenant: str) -> str:
    """A key of the tenant, which all services have heard of."""
    key = (await admin.keys.create(tenant=tenant, name="e2e", scopes=SCOPES)).key
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

        async def known() -> bool:
            for url in (f"{platform.skills_url}/v1/skills", f"{platform.costs_url}/v1/costs"):
                async with session.get(url) as answer:
                    if answer.status == 401:
                        return False
            return True

        await eventually(known, 60)
    return key


@pytest.fixture
async def client(platform: RunningStack, addresses: Addresses, tenant_key: str) -> AsyncIterator[Client]:
    """A client of a tenant of its own."""
    async with Client(addresses=replace(addresses, api_key=tenant_key)) as own:
        yield own


@pytest.fixture
async def break_provider(platform: RunningStack) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Let the next calls of a simulated provider fail; what is left over is cleared afterwards."""
    async with aiohttp.ClientSession(platform.simulator_url) as session:

        async def plan(provider: str, kind: str, count: int = 1) -> None:
            async with session.post(
                "/control/faults", json={"provider": provider, "kind": kind, "count": count}
            ) as done:
                assert done.status == 200, await done.text()

        yield plan
        async with session.delete("/control/faults"):
            pass
