"""What is sent to each server of the "OpenAI-compatible" family: they agree on the path and on little else.

Sources: the API references of the named providers, and their published clients, read in November 2026. A server that
is sent a field that it does not know ignores it (vLLM, llama.cpp) or rejects the call (Mistral answers 422).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from headrace_contracts.cargo import RESERVED_EXTRA

from headrace_models import capabilities
from headrace_models.conversation import (
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
from headrace_models.ports import ChatRequest, EmbedRequest

_JSON_REMINDER: Final = "Answer with exactly one JSON value."


OPTIONAL: Final = (
    "tools", "parallel_tool_calls", "strict", "json_schema", "vision", "audio", "files", "n", "presence_penalty",
    "frequency_penalty", "top_k", "logprobs", "logit_bias", "reasoning_effort", "verbosity", "service_tier", "name",
    "embeddings", "dimensions", "base64", "chat_template_kwargs",
)  # fmt: skip
"""Fields that some servers take: `strict` for tools, `name` for participants; `vision`, `audio`, `files` and
`json_schema` for what messages and response_format may hold; `embeddings` for `/embeddings`, with `dimensions` for the
length of its vectors, and `base64` for the shorter of the two forms in which it may send them; `chat_template_kwargs`
for whether a model thinks, which its template decides."""
_EFFORTS: Final = ("low", "medium", "high")
_PENALTIES: Final = ("presence_penalty", "frequency_penalty")
_OPENAI: Final = frozenset(OPTIONAL) - {"top_k", "chat_template_kwargs"}
_OPEN_SOURCE: Final = frozenset(OPTIONAL) - {"verbosity", "service_tier", "strict", "files"}
_RESERVED_OF_EMBEDDINGS: Final = RESERVED_EXTRA | {"dimensions", "encoding_format"}


class DialectInvalid(ValueError):
    """The description of a dialect is invalid; the message names the word and what may stand there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The fields that a server understands.

    Attributes:
        limit: Field for the longest answer, in tokens.
        usage: Whether it must be asked for token counts (`stream_options`); without, it must send them by itself.
        seed: Field for the seed; None if it takes none.
        json: Whether it takes `response_format: {"type": "json_object"}`.
        top_p: Whether it takes top_p.
        stops: Most stop texts; the others are left to the model's own end.
        takes: Further fields that it takes, by the names in OPTIONAL.
        reasoning: Field of an assistant's message in which its own reasoning is given back; None if it takes none.
        host: End of the host name in its maker's address.
    """

    limit: str = "max_tokens"
    usage: bool = True
    seed: str | None = "seed"
    json: bool = True
    top_p: bool = True
    stops: int = 4
    takes: frozenset[str] = frozenset({*_PENALTIES, "tools", "parallel_tool_calls", "vision", "embeddings"})
    reasoning: str | None = None
    host: str = ""


GENERIC: Final = Dialect()
"""Of a server that is not known: what most of the family take."""

PRESETS: Final[Mapping[str, Dialect]] = {
    "generic": GENERIC,
    "groq": Dialect(
        limit="max_completion_tokens",
        host="api.groq.com",
        takes=frozenset(
            {"tools", "parallel_tool_calls", "json_schema", "vision", "reasoning_effort", "service_tier", "name"}
        ),
    ),
    "openai": Dialect(limit="max_completion_tokens", host="api.openai.com", takes=_OPENAI),
    "mistral": Dialect(
        usage=False,
        seed="random_seed",
        stops=16,
        host="api.mistral.ai",
        takes=frozenset({*_PENALTIES, "tools", "parallel_tool_calls", "json_schema", "vision", "n", "embeddings"}),
    ),
    "together": Dialect(
        host="api.together.xyz",
        takes=frozenset(
            {*_PENALTIES, "tools", "json_schema", "vision", "n", "top_k", "logit_bias", "name", "embeddings"}
        ),
    ),
    "deepseek": Dialect(
        seed=None,
        stops=16,
        host="api.deepseek.com",
        reasoning="reasoning_content",
        takes=frozenset({*_PENALTIES, "tools", "logprobs", "name"}),
    ),
    "openrouter": Dialect(
        host="openrouter.ai",
        reasoning="reasoning",
        takes=frozenset(OPTIONAL) - {"n", "strict", "service_tier", "chat_template_kwargs"},
    ),
    "vllm": Dialect(stops=16, reasoning="reasoning_content", takes=_OPEN_SOURCE),
    "llama.cpp": Dialect(stops=16, takes=_OPEN_SOURCE - {"n", "dimensions"}),
    "lmstudio": Dialect(
        json=False,
        stops=16,
        takes=frozenset({*_PENALTIES, "tools", "json_schema", "vision", "top_k", "logit_bias", "embeddings"}),
    ),
    # mlx_lm.server: one model family per process, text only.
    "mlx": Dialect(json=False, stops=16, takes=frozenset({*_PENALTIES, "tools", "top_k", "logit_bias"})),
}


def dialect_for(name: str, host: str, description: str = "") -> Dialect:
    """The dialect of a server, from its description, else its name, else the host in its address, else GENERIC.

    A description is the name of a preset and changes to it, or only changes: `vllm;seed=off;limit=max_tokens`.
    Raises DialectInvalid.
    """
    first, *changes = [word.strip() for word in description.split(";")]
    if first and "=" in first:
        first, changes = "", [first, *changes]
    if first and first not in PRESETS:
        raise DialectInvalid(f"there is no preset {first!r}; there are {', '.join(PRESETS)}")
    known = PRESETS.get(first) or PRESETS.get(name)
    if known is None:
        named = (preset for preset in PRESETS.values() if preset.host and f".{host}".endswith(f".{preset.host}"))
        known = next(named, GENERIC)
    for change in changes:
        known = _changed(known, change)
    return known


def _changed(dialect: Dialect, change: str) -> Dialect:
    field, _, value = change.partition("=")
    match field, value:
        case "limit", ("max_tokens" | "max_completion_tokens"):
            return replace(dialect, limit=value)
        case "usage", ("on" | "off"):
            return replace(dialect, usage=value == "on")
        case "json", ("on" | "off"):
            return replace(dialect, json=value == "on")
        case "top_p", ("on" | "off"):
            return replace(dialect, top_p=value == "on")
        case "seed", ("seed" | "random_seed" | "off"):
            return replace(dialect, seed=None if value == "off" else value)
        case "stops", _ if value.isdecimal():
            return replace(dialect, stops=int(value))
        case name, ("on" | "off") if name in OPTIONAL:
            return replace(dialect, takes=dialect.takes | {name} if value == "on" else dialect.takes - {name})
    raise DialectInvalid(
        f"{change!r} is none of limit=max_tokens|max_completion_tokens, usage=on|off, seed=seed|random_seed|off, "
        f"json=on|off, top_p=on|off, stops=<number>, and on|off for {', '.join(OPTIONAL)}"
    )


def capabilities_of(dialect: Dialect) -> frozenset[str]:
    """What a server's API has a place for. Its single models may be able to do less, which it does not tell."""
    names = {
        "tools": capabilities.TOOLS, "vision": capabilities.VISION, "audio": capabilities.AUDIO,
        "files": capabilities.FILES, "json_schema": capabilities.JSON_SCHEMA, "logprobs": capabilities.LOGPROBS,
        "n": capabilities.CHOICES, "reasoning_effort": capabilities.REASONING,
        "embeddings": capabilities.EMBEDDINGS,
    }  # fmt: skip
    able = {capability for field, capability in names.items() if field in dialect.takes}
    return frozenset(able | {capabilities.URLS} if capabilities.VISION in able else able)


