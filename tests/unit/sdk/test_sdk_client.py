"""The client against an intake on loopback that answers as docs/http-api.md says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from headrace import Addresses, Client, NoAnswer, NotYet, Preferences

ENDED: dict[str, Any] = {
    "id": "t-1", "status": "succeeded", "kind": "task", "role": "testing", "requested_model": None, "user": "",
    "session": None, "subject": None, "labels": {"a": "b"}, "privacy": "internal", "priority": "batch",
    "submitted_at": "2026-11-21T05:46:31.120Z", "deadline_at": None, "completed_at": "2026-11-21T05:46:32.120Z",
    "answer": "Hello there", "answer_sealed_with": None, "finish_reason": "stop", "failure": None,
    "provider": "ollama", "model": "phi3:3.8b", "node": "cpu", "simulated": True, "served_from": "attempt",
    "source_task_id": None,
    "usage": {"input_tokens": 3, "output_tokens": 2, "cached_input_tokens": 0, "searches": 0,
              "cache_write_5m_tokens": 2, "cache_write_1h_tokens": 1},
    "cost_nanodollars": 1_500_000, "cost_usd": "0.001500000", "attempts": 1, "model_ms": 412.0,
    "trail": [{"at": "2026-11-21T05:46:31.121Z", "step": "dispatched", "provider": "ollama", "model": "phi3:3.8b",
               "reason": "first choice of the role"}],
    "policy_version": "v1", "a_field_of_tomorrow": [1],
}  # fmt: skip
ACCEPTED = {
    "id": "t-1",
    "status": "accepted",
    "submitted_at": "2026-11-21T05:46:31.120Z",
    "answer": None,
    "usage": None,
}


class Intake:
    """Plays intake; tests change `end` and `events`."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.end: dict[str, Any] = ENDED
        self.answers_at_once = True
        self.events: list[list[tuple[str, str, dict[str, Any]]]] = []
        self.pages: dict[str, dict[str, Any]] = {}
        self.url = ""

    async def submit(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        waits = "Prefer" in request.headers and self.answers_at_once
        return web.json_response(self.end if waits else ACCEPTED, status=200 if waits else 202)

    async def get(self, _request: web.Request) -> web.Response:
        return web.json_response(self.end)

    async def list(self, request: web.Request) -> web.Response:
        return web.json_response(self.pages[request.query.get("cursor", "")])

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if not self.events:
            await asyncio.sleep(60)
        for name, event_id, document in self.events.pop(0):
            await response.write(f"event: {name}\nid: {event_id}\ndata: {json.dumps(document)}\n\n".encode())
        return response

    async def preferences(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        return web.json_response({**self.bodies[-1], "user": request.query.get("user", ""), "source": "user"})


@pytest.fixture
async def intake() -> AsyncIterator[Intake]:
    made = Intake()
    app = web.Application()
    app.router.add_post("/v1/tasks", made.submit)
    app.router.add_get("/v1/tasks", made.list)
    app.router.add_get("/v1/tasks/{id}", made.get)
    app.router.add_get("/v1/tasks/{id}/events", made.stream)
    app.router.add_put("/v1/preferences", made.preferences)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def client(intake: Intake) -> AsyncIterator[Client]:
    async with Client(addresses=Addresses(url=intake.url, api_key="hr_id_secret"), patience_seconds=2.0) as made:
        yield made


async def test_ask_brings_the_answer_and_where_it_came_from(intake: Intake, client: Client) -> None:
    task = await client.ask("Say hello", role="testing", privacy="internal", labels={"a": "b"}, budget=Decimal("0.05"))
    assert (task.answer, task.provider, task.model, task.simulated) == ("Hello there", "ollama", "phi3:3.8b", True)
    assert task.cost_usd == Decimal("0.0015")
    assert task.why == "first choice of the role"
    assert task.submitted_at == datetime(2026, 11, 21, 5, 46, 31, 120_000, UTC)
    assert intake.bodies[0] == {
        "messages": [{"role": "user", "content": "Say hello"}], "role": "testing", "privacy": "internal",
        "labels": {"a": "b"}, "budget": 0.05,
    }  # fmt: skip


async def test_each_submission_has_a_key_of_its_own_unless_it_is_given(intake: Intake, client: Client) -> None:
    await client.submit("a")
    await client.submit("a")
    await client.submit("a", idempotency_key="mine")
    keys = [headers["Idempotency-Key"] for headers in intake.headers]
    assert keys[0] != keys[1]
    assert keys[2] == "mine"


async def test_without_role_and_model_the_policy_chooses(intake: Intake, client: Client) -> None:
    await client.submit([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])
    assert intake.bodies[0]["model"] == "auto"
    assert [message["role"] for message in intake.bodies[0]["messages"]] == ["system", "user"]


async def test_a_deadline_is_seconds_or_an_aware_time(intake: Intake, client: Client) -> None:
    await client.submit("a", deadline=30)
    await client.submit("a", deadline=datetime(2027, 1, 1, tzinfo=UTC) + timedelta(hours=1))
    assert [body["deadline"] for body in intake.bodies] == [30, "2027-01-01T01:00:00Z"]
    with pytest.raises(ValueError, match="time zone"):
        await client.submit("a", deadline=datetime(2027, 1, 1))


async def test_a_task_without_an_answer_raises_and_says_why(intake: Intake, client: Client) -> None:
    intake.end = {**ENDED, "status": "failed", "answer": None, "failure": {"code": "no_capacity", "message": "busy"}}
    with pytest.raises(NoAnswer, match="no_capacity: busy") as caught:
        await client.ask("x")
    assert caught.value.task.status == "failed"


async def test_a_refusal_is_an_answer(intake: Intake, client: Client) -> None:
    intake.end = {**ENDED, "status": "refused", "answer": "I would rather not."}
    assert (await client.ask("x")).answer == "I would rather not."


async def test_ask_goes_on_waiting_by_events(intake: Intake, client: Client) -> None:
    intake.answers_at_once = False
    intake.events = [[], [("finished", "1:1", ENDED)]]
    assert (await client.ask("x", timeout=20)).answer == "Hello there"


async def test_waiting_ends_when_its_time_is_over(intake: Intake, client: Client) -> None:
    with pytest.raises(NotYet) as caught:
        await client.wait("t-1", timeout=0.05)
    assert caught.value.task_id == "t-1"


async def test_pieces_come_across_a_broken_connection(intake: Intake, client: Client) -> None:
    intake.events = [
        [("delta", "1:1", {"text": "Hel", "attempt": 1})],
        [("delta", "1:2", {"text": "lo", "attempt": 1}), ("finished", "1:3", ENDED)],
    ]
    stream = client.stream("Say hello")
    assert [piece.text async for piece in stream] == ["Hel", "lo"]
    assert (await stream.result()).answer == "Hello there"
    assert intake.bodies[0]["stream"] is True


async def test_a_piece_says_when_another_attempt_begins(intake: Intake, client: Client) -> None:
    intake.events = [
        [
            ("delta", "1:1", {"text": "wrong", "attempt": 1}), ("restarted", "1:2", {"attempt": 2}),
            ("delta", "1:3", {"text": "right", "attempt": 2}), ("finished", "1:4", ENDED),
        ]
    ]  # fmt: skip
    pieces = [piece async for piece in client.stream("x")]
    assert [(piece.text, piece.begins_anew) for piece in pieces] == [("wrong", False), ("right", True)]


async def test_a_list_goes_over_all_pages(intake: Intake, client: Client) -> None:
    intake.pages = {
        "": {"tasks": [{**ENDED, "id": "3"}, {**ENDED, "id": "2"}], "next": "two"},
        "two": {"tasks": [{**ENDED, "id": "1"}], "next": None},
    }
    assert [task.id async for task in client.list_all()] == ["3", "2", "1"]


async def test_preferences_are_replaced_as_a_whole(intake: Intake, client: Client) -> None:
    wanted = Preferences(ai_mode="hybrid", privacy_level="standard", allowed_providers=("groq",), user="ann")
    after = await client.set_preferences(wanted)
    assert (after.user, after.allowed_providers, after.source) == ("ann", ("groq",), "user")
    assert intake.bodies[0]["preferred_provider"] is None


async def test_a_prompt_without_messages_is_refused_before_it_is_sent(intake: Intake, client: Client) -> None:
    with pytest.raises(ValueError, match="at least one message"):
        await client.submit([])
    assert intake.bodies == []
