"""Searches before an answer, through the services, real Kafka, registry and Postgres, in all modes."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from headrace import Client, NoAnswer, Preferences, Task
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually

Break = Callable[..., Awaitable[None]]


def question() -> str:
    """A question that no other test has asked."""
    return f"How deep is the lake? ({uuid.uuid4().hex})"


def dispatched(task: Task) -> list[str]:
    return [f"{step.provider}/{step.model}" for step in task.trail if step.step == "dispatched"]


def urls(task: Task) -> set[str]:
    return {one.url for choice in task.choices for one in choice.citations}


async def searched(platform: RunningStack, text: str) -> dict[str, int]:
    """How many requests with this text each simulated provider has received."""
    async with (
        aiohttp.ClientSession(platform.simulator_url) as session,
        session.post("/control/search", json={"needles": [text]}) as answer,
    ):
        hits = (await answer.json())["hits"]
    return {name: sum(hit["provider"] == name for hit in hits) for name in {hit["provider"] for hit in hits}}


async def test_local_mode_searches_and_answers_on_own_machines(client: Client, platform: RunningStack) -> None:
    text = question()
    task = await client.ask(
        text, role="research", privacy="public", mode="local", queries=[f"{text} depth", f"{text} area"], timeout=30
    )
    assert dispatched(task) == ["searxng/web", "searxng/web", "ollama/llama3:8b"]
    assert (task.status, task.provider, task.simulated, task.usage.searches) == ("succeeded", "ollama", True, 2)
    assert "[1]" in (task.answer or "")
    assert all(url.startswith("https://metasearch.simulated.example/") for url in urls(task))
    cited = [one for choice in task.choices for one in choice.citations]
    assert [(task.answer or "")[one.start : one.end] for one in cited] == ["[1]", "[2]", "[3]"]
    assert set(await searched(platform, text)) == {"searxng", "ollama"}


async def test_cloud_mode_searches_by_tavily_and_answers_in_the_cloud(client: Client) -> None:
    task = await client.ask(question(), role="research", privacy="public", mode="cloud", timeout=30)
    assert dispatched(task) == ["tavily/tavily-search", "groq/llama-3.3-70b-versatile"]
    assert (task.provider, task.usage.searches) == ("groq", 1)
    assert task.cost_nanodollars > 10_000_000
    assert urls(task)


async def test_hybrid_mode_searches_locally_and_answers_in_the_cloud(client: Client) -> None:
    task = await client.ask(
        question(), role="research", privacy="public", mode="hybrid", preferred_provider="groq", timeout=30
    )
    assert dispatched(task) == ["searxng/web", "groq/llama-3.3-70b-versatile"]
    assert urls(task)


async def test_sensitive_questions_are_searched_for_inside_only(client: Client, platform: RunningStack) -> None:
    text = question()
    task = await client.ask(text, role="research", privacy="sensitive", timeout=30)
    assert dispatched(task) == ["searxng/inside", "ollama/llama3:8b"]
    assert all(url.startswith("https://intranet.simulated.example/") for url in urls(task))
    async with (
        aiohttp.ClientSession(platform.simulator_url) as session,
        session.get("/control/received?texts=1") as answer,
    ):
        received = (await answer.json())["received"]
    nodes = {entry["node"] for entry in received if text in "".join(entry["texts"])}
    assert "intranet" in nodes
    assert not nodes & {"metasearch", "tavily", "groq", "anthropic"}


@pytest.mark.long
async def test_internal_questions_go_to_the_searches_that_preferences_name(client: Client) -> None:
    before = await client.ask(question(), role="research", privacy="internal", timeout=30)
    assert dispatched(before)[0] == "searxng/inside"
    await client.set_preferences(Preferences(ai_mode="cloud", privacy_level="standard", allowed_providers=("tavily",)))

    async def asks_tavily() -> bool:
        try:
            task = await client.ask(question(), role="research", privacy="internal", timeout=30)
        except NoAnswer as ended:
            task = ended.task
        return dispatched(task)[:1] == ["tavily/tavily-search"]

    await eventually(asks_tavily)


@pytest.mark.long
async def test_a_source_in_trouble_is_replaced_by_the_next(client: Client, break_provider: Break) -> None:
    await break_provider("searxng", "broken_json", 1)
    task = await client.ask(question(), role="research", privacy="public", timeout=30)
    assert dispatched(task)[:2] == ["searxng/web", "tavily/tavily-search"]
    assert urls(task)


async def test_without_any_source_the_answer_says_so(client: Client, break_provider: Break) -> None:
    await break_provider("searxng", "unauthorised", 2)
    task = await client.ask(question(), role="research", privacy="public", mode="local", timeout=30)
    assert task.status == "succeeded"
    assert urls(task) == set()
    assert [step.reason for step in task.trail if step.step == "researched"] == ["0 sources; 0 of 1 searches answered"]


async def test_openai_clients_get_annotations_and_json_by_schema(platform: RunningStack, tenant_key: str) -> None:
    schema = {"type": "object", "properties": {"summary": {"type": "string"}}, "required": ["summary"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    body: dict[str, Any] = {
        "model": "role:research", "messages": [{"role": "user", "content": question()}], "privacy": "public",
        "mode": "cloud", "response_format": form,
    }  # fmt: skip
    async with aiohttp.ClientSession(platform.intake_url, headers={"Authorization": f"Bearer {tenant_key}"}) as session:
        async with session.post("/v1/chat/completions", json=body) as answer:
            said = (await answer.json())["choices"][0]["message"]
        assert isinstance(json.loads(said["content"])["summary"], str)
        assert [one["type"] for one in said["annotations"]][:1] == ["url_citation"]
        body = {
            "model": "role:research",
            "input": question(),
            "privacy": "public",
            "mode": "cloud",
            "queries": ["one", "two"],
        }
        async with session.post("/v1/responses", json=body) as answer:
            document = await answer.json()
        (content,) = document["output"][-1]["content"]
        assert {one["type"] for one in content["annotations"]} == {"url_citation"}
        body = {
            "model": "role:research", "messages": [{"role": "user", "content": question()}], "privacy": "public",
            "mode": "cloud", "stream": True,
        }  # fmt: skip
        async with session.post("/v1/chat/completions", json=body) as answer:
            lines = [line async for line in answer.content]
        chunks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        (last,) = [c["choices"][0]["delta"]["annotations"] for c in chunks if "annotations" in c["choices"][0]["delta"]]
        one = last[0]["url_citation"]
        assert text[one["start_index"] : one["end_index"]] == "[1]"
        body = {"model": "role:general", "messages": [{"role": "user", "content": "x"}], "queries": ["y"]}
        async with session.post("/v1/chat/completions", json=body) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["code"] == "no_research"


@pytest.mark.long
async def test_a_cancelled_search_ends_the_task(client: Client, break_provider: Break) -> None:
    await break_provider("searxng", "timeout", 1)
    handle = await client.submit(question(), role="research", privacy="public", mode="local", deadline=60)
    await asyncio.sleep(0.5)
    await handle.cancel("changed my mind")
    task = await handle.wait(timeout=15)
    assert task.status == "cancelled"


@pytest.mark.long
async def test_the_deadline_holds_for_searches(client: Client, break_provider: Break) -> None:
    await break_provider("searxng", "timeout", 2)
    with pytest.raises(NoAnswer) as ended:
        await client.ask(
            question(),
            role="research",
            privacy="public",
            mode="local",
            queries=["a b", "c d"],
            deadline=1.5,
            timeout=30,
        )
    assert ended.value.task.status == "expired"
