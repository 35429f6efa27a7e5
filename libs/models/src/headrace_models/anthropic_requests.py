"""What Anthropic's Messages API is asked.

Source: its API reference (platform.claude.com/docs), read in November 2026.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

import httpx2
from anthropic import omit
from headrace_contracts.cargo import RESERVED_EXTRA

from headrace_models import capabilities
from headrace_models.conversation import (
    AnswerSchema,
    ChatMessage,
    MediaPart,
    Part,
    ReasoningPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)
from headrace_models.dialects import base64_of
from headrace_models.ports import ChatRequest
from headrace_models.upstream.http import CONNECT_SECONDS

_PROVIDER: Final = "anthropic"
ABLE: Final = frozenset({
    capabilities.TOOLS, capabilities.VISION, capabilities.FILES, capabilities.JSON_SCHEMA, capabilities.REASONING,
    capabilities.URLS,
})  # fmt: skip
"""What the API has a place for."""
_TAKES_SAMPLING: Final = re.compile(r"claude-(?:3|(?:haiku|sonnet|opus)-4(?:-[0-6])?(?:-20\d{6})?$)")
"""Models that accept temperature, top_p, top_k and a budget of tokens for thinking; later ones reject requests with
the former, and decide by themselves how long to think."""
_NO_SCHEMA: Final = re.compile(r"claude-(?:3|(?:sonnet|opus)-4(?:-[01])?(?:-20\d{6})?$)")
"""Models without structured outputs."""
_JSON_REMINDER: Final = "Answer with exactly one JSON value and nothing else: no prose, no code fence."
_NOTHING_SAID: Final = "(no text)"
"""Stands for a conversation without any text, which intake lets through and the API does not."""
_LEAST_BUDGET: Final = 1_024
_BUDGETS: Final = {"low": 2_048, "medium": 8_192, "high": 16_384}
_NO_THINKING: Final = frozenset({"none", "minimal"})
_EFFORTS: Final = frozenset({"low", "medium", "high", "xhigh", "max"})
_NOT_IN_IDS: Final = re.compile(r"[^a-zA-Z0-9_-]")
_TIERS: Final = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}


def parameters_taken(model: str) -> frozenset[str]:
    """The parameters that calls of a model pass on; see `parameters`."""
    always = {"stop", "json", "reasoning_effort", "service_tier"}
    return frozenset(always | {"temperature", "top_p", "top_k"} if _TAKES_SAMPLING.match(model) else always)


def body_of(request: ChatRequest) -> dict[str, Any]:
    """The arguments of `AsyncAnthropic.messages.create` for a stream."""
    system, messages = _conversation(request)
    # A stop text of white space alone is rejected.
    stops = [stop for stop in request.stop if stop.strip()]
    thinking, effort = _thinking(request)
    config: dict[str, Any] = {} if effort is None else {"effort": effort}
    if request.schema is not None and takes_schema(request.schema, request.model):
        config["format"] = {"type": "json_schema", "schema": request.schema.schema}
    own = _sampling(request, thinking) if _TAKES_SAMPLING.match(request.model) else {}
    further = {name: value for name, value in request.extra.items() if name not in RESERVED_EXTRA}
    return {
        "model": request.model,
        "max_tokens": request.max_output_tokens,
        "system": system or omit,
        "messages": messages,
        "stream": True,
        "stop_sequences": stops or omit,
        "tools": [_tool(tool) for tool in request.tools] or omit,
        "tool_choice": _tool_choice(request, thinking) or omit,
        "thinking": thinking or omit,
        "output_config": config or omit,
        "service_tier": _TIERS.get(request.service_tier or "", omit),
        "timeout": httpx2.Timeout(None, connect=CONNECT_SECONDS),
        "extra_body": (own | further) or None,
    }


def takes_schema(schema: AnswerSchema, model: str) -> bool:
    """Whether the API makes the model keep to this schema."""
    return schema.strict and _NO_SCHEMA.match(model) is None


def _thinking(request: ChatRequest) -> tuple[dict[str, Any] | None, str | None]:
    """The API's `thinking`, and its effort."""
    effort, budget = request.reasoning_effort, request.reasoning_tokens
    if effort is None and budget is None:
        return None, None
    if effort in _NO_THINKING or budget == 0:
        return {"type": "disabled"}, None
    if not _TAKES_SAMPLING.match(request.model):
        return {"type": "adaptive"}, effort if effort in _EFFORTS else None
    wanted = budget or _BUDGETS.get(effort or "", _BUDGETS["medium"])
    # It is part of max_tokens, and must leave room for the answer.
    most = request.max_output_tokens // 2
    if most < _LEAST_BUDGET:
        return None, None
    return {"type": "enabled", "budget_tokens": max(_LEAST_BUDGET, min(wanted, most))}, None


def _sampling(request: ChatRequest, thinking: dict[str, Any] | None) -> dict[str, Any]:
    if thinking is not None and thinking["type"] == "enabled":
        # The API rejects them together.
        return {}
    found: dict[str, Any] = {} if request.top_k is None else {"top_k": request.top_k}
    # The API rejects requests that set both.
    if request.temperature is not None:
        return found | {"temperature": min(request.temperature, 1.0)}
    return found | ({"top_p": request.top_p} if request.top_p is not None else {})


