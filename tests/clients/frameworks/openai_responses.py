"""openai (Python), Responses."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import asked
from openai import OpenAI

client = OpenAI(base_url=f"{asked.URL}/v1", api_key=asked.KEY, max_retries=0, _strict_response_validation=True)


def chat() -> Any:
    return client.responses.create(model="auto", input=asked.QUESTION).output_text


def stream() -> Any:
    events = client.responses.create(model="auto", input=asked.QUESTION, stream=True)
    return [event.delta for event in events if event.type == "response.output_text.delta"]


def tools() -> Any:
    offered: Any = [
        {"type": "function", "name": name, "parameters": parameters, "strict": True}
        for name, parameters in asked.TOOL_PARAMETERS.items()
    ]
    answer = client.responses.create(model="auto", input=asked.TOOLS_QUESTION, tools=offered)
    while calls := [item for item in answer.output if item.type == "function_call"]:
        results: Any = [
            {
                "type": "function_call_output", "call_id": call.call_id,
                "output": asked.TOOLS[call.name](**json.loads(call.arguments)),
            }
            for call in calls
        ]  # fmt: skip
        answer = client.responses.create(model="auto", previous_response_id=answer.id, input=results, tools=offered)
    return asked.looped(answer.output_text)


def structured() -> Any:
    answer = client.responses.parse(model="auto", input=asked.CITY_QUESTION, text_format=asked.City)
    return answer.output_parsed.model_dump()


def image() -> Any:
    content: Any = [
        {"type": "input_text", "text": asked.IMAGE_QUESTION},
        {"type": "input_image", "image_url": asked.PNG_URL, "detail": "auto"},
    ]
    return client.responses.create(model="auto", input=[{"role": "user", "content": content}]).output_text


def batch() -> Any:
    lines = [
        {
            "custom_id": question, "method": "POST", "url": "/v1/responses",
            "body": {"model": "auto", "input": question},
        }
        for question in asked.BATCH_QUESTIONS
    ]  # fmt: skip
    content = io.BytesIO("\n".join(json.dumps(line) for line in lines).encode())
    file = client.files.create(file=("questions.jsonl", content), purpose="batch")
    running = client.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
    while running.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(0.2)
        running = client.batches.retrieve(running.id)
    results = [json.loads(line) for line in client.files.content(running.output_file_id).text.splitlines()]
    return {result["custom_id"]: result["response"]["body"]["output"][-1]["content"][0]["text"] for result in results}


asked.report(
    chat=chat, stream=stream, tools=tools, structured=structured, image=image,
    embeddings=asked.absent("not part of the Responses API"), batch=batch,
)  # fmt: skip
