"""What an Ollama server lists: which of its models it runs itself, and which it passes on to its maker's cloud.

A server that is signed in lists models of ollama.com beside its own and answers chats with them as if they were local
(https://docs.ollama.com/cloud). Being reachable at our address proves nothing: "local" is shown for each model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_models import capabilities
from headrace_models.upstream.values import count, items, mapping, name

_REMOTE_FIELDS: Final = ("remote_host", "remote_model")
_CLOUD_NAME: Final = re.compile(r"[:\-]cloud$", re.IGNORECASE)
"""Ollama's own test of a name: the tag is `cloud` or ends in `-cloud` (`gpt-oss:120b-cloud`, `kimi-k2:cloud`)."""


def runs_elsewhere(entry: Mapping[str, Any]) -> bool:
    """Whether a model runs at another host than the server that lists it; also for a chat's answer.

    `entry` is an element of `/api/tags` or `/api/ps`, a document of `/api/show`, or a part of an answer. Any trace of
    a remote is taken as one: a model wrongly left out costs capacity, one wrongly let in costs privacy.
    """
    if any(entry.get(field) not in (None, "", False) for field in _REMOTE_FIELDS):
        return True
    return any(
        isinstance(name := entry.get(field), str) and _CLOUD_NAME.search(name.strip()) is not None
        for field in ("name", "model")
    )


_CAPABILITIES: Final = {
    "tools": capabilities.TOOLS,
    "vision": capabilities.VISION,
    "audio": capabilities.AUDIO,
    "thinking": capabilities.REASONING,
    "embedding": capabilities.EMBEDDINGS,
}
"""By Ollama's names (types/model/capability.go of ollama/ollama)."""
_OF_THE_SERVER: Final = frozenset({capabilities.JSON_SCHEMA, capabilities.LOGPROBS})
"""What the server adds to every model that completes text."""

_DETAILS: Final = ("format", "family", "parameter_size", "quantization_level")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server shows of a model: its longest context in tokens, and what it can do; None if it does not say."""

    context_tokens: int | None
    capabilities: frozenset[str] | None


def shown(document: object) -> Shown:
    """Read the answer to `/api/show`."""
    said = mapping(document)
    lengths = [
        length
        for key, value in mapping(said.get("model_info")).items()
        if key.endswith(".context_length") and (length := count(value))
    ]
    names = said.get("capabilities")
    if not isinstance(names, list):
        # Servers before 0.6.4 do not tell.
        return Shown(max(lengths, default=None), None)
    found = frozenset(_CAPABILITIES[one] for one in items(names) if isinstance(one, str) and one in _CAPABILITIES)
    return Shown(max(lengths, default=None), found | (_OF_THE_SERVER if "completion" in names else frozenset()))


def details_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """What an element of `/api/tags` says of a model beyond its name and size, as far as that looks like what it is."""
    said = {field: entry.get(field) for field in ("digest", "modified_at")}
    said |= {field: mapping(entry.get("details")).get(field) for field in _DETAILS}
    return {field: found for field, value in said.items() if (found := name(value))}
