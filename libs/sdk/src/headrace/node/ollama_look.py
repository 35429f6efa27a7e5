"""What an Ollama says of itself: its release, its models, and which of them are in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import aiohttp
from headrace_contracts.events import AnnouncedModel

_SECONDS: Final = 3.0
_MOST_BYTES: Final = 8 * 1024 * 1024
_MOST_MODELS: Final = 200
_LONGEST_NAME: Final = 200
_FOREVER_YEARS: Final = 100


@dataclass(frozen=True, slots=True)
class OllamaSeen:
    """One look at it; `trouble` is why it does not answer, empty if it does."""

    trouble: str = ""
    version: str = ""
    models: tuple[AnnouncedModel, ...] = ()

    @property
    def vram_bytes(self) -> int:
        """Memory of graphics processors that its models occupy."""
        return sum(model.vram_bytes or 0 for model in self.models)


async def look_at(session: aiohttp.ClientSession, ollama: str) -> OllamaSeen:
    """Ask it. Does not raise when it is away: that is what is seen."""
    try:
        version = await _document(session, f"{ollama}/api/version")
        tags = await _document(session, f"{ollama}/api/tags")
        running = await _document(session, f"{ollama}/api/ps")
    except (aiohttp.ClientError, OSError) as error:
        return OllamaSeen(f"Ollama at {ollama} cannot be reached ({type(error).__name__})")
    except ValueError as error:
        return OllamaSeen(f"what is at {ollama} does not answer like Ollama ({error})")
    return OllamaSeen("", _text(version.get("version")), models_of(tags, running))


def models_of(tags: Mapping[str, Any], running: Mapping[str, Any]) -> tuple[AnnouncedModel, ...]:
    """The models of the answers to `/api/tags` and `/api/ps`, as far as they look like models."""
    loaded = {name: entry for entry in _entries(running) if (name := _name(entry))}
    return tuple(
        AnnouncedModel(
            name=name,
            size_bytes=_count(entry.get("size")),
            loaded=name in loaded,
            vram_bytes=_count(loaded[name].get("size_vram")) if name in loaded else None,
            expires_at=_moment_ms(loaded[name].get("expires_at")) if name in loaded else None,
        )
        for entry in _entries(tags)
        if (name := _name(entry))
    )


async def _document(session: aiohttp.ClientSession, url: str) -> Mapping[str, Any]:
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with session.get(url, allow_redirects=False, timeout=timeout) as response:
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        body = await response.content.read(_MOST_BYTES)
        while not response.content.at_eof():
            if len(body) >= _MOST_BYTES:
                raise ValueError("its answer is too long")
            body += await response.content.read(_MOST_BYTES - len(body))
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("its answer is no object")
    return found


def _entries(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = document.get("models")
    return [entry for entry in listed[:_MOST_MODELS] if isinstance(entry, dict)] if isinstance(listed, list) else []


def _name(entry: Mapping[str, Any]) -> str:
    return _text(entry.get("model")) or _text(entry.get("name"))


def _text(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= _LONGEST_NAME else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _moment_ms(value: object) -> int | None:
    """Ollama writes a time in the far future for a model that stays."""
    try:
        when = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if when is None or when.tzinfo is None or when.year > datetime.now().year + _FOREVER_YEARS or when.year < 1971:
        return None
    return int(when.timestamp() * 1000)
