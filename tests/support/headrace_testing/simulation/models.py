"""Simulated models behind the port that the workers call, with a record of every call."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace_models import ollama_listing
from headrace_models.answer import FinishReason, SpokenPiece
from headrace_models.call import spent_until
from headrace_models.conversation import AnswerSchema
from headrace_models.embedding import makes_none
from headrace_models.errors import OtherCode, ProviderError, RetryCode, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import (
    CallUsage,
    ChatRequest,
    ChatResult,
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    OnPiece,
    OnText,
    ProviderStatus,
    hand_out,
    no_pieces,
)

from headrace_testing.simulation.plan import Fault, Plan
from headrace_testing.simulation.research import SOURCES, answer_of, is_search
from headrace_testing.simulation.several_models import verdict_on
from headrace_testing.simulation.trace import Trace

LOCAL_MODELS = ("gemma2:2b", "phi3:3.8b", "qwen2.5-coder:1.5b", "qwen2.5-coder:7b", "llama3:8b")
CLOUD_MODELS = {"groq": ("llama-3.3-70b-versatile",), "anthropic": ("claude-haiku-4-5",)}
REMOTE_BY_NAME, REMOTE_BY_HOST = "kimi-k2:cloud", "gpt-oss:120b"
"""Models that the nodes list beside their own, and that their maker's cloud runs."""

_REFUSALS: Sequence[OtherCode] = ("model_missing", "context_too_long", "quota_exhausted", "not_authorised")
_REJECTIONS: Sequence[OtherCode] = ("request_rejected", "output_blocked")

Listing = Sequence[Mapping[str, Any]]
"""What an endpoint lists: entries as of Ollama's `/api/tags`."""


def _listed(names: Iterable[str]) -> Listing:
    return tuple({"name": name, "model": name} for name in names)


LOCAL_LISTING: Listing = (
    *_listed((*LOCAL_MODELS, REMOTE_BY_NAME)),
    {
        "name": REMOTE_BY_HOST,
        "model": REMOTE_BY_HOST,
        "remote_host": "https://ollama.com:443",
        "remote_model": REMOTE_BY_HOST,
    },
)
SEARCH_LISTINGS: Mapping[str, Listing] = {name: _listed((model,)) for name, model in SOURCES.items()}
"""Of sources of searches, by provider."""
CLOUD_LISTINGS: Mapping[str, Listing] = {name: _listed(models) for name, models in CLOUD_MODELS.items()}


def listing_at(site: str) -> Listing:
    """What the nodes of a site list: all have the models that most roles ask for first, and each lacks some other."""
    lacking = {"a": {"llama3:8b", "phi3:3.8b"}, "b": {"qwen2.5-coder:7b"}}.get(site, set())
    return tuple(entry for entry in LOCAL_LISTING if entry["name"] not in lacking)


def nodes_at(site: str) -> Sequence[str]:
    """The names of a site's nodes."""
    return tuple(f"{site}-{number}" if site else f"node-{number}" for number in (1, 2))


def answer_to(text: str) -> str:
    """The answer of every simulated model to a conversation that ends with this text."""
    return f"It is said of {text!r}: yes."


@dataclass(slots=True)
class Call:
    """One call of a model.

    Attributes:
        run: The process that made it, and which of its lives.
        execution: Id of the execution that it belongs to.
        listed_elsewhere: Whether its node lists the model as one that another host runs.
        consumed: What the provider has counted, once the call has ended in a process that lives.
        refused: Whether there was no connection, so that nothing was asked.
        left: Seconds that it was given.
        answered: Seconds that its answer took; None without one.
        unaware: Whether its process may already have lost its partitions without knowing it.
        life_began: When its process started, in seconds since the start.
        off: Whether its process had read that its model is switched off.
    """

    at: float
    run: str
    provider: str
    node: str
    model: str
    text: str
    execution: str
    listed_elsewhere: bool
    consumed: CallUsage | None = None
    ended: bool = False
    refused: bool = False
    left: float = 0.0
    answered: float | None = None
    unaware: bool = False
    life_began: float = 0.0
    off: bool = False


