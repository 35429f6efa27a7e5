"""Cascades and ensembles through the services, real Kafka, registry and Postgres."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from headrace import Client, NoAnswer, Task
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually

Break = Callable[..., Awaitable[None]]
Change = Callable[..., Awaitable[None]]

CASCADE = {"cascade": True}
ENSEMBLE = {"ensemble": True}
CODE = "def depth(lake):\n    return lake.volume / lake.area\n"


def question(mark: str = "") -> str:
    """A question that no other test has asked."""
    return f"How deep is the lake? {mark} ({uuid.uuid4().hex})"


def dispatched(task: Task) -> list[str]:
    return [f"{step.provider}/{step.model}" for step in task.trail if step.step == "dispatched"]


@pytest.fixture
async def hang(platform: RunningStack) -> AsyncIterator[Change]:
    """Let the inference of a simulated node stand still, until the end of the test."""
    hung: list[str] = []
    async with aiohttp.ClientSession(platform.simulator_url) as session:

        async def change(node: str, *, hangs: bool = True) -> None:
            async with session.post(f"/control/nodes/{node}", json={"hangs": hangs}) as done:
                assert done.status == 200, await done.text()
            hung.append(node)

        yield change
        for node in tuple(hung):
            await change(node, hangs=False)


async def test_a_small_model_that_is_sure_answers_and_what_it_saved_is_told(client: Client) -> None:
    task = await client.ask(question(), privacy="public", provider=CASCADE, timeout=30)
    assert dispatched(task) == ["ollama/gemma2:2b", "ollama/gemma2:2b"]
    assert task.cascade is not None
    assert (task.cascade.rung, task.cascade.sufficient, task.cascade.confidence) == (1, True, 0.9)
    assert task.cascade.saved_nanodollars > 0
    assert (task.model, task.simulated, task.attempts) == ("gemma2:2b", True, 2)
    # The history tells the same as who has waited was told.
    await eventually_the_same(client, task)


@pytest.mark.long
async def test_an_unsure_one_is_followed_by_larger_ones_within_the_rules(client: Client) -> None:
    task = await client.ask(question("simulate: unsure"), privacy="public", provider=CASCADE, timeout=30)
    assert task.cascade is not None
    assert (task.provider, task.cascade.rung) == ("groq", 3)
    assert [one.part for one in task.cascade.members] == ["rung", "self_rating"] * 2 + ["rung"]
    paid = [one.cost_nanodollars for one in task.cascade.members]
    assert task.cost_nanodollars == sum(paid)
    assert paid[-1] > 0
    kept = await client.ask(question("simulate: unsure"), privacy="sensitive", provider=CASCADE, timeout=30)
    assert kept.cascade is not None
    assert (kept.provider, kept.cascade.rung, kept.cascade.sufficient) == ("ollama", 2, False)
    assert "privacy" in kept.cascade.reason


async def test_an_ensemble_answers_with_one_of_its_answers_and_their_coherence(client: Client) -> None:
    began = time.monotonic()
    task = await client.ask(CODE + question(), role="code_reviewer", provider=ENSEMBLE, timeout=30)
    assert time.monotonic() - began < 25, "far less than the deadline, also on a busy machine"
    ensemble = task.ensemble
    assert ensemble is not None
    assert (ensemble.answered, ensemble.combined_by, ensemble.goal) == (3, "vote", 0.85)
    assert ensemble.coherence is not None
    assert 0.85 <= ensemble.coherence <= 1
    assert [one.part for one in ensemble.members] == ["primary", "validation", "technical"]
    assert task.usage.input_tokens > 0
    await eventually_the_same(client, task)


async def test_a_stream_shows_only_the_answer_that_counts(platform: RunningStack, tenant_key: str) -> None:
    body: dict[str, Any] = {
        "model": "role:code_reviewer", "messages": [{"role": "user", "content": CODE + question()}], "stream": True,
        "provider": ENSEMBLE,
    }  # fmt: skip
    async with (
        aiohttp.ClientSession(platform.intake_url, headers={"Authorization": f"Bearer {tenant_key}"}) as session,
        session.post("/v1/chat/completions", json=body) as answer,
    ):
        said = (await answer.read()).decode()
    assert said.count("Review of") == 1
    assert said.rstrip().endswith("[DONE]")


async def test_who_asks_for_what_a_role_has_not_is_told(client: Client) -> None:
    for role, asked, code in (
        ("testing", CASCADE, "no_cascade"), ("testing", ENSEMBLE, "no_ensemble"),
        (None, {**CASCADE, **ENSEMBLE}, "cascade_and_ensemble"),
    ):  # fmt: skip
        with pytest.raises(NoAnswer) as ended:
            await client.ask(question(), role=role, provider=asked, timeout=30)
        assert ended.value.task.failure is not None
        assert ended.value.task.failure.code == code


@pytest.mark.long
async def test_a_node_that_hangs_costs_no_more_than_the_time_for_the_members(client: Client, hang: Change) -> None:
    await hang("remote-1")
    began = time.monotonic()
    try:
        task = await client.ask(CODE + question(), role="code_reviewer", provider=ENSEMBLE, timeout=30)
    except NoAnswer as ended:
        # With two nodes, two of three members may have been asked at the one that hangs.
        task = ended.task
        assert task.failure is not None
        assert task.failure.code == "no_quorum"
    assert time.monotonic() - began < 25, "far less than the deadline, also on a busy machine"
    assert task.ensemble is not None
    assert (task.ensemble.answered >= 2) is task.answered


@pytest.mark.long
async def test_a_member_lost_in_mid_answer_is_asked_elsewhere_or_left_out(
    client: Client, break_provider: Break
) -> None:
    await break_provider("ollama", "disconnect", 1)
    began = time.monotonic()
    task = await client.ask(CODE + question(), role="code_reviewer", provider=ENSEMBLE, timeout=30)
    assert time.monotonic() - began < 25, "far less than the deadline, also on a busy machine"
    assert task.ensemble is not None
    assert task.ensemble.answered >= 2
    assert task.ensemble.coherence is not None


async def eventually_the_same(client: Client, task: Task) -> None:
    async def same() -> bool:
        try:
            found = await client.get(task.id)
        except NoAnswer:
            return False
        return (found.cascade, found.ensemble, found.status) == (task.cascade, task.ensemble, task.status)

    await eventually(same)
