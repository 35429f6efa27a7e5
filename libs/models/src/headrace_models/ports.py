"""What a worker needs of a model, whichever provider runs it: a chat that streams, vectors of texts, and the state of
the endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Protocol

from headrace_contracts.frozen import cheaply_made

from headrace_models.answer import DECLINED, FinishReason, SpokenPiece, WholeAnswer
from headrace_models.conversation import AnswerSchema, ChatMessage, ToolSelection, ToolSpec

DEFAULT_MAX_OUTPUT_TOKENS: Final = 4096
"""Every request sets a limit: without one the worst case of a call, and so its budget, would be unbounded."""

OnText = Callable[[str], Awaitable[None] | None]
"""Receives each piece of the text; if it returns an awaitable, that is awaited, which slows the stream down."""

OnPiece = Callable[[SpokenPiece], Awaitable[None] | None]
"""Receives each piece that is not text of the first choice, as OnText."""


def no_pieces(_piece: SpokenPiece) -> None:
    """Nobody waits for anything but the text."""


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
    schema: AnswerSchema | None = None
    """The JSON Schema that it must fit."""
    tools: tuple[ToolSpec, ...] = field(default=(), repr=False)
    tool_choice: ToolSelection | None = None
    parallel_tool_calls: bool | None = None
    choices: int = 1
    """How many answers."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_logprobs: int | None = None
    """Ask for the log probability of each token and of this many alternatives; None for none."""
    logit_bias: Mapping[str, float] = field(default_factory=dict)
    """By token id."""
    reasoning_effort: str | None = None
    reasoning_tokens: int | None = None
    """Most tokens to think with; 0 for no thinking."""
    verbosity: str | None = None
    service_tier: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Further parameters of this provider's API."""
    batch: bool = False
    """Whether nobody waits for the answer: others go first where calls wait."""
    num_ctx: int | None = None
    """Length of the context to load the model with, in tokens; of servers where a call can say so."""
    keep_alive: str | None = None
    """How long the model stays in memory after the call (`headrace_contracts.model_settings.duration`); as num_ctx."""
    think: str | None = None
    """Whether to think (`headrace_contracts.model_settings.THINKING`) where reasoning_effort and reasoning_tokens say
    nothing: no demand, a server gets what it knows."""

    @property
    def callable_tools(self) -> tuple[ToolSpec, ...]:
        """The tools that the model may call under its tool choice."""
        choice = self.tool_choice
        if choice is None:
            return self.tools
        if choice.mode == "none":
            return ()
        return tuple(tool for tool in self.tools if not choice.names or tool.name in choice.names)

    @property
    def must_call(self) -> bool:
        """Whether the answer has to call a tool."""
        return self.tool_choice is not None and self.tool_choice.mode == "required" and bool(self.tools)


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """One call for vectors of texts."""

    model: str
    inputs: tuple[str, ...] = field(repr=False)
    timeout_seconds: float
    """For the whole call."""
    dimensions: int | None = None
    """Length of the vectors; None for the model's own."""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Further parameters of this provider's API."""
    batch: bool = False
    """As of `ChatRequest`."""
    num_ctx: int | None = None
    """As of `ChatRequest`."""
    keep_alive: str | None = None
    """As of `ChatRequest`."""

    @property
    def first_token_seconds(self) -> float:
        """The answer comes at once, and not in pieces."""
        return self.timeout_seconds

    @property
    def between_tokens_seconds(self) -> float:
        """As first_token_seconds."""
        return self.timeout_seconds


@cheaply_made
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
    reasoning_tokens: int = 0
    """Those of output_tokens that were hidden thinking."""
    image_tokens: int = 0
    """Those of input_tokens that stand for images."""
    audio_tokens: int = 0
    """Those of input_tokens and output_tokens that stand for audio."""

    def __add__(self, other: CallUsage) -> CallUsage:
        return CallUsage(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


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
    choices: tuple[WholeAnswer, ...] = ()
    """All answers, if there is more than one text; `text` and `finish_reason` are those of the first."""
    fits_schema: bool | None = None
    """Whether it fits the schema that was asked for; None if none was, or if nobody has looked."""

    @property
    def refused(self) -> bool:
        return self.finish_reason in DECLINED


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The vectors of a finished call, in the order of the inputs; all have the same length."""

    vectors: tuple[bytes, ...] = field(repr=False)
    """Each as 32 bit floating point numbers, little endian."""
    usage: CallUsage
    model: str
    """The model that made them, as the provider names it."""
    total_ms: float
    simulated: bool
    request_id: str = ""


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
    loaded_context_tokens: int | None = None
    """Context length that it is in memory with, in tokens."""
    capabilities: frozenset[str] | None = None
    """What it can do (`headrace_models.capabilities`); None if that is not known."""
    details: Mapping[str, str] = field(default_factory=dict)
    """What its endpoint says of it beyond that, by Ollama's names."""


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
    unreachable: bool = False
    """Whether the probe got no response at all."""


class Provider(Protocol):
    """An endpoint that runs models: an Ollama node, or a cloud provider's API."""

    @property
    def provider(self) -> str:
        """Kind of endpoint, as in the price book: ollama, groq, anthropic, tavily, ..."""

    @property
    def node(self) -> str:
        """Name of this endpoint; for a cloud provider the provider's name."""

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        """Run one call to its end, passing on the answer's pieces as they come.

        Cancelling it also ends the call at the provider. Raises RetrySameProvider or TryAnotherProvider
        (`headrace_models.errors`), possibly after some pieces, and nothing else.
        """

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """The vectors of some texts. Raises as `chat`; TryAnotherProvider from a provider that makes none."""

    def keeps_to(self, schema: AnswerSchema, model: str) -> bool:
        """Whether it makes the model keep to this schema, so that its answers can be passed on as they come."""

    async def status(self) -> ProviderStatus:
        """Probe the endpoint. Does not raise when it is down: that is its status."""

    async def close(self) -> None:
        """Close its connections."""


async def hand_out(on_text: OnText, on_piece: OnPiece, piece: SpokenPiece) -> None:
    """Pass a piece to whom it concerns, awaiting what that returns if it is awaitable."""
    said = piece.kind in ("text", "refusal") and piece.choice == 0
    waiting = on_text(piece.text) if said else on_piece(piece)
    if waiting is not None:
        await waiting
