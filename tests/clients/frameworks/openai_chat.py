"""openai (Python), chat completions."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import asked
from openai import OpenAI

client = OpenAI(base_url=f"{asked.URL}/v1", api_key=asked.KEY, max_retries=0, _strict_response_validation=True)


def chat() -> Any:
    answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": asked.QUESTION}])
    return answer.choices[0].message.content


def stream() -> Any:
    chunks = client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": asked.QUESTION}], stream=True
    )
    return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]


def tools() -> Any:
    offered = [
        {"type": "function", "function": {"name": name, "parameters": parameters, "strict": True}}
        for name, parameters in asked.TOOL_PARAMETERS.items()
    ]
    messages: list[Any] = [{"role": "user", "content": asked.TOOLS_QUESTION}]
    while True:
        message = client.chat.completions.create(model="auto", messages=messages, tools=offered).choices[0].message
        if not message.tool_calls:
            return asked.looped(message.content)
        messages.append(message)
        for call in message.tool_calls:
            result = asked.TOOLS[call.function.name](**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def structured() -> Any:
    answer = client.chat.completions.parse(
        model="auto", messages=[{"role": "user", "content": asked.CITY_QUESTION}], response_format=asked.City
    )
    return answer.choices[0].message.parsed.model_dump()


def image() -> Any:
    content: Any = [
        {"type": "text", "text": asked.IMAGE_QUESTION},
        {"type": "image_url", "image_url": {"url": asked.PNG_URL}},
    ]
    answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": content}])
    return answer.choices[0].message.content


def embeddings() -> Any:
    made = client.embeddings.create(model=asked.EMBEDDING_MODEL, input=asked.TEXTS)
    return [one.embedding for one in made.data]


def batch() -> Any:
    lines = [
        {
            "custom_id": question, "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "auto", "messages": [{"role": "user", "content": question}]},
        }
        for question in asked.BATCH_QUESTIONS
    ]  # fmt: skip
    content = io.BytesIO("\n".join(json.dumps(line) for line in lines).encode())
    file = client.files.create(file=("questions.jsonl", content), purpose="batch")
    running = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while running.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.2)
        running = client.batches.retrieve(running.id)
    results = [json.loads(line) for line in client.files.content(running.output_file_id).text.splitlines()]
    return {result["custom_id"]: result["response"]["body"]["choices"][0]["message"]["content"] for result in results}


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image, embeddings=embeddings, batch=batch
)
