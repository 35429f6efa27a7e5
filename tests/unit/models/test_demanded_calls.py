"""Tools that must be called, where the API cannot demand it: the schema of calls, and what is made of answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from headrace_models.conversation import ChatMessage, ToolCallPart, ToolResultPart, ToolSelection, ToolSpec
from headrace_models.demanded_calls import calls_in, schema_of_calls
from headrace_models.errors import RetrySameProvider
from headrace_models.ollama import OllamaNode
from headrace_models.ports import ChatRequest
from headrace_models.simulator.tool_use import OfferedTool, calls_for
from jsonschema import Draft202012Validator

TREE = ToolSpec(
    "plant",
    parameters={
        "type": "object",
        "properties": {"tree": {"$ref": "#/$defs/node"}, "again": {"$ref": "#"}},
        "required": ["tree"],
        "$defs": {
            "node": {
                "type": "object", "required": ["name"],
                "properties": {
                    "name": {"type": "string"}, "below": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
            }
        },
    },
)  # fmt: skip
CLOCK = ToolSpec("read_clock")
CITY = ToolSpec("get_weather", parameters={"properties": {"city": {"type": "string"}}, "required": ["city"]})
WEATHER_CALL = {"name": "get_weather", "arguments": {"city": "Lisbon"}}


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        ([WEATHER_CALL], True),
        ([WEATHER_CALL, {"name": "read_clock", "arguments": {}}], True),
        ([{"name": "plant", "arguments": {"tree": {"name": "oak", "below": [{"name": "leaf"}]}}}], True),
        ([{"name": "plant", "arguments": {"tree": {"name": "oak"}, "again": {"tree": {"name": "elm"}}}}], True),
        ([{"name": "plant", "arguments": {"tree": {"name": "oak", "below": [{"name": 1}]}}}], False),
        ([{"name": "plant", "arguments": {"tree": {"name": "oak"}, "again": {}}}], False),
        ([{"name": "get_weather", "arguments": {}}], False),
        ([{"name": "other", "arguments": {}}], False),
        ([], False),
        (WEATHER_CALL, False),
    ],
)
def test_the_schema_admits_calls_of_the_tools_and_nothing_else(answer: Any, fits: bool) -> None:
    schema = schema_of_calls([TREE, CLOCK, CITY], parallel=True)
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid(answer) is fits
    if fits and len(answer) == 1:
        assert Draft202012Validator(schema_of_calls([TREE, CLOCK, CITY], parallel=False)).is_valid(answer[0])


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (json.dumps([WEATHER_CALL]), [("get_weather", '{"city": "Lisbon"}')]),
        (json.dumps(WEATHER_CALL) + "\n", [("get_weather", '{"city": "Lisbon"}')]),
        (json.dumps([WEATHER_CALL, WEATHER_CALL]), [("get_weather", '{"city": "Lisbon"}')] * 2),
        ("[]", None),
        ("It is sunny.", None),
        ('[{"name": "get_wea', None),
        ('[{"arguments": {}}]', None),
        ('["get_weather"]', None),
        ("7", None),
    ],
)
def test_calls_are_read_from_the_text(text: str, calls: list[tuple[str, str]] | None) -> None:
    assert calls_in(text) == calls


class Node:
    """An Ollama node that says what it is told to."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []
        self.end = "stop"
        self.asked: dict[str, Any] = {}

    async def chat(self, request: web.Request) -> web.Response:
        self.asked = await request.json()
        lines = [{"model": "m", "message": {"role": "assistant", **part}, "done": False} for part in self.parts]
        lines.append({"model": "m", "message": {"content": ""}, "done": True, "done_reason": self.end})
        return web.Response(text="".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
async def node() -> AsyncIterator[tuple[Node, OllamaNode]]:
    playing, app = Node(), web.Application()
    app.router.add_post("/api/chat", playing.chat)
    async with TestServer(app) as server:
        client = OllamaNode("n", str(server.make_url("/")))
        yield playing, client
        await client.close()


def _request(**more: Any) -> ChatRequest:
    choice = ToolSelection("required")
    return ChatRequest(
        "m", (ChatMessage("user", "x"),), timeout_seconds=5, tools=(CITY, CLOCK), tool_choice=choice, **more
    )


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ([{"content": '[{"name": "get_wea'}, {"content": 'ther", "arguments": {"city": "Rome"}}]'}], ["get_weather"]),
        ([{"content": json.dumps(WEATHER_CALL)}], ["get_weather"]),
        (
            [{"content": json.dumps([WEATHER_CALL, {"name": "read_clock", "arguments": {}}])}],
            ["get_weather", "read_clock"],
        ),
        ([{"content": "", "tool_calls": [{"function": WEATHER_CALL}]}], ["get_weather"]),
        ([{"thinking": "which?"}, {"content": json.dumps([WEATHER_CALL])}], ["get_weather"]),
    ],
)  # fmt: skip
async def test_what_the_model_writes_becomes_calls_and_no_text(
    node: tuple[Node, OllamaNode], parts: list[dict[str, Any]], names: list[str]
) -> None:
    playing, client = node
    playing.parts = parts
    said: list[str] = []
    result = await client.chat(_request(), said.append)
    assert [call.name for call in result.choices[0].calls] == names
    assert result.finish_reason == "tool_calls"
    assert said == []
    assert playing.asked["format"]["type"] == "array"
    assert len(playing.asked["tools"]) == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("It is sunny.", "tool_call_missing"),
        ("[]", "tool_call_missing"),
        ("", "empty_answer"),
        ('[{"name": "other", "arguments": {}}]', "invalid_tool_call"),
        ('[{"name": "get_weather", "arguments": 7}]', "invalid_tool_call"),
    ],
)
async def test_what_is_no_call_is_no_answer(node: tuple[Node, OllamaNode], text: str, code: str) -> None:
    playing, client = node
    playing.parts = [{"content": text}]
    with pytest.raises(RetrySameProvider) as caught:
        await client.chat(_request(), lambda _: None)
    assert caught.value.code == code


