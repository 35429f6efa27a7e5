"""What an Ollama node is asked, in the terms of its API (docs/api.md of ollama/ollama, version 0.13)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from headrace_contracts.cargo import RESERVED_EXTRA
from ollama import Options

from headrace_models import capabilities
from headrace_models.call import estimated_prompt
from headrace_models.conversation import (
    ChatMessage,
    MediaPart,
    ReasoningPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from headrace_models.demanded_calls import schema_of_calls
from headrace_models.dialects import base64_of
from headrace_models.ports import ChatRequest, EmbedRequest, ModelInfo
from headrace_models.prices import estimated_tokens

_SMALLEST_CONTEXT: Final = 4_096
"""Ollama's own default on small machines."""
_EFFORTS: Final = frozenset({"low", "medium", "high"})
_PROVIDER: Final = "ollama"
ABLE: Final = frozenset({
    capabilities.TOOLS, capabilities.VISION, capabilities.JSON_SCHEMA, capabilities.LOGPROBS, capabilities.REASONING,
})  # fmt: skip
"""What the API has a place for. It fetches nothing from elsewhere."""


def context_for(request: ChatRequest, model: ModelInfo | None) -> int:
    """Length of the context to ask for, in tokens, prompt and answer together.

    A node that is asked for another length than before loads the model again, so this is the length that the model is
    loaded with if that is enough, else the next power of two, and never more than the model has been trained for.
    """
    return _length_for(estimated_prompt(request) * 3 // 2 + request.max_output_tokens, model)


def _length_for(needed: int, model: ModelInfo | None) -> int:
    loaded = model.loaded_context_tokens if model is not None else None
    if loaded is not None and needed <= loaded:
        return loaded
    length = _SMALLEST_CONTEXT
    while length < needed:
        length *= 2
    longest = model.context_tokens if model is not None else None
    return length if longest is None else min(length, longest)


def body_of(request: ChatRequest, model: ModelInfo | None, *, keep_alive: str | int | None) -> dict[str, Any]:
    """The body of a streaming chat. `model` is what the node has said about it."""
    options = Options(
        num_predict=request.max_output_tokens,
        num_ctx=context_for(request, model),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        stop=list(request.stop) or None,
    )
    body: dict[str, Any] = {
        "model": request.model,
        "messages": list(_messages(request)),
        "stream": True,
        "options": options.model_dump(exclude_none=True),
        # A prompt that is too long is an error, and not cut off without a word. Servers before 0.12.4 do not know it.
        "truncate": False,
    }
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    if request.must_call:
        parallel = request.parallel_tool_calls is not False
        body["format"] = schema_of_calls(request.callable_tools, parallel=parallel)
    elif request.schema is not None:
        body["format"] = request.schema.schema
    elif request.json:
        body["format"] = "json"
    if tools := request.callable_tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters or {"type": "object", "properties": {}},
                },
            }
            for tool in tools
        ]
    if (think := _think(request, model)) is not None:
        body["think"] = think
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return _with_extra(body, request)


def _with_extra(body: dict[str, Any], request: ChatRequest) -> dict[str, Any]:
    """The body with further parameters of this API. One of them may be `options`: they stand beside ours, which win."""
    further = {name: value for name, value in request.extra.items() if name not in RESERVED_EXTRA}
    options = further.pop("options", None)
    if isinstance(options, dict):
        body["options"] = options | body["options"]
    return body | further


def embed_body_of(request: EmbedRequest, model: ModelInfo | None, *, keep_alive: str | int | None) -> dict[str, Any]:
    """The body of a call for vectors. `model` is what the node has said about it."""
    longest = max(map(estimated_tokens, request.inputs))
    body: dict[str, Any] = {
        "model": request.model,
        "input": list(request.inputs),
        # Without, the vector of a long text is that of its beginning.
        "truncate": False,
        "options": {"num_ctx": _length_for(longest * 3 // 2, model)},
    }
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return body if request.dimensions is None else {**body, "dimensions": request.dimensions}


def _think(request: ChatRequest, model: ModelInfo | None) -> bool | str | None:
    """Whether, or how much, to think; None to leave it to the model. One that cannot think rejects the question."""
    if model is None or model.capabilities is None or capabilities.REASONING not in model.capabilities:
        return None
    if request.reasoning_tokens == 0 or request.reasoning_effort in ("none", "minimal"):
        return False
    if request.reasoning_effort is None:
        return True if request.reasoning_tokens else None
    # Only this family tells efforts apart; others reject the word.
    levels = request.model.startswith("gpt-oss") and request.reasoning_effort in _EFFORTS
    return request.reasoning_effort if levels else True


def _messages(request: ChatRequest) -> Iterator[dict[str, Any]]:
    names = {
        part.call_id: part.name
        for message in request.messages
        for part in message.parts
        if isinstance(part, ToolCallPart)
    }
    for message in request.messages:
        yield from _said(message, names)


def _said(message: ChatMessage, names: dict[str, str]) -> Iterator[dict[str, Any]]:
    if not message.parts:
        yield {"role": message.role, "content": message.said}
        return
    said: list[str] = []
    images: list[str] = []
    calls: list[dict[str, Any]] = []
    thought: list[str] = []
    for part in message.parts:
        match part:
            case TextPart(text=text) | RefusalPart(text=text):
                said.append(text)
            case MediaPart(kind="image"):
                images.append(base64_of(part))
            case ToolCallPart():
                function = {"name": part.name, "arguments": json.loads(part.arguments or "{}")}
                calls.append({"id": part.call_id, "function": function})
            case ReasoningPart(provider=provider, text=text) if provider == _PROVIDER:
                thought.append(text)
            case ToolResultPart():
                result = {"role": "tool", "content": part.text, "tool_call_id": part.call_id}
                yield result | ({"tool_name": names[part.call_id]} if part.call_id in names else {})
            case _:
                pass
    if said or images or calls or thought:
        entry: dict[str, Any] = {
            "role": "user" if message.role == "tool" else message.role,
            # An answer may have come in several texts; a caller's texts are paragraphs.
            "content": ("" if message.role == "assistant" else "\n").join(said),
        }
        if images:
            entry["images"] = images
        if calls:
            entry["tool_calls"] = calls
        if thought:
            entry["thinking"] = "".join(thought)
        yield entry
