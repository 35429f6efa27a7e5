"""One running call: the text received so far, its timing and its usage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headrace_models.errors import RetrySameProvider
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, FinishReason, OnText, hand_out
from headrace_models.prices import estimated_tokens


class Call:
    """Collects the pieces of one answer and measures its times."""

    def __init__(self, provider: str, request: ChatRequest, on_text: OnText) -> None:
        self.provider = provider
        self.request = request
        self.accepted = False
        """Whether the provider has begun to answer, and so may bill."""
        self.reported: CallUsage | None = None
        """CallUsage as reported by the provider, once it has been."""
        self._on_text = on_text
        self._pieces: list[str] = []
        self._began = time.perf_counter()
        self._first_token_ms: float | None = None

    async def hear(self, piece: str) -> None:
        """Record the next piece of the answer and pass it on."""
        if not piece:
            return
        if self._first_token_ms is None:
            self._first_token_ms = self._elapsed_ms()
        self._pieces.append(piece)
        await hand_out(self._on_text, piece)

    def spent(self) -> CallUsage:
        """CallUsage as reported by the provider; else an estimate, once it has begun to answer."""
        if self.reported is not None:
            return self.reported
        if not self.accepted:
            return CallUsage()
        prompt = sum(estimated_tokens(message.text) for message in self.request.messages)
        return CallUsage(input_tokens=prompt, output_tokens=estimated_tokens("".join(self._pieces)))

    def result(self, finish_reason: FinishReason, *, model: str, simulated: bool, request_id: str) -> ChatResult:
        total_ms = self._elapsed_ms()
        return ChatResult(
            text="".join(self._pieces),
            finish_reason=finish_reason,
            usage=self.spent(),
            model=model,
            first_token_ms=self._first_token_ms if self._first_token_ms is not None else total_ms,
            total_ms=total_ms,
            simulated=simulated,
            request_id=request_id,
        )

    def unreachable(self) -> RetrySameProvider:
        """The error for a connection that failed, or was lost before the answer was complete."""
        if self.accepted:
            message = f"{self.provider} closed the connection before the answer was complete"
            return RetrySameProvider("connection_lost", message, provider=self.provider, usage=self.spent())
        message = f"{self.provider} cannot be reached; check its address and the network"
        return RetrySameProvider("unreachable", message, provider=self.provider)

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._began) * 1000


def spent_until(cancelled: asyncio.CancelledError) -> CallUsage | None:
    """CallUsage of a call at the time it was cancelled; None if it had not been made yet."""
    return next((argument for argument in cancelled.args if isinstance(argument, CallUsage)), None)


@asynccontextmanager
async def limited(call: Call) -> AsyncIterator[None]:
    """Fail the block with RetrySameProvider `timeout` when the call's time limit is exceeded.

    Attaches the usage so far to a cancellation; see `spent_until`.
    """
    deadline = asyncio.timeout(call.request.timeout_seconds)
    try:
        async with deadline:
            yield
    except asyncio.CancelledError as cancelled:
        # asyncio.timeout would not recognise a subclass as a cancellation.
        cancelled.args = (*cancelled.args, call.spent())
        raise
    except TimeoutError:
        if not deadline.expired():
            raise
        message = f"{call.provider} did not finish within {call.request.timeout_seconds:g} s"
        raise RetrySameProvider("timeout", message, provider=call.provider, usage=call.spent()) from None
