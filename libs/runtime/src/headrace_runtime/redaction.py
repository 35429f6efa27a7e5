"""Recognises what must never be logged, by field name and by the shape of the text."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final

REDACTED: Final = "[redacted]"

_NAMES: Final = frozenset(
    {
        "prompt",
        "messages",
        "content",
        "contents",
        "text",
        "answer",
        "completion",
        "body",
        "query",
        "authorization",
        "cookie",
        "secret",
        "pepper",
        "key_pepper",
        "bootstrap_key",
        "database_url",
        "x-api-key",
        "token",
        "registry_token",
        "node_token",
        "node_key",
    }
)
_NAME_PARTS: Final = ("api_key", "apikey", "signing_key", "password", "passwd", "_secret", "secret_", "credential")
_SHAPES: Final = re.compile(
    r"\bhr_[a-z0-9]+_[A-Za-z0-9]+"  # our own keys
    r"|\b[a-z2-7]{16}:[0-9a-f]{64}\b"  # signing keys
    r"|\b(?:sk|gsk|tvly)-?[_-][A-Za-z0-9_-]{12,}"  # keys of the providers
    r"|(?i:\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user:password in an address
)
_DEEPEST: Final = 4


def redact_mapping(event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """`event` itself, with forbidden values replaced, also in nested mappings and lists."""
    for name, value in event.items():
        event[name] = _redacted(name, value, 0)
    return event


def redact_text(text: str) -> str:
    """`text` without anything that looks like a key, a bearer token or a password in an address."""
    return _SHAPES.sub(REDACTED, text)


def _redacted(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if _is_forbidden(name):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if depth >= _DEEPEST:
        return REDACTED
    if isinstance(value, Mapping):
        return {key: _redacted(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted("", inner, depth + 1) for inner in value]
    return value


@lru_cache(maxsize=4096)
def _is_forbidden(name: str) -> bool:
    lower = name.lower()
    return lower in _NAMES or any(part in lower for part in _NAME_PARTS)