def _cache_control(seconds: int) -> dict[str, Any]:
    return {"type": "ephemeral", **({"ttl": "1h"} if seconds > 300 else {})}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    return {
        "name": tool.name,
        "input_schema": {"type": "object", **tool.parameters},
        **({"description": tool.description} if tool.description else {}),
        **({"strict": True} if tool.strict else {}),
        **({"cache_control": _cache_control(tool.cache_seconds)} if tool.cache_seconds is not None else {}),
    }


def _tool_choice(request: ChatRequest, thinking: dict[str, Any] | None) -> dict[str, Any] | None:
    if not request.tools:
        return None
    choice, alone = request.tool_choice, request.parallel_tool_calls is False
    if choice is not None and choice.mode == "none":
        return {"type": "none"}
    found: dict[str, Any] = {"type": "auto"}
    # A model that thinks cannot be forced to call a tool; that it called none is noticed afterwards.
    if choice is not None and choice.mode == "required" and (thinking is None or thinking["type"] == "disabled"):
        found = {"type": "tool", "name": choice.names[0]} if len(choice.names) == 1 else {"type": "any"}
    if alone:
        found["disable_parallel_tool_use"] = True
    return found if alone or choice is not None else None


def _conversation(request: ChatRequest) -> tuple[str | list[dict[str, Any]], list[dict[str, Any]]]:
    """The system text and the turns, as the API takes them.

    It rejects empty messages and texts of white space, white space at the end of a last message of the assistant, and a
    conversation that does not begin with the user.
    """
    system = [
        block
        for message in request.messages
        if message.role == "system"
        for block in _blocks(message.all_parts)
        if block["type"] == "text"
    ]
    turns = [turn for message in request.messages if message.role != "system" and (turn := _turn(message)) is not None]
    if turns and turns[-1]["role"] == "assistant":
        last = turns[-1]["content"][-1]
        if last["type"] == "text":
            last["text"] = last["text"].rstrip()
    if not turns:
        said = system.pop()["text"] if system else _NOTHING_SAID
        turns = [{"role": "user", "content": [{"type": "text", "text": said}]}]
    elif turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": _NOTHING_SAID}]})
    if request.schema is not None and not takes_schema(request.schema, request.model):
        fit = f"{_JSON_REMINDER} It must fit this JSON Schema: {json.dumps(request.schema.schema)}"
        system.append({"type": "text", "text": fit})
    elif request.json and request.schema is None:
        system.append({"type": "text", "text": _JSON_REMINDER})
    for turn in turns:
        turn["content"] = _plain(turn["content"])
    if any("cache_control" in block for block in system):
        return system, turns
    return "\n\n".join(block["text"] for block in system), turns


def _plain(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A text, if that is all."""
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0].keys() == {"type", "text"} else blocks


def _turn(message: ChatMessage) -> dict[str, Any] | None:
    blocks = _blocks(message.all_parts)
    if not blocks:
        return None
    # Results of tools come first in a message.
    blocks.sort(key=lambda block: block["type"] != "tool_result")
    return {"role": "assistant" if message.role == "assistant" else "user", "content": blocks}


def _blocks(parts: Iterable[Part]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    results: dict[str, dict[str, Any]] = {}
    for part in parts:
        block = _block(part)
        if block is None:
            continue
        seconds = getattr(part, "cache_seconds", None)
        if seconds is not None:
            block["cache_control"] = _cache_control(seconds)
        if isinstance(part, ToolResultPart):
            results[part.call_id] = block
        elif isinstance(part, MediaPart) and part.call_id in results:
            results[part.call_id]["content"].append(block)
            continue
        blocks.append(block)
    return blocks


def _block(part: Part) -> dict[str, Any] | None:
    match part:
        case TextPart(text=text) | RefusalPart(text=text):
            return {"type": "text", "text": text} if text.strip() else None
        case ToolCallPart():
            call_id = _NOT_IN_IDS.sub("_", part.call_id)
            return {"type": "tool_use", "id": call_id, "name": part.name, "input": json.loads(part.arguments or "{}")}
        case ToolResultPart():
            return {
                "type": "tool_result",
                "tool_use_id": _NOT_IN_IDS.sub("_", part.call_id),
                "content": [{"type": "text", "text": part.text}] if part.text.strip() else [],
                **({"is_error": True} if part.is_error else {}),
            }
        case ReasoningPart(provider=provider, signature=signature) if provider == _PROVIDER and signature:
            if part.sealed:
                return {"type": "redacted_thinking", "data": signature}
            return {"type": "thinking", "thinking": part.text, "signature": signature}
        case MediaPart(kind="image"):
            return {"type": "image", "source": _source(part)}
        case MediaPart(kind="file"):
            return {"type": "document", "source": _source(part), **({"title": part.filename} if part.filename else {})}
        case _:
            return None


def _source(part: MediaPart) -> dict[str, Any]:
    if part.url:
        return {"type": "url", "url": part.url}
    if part.media_type == "text/plain":
        return {"type": "text", "media_type": "text/plain", "data": (part.data or b"").decode("utf-8", "replace")}
    return {"type": "base64", "media_type": part.media_type, "data": base64_of(part)}
