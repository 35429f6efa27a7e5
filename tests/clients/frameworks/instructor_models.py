"""instructor."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

import asked
import instructor
from openai import OpenAI
from pydantic import BaseModel

openai = OpenAI(base_url=f"{asked.URL}/v1", api_key=asked.KEY, max_retries=0)
client = instructor.from_openai(openai)


class Weather(BaseModel):
    """Look up the weather of a city."""

    city: str


class Clock(BaseModel):
    """Look up the time in a time zone."""

    zone: str


def chat() -> Any:
    asking: Any = [{"role": "user", "content": asked.QUESTION}]
    return client.create(model="auto", response_model=None, messages=asking).choices[0].message.content


def stream() -> Any:
    # Its default mode, tools, streams nothing with Ollama's models, which write calls whole.
    schemas = instructor.from_openai(openai, mode=instructor.Mode.JSON_SCHEMA)
    parts = schemas.create_partial(
        model="auto", response_model=asked.City, max_retries=0,
        messages=[{"role": "user", "content": asked.CITY_QUESTION}],
    )  # fmt: skip
    return [part.model_dump_json() for part in parts]


def tools() -> Any:
    several = instructor.from_openai(openai, mode=instructor.Mode.PARALLEL_TOOLS)
    completions: list[Any] = []
    several.on("completion:response", completions.append)
    # instructor calls its tools by the names of their classes.
    question = asked.TOOLS_QUESTION.replace("get_weather", "Weather").replace("read_clock", "Clock")
    messages: list[Any] = [{"role": "user", "content": question}]
    calls: Any = several.create(
        model="auto", response_model=Iterable[Weather | Clock], messages=messages, max_retries=0
    )
    results = [
        asked.get_weather(call.city) if isinstance(call, Weather) else asked.read_clock(call.zone) for call in calls
    ]
    called = completions[0].choices[0].message
    messages.append(called.model_dump())
    for call, result in zip(called.tool_calls, results, strict=True):
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = client.create(model="auto", response_model=None, messages=messages)
    return asked.looped(answer.choices[0].message.content)


def structured() -> Any:
    city = client.create(
        model="auto", response_model=asked.City, max_retries=0,
        messages=[{"role": "user", "content": asked.CITY_QUESTION}],
    )  # fmt: skip
    return city.model_dump()


def image() -> Any:
    picture = instructor.Image.from_base64(asked.PNG_URL)
    return client.create(
        model="auto", response_model=None, messages=[{"role": "user", "content": [asked.IMAGE_QUESTION, picture]}]
    ).choices[0].message.content  # fmt: skip


def batch() -> Any:
    os.environ |= {"OPENAI_BASE_URL": f"{asked.URL}/v1", "OPENAI_API_KEY": asked.KEY}
    processor = instructor.BatchProcessor("openai/auto", asked.City)
    lines = processor.create_batch_from_messages(
        [[{"role": "user", "content": f"{question} {asked.CITY_QUESTION}"}] for question in asked.BATCH_QUESTIONS]
    )
    running = processor.submit_batch(lines)
    while processor.get_batch_status(running)["status"] not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.2)
    results = {one.custom_id: one.result.model_dump_json() for one in processor.get_results(running)}
    return {question: results[f"request-{number}"] for number, question in enumerate(asked.BATCH_QUESTIONS)}


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image,
    embeddings=asked.absent(), batch=batch,
)  # fmt: skip
