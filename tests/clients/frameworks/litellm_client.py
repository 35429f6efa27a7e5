"""LiteLLM, as a client."""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asked
import litellm

litellm.telemetry = False
litellm.num_retries = 0
HEADRACE: Any = {"api_base": f"{asked.URL}/v1", "api_key": asked.KEY, "max_retries": 0}


def _ask(content: Any, **options: Any) -> Any:
    return litellm.completion(
        model="openai/auto", messages=[{"role": "user", "content": content}], **HEADRACE, **options
    )


def chat() -> Any:
    return _ask(asked.QUESTION).choices[0].message.content


def stream() -> Any:
    pieces = [chunk.choices[0].delta.content for chunk in _ask(asked.QUESTION, stream=True)]
    return [piece for piece in pieces if piece]


def tools() -> Any:
    offered = [
        {"type": "function", "function": {"name": name, "parameters": parameters}}
        for name, parameters in asked.TOOL_PARAMETERS.items()
    ]
    messages: list[Any] = [{"role": "user", "content": asked.TOOLS_QUESTION}]
    while True:
        answer = litellm.completion(model="openai/auto", messages=messages, tools=offered, **HEADRACE)
        message = answer.choices[0].message
        if not message.tool_calls:
            return asked.looped(message.content)
        messages.append(message)
        for call in message.tool_calls:
            result = asked.TOOLS[call.function.name](**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def structured() -> Any:
    answer = _ask(asked.CITY_QUESTION, response_format=asked.City)
    return asked.City.model_validate_json(answer.choices[0].message.content).model_dump()


def image() -> Any:
    picture = {"type": "image_url", "image_url": {"url": asked.PNG_URL}}
    return _ask([{"type": "text", "text": asked.IMAGE_QUESTION}, picture]).choices[0].message.content


def embeddings() -> Any:
    made = litellm.embedding(model=f"openai/{asked.EMBEDDING_MODEL}", input=asked.TEXTS, **HEADRACE)
    return [one["embedding"] for one in made.data]


def batch() -> Any:
    lines = [
        {
            "custom_id": question, "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "auto", "messages": [{"role": "user", "content": question}]},
        }
        for question in asked.BATCH_QUESTIONS
    ]  # fmt: skip
    at: Any = {"custom_llm_provider": "openai", **HEADRACE}
    with TemporaryDirectory() as folder:
        questions = Path(folder) / "questions.jsonl"
        questions.write_text("\n".join(json.dumps(line) for line in lines))
        with questions.open("rb") as content:
            file = litellm.create_file(file=content, purpose="batch", **at)
    running: Any = litellm.create_batch(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **at
    )
    while running.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.2)
        running = litellm.retrieve_batch(batch_id=running.id, **at)
    results = litellm.file_content(file_id=running.output_file_id, **at).text.splitlines()
    return {
        result["custom_id"]: result["response"]["body"]["choices"][0]["message"]["content"]
        for result in map(json.loads, results)
    }


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image, embeddings=embeddings, batch=batch
)
