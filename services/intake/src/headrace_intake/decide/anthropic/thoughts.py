"""Signatures of thoughts, as callers hold them between two requests.

Anthropic's are handed out as they are, so that a conversation can begin here and go on there. Those of other providers
say whose they are: a thought goes back to the provider that made it, and to no other.
"""

from __future__ import annotations

from typing import Final

ANTHROPIC: Final = "anthropic"
_OURS: Final = "headrace"


def outward(provider: str | None, signature: str) -> str:
    """The signature as the caller gets it."""
    return signature if provider == ANTHROPIC or not provider else f"{_OURS}:{provider}:{signature}"


def inward(signature: str) -> tuple[str, str]:
    """The provider that made a thought, and its signature."""
    mark, colon, rest = signature.partition(":")
    provider, second, own = rest.partition(":")
    return (provider, own) if mark == _OURS and colon and second and provider else (ANTHROPIC, signature)
