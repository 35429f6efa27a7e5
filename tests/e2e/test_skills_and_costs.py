"""Skills from one agent to another, and money from attempt to report."""

import asyncio
import uuid
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from headrace import Client, KafkaClient, NotAllowed, NotFound
from headrace.addresses import Addresses
from headrace.connecting import Cluster
from headrace_testing.waiting import eventually


async def test_published_skill_is_pushed_found_updated_and_revoked(client: Client) -> None:
    interest = f"topic-{uuid.uuid4().hex[:8]}"
    received: asyncio.Queue[tuple[str, str, int]] = asyncio.Queue()

    opened = asyncio.Event()

    async def follow() -> None:
        async with aclosing(client.skills.feed(interest, on_open=opened.set)) as feed:
            async for news in feed:
                received.put_nowait((news.change, news.skill.name, news.skill.version))

    following = asyncio.create_task(follow())
    try:
        await asyncio.wait_for(opened.wait(), 20)
        first = await client.skills.publish(
            "read-a-journal",
            "Start at the epoch start.",
            interests=[interest],
            title="Reading journals",
            summary="recovery",
        )
        assert first.version == 1
        assert await asyncio.wait_for(received.get(), 20) == ("published", "read-a-journal", 1)
        second = await client.skills.publish("read-a-journal", "Mind the epoch.", interests=[interest])
        assert second.version == 2
        assert await asyncio.wait_for(received.get(), 20) == ("updated", "read-a-journal", 2)
        assert [skill.name for skill in await client.skills.search("journal")] == ["read-a-journal"]
        assert (await client.skills.get("read-a-journal")).body == "Mind the epoch."
        await client.skills.revoke("read-a-journal")
        assert (await asyncio.wait_for(received.get(), 20))[0] == "revoked"
        assert await client.skills.search("journal") == ()
    finally:
        following.cancel()


async def test_skill_stays_with_its_tenant(client: Client, admin: Client) -> None:
    await client.skills.publish("private-skill", "Ours alone.", interests=["secrets"])
    with pytest.raises(NotFound):
        await admin.skills.get("private-skill")


async def test_every_execution_is_in_the_ledger_once(client: Client) -> None:
    tasks = [
        await client.ask(f"What is {number} plus one? ({uuid.uuid4().hex})", privacy="public", mode="cloud", timeout=30)
        for number in range(3)
    ]
    expected = sum(task.cost_nanodollars for task in tasks)
    assert expected > 0
    since = datetime.now(UTC) - timedelta(hours=1)

    async def costed() -> bool:
        report = await client.costs(by="provider", since=since)
        assert report.total.cost_nanodollars <= expected
        return report.total.cost_nanodollars == expected and report.total.executions == len(tasks)

    await eventually(costed)


async def test_key_without_the_scope_is_refused(admin: Client, addresses: Addresses) -> None:
    narrow = await admin.keys.create(tenant="narrow", scopes=["tasks"])
    async with Client(addresses=replace(addresses, api_key=narrow.key)) as client:
        with pytest.raises(NotAllowed):
            await client.costs()


async def test_task_over_kafka_is_answered_and_shows_in_the_history(
    client: Client, addresses: Addresses, tenant: str
) -> None:
    cluster = Cluster.at(addresses)
    async with cluster, KafkaClient(tenant=tenant, cluster=cluster) as kafka:
        task = await kafka.submit(f"Say hello. ({uuid.uuid4().hex})", kind="over-kafka")
        completed = await task.completion(timeout=30)
    assert completed.status == "succeeded"

    async def shown() -> bool:
        return [one.id for one in (await client.list(kind="over-kafka")).tasks] == [task.task_id]

    await eventually(shown)
