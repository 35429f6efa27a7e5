"""What a worker needs of a model, whichever provider runs it: a chat that streams, and the state of the endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

DEFAULT_MAX_OUTPUT_TOKENS: Final = 4096
"""Every request sets a limit: without one the worst case of a call, and so its budget, would be unbounded."""

Role = Literal["system", "user", "assistant"]

FinishReason = Literal["stop", "length", "refusal"]
"""stop: the answer is complete; length: cut off at max_output_tokens; refusal: the model's safety system declined."""

OnText = Callable[[str], Awaitable[None] | None]
"""Receives each piece of the answer; if it returns an awaitable, that is awaited, which slows the stream down."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: Role
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One call of a model. None leaves a parameter to the model."""

    model: str
    messages: tuple[ChatMessage, ...] = field(repr=False)
    timeout_seconds: float
    """For the whole call, from sending it to the last token."""
    first_token_seconds: float = 60.0
    """From sending it to the first token; the time that a node needs to load the model is part of it."""
    between_tokens_seconds: float = 30.0
    """From one token to the next, hidden thinking included. A provider's keep-alives are silence."""
    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    json: bool = False
    """Whether the answer must be one JSON value."""


@dataclass(frozen=True, slots=True)
class CallUsage:
    """What one call used, as the provider counts it."""

    input_tokens: int = 0
    """Tokens read, those included that came from the prompt cache or were written to it."""
    output_tokens: int = 0
    """Tokens written, hidden thinking included."""
    cached_input_tokens: int = 0
    """Those of input_tokens that came from the provider's prompt cache."""
    searches: int = 0
    """Web searches made."""
    cache_write_5m_tokens: int = 0
    """Those of input_tokens that were written to the provider's prompt cache, to be kept for 5 minutes."""
    cache_write_1h_tokens: int = 0
    """Those of input_tokens that were written to the provider's prompt cache, to be kept for 1 hour."""


@dataclass(frozen=True, slots=True)
class ChatResult:
    """A finished call. A refusal is a result: the model answered, and declined."""

    text: str = field(repr=False)
    finish_reason: FinishReason
    usage: CallUsage
    model: str
    """The model that answered, as the provider names it."""
    first_token_ms: float
    total_ms: float
    simulated: bool
    request_id: str
    """The provider's id of the call, empty if it gives none."""

    @property
    def refused(self) -> bool:
        return self.finish_reason == "refusal"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that an endpoint offers."""

    name: str
    size_bytes: int | None = None
    """Its size in memory."""
    context_tokens: int | None = None
    """Maximum context length, in tokens."""
    loaded: bool = False
    """Whether it is in memory, so that a call starts at once."""


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """The state of an endpoint at one moment."""

    healthy: bool
    reason: str
    """Why it is unhealthy, in words that are safe to log; empty if it is healthy."""
    models: tuple[ModelInfo, ...] = ()
    latency_ms: float | None = None
    """Round-trip time of a small request; None if it did not answer."""
    version: str = ""
    simulated: bool = False


class Provider(Protocol):
    """An endpoint that runs models: an Ollama node, or a cloud provider's API."""

    @property
    def provider(self) -> str:
        """Kind of endpoint, as in the price book: ollama, groq, anthropic, tavily, ..."""

    @property
    def node(self) -> str:
        """Name of this endpoint; for a cloud provider the provider's name."""

    async def chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        """Run one call to its end, passing on the answer's pieces as they come.

        Cancelling it also ends the call at the provider. Raises RetrySameProvider or TryAnotherProvider
        (`headrace_models.errors`), possibly after some pieces, and nothing else.
        """

    async def status(self) -> ProviderStatus:
        """Probe the endpoint. Does not raise when it is down: that is its status."""

    async def close(self) -> None:
        """Close its connections."""


async def hand_out(on_text: OnText, piece: str) -> None:
    """Pass a piece to `on_text`, awaiting what it returns if that is awaitable."""
    waiting = on_text(piece)
    if waiting is not None:
        await waiting
