"""The client, the Kafka client and consumption against the running platform, with simulated providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
from headrace import (
    Addresses,
    Client,
    Cluster,
    Conflict,
    KafkaClient,
    NotAllowed,
    NotFound,
    NotYet,
    Preferences,
    RequestInvalid,
    SkillNews,
    consume,
    locate,
)
from headrace.consuming import Delivered
from headrace_contracts.content import text_of
from headrace_contracts.events import Privacy, TaskCompleted, TaskStatus
from headrace_testing.up import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


@pytest.fixture
def addresses(platform: RunningStack) -> Addresses:
    return locate(environ={}, stack_file=platform.data / "stack.json")


@pytest.fixture
async def client(addresses: Addresses) -> AsyncIterator[Client]:
    async with Client(addresses=addresses) as made:
        yield made


@pytest.fixture
async def cluster(addresses: Addresses) -> AsyncIterator[Cluster]:
    async with Cluster.at(addresses) as made:
        yield made


async def test_ask(client: Client) -> None:
    began = datetime.now(UTC)
    task = await client.ask("Review: def f(x): return x+1", role="code_reviewer", privacy="sensitive", timeout=60)
    assert (task.status, task.provider, task.simulated, task.privacy) == ("succeeded", "ollama", True, "sensitive")
    assert task.answer
    assert task.why
    assert task.usage.output_tokens > 0
    assert (await client.get(task.id)).answer == task.answer
    # The list is a view in Postgres, which follows within moments.
    async with asyncio.timeout(20):
        while True:
            page = await client.list(role="code_reviewer", since=began - timedelta(seconds=5))
            if task.id in [listed.id for listed in page.tasks if listed.status == "succeeded"]:
                break
            await asyncio.sleep(0.1)


async def test_the_same_submission_again_is_the_same_task(client: Client) -> None:
    key = f"sdk-{datetime.now(UTC).timestamp()}"
    first = await client.submit("Count to three", idempotency_key=key)
    again = await client.submit("Count to three", idempotency_key=key)
    assert again.id == first.id
    with pytest.raises(Conflict):
        await client.submit("Count to four", idempotency_key=key)
    assert (await first.wait(60)).answered


async def test_pieces_make_up_the_answer(client: Client) -> None:
    stream = client.stream("Document this:\ndef a(): ...\ndef b(): ...\ndef c(): ...", role="documentation",
                           allow_cached=False, priority="interactive")  # fmt: skip
    text, count = "", 0
    async for piece in stream:
        text = piece.text if piece.begins_anew else text + piece.text
        count += 1
    task = await stream.result()
    assert text == task.answer
    assert count > 1


async def test_waiting_ends_and_the_task_can_be_cancelled(client: Client) -> None:
    long = "Document this:\n" + "\n".join(f"def function_{n}(a, b, c): ..." for n in range(200))
    task = await client.submit(long, role="documentation", allow_cached=False)
    with pytest.raises(NotYet):
        await task.wait(0.05)
    assert await task.cancel("no longer needed") is None
    assert (await task.wait(60)).status == "cancelled"


async def test_refusals_are_typed(addresses: Addresses, client: Client) -> None:
    with pytest.raises(RequestInvalid) as caught:
        await client.submit("x", privacy="secret")
    assert caught.value.status == 400
    with pytest.raises(NotFound):
        await client.get("01990000-0000-7000-8000-000000000000")
    async with Client(addresses.url, "hr_wrong") as stranger:
        with pytest.raises(NotAllowed):
            await stranger.submit("x")


async def test_keys_and_preferences(addresses: Addresses, client: Client) -> None:
    tenant = f"sdk-{datetime.now(UTC).timestamp():.0f}"
    made = await client.keys.create(tenant, name="test", scopes=["tasks"])
    async with Client(addresses.url, made.key, skills_url=addresses.skills_url) as theirs:
        wanted = Preferences(ai_mode="local", privacy_level="high", user="ann")
        async with asyncio.timeout(20):
            while True:  # a new key is known everywhere within moments
                try:
                    after = await theirs.set_preferences(wanted)
                    break
                except NotAllowed:
                    await asyncio.sleep(0.05)
        assert (after.ai_mode, after.privacy_level) == ("local", "high")
        with pytest.raises(NotAllowed):
            await theirs.skills.search()
        await client.keys.revoke(made.info.id)
        async with asyncio.timeout(20):
            while True:
                try:
                    await theirs.preferences()
                except NotAllowed:
                    break
                await asyncio.sleep(0.05)
    (listed,) = await client.keys.list(tenant)
    assert listed.revoked_at is not None


async def test_a_skill_reaches_those_that_follow_its_domain_over_http_and_kafka(
    client: Client, cluster: Cluster
) -> None:
    name = f"lesson-{datetime.now(UTC).timestamp():.0f}"
    opened = asyncio.Event()

    async def first_news() -> SkillNews:
        async with aclosing(client.skills.feed("sdk-testing", on_open=opened.set)) as feed:
            return await anext(feed)

    over_http = asyncio.create_task(first_news())
    async with (
        asyncio.timeout(60),
        KafkaClient("default", cluster=cluster) as kafka,
        kafka.skill_changes("sdk-testing") as changes,
    ):
        await opened.wait()
        skill = await client.skills.publish(name, "Be kind.", interests=["sdk-testing"], title="A lesson", author="a")
        news = await over_http
        async for change in changes:
            assert (change.event.name, change.event.version) == (name, 1)
            break
    assert (skill.name, skill.version) == (name, 1)
    assert (news.change, news.skill.name, news.skill.body) == ("published", name, "Be kind.")

    again = await client.skills.publish(name, "Be kind.", interests=["sdk-testing"], title="A lesson", author="a")
    assert again.version == 1
    assert (await client.skills.get(name)).body == "Be kind."
    found = await client.skills.search(interests=["sdk-testing"])
    assert name in [entry.name for entry in found]
    assert (await client.skills.revoke(name)).status == "revoked"
    newest, *_ = await client.skills.versions(name)
    assert newest.status == "revoked"


async def test_a_task_over_kafka_and_a_group_that_consumes_its_end(cluster: Cluster) -> None:
    async with KafkaClient("sdk-kafka", user="agent-7", cluster=cluster, source="test/sdk") as client:
        ends = await asyncio.gather(
            *(client.submit_and_wait(f"Name {n} rivers", role="research", privacy=Privacy.SENSITIVE, timeout=90)
              for n in range(1, 4))
        )  # fmt: skip
    assert [end.status for end in ends] == [TaskStatus.SUCCEEDED] * 3
    assert all(end.answer is not None and text_of(end.answer) for end in ends)

    seen: list[Delivered[TaskCompleted]] = []
    async with (
        asyncio.timeout(60),
        consume("tasks.completed", TaskCompleted, group="sdk-test", start="start", cluster=cluster) as completed,
    ):
        async for delivered in completed:
            if delivered.tenant == "sdk-kafka":
                seen.append(delivered)
            if len(seen) == 3:
                break
    assert {delivered.event.task_id for delivered in seen} == {end.task_id for end in ends}
    assert {delivered.event.user for delivered in seen} == {"agent-7"}


async def test_costs_come_by_group(client: Client) -> None:
    task = await client.ask("Say hello", privacy="public", mode="cloud", allow_cached=False, timeout=60)
    assert task.cost_nanodollars > 0
    async with asyncio.timeout(30):
        while True:
            report = await client.costs(by=["provider", "model"])
            if any(group.key["provider"] == task.provider and group.simulated for group in report.groups):
                break
            await asyncio.sleep(0.2)
    assert report.total.cost_nanodollars >= task.cost_nanodollars
    assert report.simulated.cost_nanodollars == report.total.cost_nanodollars
    assert sum(group.sums.cost_nanodollars for group in report.groups) == report.total.cost_nanodollars
