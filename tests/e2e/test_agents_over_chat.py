"""What agents send through the unmodified `openai` package: tools, schemas, images, through every kind of provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from headrace_models.simulator.tool_use import CALL_MARK
from headrace_testing.agent_requests import CITY, MODELS, PNG_URL, PUBLIC, QUESTION, REVIEW_REQUEST, Review, result_of
from headrace_testing.up import RunningStack
from openai import AsyncOpenAI, BadRequestError

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather", "description": "The weather of a city.",
            "parameters": CITY,
        },
    },
    {"type": "function", "function": {"name": "read_clock", "description": "The time."}},
]  # fmt: skip


@pytest.fixture
async def agent(platform: RunningStack, tenant_key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{platform.intake_url}/v1", api_key=tenant_key, max_retries=0, timeout=60,
        _strict_response_validation=True,
    ) as client:  # fmt: skip
        yield client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_a_tool_loop(agent: AsyncOpenAI, model: str, stream: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    choice: Any = None
    for _ in range(4):
        if stream:
            async with agent.chat.completions.stream(
                model=model, messages=messages, tools=TOOLS, extra_body=PUBLIC
            ) as events:
                choice = (await events.get_final_completion()).choices[0]
        else:
            answer = await agent.chat.completions.create(model=model, messages=messages, tools=TOOLS, extra_body=PUBLIC)
            choice = answer.choices[0]
        if choice.finish_reason != "tool_calls":
            break
        messages.append(choice.message)
        for call in choice.message.tool_calls or ():
            result = result_of(json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    assert choice.finish_reason == "stop"
    assert "sunny in Lisbon" in (choice.message.content or "")
    assert "it is noon" in (choice.message.content or "")
    assert len(messages) == 4, "both tools were called at once"


@pytest.mark.parametrize("model", MODELS)
async def test_sixteen_calls_at_once_are_streamed_whole(agent: AsyncOpenAI, model: str) -> None:
    wanted = [{"city": f"City {number}", "days": list(range(number))} for number in range(16)]
    script = "\n".join(f"{CALL_MARK} get_weather {json.dumps(arguments)}" for arguments in wanted)
    stream = await agent.chat.completions.create(
        model=model, messages=[{"role": "user", "content": script}], tools=TOOLS, stream=True, extra_body=PUBLIC
    )
    calls: dict[int, list[str]] = {}
    finish = None
    async for chunk in stream:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for piece in choice.delta.tool_calls or ():
                call = calls.setdefault(piece.index, [piece.id or "", ""])
                assert piece.function is not None
                call[1] += piece.function.arguments or ""
    assert finish == "tool_calls"
    assert [json.loads(arguments) for _, arguments in calls.values()] == wanted
    assert len({call_id for call_id, _ in calls.values()}) == 16


@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_is_parsed_into_a_model(agent: AsyncOpenAI, model: str) -> None:
    answer = await agent.chat.completions.parse(
        model=model, messages=[{"role": "user", "content": REVIEW_REQUEST}],
        response_format=Review, extra_body=PUBLIC,
    )  # fmt: skip
    review = answer.choices[0].message.parsed
    assert review is not None
    assert review.findings[0].severity == "high"


@pytest.mark.parametrize("model", MODELS)
async def test_an_image_is_seen(agent: AsyncOpenAI, model: str) -> None:
    content: Any = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PNG_URL}}]
    answer = await agent.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], extra_body=PUBLIC
    )
    assert "1 image seen" in (answer.choices[0].message.content or "")


async def test_reasoning_is_told_and_can_be_given_back(agent: AsyncOpenAI) -> None:
    asked: Any = {"model": MODELS[2], "reasoning_effort": "low", "max_tokens": 4_096, "extra_body": PUBLIC}
    messages: list[Any] = [{"role": "user", "content": "Think, then say hello"}]
    first = await agent.chat.completions.create(messages=messages, **asked)
    kept = first.choices[0].message.model_dump(exclude_none=True)
    assert kept["reasoning_content"]
    assert kept["reasoning_details"][0]["signature"]
    second = await agent.chat.completions.create(messages=[*messages, kept, *messages], **asked)
    assert second.choices[0].message.content


async def test_what_no_model_can_do_is_refused(agent: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="choices"):
        await agent.chat.completions.create(
            model=MODELS[0], messages=[{"role": "user", "content": "Hello"}], n=2, extra_body=PUBLIC
        )
    image: Any = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    with pytest.raises(BadRequestError, match="public"):
        await agent.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": image}], extra_body={"privacy": "sensitive"}
        )
