"""ollama (Python)."""

from __future__ import annotations

from typing import Any

import asked
from ollama import Client

client = Client(host=asked.URL, headers={"Authorization": f"Bearer {asked.KEY}"})


def chat() -> Any:
    answer = client.chat(model="auto", messages=[{"role": "user", "content": asked.QUESTION}])
    return answer.message.content


def stream() -> Any:
    pieces = client.chat(model="auto", messages=[{"role": "user", "content": asked.QUESTION}], stream=True)
    return [piece.message.content for piece in pieces if piece.message.content]


def tools() -> Any:
    messages: list[Any] = [{"role": "user", "content": asked.TOOLS_QUESTION}]
    while True:
        message = client.chat(model="auto", messages=messages, tools=list(asked.TOOLS.values())).message
        if not message.tool_calls:
            return asked.looped(message.content)
        messages.append(message)
        for call in message.tool_calls:
            result = asked.TOOLS[call.function.name](**call.function.arguments)
            messages.append({"role": "tool", "tool_name": call.function.name, "content": result})


def structured() -> Any:
    answer = client.chat(
        model="auto", messages=[{"role": "user", "content": asked.CITY_QUESTION}],
        format=asked.City.model_json_schema(),
    )  # fmt: skip
    return asked.City.model_validate_json(answer.message.content).model_dump()


def image() -> Any:
    answer = client.chat(
        model="auto", messages=[{"role": "user", "content": asked.IMAGE_QUESTION, "images": [asked.PNG]}]
    )
    return answer.message.content


def embeddings() -> Any:
    return [list(vector) for vector in client.embed(model=asked.EMBEDDING_MODEL, input=asked.TEXTS).embeddings]


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image, embeddings=embeddings,
    batch=asked.absent("Ollama's API has none"),
)  # fmt: skip