def body_of(request: ChatRequest, dialect: Dialect, provider: str = "") -> dict[str, Any]:
    """The body of a streaming chat completion. Reasoning of `provider` is given back to it, that of others is not."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": _messages(request, dialect, provider),
        "stream": True,
        dialect.limit: request.max_output_tokens,
    }
    if dialect.usage:
        body["stream_options"] = {"include_usage": True}
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None and dialect.top_p:
        body["top_p"] = request.top_p
    if stops := list(request.stop[: dialect.stops]):
        body["stop"] = stops
    if request.seed is not None and dialect.seed is not None:
        body[dialect.seed] = request.seed
    if (form := _response_format(request, dialect)) is not None:
        body["response_format"] = form
    _add_tools(body, request, dialect)
    said_nothing = request.reasoning_effort is None and request.reasoning_tokens is None
    usually = request.think if said_nothing else None
    asked = {
        "n": request.choices if request.choices > 1 else None,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "top_k": request.top_k,
        "logit_bias": dict(request.logit_bias) or None,
        "reasoning_effort": request.reasoning_effort or (usually if usually in _EFFORTS else None),
        "chat_template_kwargs": {"enable_thinking": usually != "off"} if usually in ("on", "off") else None,
        "verbosity": request.verbosity,
        "service_tier": request.service_tier,
    }
    body |= {field: value for field, value in asked.items() if value is not None and field in dialect.takes}
    if request.top_logprobs is not None and "logprobs" in dialect.takes:
        body["logprobs"] = True
        if request.top_logprobs:
            body["top_logprobs"] = request.top_logprobs
    return body | {name: value for name, value in request.extra.items() if name not in RESERVED_EXTRA}


def embed_body_of(request: EmbedRequest, dialect: Dialect) -> dict[str, Any]:
    """The body of a call for vectors."""
    body: dict[str, Any] = {"model": request.model, "input": list(request.inputs)}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if "base64" in dialect.takes:
        body["encoding_format"] = "base64"
    return body | {name: value for name, value in request.extra.items() if name not in _RESERVED_OF_EMBEDDINGS}


def _response_format(request: ChatRequest, dialect: Dialect) -> dict[str, Any] | None:
    wanted = request.schema
    if wanted is not None and "json_schema" in dialect.takes:
        described = {"description": wanted.description} if wanted.description else {}
        form = {"name": wanted.name, **described, "schema": wanted.schema, "strict": wanted.strict}
        return {"type": "json_schema", "json_schema": form}
    return {"type": "json_object"} if (request.json or wanted is not None) and dialect.json else None


def _add_tools(body: dict[str, Any], request: ChatRequest, dialect: Dialect) -> None:
    choice = request.tool_choice
    offered = request.tools if choice is not None and choice.mode == "none" else request.callable_tools
    if not offered or "tools" not in dialect.takes:
        return
    body["tools"] = [{"type": "function", "function": _function(tool, dialect)} for tool in offered]
    if choice is not None:
        named = choice.mode == "required" and len(choice.names) == 1
        body["tool_choice"] = {"type": "function", "function": {"name": choice.names[0]}} if named else choice.mode
    if request.parallel_tool_calls is not None and "parallel_tool_calls" in dialect.takes:
        body["parallel_tool_calls"] = request.parallel_tool_calls


def _function(tool: ToolSpec, dialect: Dialect) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters:
        function["parameters"] = tool.parameters
    if tool.strict is not None and "strict" in dialect.takes:
        function["strict"] = tool.strict
    return function


def _messages(request: ChatRequest, dialect: Dialect, provider: str) -> list[dict[str, Any]]:
    messages = [said for message in request.messages for said in _said(message, dialect, provider)]
    if reminder := _reminder(request, dialect):
        messages.insert(0, {"role": "system", "content": reminder})
    return messages


def _reminder(request: ChatRequest, dialect: Dialect) -> str:
    """What must be said about the form of the answer because no field says it."""
    if request.schema is not None:
        if "json_schema" in dialect.takes:
            return ""
        return f"{_JSON_REMINDER} It must fit this JSON Schema: {json.dumps(request.schema.schema)}"
    # These APIs reject JSON mode unless a message mentions JSON.
    mentioned = any("json" in message.text.lower() for message in request.messages)
    return _JSON_REMINDER if request.json and not mentioned else ""


def _said(message: ChatMessage, dialect: Dialect, provider: str) -> Iterator[dict[str, Any]]:
    """A message as this API writes it: results of tools are messages of their own, before what is said beside them."""
    named = {"name": message.name} if message.name and "name" in dialect.takes else {}
    if not message.parts:
        yield {"role": message.role, "content": message.said, **named}
        return
    # What a tool returned beside text goes to the user's message that follows: a tool's message holds text alone.
    rest: list[Part] = []
    for part in message.parts:
        if isinstance(part, ToolResultPart):
            yield {"role": "tool", "tool_call_id": part.call_id, "content": part.text}
        else:
            rest.append(part)
    if not rest:
        return
    said: dict[str, Any] = {"role": "user" if message.role == "tool" else message.role, **named}
    content = [written for part in rest if (written := _content(part)) is not None]
    texts_only = all(part["type"] == "text" for part in content)
    # An answer may have come in several texts; a caller's texts are paragraphs.
    between = "" if message.role == "assistant" else "\n"
    said["content"] = between.join(part["text"] for part in content) if texts_only else content
    if message.role == "assistant":
        said["content"] = said["content"] or None
        if calls := [_call(part) for part in rest if isinstance(part, ToolCallPart)]:
            said["tool_calls"] = calls
        thought = [part.text for part in rest if isinstance(part, ReasoningPart) and part.provider == provider]
        if thought and dialect.reasoning is not None:
            said[dialect.reasoning] = "".join(thought)
    yield said


def _content(part: Part) -> dict[str, Any] | None:
    """A content part; None for what stands elsewhere in the message, or is not said to this provider."""
    match part:
        case TextPart(text=text) | RefusalPart(text=text):
            return {"type": "text", "text": text}
        case MediaPart(kind="image"):
            detail = {"detail": part.detail} if part.detail else {}
            return {"type": "image_url", "image_url": {"url": part.url or data_url(part), **detail}}
        case MediaPart(kind="audio"):
            form = part.media_type.partition("/")[2].removeprefix("x-")
            sound = {"data": base64_of(part), "format": "mp3" if form == "mpeg" else form}
            return {"type": "input_audio", "input_audio": sound}
        case MediaPart(kind="file"):
            name = {"filename": part.filename} if part.filename else {}
            return {"type": "file", "file": {"file_data": part.url or data_url(part), **name}}
        case _:
            return None


def _call(part: ToolCallPart) -> dict[str, Any]:
    return {"id": part.call_id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}


def base64_of(part: MediaPart) -> str:
    """The bytes of a part."""
    return base64.b64encode(part.data or b"").decode("ascii")


def data_url(part: MediaPart) -> str:
    """The bytes of a part as a URL (RFC 2397)."""
    return f"data:{part.media_type};base64,{base64_of(part)}"
