"""What agents send to the Responses API through the unmodified `openai` package, through every kind of provider."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from headrace_models.simulator.tool_use import CALL_MARK
from headrace_testing.agent_requests import CITY, MODELS, PNG_URL, PUBLIC, QUESTION, REVIEW_REQUEST, Review, result_of
from headrace_testing.up import RunningStack
from openai import AsyncOpenAI, NotFoundError

TOOLS: Any = [
    {
        "type": "function", "name": "get_weather", "description": "The weather of a city.", "strict": False,
        "parameters": CITY,
    },
    {"type": "function", "name": "read_clock", "description": "The time.", "parameters": None, "strict": False},
]  # fmt: skip


@pytest.fixture
async def agent(platform: RunningStack, tenant_key: str) -> AsyncIterator[Any]:
    async with AsyncOpenAI(
        base_url=f"{platform.intake_url}/v1", api_key=tenant_key, max_retries=0, timeout=60,
        _strict_response_validation=True,
    ) as client:  # fmt: skip
        yield client


def outputs_of(response: Any) -> list[Any]:
    """What the tools return."""
    outputs = []
    for call in response.output:
        if call.type == "function_call":
            result = result_of(json.loads(call.arguments))
            outputs.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    return outputs


async def answer_of(agent: Any, stream: bool, **request: Any) -> Any:
    if not stream:
        return await agent.responses.create(extra_body=PUBLIC, **request)
    async with agent.responses.stream(extra_body=PUBLIC, **request) as events:
        return await events.get_final_response()


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_a_tool_loop(agent: Any, model: str, stream: bool, by_id: bool) -> None:
    said: list[Any] = [{"role": "user", "content": QUESTION}]
    previous: Any = None
    for _ in range(4):
        more = {"previous_response_id": previous.id} if by_id and previous is not None else {}
        answer = await answer_of(agent, stream, model=model, input=said, tools=TOOLS, **more)
        outputs = outputs_of(answer)
        if not outputs:
            break
        said = outputs if by_id else [*said, *answer.output, *outputs]
        previous = answer
    assert "sunny in Lisbon" in answer.output_text
    assert "it is noon" in answer.output_text
    assert len(outputs_of(previous)) == 2, "both tools were called at once"


@pytest.mark.parametrize("model", MODELS)
async def test_sixteen_calls_at_once_are_streamed_whole(agent: Any, model: str) -> None:
    wanted = [{"city": f"City {number}", "days": list(range(number))} for number in range(16)]
    script = "\n".join(f"{CALL_MARK} get_weather {json.dumps(arguments)}" for arguments in wanted)
    stream = await agent.responses.create(model=model, input=script, tools=TOOLS, stream=True, extra_body=PUBLIC)
    pieces: dict[int, str] = {}
    final: Any = None
    async for event in stream:
        if event.type == "response.function_call_arguments.delta":
            pieces[event.output_index] = pieces.get(event.output_index, "") + event.delta
        final = event
    assert final.type == "response.completed"
    calls = [item for item in final.response.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == wanted
    assert [json.loads(text) for _, text in sorted(pieces.items())] == wanted
    assert len({call.call_id for call in calls}) == 16


@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_is_parsed_into_a_model(agent: Any, model: str) -> None:
    answer = await agent.responses.parse(model=model, input=REVIEW_REQUEST, text_format=Review, extra_body=PUBLIC)
    assert answer.output_parsed.findings[0].severity == "high"


@pytest.mark.parametrize("model", MODELS)
async def test_an_image_is_seen(agent: Any, model: str) -> None:
    content: Any = [{"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": PNG_URL}]
    answer = await agent.responses.create(model=model, input=[{"role": "user", "content": content}], extra_body=PUBLIC)
    assert "1 image seen" in answer.output_text


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_go_back_to_the_model_that_had_them(agent: Any, stream: bool) -> None:
    asked: Any = {"model": MODELS[2], "reasoning": {"effort": "low", "summary": "auto"}, "max_output_tokens": 4_096}
    said: list[Any] = [{"role": "user", "content": "Think, then say hello"}]
    first = await answer_of(agent, stream, input=said, include=["reasoning.encrypted_content"], **asked)
    (thought,) = (item for item in first.output if item.type == "reasoning")
    assert thought.summary[0].text
    assert thought.encrypted_content
    stateless = await answer_of(agent, stream, input=[*said, *first.output, *said], store=False, **asked)
    assert stateless.output_text
    by_id = await answer_of(agent, stream, input=said, previous_response_id=first.id, **asked)
    assert by_id.output_text


async def test_a_conversation_of_three_turns(agent: Any) -> None:
    made = await agent.conversations.create(metadata={"topic": "demo"})
    for number in range(3):
        await agent.responses.create(model=MODELS[0], input=f"Turn {number}", conversation=made.id, extra_body=PUBLIC)
    items = [item async for item in agent.conversations.items.list(made.id, order="asc")]
    assert [item.role for item in items] == ["user", "assistant"] * 3
    assert [item.content[0].text for item in items[::2]] == ["Turn 0", "Turn 1", "Turn 2"]
    assert (await agent.conversations.delete(made.id)).deleted


async def test_a_background_response_is_polled_followed_and_deleted(agent: Any) -> None:
    response = await agent.responses.create(model=MODELS[0], input="Hello", background=True, extra_body=PUBLIC)
    assert response.status == "queued"
    while response.status in ("queued", "in_progress"):
        await asyncio.sleep(0.1)
        response = await agent.responses.retrieve(response.id)
    assert response.status == "completed"
    events = [event async for event in await agent.responses.retrieve(response.id, stream=True, starting_after=1)]
    assert events[-1].response.output_text == response.output_text
    assert (await agent.responses.cancel(response.id)).status == "completed"
    await agent.responses.delete(response.id)
    with pytest.raises(NotFoundError):
        await agent.responses.retrieve(response.id)


async def test_texts_are_completed_and_what_has_no_role_is_said(agent: Any) -> None:
    answer = await agent.completions.create(
        model=MODELS[0], prompt=["Once upon", "In the end"], max_tokens=50, extra_body=PUBLIC
    )
    assert all(choice.text for choice in answer.choices)
    with pytest.raises(NotFoundError, match="no role `moderation`"):
        await agent.moderations.create(input="Is this fine?")
