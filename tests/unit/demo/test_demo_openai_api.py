"""What the demo reads of answers of OpenAI's chat API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from headrace import HeadraceError, NotUnderstood, RequestError, TaskOptions, Unavailable
from headrace_devstack.demo.openai_api import OpenAIApi

CALL = {"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "a.py"}'}}
OPTIONS: TaskOptions = {"role": "testing", "privacy": "sensitive", "priority": "batch", "allow_cached": True}


class Platform:
    """Answers every request with the same response, and keeps the requests."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = None
        self.headers: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        if isinstance(self.body, str):
            return web.Response(text=self.body, status=self.status)
        return web.json_response(self.body, status=self.status, headers=self.headers)

    def says(self, message: dict[str, Any], finish: str) -> None:
        self.body = {"choices": [{"message": message, "finish_reason": finish}], "headrace": {"task_id": "t1"}}


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
async def api(platform: Platform) -> AsyncIterator[OpenAIApi]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", platform.answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield OpenAIApi(session, str(server.make_url("/")), "key")


@pytest.mark.parametrize(
    ("message", "finish", "status", "answer", "calls"),
    [
        ({"role": "assistant", "content": "Fine."}, "stop", "succeeded", "Fine.", 0),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, "tool_calls", "succeeded", None, 1),
        ({"role": "assistant", "content": None, "refusal": "No."}, "stop", "refused", "No.", 0),
        ({"role": "assistant", "content": "No."}, "content_filter", "refused", "No.", 0),
    ],
    ids=["text", "calls", "refusal", "filter"],
)
async def test_answers(
    api: OpenAIApi,
    platform: Platform,
    message: dict[str, Any],
    finish: str,
    status: str,
    answer: str | None,
    calls: int,
) -> None:
    platform.says(message, finish)
    task = await api.ended("Review it.", OPTIONS)
    assert (task.id, task.status, task.answer or None, len(task.tool_calls)) == ("t1", status, answer, calls)
    (asked,) = platform.asked
    assert asked["model"] == "role:testing"
    assert "role" not in asked
    assert (asked["privacy"], asked["priority"], asked["allow_cached"]) == ("sensitive", "batch", True)


async def test_a_task_that_failed_is_told_by_its_code(api: OpenAIApi, platform: Platform) -> None:
    platform.status, platform.headers = 400, {"X-Headrace-Task-Id": "t2"}
    platform.body = {"error": {"message": "it cannot call tools", "code": "incapable"}}
    task = await api.ended("Review it.", OPTIONS)
    assert task.failure is not None
    assert (task.id, task.answered, task.failure.code) == ("t2", False, "incapable")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, {"error": {"message": "unknown key", "code": "invalid_api_key"}}, RequestError),
        (502, "Bad Gateway", Unavailable),
        (200, [], NotUnderstood),
        (200, {"choices": []}, NotUnderstood),
        (200, {"choices": [{"message": {"role": "assistant", "content": "x"}}]}, NotUnderstood),
    ],
)
async def test_whatever_else_comes_is_an_error_of_the_client(
    api: OpenAIApi, platform: Platform, status: int, body: Any, error: type[HeadraceError]
) -> None:
    platform.status, platform.body = status, body
    with pytest.raises(error):
        await api.ended("Review it.", OPTIONS)