ASKED: contextvars.ContextVar[list[Call]] = contextvars.ContextVar("asked")
"""The model calls of the running handler."""
EXECUTION: contextvars.ContextVar[str] = contextvars.ContextVar("execution")
"""The execution that the running handler has begun."""


class Models:
    """State shared by all simulated endpoints."""

    def __init__(self, plan: Plan, rng: random.Random, trace: Trace, clock: Callable[[], float]) -> None:
        self.plan = plan
        self.rng = rng
        self.trace = trace
        self.clock = clock
        self.calls: list[Call] = []
        self.calm = False
        self.down: dict[str, float] = {}
        """Until when a node is unavailable, by its name."""

    def happens(self, fault: Fault, about: str) -> bool:
        """Whether a fault occurs at a model now."""
        rate = self.plan.rate(fault)
        if self.calm or rate == 0.0 or self.rng.random() >= rate:
            return False
        self.trace.fault(fault.value, about)
        return True

    def is_down(self, node: str) -> bool:
        return not self.calm and self.clock() < self.down.get(node, 0.0)


class SimulatedProvider:
    """An endpoint in one process; see `headrace_models.ports.Provider`.

    Args:
        run: The process, and which of its lives.
        is_unaware: As in `Call`, at the moment.
        life_began: As in `Call`.
        is_off: As in `Call`, of a provider's model at the moment.
    """

    def __init__(
        self,
        models: Models,
        run: str,
        provider: str,
        node: str,
        listing: Listing,
        is_unaware: Callable[[], bool] = lambda: False,
        life_began: float = 0.0,
        is_off: Callable[[str, str], bool] = lambda _provider, _model: False,
    ) -> None:
        self._models = models
        self._is_off = is_off
        self._is_unaware = is_unaware
        self._life_began = life_began
        self._run = run
        self._provider = provider
        self._node = node
        self._listing = listing

    @property
    def provider(self) -> str:
        return self._provider

    @property
    def node(self) -> str:
        return self._node

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        models = self._models
        about = f"{self._run} {self._node}/{request.model}"
        call = Call(
            at=models.clock(), run=self._run, provider=self._provider, node=self._node, model=request.model,
            text="\n".join(message.text for message in request.messages), execution=EXECUTION.get(""),
            listed_elsewhere=request.model in (REMOTE_BY_NAME, REMOTE_BY_HOST), left=request.timeout_seconds,
            unaware=self._is_unaware(), life_began=self._life_began, off=self._is_off(self._provider, request.model),
        )  # fmt: skip
        models.calls.append(call)
        models.trace.note(f"asks {about}")
        ASKED.get().append(call)
        try:
            result = await self._chat(request, on_text, about, call)
        except ProviderError as error:
            call.consumed = error.usage
            call.refused = error.code == "unreachable"
            raise
        except asyncio.CancelledError as cancelled:
            call.consumed = spent_until(cancelled)
            raise
        else:
            call.consumed = result.usage
            call.answered = models.clock() - call.at
            return result
        finally:
            call.ended = True

    async def _chat(self, request: ChatRequest, on_text: OnText, about: str, call: Call) -> ChatResult:
        models, rng = self._models, self._models.rng
        seconds = models.plan.model_seconds * (0.2 + rng.random())
        if models.happens(Fault.MODEL_SLOW, about):
            seconds += rng.choice((2.0, 8.0, 20.0))
        if models.happens(Fault.MODEL_HANGS, about):
            seconds = request.timeout_seconds
        failure = self._failure(about, remote=call.listed_elsewhere)
        declines = models.happens(Fault.MODEL_DECLINES, about)
        cut_off = models.happens(Fault.MODEL_CUT_OFF, about)
        bytes_in = sum(len(message.text.encode()) for message in request.messages)
        said = request.messages[-1].text
        found = answer_of(self._provider, said) if is_search(self._provider) else answer_to(said)
        system = " ".join(message.text for message in request.messages if message.role == "system")
        found = verdict_on(said, system) or found
        answer = "I must not say." if declines else found
        output = rng.randint(1, max(1, min(request.max_output_tokens, 400)))
        usage = CallUsage(rng.randint(1, bytes_in), output, searches=0)
        if is_search(self._provider):
            usage = CallUsage(searches=1)
        reason: FinishReason = "refusal" if declines else "length" if cut_off else "stop"
        try:
            if seconds >= request.timeout_seconds:
                await asyncio.sleep(request.timeout_seconds)
                raise RetrySameProvider("timeout", "it took too long (simulated)", provider=self._provider, usage=usage)
            if models.is_down(self._node):
                await asyncio.sleep(min(seconds, 0.2))
                raise RetrySameProvider(
                    "unreachable", "connection refused (simulated)", provider=self._provider, sent=False
                )
            if reason == "length":
                answer = answer[: len(answer) // 2]
            return await self._speak(request, on_text, answer, seconds, usage, failure, reason)
        except asyncio.CancelledError as cancelled:
            # As with the real clients, what was consumed until then is still billed.
            cancelled.args = (*cancelled.args, usage)
            raise

    async def _speak(
        self,
        request: ChatRequest,
        on_text: OnText,
        answer: str,
        seconds: float,
        usage: CallUsage,
        failure: Callable[[CallUsage], ProviderError] | None,
        reason: FinishReason,
    ) -> ChatResult:
        first = seconds * 0.3
        await asyncio.sleep(first)
        await hand_out(on_text, no_pieces, SpokenPiece("text", answer[: len(answer) // 2]))
        if failure is not None:
            raise failure(usage)
        await asyncio.sleep(seconds - first)
        await hand_out(on_text, no_pieces, SpokenPiece("text", answer[len(answer) // 2 :]))
        return ChatResult(answer, reason, usage, request.model, first * 1000, seconds * 1000, True, "")

    def _failure(self, about: str, *, remote: bool) -> Callable[[CallUsage], ProviderError] | None:
        """The error that a call ends with, made of what it has consumed by then; None if it ends well."""
        models, rng = self._models, self._models.rng
        if models.happens(Fault.MODEL_FAILS, about):
            return self._passing("overloaded", rng.choice((None, 0.5, 7.0)))
        if models.happens(Fault.MODEL_BREAKS_OFF, about):
            return self._passing("connection_lost")
        if models.happens(Fault.MODEL_SAYS_NOTHING, about):
            return self._passing("empty_answer")
        if models.happens(Fault.MODEL_ENDS_ODDLY, about):
            return self._passing("unknown_finish")
        if models.happens(Fault.MODEL_REFUSES_CALL, about):
            return self._lasting(rng.choice(_REFUSALS))
        if models.happens(Fault.MODEL_REJECTS, about):
            return self._lasting(rng.choice(_REJECTIONS))
        # The answer itself tells that another host made it; the real client looks for that too.
        if self._provider == "ollama" and (remote or models.happens(Fault.MODEL_LEAVES, about)):
            return self._lasting("answered_remotely")
        return None

    def _passing(self, code: RetryCode, after_seconds: float | None = None) -> Callable[[CallUsage], ProviderError]:
        return lambda usage: RetrySameProvider(
            code, "it failed (simulated)", provider=self._provider, usage=usage, after_seconds=after_seconds
        )

    def _lasting(self, code: OtherCode) -> Callable[[CallUsage], ProviderError]:
        return lambda usage: TryAnotherProvider(code, "it will not (simulated)", provider=self._provider, usage=usage)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        raise makes_none(self._provider)

    def keeps_to(self, schema: AnswerSchema, model: str) -> bool:
        return False

    async def status(self) -> ProviderStatus:
        await asyncio.sleep(0.01)
        if self._models.is_down(self._node):
            return ProviderStatus(False, "connection refused (simulated)")
        ours = [entry for entry in self._listing if not ollama_listing.runs_elsewhere(entry)]
        return ProviderStatus(True, "", tuple(ModelInfo(entry["name"], loaded=True) for entry in ours), 1.0, "1", True)

    async def close(self) -> None:
        """Nothing to release."""
