"""OpenAI Agents SDK, with the model class that the command line names: chat or responses."""

from __future__ import annotations

import sys
from typing import Any

import asked
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=f"{asked.URL}/v1", api_key=asked.KEY, max_retries=0)
model: Any = (OpenAIResponsesModel if sys.argv[1] == "responses" else OpenAIChatCompletionsModel)("auto", client)


async def chat() -> Any:
    return (await Runner.run(Agent(name="geographer", model=model), asked.QUESTION)).final_output


async def stream() -> Any:
    run = Runner.run_streamed(Agent(name="geographer", model=model), asked.QUESTION)
    return [
        event.data.delta
        async for event in run.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]


async def tools() -> Any:
    offered: Any = [function_tool(asked.get_weather), function_tool(asked.read_clock)]
    agent = Agent(name="traveller", instructions="Use the tools.", model=model, tools=offered)
    return asked.looped((await Runner.run(agent, asked.TOOLS_QUESTION)).final_output)


async def structured() -> Any:
    agent = Agent(name="geographer", model=model, output_type=asked.City)
    return (await Runner.run(agent, asked.CITY_QUESTION)).final_output.model_dump()


async def image() -> Any:
    content: Any = [
        {"type": "input_text", "text": asked.IMAGE_QUESTION},
        {"type": "input_image", "image_url": asked.PNG_URL, "detail": "auto"},
    ]
    run = await Runner.run(Agent(name="viewer", model=model), [{"role": "user", "content": content}])
    return run.final_output


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image,
    embeddings=asked.absent(), batch=asked.absent("has none"),
)  # fmt: skip
