"""What an Ollama node is asked, in the terms of its API (docs/api.md of ollama/ollama, version 0.13)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from headrace_contracts.cargo import RESERVED_EXTRA
from headrace_contracts.model_settings import NO_DEFAULTS, NodeDefaults, for_ollama
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


def context_for(request: ChatRequest, model: ModelInfo | None, defaults: NodeDefaults = NO_DEFAULTS) -> int:
    """Length of the context to ask for, in tokens, prompt and answer together.

    A node that is asked for another length than before loads the model again, so this is the length that the model is
    loaded with if that is enough, else the one that the request or the node names, else the next power of two; never
    more than the node has memory for, or the model has been trained for. A prompt that does not fit into a named length
    is refused by the node, and goes to another candidate.
    """
    needed = estimated_prompt(request) * 3 // 2 + request.max_output_tokens
    return _length_for(needed, model, request.num_ctx, defaults)


def _length_for(needed: int, model: ModelInfo | None, named: int | None, defaults: NodeDefaults) -> int:
    named = defaults.num_ctx if named is None else named
    limits = (defaults.max_num_ctx, model.context_tokens if model is not None else None)
    longest = min((limit for limit in limits if limit is not None), default=None)
    if longest is not None:
        named = None if named is None else min(named, longest)
        needed = min(needed, longest)
    loaded = model.loaded_context_tokens if model is not None else None
    if loaded is not None and (longest is None or loaded <= longest) and (named or needed) <= loaded:
        return loaded
    if named is not None:
        return named
    length = _SMALLEST_CONTEXT
    while length < needed:
        length *= 2
    return length if longest is None else min(length, longest)


def load_length(model: ModelInfo | None, num_ctx: int | None, defaults: NodeDefaults = NO_DEFAULTS) -> int | None:
    """Length of the context to load a model with before anybody calls it; None for the server's own."""
    named = defaults.num_ctx if num_ctx is None else num_ctx
    return None if named is None else _length_for(named, model, named, defaults)


def body_of(
    request: ChatRequest, model: ModelInfo | None, *, keep_alive: str | int | None,
    defaults: NodeDefaults = NO_DEFAULTS,
) -> dict[str, Any]:  # fmt: skip
    """The body of a streaming chat. `model` is what the node has said about it, `defaults` what holds at it where
    nobody says otherwise; `keep_alive` is what holds at all nodes."""
    options = Options(
        num_predict=request.max_output_tokens,
        num_ctx=context_for(request, model, defaults),
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
    if (kept := kept_for(request.keep_alive, keep_alive, defaults)) is not None:
        body["keep_alive"] = kept
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
    if (think := _think(request, model, defaults.think if request.think is None else request.think)) is not None:
        body["think"] = think
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    body = _with_extra(body, request)
    if defaults.top_k is not None:
        body["options"].setdefault("top_k", defaults.top_k)
    return body


def _with_extra(body: dict[str, Any], request: ChatRequest) -> dict[str, Any]:
    """The body with further parameters of this API. One of them may be `options`: they stand beside ours, which win."""
    further = {name: value for name, value in request.extra.items() if name not in RESERVED_EXTRA}
    options = further.pop("options", None)
    if isinstance(options, dict):
        body["options"] = options | body["options"]
    return body | further


def kept_for(asked: str | None, keep_alive: str | int | None, defaults: NodeDefaults) -> str | int | None:
    """How long a model stays in memory: as asked, else as its node says, else as all nodes do; None: as Ollama does."""
    named = defaults.keep_alive if asked is None else asked
    return keep_alive if named is None else for_ollama(named)


def embed_body_of(
    request: EmbedRequest, model: ModelInfo | None, *, keep_alive: str | int | None,
    defaults: NodeDefaults = NO_DEFAULTS,
) -> dict[str, Any]:  # fmt: skip
    """The body of a call for vectors; see `body_of`."""
    longest = max(map(estimated_tokens, request.inputs))
    body: dict[str, Any] = {
        "model": request.model,
        "input": list(request.inputs),
        # Without, the vector of a long text is that of its beginning.
        "truncate": False,
        "options": {"num_ctx": _length_for(longest * 3 // 2, model, request.num_ctx, defaults)},
    }
    if (kept := kept_for(request.keep_alive, keep_alive, defaults)) is not None:
        body["keep_alive"] = kept
    return body if request.dimensions is None else {**body, "dimensions": request.dimensions}


def _think(request: ChatRequest, model: ModelInfo | None, usually: str | None) -> bool | str | None:
    """Whether, or how much, to think; None to leave it to the model. One that cannot think rejects the question.

    Args:
        usually: What holds where the caller has said nothing.
    """
    if model is None or model.capabilities is None or capabilities.REASONING not in model.capabilities:
        return None
    effort = request.reasoning_effort
    if effort is None and request.reasoning_tokens is None and usually is not None:
        effort = {"off": "none", "on": "medium"}.get(usually, usually)
    if request.reasoning_tokens == 0 or effort in ("none", "minimal"):
        return False
    if effort is None:
        return True if request.reasoning_tokens else None
    # Only this family tells efforts apart; others reject the word.
    levels = request.model.startswith("gpt-oss") and effort in _EFFORTS
    return effort if levels else True


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
