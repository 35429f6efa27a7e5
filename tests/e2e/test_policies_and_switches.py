"""Policies and kill switches on the running platform: they count within a second, without a restart."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from headrace import Client, NoAnswer
from headrace.addresses import VARIABLES
from headrace.cli.main import PLUGINS, build
from headrace_testing.up import RunningStack
from typer.testing import CliRunner, Result

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

Command = Callable[..., Result]


@pytest.fixture
def command(platform: RunningStack) -> Command:
    app = build([EntryPoint("policy", "headrace_devstack.policy.cli:app", PLUGINS)])

    def run(*arguments: str) -> Result:
        given = ["--stack", str(platform.data / "stack.json"), *arguments]
        done = CliRunner().invoke(app, given, env=dict.fromkeys(VARIABLES.values(), ""))
        assert done.exit_code == 0, done.stderr
        return done

    return run


async def provider_of(client: Client, mode: str | None = None, provider: dict[str, Any] | None = None) -> str:
    """Who answers, or the code of the failure."""
    try:
        task = await client.ask(
            f"Who are you? {uuid.uuid4().hex}", privacy="public", timeout=30, mode=mode, provider=provider
        )
    except NoAnswer as ended:
        return "" if ended.task.failure is None else ended.task.failure.code
    return task.provider or ""


async def seconds_until(client: Client, expected: str, mode: str | None = None) -> float:
    began = time.monotonic()
    while (found := await provider_of(client, mode)) != expected:
        assert time.monotonic() - began < 30, found
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_a_tenants_policy_counts_at_once_and_can_be_taken_back(
    client: Client, tenant: str, command: Command, tmp_path: Path
) -> None:
    assert await provider_of(client, "cloud") == "groq"
    narrow = tmp_path / "narrow.yaml"
    narrow.write_text("ladder: [anthropic/claude-haiku-4-5]\n")
    await asyncio.to_thread(command, "policy", "publish", str(narrow), "--tenant", tenant)
    await seconds_until(client, "anthropic", "cloud")
    await asyncio.to_thread(command, "policy", "rollback", "--to", "file", "--tenant", tenant)
    await seconds_until(client, "groq", "cloud")


async def test_a_tenant_that_is_switched_off_gets_nothing(client: Client, tenant: str, command: Command) -> None:
    assert await provider_of(client) == "ollama"
    await asyncio.to_thread(command, "switches", "off", f"tenant/{tenant}", "--reason", "unpaid")
    await seconds_until(client, "tenant_switched_off")
    await asyncio.to_thread(command, "switches", "on", f"tenant/{tenant}")
    await seconds_until(client, "ollama")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"only": ["anthropic"]}, "anthropic"),
        ({"order": ["anthropic", "groq"]}, "anthropic"),
        ({"ignore": ["ollama", "anthropic"]}, "groq"),
        ({"sort": "price"}, "ollama"),
        ({"max_price": {"completion": 0.0}}, "ollama"),
        ({"only": ["nobody"]}, "not_in_only"),
        ({"zdr": True, "ignore": ["ollama"]}, "data_rules"),
    ],
)
async def test_a_request_narrows_the_choice(client: Client, choice: dict[str, Any], expected: str) -> None:
    assert await provider_of(client, provider=choice) == expected


async def test_openais_clients_ask_in_openrouters_terms(platform: RunningStack, tenant_key: str) -> None:
    body = {
        "model": "auto", "privacy": "public", "messages": [{"role": "user", "content": f"Who? {uuid.uuid4().hex}"}],
        "provider": {"order": ["anthropic"], "allow_fallbacks": False},
    }  # fmt: skip
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {tenant_key}"}) as session:
        async with session.post(f"{platform.intake_url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            assert (await answer.json())["headrace"]["provider"] == "anthropic"
        body["provider"] = {"quantizations": ["fp8"]}
        async with session.post(f"{platform.intake_url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 400
            assert "quantizations" in await answer.text()
