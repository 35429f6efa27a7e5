"""A task of each kind through the services, real Kafka, registry and Postgres."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest
from headrace import Client, Conflict, NoAnswer, Preferences
from headrace_models.simulator.catalog import DEFAULT_NODES
from headrace_testing.waiting import eventually

Break = Callable[..., Awaitable[None]]


def new_prompt(text: str = "Explain what a journal is.") -> str:
    """A prompt that no other test has sent, so that no cache serves it."""
    return f"{text} ({uuid.uuid4().hex})"


async def test_sensitive_task_is_answered_by_an_own_node(client: Client) -> None:
    task = await client.ask(new_prompt(), role="code_reviewer", privacy="sensitive", timeout=30)
    assert (task.status, task.provider, task.privacy) == ("succeeded", "ollama", "sensitive")
    assert task.answer
    assert task.simulated
    assert task.trail, "the answer says why it went where it went"


async def test_public_task_in_cloud_mode_goes_up_the_ladder_to_groq(client: Client) -> None:
    task = await client.ask(new_prompt(), privacy="public", mode="cloud", timeout=30)
    assert (task.status, task.provider) == ("succeeded", "groq")
    assert task.cost_nanodollars > 0


async def test_anthropic_answers_when_groq_has_no_quota(client: Client, break_provider: Break) -> None:
    await break_provider("groq", "quota", 3)
    task = await client.ask(new_prompt(), privacy="public", mode="cloud", timeout=30)
    assert (task.status, task.provider) == ("succeeded", "anthropic")
    assert task.attempts >= 2


async def test_internal_task_stays_local_until_preferences_name_a_provider(client: Client) -> None:
    before = await client.ask(new_prompt(), privacy="internal", timeout=30)
    assert before.provider == "ollama"
    await client.set_preferences(
        Preferences(ai_mode="cloud", privacy_level="standard", preferred_provider="groq", allowed_providers=("groq",))
    )

    async def served_by_groq() -> bool:
        return (await client.ask(new_prompt(), privacy="internal", timeout=30)).provider == "groq"

    await eventually(served_by_groq)


async def test_refusal_is_an_answer_and_goes_nowhere_else(client: Client, break_provider: Break) -> None:
    await break_provider("groq", "refusal", 1)
    task = await client.ask(new_prompt(), privacy="public", mode="cloud", timeout=30)
    assert (task.status, task.provider, task.attempts) == ("refused", "groq", 1)


async def test_another_node_does_what_one_fails_with(client: Client, break_provider: Break) -> None:
    await break_provider("ollama", "overloaded", 1)
    task = await client.ask(new_prompt(), privacy="sensitive", timeout=30)
    assert (task.status, task.provider) == ("succeeded", "ollama")
    assert task.attempts == 1, "it is the same attempt"


async def test_what_fails_on_all_nodes_is_retried(client: Client, break_provider: Break) -> None:
    nodes = sum("gemma2:2b" in models for models in DEFAULT_NODES.values())
    await break_provider("ollama", "error", nodes)
    task = await client.ask(new_prompt(), privacy="sensitive", timeout=30)
    assert (task.status, task.provider) == ("succeeded", "ollama")
    assert task.attempts == 2


async def test_task_for_a_model_that_nobody_has_fails_at_once_with_that_reason(client: Client) -> None:
    with pytest.raises(NoAnswer) as ended:
        await client.ask(new_prompt(), model="ollama/no-such-model:1b", privacy="sensitive", timeout=30)
    task = ended.value.task
    assert task.status == "failed"
    assert task.failure is not None
    assert "no-such-model:1b" in task.failure.message


async def test_task_whose_model_says_nothing_expires_at_its_deadline(client: Client, break_provider: Break) -> None:
    await break_provider("ollama", "timeout", 6)
    with pytest.raises(NoAnswer) as ended:
        await client.ask(new_prompt(), privacy="sensitive", deadline=1.5, timeout=30)
    assert ended.value.task.status == "expired"


async def test_budget_too_small_for_any_provider_fails_with_that_reason(client: Client) -> None:
    with pytest.raises(NoAnswer) as ended:
        await client.ask(new_prompt(), privacy="public", mode="cloud", budget=0.000000001, deadline=5, timeout=30)
    assert ended.value.task.failure is not None
    assert "budget" in ended.value.task.failure.code


async def test_running_task_can_be_cancelled(client: Client, break_provider: Break) -> None:
    await break_provider("ollama", "timeout", 1)
    handle = await client.submit(new_prompt(), privacy="sensitive", deadline=60)
    await handle.cancel("changed my mind")
    task = await handle.wait(timeout=15)
    assert task.status == "cancelled"


async def test_equal_task_is_served_from_the_cache(client: Client) -> None:
    prompt = new_prompt()
    first = await client.ask(prompt, privacy="sensitive", timeout=30)
    second = await client.ask(prompt, privacy="sensitive", timeout=30)
    assert first.served_from == "attempt"
    assert (second.served_from, second.source_task_id, second.cost_nanodollars) == ("cache", first.id, 0)
    assert second.answer == first.answer


async def test_equal_tasks_in_flight_share_one_attempt(client: Client) -> None:
    prompt = new_prompt()
    tasks = await asyncio.gather(*(client.ask(prompt, privacy="sensitive", timeout=30) for _ in range(5)))
    origins = sorted(task.served_from or "" for task in tasks)
    assert origins.count("attempt") == 1
    assert set(origins) <= {"attempt", "coalesced", "cache"}
    assert len({task.answer for task in tasks}) == 1


async def test_repeated_idempotency_key_runs_once_and_other_content_is_refused(client: Client) -> None:
    prompt, key = new_prompt(), uuid.uuid4().hex
    first = await client.submit(prompt, idempotency_key=key, privacy="sensitive")
    again = await client.submit(prompt, idempotency_key=key, privacy="sensitive")
    assert again.id == first.id
    with pytest.raises(Conflict):
        await client.submit(new_prompt(), idempotency_key=key, privacy="sensitive")
    assert (await first.wait(timeout=30)).status == "succeeded"


async def test_answer_is_streamed_in_pieces_that_add_up(client: Client) -> None:
    stream = client.stream(new_prompt(), privacy="sensitive", role="documentation")
    pieces = [piece.text async for piece in stream]
    task = await stream.result()
    assert len(pieces) > 3
    assert "".join(pieces) == task.answer


async def test_history_lists_the_tenants_own_tasks_only(client: Client, admin: Client) -> None:
    task = await client.ask(new_prompt(), privacy="sensitive", kind="history-test", timeout=30)

    async def listed() -> bool:
        return [one.id for one in (await client.list(kind="history-test", status="succeeded")).tasks] == [task.id]

    await eventually(listed)
    assert (await admin.list(kind="history-test")).tasks == ()
