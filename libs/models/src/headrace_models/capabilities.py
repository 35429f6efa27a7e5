"""What a model may be able to do beyond text, and what a request demands of it. Routing compares the two."""

from __future__ import annotations

from typing import Final

from headrace_models.conversation import MediaPart, ToolCallPart, ToolResultPart
from headrace_models.errors import TryAnotherProvider
from headrace_models.ports import ChatRequest

TOOLS: Final = "tools"
VISION: Final = "vision"
AUDIO: Final = "audio"
FILES: Final = "files"
JSON_SCHEMA: Final = "json_schema"
EMBEDDINGS: Final = "embeddings"
REASONING: Final = "reasoning"
LOGPROBS: Final = "logprobs"
CHOICES: Final = "choices"
URLS: Final = "urls"

_OF_MEDIA: Final = {"image": VISION, "audio": AUDIO, "file": FILES}


def expect(request: ChatRequest, able: frozenset[str], provider: str) -> None:
    """Raises TryAnotherProvider if a request demands what the provider's API has no place for.

    Routing sees to it that none does, as far as it knows what models can do: nothing is left out without a word.
    """
    if lacking := demanded(request) - able:
        message = f"{provider} cannot be asked for {', '.join(sorted(lacking))}"
        raise TryAnotherProvider("request_rejected", message, provider=provider)


def demanded(request: ChatRequest) -> frozenset[str]:
    """What a model must be able to do for a request.

    A schema is no demand: an answer is checked against it wherever it comes from. Neither is thinking: it is a hint.
    """
    found: set[str] = set()
    if request.tools:
        found.add(TOOLS)
    if request.top_logprobs is not None:
        found.add(LOGPROBS)
    if request.choices > 1:
        found.add(CHOICES)
    for message in request.messages:
        for part in message.parts:
            match part:
                case MediaPart(kind=kind, url=url):
                    found.add(_OF_MEDIA[kind])
                    if url:
                        found.add(URLS)
                case ToolCallPart() | ToolResultPart():
                    found.add(TOOLS)
                case _:
                    pass
    return frozenset(found)
