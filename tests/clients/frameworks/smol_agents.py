"""smolagents."""

from __future__ import annotations

import io
from typing import Any

import asked
from PIL import Image
from smolagents import ChatMessage, LogLevel, MessageRole, OpenAIModel, ToolCallingAgent, tool

model = OpenAIModel(
    model_id="auto", api_base=f"{asked.URL}/v1", api_key=asked.KEY, client_kwargs={"max_retries": 0}, retry=False
)


def _asking(*content: dict[str, Any]) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole.USER, content=list(content))]


def chat() -> Any:
    return model(_asking({"type": "text", "text": asked.QUESTION})).content


def stream() -> Any:
    pieces = model.generate_stream(_asking({"type": "text", "text": asked.QUESTION}))
    return [piece.content for piece in pieces if piece.content]


def tools() -> Any:
    agent = ToolCallingAgent(
        model=model, tools=[tool(asked.get_weather), tool(asked.read_clock)], max_steps=3,
        verbosity_level=LogLevel.OFF,
    )  # fmt: skip
    return asked.looped(str(agent.run(asked.TOOLS_QUESTION)))


def structured() -> Any:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "city", "schema": asked.City.model_json_schema(), "strict": False},
    }
    answer = model(_asking({"type": "text", "text": asked.CITY_QUESTION}), response_format=form).content
    return asked.City.model_validate_json(answer).model_dump()


def image() -> Any:
    picture = {"type": "image", "image": Image.open(io.BytesIO(asked.PNG))}
    return model(_asking({"type": "text", "text": asked.IMAGE_QUESTION}, picture)).content


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image,
    embeddings=asked.absent(), batch=asked.absent("has none"),
)  # fmt: skip
