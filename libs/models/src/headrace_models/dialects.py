"""What is sent to each server of the "OpenAI-compatible" family: they agree on the path and on little else.

Sources: the API references of the named providers, and their published clients, read in November 2026. A server that
is sent a field that it does not know ignores it (vLLM, llama.cpp) or rejects the call (Mistral answers 422).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from headrace_models.ports import ChatRequest

_JSON_REMINDER: Final = "Answer with exactly one JSON value."


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
        host: End of the host name in its maker's address.
    """

    limit: str = "max_tokens"
    usage: bool = True
    seed: str | None = "seed"
    json: bool = True
    top_p: bool = True
    stops: int = 4
    host: str = ""


GENERIC: Final = Dialect()
"""Of a server that is not known: what most of the family take."""

PRESETS: Final[Mapping[str, Dialect]] = {
    "generic": GENERIC,
    "groq": Dialect(limit="max_completion_tokens", host="api.groq.com"),
    "openai": Dialect(limit="max_completion_tokens", host="api.openai.com"),
    "mistral": Dialect(usage=False, seed="random_seed", stops=16, host="api.mistral.ai"),
    "together": Dialect(host="api.together.xyz"),
    "deepseek": Dialect(seed=None, stops=16, host="api.deepseek.com"),
    "openrouter": Dialect(host="openrouter.ai"),
    "vllm": Dialect(stops=16),
    "llama.cpp": Dialect(stops=16),
    "lmstudio": Dialect(json=False, stops=16),
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
    raise DialectInvalid(
        f"{change!r} is none of limit=max_tokens|max_completion_tokens, usage=on|off, seed=seed|random_seed|off, "
        "json=on|off, top_p=on|off, stops=<number>"
    )


def body_of(request: ChatRequest, dialect: Dialect) -> dict[str, Any]:
    """The body of a streaming chat completion."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": _messages(request),
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
    if request.json and dialect.json:
        body["response_format"] = {"type": "json_object"}
    return body


def _messages(request: ChatRequest) -> list[dict[str, str]]:
    messages = [{"role": message.role, "content": message.text} for message in request.messages]
    if request.json and not any("json" in message.text.lower() for message in request.messages):
        # These APIs reject JSON mode unless a message mentions JSON.
        messages.insert(0, {"role": "system", "content": _JSON_REMINDER})
    return messages
