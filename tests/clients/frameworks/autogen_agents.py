"""AutoGen."""

from __future__ import annotations

import io
from typing import Any

import asked
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ModelClientStreamingChunkEvent, MultiModalMessage, StructuredMessage
from autogen_core import Image
from autogen_ext.models.openai import OpenAIChatCompletionClient
from PIL import Image as Picture

model = OpenAIChatCompletionClient(
    model="auto", base_url=f"{asked.URL}/v1", api_key=asked.KEY, max_retries=0,
    model_info={
        "vision": True, "function_calling": True, "json_output": True, "structured_output": True, "family": "unknown",
    },
)  # fmt: skip


async def chat() -> Any:
    return (await AssistantAgent("geographer", model).run(task=asked.QUESTION)).messages[-1].content


async def stream() -> Any:
    agent = AssistantAgent("geographer", model, model_client_stream=True)
    events = [event async for event in agent.run_stream(task=asked.QUESTION)]
    return [event.content for event in events if isinstance(event, ModelClientStreamingChunkEvent)]


async def tools() -> Any:
    agent = AssistantAgent("traveller", model, tools=[asked.get_weather, asked.read_clock], reflect_on_tool_use=True)
    return asked.looped((await agent.run(task=asked.TOOLS_QUESTION)).messages[-1].content)


async def structured() -> Any:
    agent = AssistantAgent("geographer", model, output_content_type=asked.City)
    answer = (await agent.run(task=asked.CITY_QUESTION)).messages[-1]
    return answer.content.model_dump() if isinstance(answer, StructuredMessage) else answer.content


async def image() -> Any:
    picture = Image(Picture.open(io.BytesIO(asked.PNG)))
    task = MultiModalMessage(content=[asked.IMAGE_QUESTION, picture], source="user")
    return (await AssistantAgent("viewer", model).run(task=task)).messages[-1].content


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image,
    embeddings=asked.absent(), batch=asked.absent("has none"),
)  # fmt: skip
