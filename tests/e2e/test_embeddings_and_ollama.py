"""Vectors of texts and Ollama's API on the running platform, through the unmodified `openai` and `ollama` packages."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from headrace_testing.up import RunningStack
from ollama import AsyncClient, ResponseError
from openai import APIStatusError, AsyncOpenAI
from pydantic import BaseModel

EMBEDDER = "ollama/nomic-embed-text:v1.5"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


class Person(BaseModel):
    """What a model is asked to fill in."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Its name.
    """
    return f"sunny in {city}"


def read_clock() -> str:
    """The time."""
    return "it is noon"


@pytest.fixture
async def openai(platform: RunningStack, tenant_key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{platform.intake_url}/v1", api_key=tenant_key, max_retries=0, timeout=60,
        _strict_response_validation=True,
    ) as client:  # fmt: skip
        yield client


@pytest.fixture
def ollama(platform: RunningStack, tenant_key: str) -> AsyncClient:
    return AsyncClient(host=platform.intake_url, headers={"Authorization": f"Bearer {tenant_key}"}, timeout=60)


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


@pytest.mark.parametrize("model", [EMBEDDER, "role:embed", "nomic-embed-text:v1.5"])
async def test_near_texts_have_near_vectors(openai: AsyncOpenAI, model: str) -> None:
    texts = ["the cat sat on the mat", "a cat sat on a mat", "offsets of a Kafka partition"]
    answer = await openai.embeddings.create(model=model, input=texts)
    first, near, far = (one.embedding for one in answer.data)
    assert cosine(first, near) > 0.6 > 0.3 > cosine(first, far)
    assert answer.model == EMBEDDER
    assert answer.usage.prompt_tokens > 10
    again = await openai.embeddings.create(model=model, input=texts)
    assert again.headrace["served_from"] == "cache"  # type: ignore[attr-defined]
    assert [one.embedding for one in again.data] == [first, near, far]


async def test_a_large_batch_goes_through_the_topics(openai: AsyncOpenAI) -> None:
    texts = [f"text number {number}" for number in range(2_048)]
    answer = await openai.embeddings.create(model=EMBEDDER, input=texts, dimensions=256)
    assert [one.index for one in answer.data] == list(range(2_048))
    assert {len(one.embedding) for one in answer.data} == {256}
    task = answer.headrace["task_id"]  # type: ignore[attr-defined]
    assert task
    with pytest.raises(APIStatusError, match="at most 256 texts") as caught:
        await openai.embeddings.create(model=EMBEDDER, input=texts, dimensions=3_072)
    assert caught.value.status_code == 413


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [("ollama/phi3:3.8b", 400, "incapable"), ("anthropic/claude-sonnet-4-6", 400, "incapable")],
)
async def test_models_that_make_none_are_not_asked(openai: AsyncOpenAI, model: str, status: int, code: str) -> None:
    with pytest.raises(APIStatusError) as caught:
        await openai.embeddings.create(model=model, input="a", extra_body={"privacy": "public"})
    assert (caught.value.status_code, caught.value.code) == (status, code)


async def test_ollamas_client_sees_one_big_ollama(ollama: AsyncClient) -> None:
    models = {model.model for model in (await ollama.list()).models}
    assert {"phi3:3.8b", "llama3:8b", "nomic-embed-text:v1.5", "groq/openai/gpt-oss-120b"} <= models
    shown = await ollama.show("phi3:3.8b")
    assert shown.capabilities is not None
    assert {"completion", "tools", "vision"} <= set(shown.capabilities)
    assert (await ollama.show("nomic-embed-text:v1.5")).capabilities == ["embedding"]
    whole = await ollama.chat(model="phi3:3.8b", messages=[{"role": "user", "content": "How deep is the lake?"}])
    parts = [
        part
        async for part in await ollama.chat(
            model="phi3:3.8b", messages=[{"role": "user", "content": "How deep is the lake?"}], stream=True
        )
    ]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert "phi3:3.8b" in {model.model for model in (await ollama.ps()).models}
    with pytest.raises(ResponseError) as caught:
        await ollama.chat(model="nobody-has-this", messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.status_code == 404


@pytest.mark.parametrize("model", ["phi3:3.8b", "groq/openai/gpt-oss-120b", "anthropic/claude-sonnet-4-6"])
async def test_a_loop_with_two_tools(platform: RunningStack, tenant_key: str, model: str) -> None:
    headers = {"Authorization": f"Bearer {tenant_key}", "X-Headrace-Privacy": "public", "X-Headrace-Mode": "hybrid"}
    ai = AsyncClient(host=platform.intake_url, headers=headers, timeout=60)
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Lisbon, and read the clock?"}]
    for _ in range(3):
        message = (await ai.chat(model=model, messages=messages, tools=[get_weather, read_clock])).message
        messages.append(message)
        for call in message.tool_calls or ():
            made = get_weather if call.function.name == "get_weather" else read_clock
            messages.append(
                {"role": "tool", "tool_name": call.function.name, "content": made(**call.function.arguments)}
            )
        if not message.tool_calls:
            break
    assert "sunny in Lisbon" in (messages[-1].content or "")
    assert "it is noon" in (messages[-1].content or "")


async def test_forms_images_and_vectors(ollama: AsyncClient) -> None:
    answer = await ollama.chat(
        model="phi3:3.8b",
        messages=[{"role": "user", "content": "Ann is 30."}],
        format=Person.model_json_schema(),
        options={"temperature": 0},
    )
    assert Person.model_validate_json(answer.message.content or "").name
    seen = await ollama.chat(model="phi3:3.8b", messages=[{"role": "user", "content": "What is it?", "images": [PNG]}])
    assert "1 image seen" in (seen.message.content or "")
    found = await ollama.embed(model="nomic-embed-text:v1.5", input=["one", "two"])
    assert len(found.embeddings) == 2
