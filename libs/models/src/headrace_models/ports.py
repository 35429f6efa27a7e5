"""What a worker asks of a model, whoever runs it: a chat that streams, and the state of the place that answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

DEFAULT_MAX_OUTPUT_TOKENS: Final = 4096
"""Every request names a limit: without one the worst case of a call, and so its budget, would be unbounded."""

Role = Literal["system", "user", "assistant"]

FinishReason = Literal["stop", "length", "refusal"]
"""stop: the answer is whole; length: cut at max_output_tokens; refusal: the model's safety system declined."""

OnText = Callable[[str], Awaitable[None] | None]
"""Receives each piece of the answer as it comes; awaited if it returns an awaitable, which slows the stream down."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One call of a model. None leaves a choice to the model."""

    model: str
    messages: tuple[Message, ...] = field(repr=False)
    timeout_seconds: float
    """For the whole call, from sending it to the last token."""
    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    json: bool = False
    """Whether the answer must be one JSON value."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one call consumed, as the provider counts it."""

    input_tokens: int = 0
    """Tokens read, cached ones included."""
    output_tokens: int = 0
    """Tokens written, hidden thinking included."""
    cached_input_tokens: int = 0
    """Those of input_tokens that came from the provider's prompt cache."""
    searches: int = 0
    """Web searches made."""


@dataclass(frozen=True, slots=True)
class ChatResult:
    """A finished call. A refusal is a result: the model has answered, and what it said is no."""

    text: str = field(repr=False)
    finish_reason: FinishReason
    usage: Usage
    model: str
    """As the provider names what answered."""
    first_token_ms: float
    total_ms: float
    simulated: bool
    request_id: str
    """The provider's name for the call, empty where it gives none."""

    @property
    def refused(self) -> bool:
        return self.finish_reason == "refusal"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that a place offers."""

    name: str
    size_bytes: int | None = None
    """Memory it takes."""
    context_tokens: int | None = None
    """Longest conversation."""
    loaded: bool = False
    """Whether it is in memory, so that a call starts at once."""


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """A place that runs models, at one moment."""

    healthy: bool
    reason: str
    """Why it is not healthy, in words safe for logs; empty when it is."""
    models: tuple[ModelInfo, ...] = ()
    latency_ms: float | None = None
    """Time of a small request to it and back; None when it did not answer."""
    version: str = ""
    simulated: bool = False


class Provider(Protocol):
    """A place that runs models: an Ollama node, or a cloud provider's API."""

    @property
    def provider(self) -> str:
        """Kind of place, as in the price book: ollama, groq, anthropic, tavily, ..."""

    @property
    def node(self) -> str:
        """Name of this place; the provider's own name for a cloud provider."""

    async def chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        """Run one call to its end, handing out the answer's pieces on the way.

        Cancelling it ends the call at the provider as well. Raises RetryLater, TryAnotherProvider or BadRequest
        (`headrace_models.errors`); pieces may have been handed out before.
        """

    async def status(self) -> ProviderStatus:
        """Ask the place how it is. Never raises for a place that is down: that is its status."""

    async def close(self) -> None:
        """Release its connections."""


async def hand_out(on_text: OnText, piece: str) -> None:
    """Give a piece to `on_text` and wait for it where it wants that."""
    waiting = on_text(piece)
    if waiting is not None:
        await waiting
