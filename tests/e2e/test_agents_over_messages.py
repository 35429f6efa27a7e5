"""What agents send through the unmodified `anthropic` package: tools, thoughts, images, schemas, at every provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic import APITimeoutError, AsyncAnthropic, BadRequestError
from headrace import Client
from headrace_models.simulator.tool_use import CALL_MARK
from headrace_testing.agent_requests import CITY, MODELS, PNG_BASE64, PUBLIC, QUESTION, REVIEW_REQUEST, Finding
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually

NOON: Any = [{"type": "text", "text": "It is noon"}]
TOOLS: Any = [
    {
        "name": "get_weather", "description": "The weather of a city.", "cache_control": {"type": "ephemeral"},
        "input_schema": CITY,
    },
    {"name": "read_clock", "description": "The time.", "input_schema": {"type": "object", "properties": {}}},
]  # fmt: skip


@pytest.fixture
async def agent(platform: RunningStack, tenant_key: str) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(
        base_url=platform.intake_url, api_key=tenant_key, max_retries=0, timeout=60, _strict_response_validation=True
    ) as client:
        yield client


async def ask(agent: AsyncAnthropic, *, stream: bool, **asked: Any) -> Any:
    asked = {"max_tokens": 4_096, "extra_body": PUBLIC, **asked}
    if not stream:
        return await agent.messages.create(**asked)
    async with agent.messages.stream(**asked) as events:
        return await events.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_a_tool_loop(agent: AsyncAnthropic, model: str, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    answer: Any = None
    for _ in range(4):
        answer = await ask(agent, stream=stream, model=model, messages=messages, tools=TOOLS, system="Use your tools.")
        if answer.stop_reason != "tool_use":
            break
        messages.append({"role": "assistant", "content": answer.content})
        results = [
            {"type": "tool_result", "tool_use_id": call.id,
             "content": "sunny in " + call.input["city"] if "city" in call.input else NOON}
            for call in answer.content if call.type == "tool_use"
        ]  # fmt: skip
        messages.append({"role": "user", "content": results})
    assert answer.stop_reason == "end_turn"
    assert "sunny in Lisbon" in answer.content[-1].text
    assert "noon" in answer.content[-1].text
    assert len(messages) == 3, "both tools were called at once"
    assert answer.usage.input_tokens > 0


@pytest.mark.parametrize("model", MODELS[1:2])
async def test_sixteen_calls_at_once_are_streamed_whole(agent: AsyncAnthropic, model: str) -> None:
    wanted = [{"city": f"City {number}", "days": list(range(number))} for number in range(16)]
    script = "\n".join(f"{CALL_MARK} get_weather {json.dumps(arguments)}" for arguments in wanted)
    asked: Any = [{"role": "user", "content": script}]
    answer = await ask(agent, stream=True, model=model, messages=asked, tools=TOOLS)
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert [call.input for call in calls] == wanted
    assert len({call.id for call in calls}) == 16


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        (MODELS[2], {"thinking": {"type": "enabled", "budget_tokens": 1_024}}),
        (MODELS[1], {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
    ],
)
async def test_thoughts_are_told_and_go_back(agent: AsyncAnthropic, model: str, thinking: Any, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "Think, then say hello"}]
    first = await ask(agent, stream=stream, model=model, messages=messages, **thinking)
    assert [block.type for block in first.content] == ["thinking", "text"]
    assert first.content[0].thinking
    assert first.content[0].signature
    messages += [{"role": "assistant", "content": first.content}, *messages]
    second = await ask(agent, stream=stream, model=model, messages=messages, **thinking)
    assert second.content[-1].text


@pytest.mark.parametrize("model", MODELS)
async def test_images_and_text_documents_are_seen(agent: AsyncAnthropic, model: str) -> None:
    content: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG_BASE64}},
        {"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain", "data": "Kafka"}},
    ]
    answer = await ask(agent, stream=False, model=model, messages=[{"role": "user", "content": content}])
    assert "1 image seen" in answer.content[0].text


@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_is_parsed_into_a_model(agent: AsyncAnthropic, model: str) -> None:
    answer = await agent.messages.parse(
        model=model, max_tokens=1_000, messages=[{"role": "user", "content": REVIEW_REQUEST}],
        output_format=Finding, extra_body=PUBLIC,
    )  # fmt: skip
    assert answer.parsed_output is not None
    assert answer.parsed_output.severity == "high"


async def test_a_stop_text_is_told(agent: AsyncAnthropic) -> None:
    messages: Any = [{"role": "user", "content": "Tell me about Kafka"}]
    answer = await ask(agent, stream=True, model=MODELS[2], messages=messages, stop_sequences=["e"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "e")


@pytest.mark.parametrize("model", ["auto", MODELS[0]])
async def test_a_prompt_that_is_too_long_is_a_bad_request(agent: AsyncAnthropic, model: str) -> None:
    messages: Any = [{"role": "user", "content": "word " * 150_000}]
    with pytest.raises(BadRequestError, match="context"):
        await ask(agent, stream=False, model=model, messages=messages, extra_body={"privacy": "sensitive"})


async def test_a_task_whose_caller_hangs_up_is_cancelled(
    agent: AsyncAnthropic, client: Client, break_provider: Any
) -> None:
    await break_provider("groq", "timeout")
    messages: Any = [{"role": "user", "content": "Wait for it"}]
    with pytest.raises(APITimeoutError):
        await agent.messages.create(
            model=MODELS[1], max_tokens=9, messages=messages, timeout=3, extra_body={**PUBLIC, "kind": "hung-up"},
            extra_headers={"X-Headrace-On-Disconnect": "cancel"},
        )  # fmt: skip

    async def is_cancelled() -> bool:
        return [str(task.status) async for task in client.list_all(kind="hung-up")] == ["cancelled"]

    await eventually(is_cancelled, 30)