async def test_a_call_that_the_limit_cuts_off_is_left_out(node: tuple[Node, OllamaNode]) -> None:
    playing, client = node
    playing.parts, playing.end = [{"content": '[{"name": "get_weather", "arguments": {"ci'}], "length"
    result = await client.chat(_request(parallel_tool_calls=False), lambda _: None)
    assert (result.finish_reason, result.text) == ("length", "")
    assert "anyOf" in playing.asked["format"]


ANSWER_TOOL = OfferedTool("final_answer", {"properties": {"answer": {"type": "string"}}})
LOOK = OfferedTool("get_weather", {"properties": {"city": {"type": "string"}}})
CALLED = ChatMessage("assistant", parts=(ToolCallPart("a", "get_weather", '{"city": "Lisbon"}'),))
RETURNED = ChatMessage("tool", parts=(ToolResultPart("a", "sunny, 21 degrees"),))


@pytest.mark.parametrize(
    ("messages", "choice", "made"),
    [
        ((CALLED, RETURNED), None, []),
        ((CALLED, RETURNED), ToolSelection("required"), [("final_answer", {"answer": "sunny, 21 degrees"})]),
        (
            (ChatMessage("assistant", "Calling get_weather"), ChatMessage("user", "Observation:\nsunny\nat noon")),
            ToolSelection("required"), [("final_answer", {"answer": "sunny | at noon"})],
        ),
        (
            (CALLED, RETURNED), ToolSelection("required", ("get_weather",)),
            [("get_weather", {"city": "sunny, 21 degrees"})],
        ),
    ],
)  # fmt: skip
def test_the_simulator_gives_results_to_the_tool_that_is_left(
    messages: tuple[ChatMessage, ...], choice: ToolSelection | None, made: list[tuple[str, Any]]
) -> None:
    calls = calls_for((ChatMessage("user", "Hello"), *messages), [LOOK, ANSWER_TOOL], choice, parallel=True)
    assert [(call.name, json.loads(call.arguments)) for call in calls] == made
