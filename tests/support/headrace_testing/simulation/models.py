"""Simulated models behind the port that the workers call, with a record of every call."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace_models.errors import BadRequest, ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import (
    CallUsage,
    ChatRequest,
    ChatResult,
    FinishReason,
    ModelInfo,
    OnText,
    ProviderStatus,
    hand_out,
)

from headrace_testing.simulation.plan import Fault, Plan
from headrace_testing.simulation.trace import Trace

LOCAL_MODELS = ("gemma2:2b", "phi3:3.8b", "qwen2.5-coder:1.5b", "qwen2.5-coder:7b", "llama3:8b")
CLOUD_MODELS = {"groq": ("llama-3.3-70b-versatile",), "anthropic": ("claude-haiku-4-5",)}


def answer_to(text: str) -> str:
    """The answer of every simulated model to a conversation that ends with this text."""
    return f"It is said of {text!r}: yes."


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a model."""

    at: float
    process: str
    provider: str
    node: str
    model: str
    text: str


ASKED: contextvars.ContextVar[list[str]] = contextvars.ContextVar("asked")
"""The number of model calls of the running handler."""


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
    """An endpoint in one process; see `headrace_models.ports.Provider`."""

    def __init__(self, models: Models, process: str, provider: str, node: str, names: Sequence[str]) -> None:
        self._models = models
        self._process = process
        self._provider = provider
        self._node = node
        self._names = tuple(names)

    @property
    def provider(self) -> str:
        return self._provider

    @property
    def node(self) -> str:
        return self._node

    async def chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        models, rng = self._models, self._models.rng
        text = request.messages[-1].text
        about = f"{self._process} {self._node}/{request.model}"
        models.calls.append(
            Call(models.clock(), self._process, self._provider, self._node, request.model,
                 "\n".join(message.text for message in request.messages))
        )  # fmt: skip
        models.trace.note(f"asks {about}")
        ASKED.get().append(request.model)
        seconds = models.plan.model_seconds * (0.2 + rng.random())
        if models.happens(Fault.MODEL_SLOW, about):
            seconds += rng.choice((2.0, 8.0, 20.0))
        if models.happens(Fault.MODEL_HANGS, about):
            seconds = request.timeout_seconds
        failure = self._failure(about)
        declines = models.happens(Fault.MODEL_DECLINES, about)
        bytes_in = sum(len(message.text.encode()) for message in request.messages)
        answer = "I must not say." if declines else answer_to(text)
        output = rng.randint(1, max(1, min(request.max_output_tokens, 400)))
        usage = CallUsage(rng.randint(1, bytes_in), output, searches=0)
        try:
            if seconds >= request.timeout_seconds:
                await asyncio.sleep(request.timeout_seconds)
                raise RetrySameProvider("timeout", "it took too long (simulated)", provider=self._provider, usage=usage)
            if models.is_down(self._node):
                await asyncio.sleep(min(seconds, 0.2))
                raise RetrySameProvider("unreachable", "connection refused (simulated)", provider=self._provider)
            return await self._speak(request, on_text, answer, seconds, usage, failure, declines=declines)
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
        *,
        declines: bool,
    ) -> ChatResult:
        first = seconds * 0.3
        await asyncio.sleep(first)
        await hand_out(on_text, answer[: len(answer) // 2])
        if failure is not None:
            raise failure(usage)
        await asyncio.sleep(seconds - first)
        await hand_out(on_text, answer[len(answer) // 2 :])
        reason: FinishReason = "refusal" if declines else "stop"
        return ChatResult(answer, reason, usage, request.model, first * 1000, seconds * 1000, True, "")

    def _failure(self, about: str) -> Callable[[CallUsage], ProviderError] | None:
        models, rng, provider = self._models, self._models.rng, self._provider
        if models.happens(Fault.MODEL_FAILS, about):
            after = rng.choice((None, 0.5, 7.0))
            return lambda usage: RetrySameProvider(
                "overloaded", "busy (simulated)", provider=provider, usage=usage, after_seconds=after
            )
        if models.happens(Fault.MODEL_REFUSES_CALL, about):
            return lambda usage: TryAnotherProvider("model_missing", "gone (simulated)", provider=provider, usage=usage)
        if models.happens(Fault.MODEL_BAD_REQUEST, about):
            return lambda usage: BadRequest("invalid_request", "bad (simulated)", provider=provider, usage=usage)
        return None

    async def status(self) -> ProviderStatus:
        await asyncio.sleep(0.01)
        if self._models.is_down(self._node):
            return ProviderStatus(False, "connection refused (simulated)")
        return ProviderStatus(True, "", tuple(ModelInfo(name, loaded=True) for name in self._names), 1.0, "1", True)

    async def close(self) -> None:
        """Nothing to release."""
