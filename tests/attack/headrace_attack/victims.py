"""Tenants that are attacked, and those that attack: with keys, tasks that have ended and that run, skills and costs."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from headrace_contracts.producer_signature import SigningKey
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually

_TASKS: Final = 6
_RUNNING: Final = 3
_EVERYDAY: Final = ["tasks", "skills", "costs"]


@dataclass(slots=True)
class Tenant:
    """A tenant with a key.

    Attributes:
        signing_key: Signs what it writes to Kafka.
        secret: Stands in labels, skills and some users' names of a victim. Nobody else knows it, or ever sends it.
        known: Stands in its prompts, sessions and users' names. Attackers have learned it, and send it.
    """

    name: str
    key: str
    signing_key: SigningKey
    secret: str = field(default_factory=lambda: "secret" + uuid.uuid4().hex[:12])
    known: str = field(default_factory=lambda: "known" + uuid.uuid4().hex[:12])
    ended: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    skills: list[str] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    conversations: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)
    idempotency_keys: list[str] = field(default_factory=list)


class Caller:
    """Calls the platform with a key, as its owner would."""

    def __init__(self, stack: RunningStack, session: aiohttp.ClientSession) -> None:
        self._stack = stack
        self._session = session

    async def call(
        self, method: str, url: str, key: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and document of the answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(
            method, url, json=body, headers={"Authorization": f"Bearer {key}", **named}
        ) as response:
            text = await response.text()
            try:
                return response.status, json.loads(text or "{}")
            except ValueError:
                return response.status, {}

    async def tenant(self, name: str, scopes: Sequence[str] = ()) -> Tenant:
        """A new tenant, whose key all services know."""
        status, made = await self.call(
            "POST", f"{self._stack.intake_url}/v1/keys", self._stack.api_key,
            {"tenant": name, "scopes": list(scopes) or _EVERYDAY, "requests_per_minute": 1_000_000},
        )  # fmt: skip
        assert status == 201, made
        key = str(made["key"])
        for url in (f"{self._stack.skills_url}/v1/skills", f"{self._stack.costs_url}/v1/costs"):

            async def known(url: str = url) -> bool:
                return (await self.call("GET", url, key))[0] != 401

            await eventually(known, 60)
        return Tenant(name, key, SigningKey.parse(made["signing_key"]))

    async def victim(self, name: str) -> Tenant:
        """A tenant that has something to lose."""
        made = await self.tenant(name)
        secret, known, intake = made.secret, made.known, self._stack.intake_url
        for number in range(_TASKS):
            prompt = f"Remember {known} number {number}, and summarise what an event log is."
            idempotency = f"{name}-{number}"
            status, task = await self.call(
                "POST", f"{intake}/v1/tasks", made.key,
                {
                    "prompt": prompt, "role": "conversation_scribe", "session": f"session-{known}",
                    "user": f"hidden-{secret}" if number % 2 else f"user-{known}",
                    "subject": f"subject-{known}", "labels": {"note": secret},
                },
                Idempotency_Key=idempotency, Prefer="wait=30",
            )  # fmt: skip
            assert status in (200, 202), task
            made.prompts.append(prompt)
            made.ended.append(str(task["id"]))
            made.idempotency_keys.append(idempotency)
        await self.keep_running(made)

        async def listed() -> bool:
            _, page = await self.call("GET", f"{intake}/v1/tasks?limit=2", made.key)
            if cursor := page.get("next"):
                made.cursors.append(str(cursor))
            return bool(made.cursors)

        # The list is read from the history, which is a moment behind.
        await eventually(listed, 60)
        await self._openai(made)
        skill = f"skill-of-{name}"
        status, answer = await self.call(
            "POST", f"{self._stack.skills_url}/v1/skills", made.key,
            {"name": skill, "body": f"Do as {secret} says.", "title": secret, "interests": ["testing"]},
        )  # fmt: skip
        assert status in (200, 201, 202), answer
        made.skills.append(skill)
        return made

    async def _openai(self, made: Tenant) -> None:
        """What OpenAI's API keeps of it: a conversation with a response, a file, a batch."""
        intake = self._stack.intake_url
        status, conversation = await self.call(
            "POST", f"{intake}/v1/conversations", made.key, {"metadata": {"note": made.secret}}
        )
        assert status == 200, (status, conversation)
        made.conversations.append(str(conversation["id"]))
        status, response = await self.call(
            "POST", f"{intake}/v1/responses", made.key,
            {
                "model": "role:conversation_scribe", "input": f"Remember {made.secret}.", "max_output_tokens": 20,
                "conversation": conversation["id"], "metadata": {"note": made.secret},
            },
        )  # fmt: skip
        assert status == 200, response
        made.responses.append(str(response["id"]))
        line = {
            "custom_id": made.secret, "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "role:conversation_scribe", "messages": [{"role": "user", "content": made.secret}],
                     "max_tokens": 5},
        }  # fmt: skip
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", json.dumps(line), filename=f"{made.secret}.jsonl", content_type="application/jsonl")
        async with self._session.post(
            f"{intake}/v1/files", data=form, headers={"Authorization": f"Bearer {made.key}"}
        ) as answer:
            file = await answer.json()
            assert answer.status == 200, file
        made.files.append(str(file["id"]))
        status, batch = await self.call(
            "POST", f"{intake}/v1/batches", made.key,
            {
                "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
                "metadata": {"note": made.secret},
            },
        )  # fmt: skip
        assert status == 200, batch
        made.batches.append(str(batch["id"]))

    async def keep_running(self, victim: Tenant) -> None:
        """Submit tasks whose answers take long, unless some still run."""
        intake = self._stack.intake_url
        still = []
        for task_id in victim.running:
            _, task = await self.call("GET", f"{intake}/v1/tasks/{task_id}", victim.key)
            if task.get("status") in ("accepted", "queued", "running"):
                still.append(task_id)
        victim.running = still
        while len(victim.running) < _RUNNING:
            status, task = await self.call(
                "POST", f"{intake}/v1/tasks", victim.key,
                {
                    "prompt": f"{victim.known} {uuid.uuid4().hex}: write a very long essay on logs.",
                    "role": "conversation_scribe", "max_tokens": 4_000, "session": f"session-{victim.known}",
                },
            )  # fmt: skip
            assert status == 202, task
            victim.running.append(str(task["id"]))
            await asyncio.sleep(0)
