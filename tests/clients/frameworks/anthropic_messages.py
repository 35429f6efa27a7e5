"""anthropic (Python)."""

from __future__ import annotations

import time
from typing import Any

import asked
from anthropic import Anthropic

client = Anthropic(base_url=asked.URL, api_key=asked.KEY, max_retries=0, _strict_response_validation=True)


def chat() -> Any:
    answer = client.messages.create(
        model="auto", max_tokens=500, messages=[{"role": "user", "content": asked.QUESTION}]
    )
    return answer.content[0].text


def stream() -> Any:
    with client.messages.stream(
        model="auto", max_tokens=500, messages=[{"role": "user", "content": asked.QUESTION}]
    ) as events:
        return list(events.text_stream)


def tools() -> Any:
    offered: Any = [
        {"name": name, "description": asked.TOOLS[name].__doc__, "input_schema": parameters}
        for name, parameters in asked.TOOL_PARAMETERS.items()
    ]
    messages: list[Any] = [{"role": "user", "content": asked.TOOLS_QUESTION}]
    while True:
        answer = client.messages.create(model="auto", max_tokens=500, messages=messages, tools=offered)
        if answer.stop_reason != "tool_use":
            return asked.looped(answer.content[0].text)
        messages.append({"role": "assistant", "content": answer.content})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": asked.TOOLS[block.name](**block.input)}
            for block in answer.content
            if block.type == "tool_use"
        ]
        messages.append({"role": "user", "content": results})


def structured() -> Any:
    answer = client.messages.parse(
        model="auto", max_tokens=500, messages=[{"role": "user", "content": asked.CITY_QUESTION}],
        output_format=asked.City,
    )  # fmt: skip
    return answer.parsed_output.model_dump()


def image() -> Any:
    content: Any = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": asked.PNG_BASE64}},
        {"type": "text", "text": asked.IMAGE_QUESTION},
    ]
    answer = client.messages.create(model="auto", max_tokens=500, messages=[{"role": "user", "content": content}])
    return answer.content[0].text


def batch() -> Any:
    running = client.messages.batches.create(
        requests=[
            {
                "custom_id": f"question-{number}",
                "params": {
                    "model": "auto", "max_tokens": 500, "messages": [{"role": "user", "content": question}],
                },
            }
            for number, question in enumerate(asked.BATCH_QUESTIONS)
        ]
    )  # fmt: skip
    while running.processing_status != "ended":
        time.sleep(0.2)
        running = client.messages.batches.retrieve(running.id)
    texts = {one.custom_id: one.result.message.content[0].text for one in client.messages.batches.results(running.id)}
    return {question: texts[f"question-{number}"] for number, question in enumerate(asked.BATCH_QUESTIONS)}


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image,
    embeddings=asked.absent("Anthropic's API has none"), batch=batch,
)  # fmt: skip
