"""One running call: the text received so far, its times, what it has consumed, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import httpx2
from headrace_streams.dead_letters import described

from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, FinishReason, OnText, hand_out
from headrace_models.prices import estimated_tokens
from headrace_models.upstream.complaints import Complained, error_of
from headrace_models.upstream.http import because
from headrace_models.upstream.usage import UsageTally
from headrace_models.upstream.values import Unreadable, Utf16Joiner

_log = logging.getLogger(__name__)

AFTER_FINISH_SECONDS: Final = 2.0
"""How long to wait, once the answer is whole, for its usage and for the end of the stream."""
_LAST_BYTES_SECONDS: Final = 0.1
LONGEST_ANSWER_CHARACTERS: Final = 16 * 1024 * 1024
"""Above any model's longest output, and any record that Kafka would take; it only bounds what is held in memory."""


class Call:
    """Collects the pieces of one answer, measures its times, and bounds the provider's silence."""

    def __init__(self, provider: str, request: ChatRequest, on_text: OnText) -> None:
        self.provider = provider
        self.request = request
        self.accepted = False
        """Whether the provider has begun to answer, and so may bill."""
        self.usage = UsageTally()
        """What the provider has said about tokens."""
        self._on_text = on_text
        self._joiner = Utf16Joiner()
        self._pieces: list[str] = []
        self._characters = 0
        self._began = time.perf_counter()
        self._first_token_ms: float | None = None
        self._finish: FinishReason | None = None
        self._ended_unknown = False
        self._extend: Callable[[float], None] = _no_limit

    async def hear(self, piece: str) -> None:
        """Record the next piece of the answer and pass it on."""
        if piece:
            self.progress()
            await self._pass_on(self._joiner.add(piece))

    def progress(self) -> None:
        """The model has written something, be it hidden thinking. Keep-alives are silence, and do not count."""
        if not self.has_ended:
            self._extend(self.request.between_tokens_seconds)

    async def finish(self, reason: FinishReason | None) -> None:
        """The provider has named a reason why the answer ends: it is whole, whatever else goes wrong.

        None stands for a reason that we do not know, so that the answer may not be whole. In either case its usage may
        follow, so this is not the end of the call.
        """
        if reason is None:
            self._ended_unknown = True
            self._extend(AFTER_FINISH_SECONDS)
            return
        await self._pass_on(self._joiner.end())
        if self._finish is None:
            self._extend(AFTER_FINISH_SECONDS)
        self._finish = reason

    def all_said(self) -> None:
        """Nothing of interest follows; what is left is only read so that the connection can be used again."""
        self._extend(_LAST_BYTES_SECONDS)

    @property
    def has_ended(self) -> bool:
        """Whether the provider has said that the answer ends here."""
        return self._finish is not None or self._ended_unknown

    async def _pass_on(self, piece: str) -> None:
        if not piece:
            return
        self._characters += len(piece)
        if self._characters > LONGEST_ANSWER_CHARACTERS:
            message = f"{self.provider} sent more than {LONGEST_ANSWER_CHARACTERS} characters"
            raise TryAnotherProvider("answer_too_large", message, provider=self.provider, usage=self.spent())
        if self._first_token_ms is None:
            self._first_token_ms = self._elapsed_ms()
        self._pieces.append(piece)
        await hand_out(self._on_text, piece)

    def spent(self) -> CallUsage:
        """What the call has consumed until now: as reported, else estimated, once the provider has begun to answer."""
        if not self.accepted:
            return CallUsage()
        return self.usage.of(
            prompt_estimate=sum(estimated_tokens(message.text) for message in self.request.messages),
            text_estimate=estimated_tokens("".join(self._pieces)),
        )

    def result(self, *, model: str, simulated: bool, request_id: str) -> ChatResult:
        """The whole answer. Raises RetrySameProvider if it is not whole, or empty."""
        if self._ended_unknown:
            message = f"{self.provider} ended the answer for an unknown reason, or for an error of its own"
            raise RetrySameProvider("unknown_finish", message, provider=self.provider, usage=self.spent())
        if self._finish is None:
            raise self.broken_off()
        text = "".join(self._pieces)
        if self._finish != "refusal" and not text.strip():
            message = f"{self.provider} gave an empty answer"
            raise RetrySameProvider("empty_answer", message, provider=self.provider, usage=self.spent())
        total_ms = self._elapsed_ms()
        return ChatResult(
            text=text,
            finish_reason=self._finish,
            usage=self.spent(),
            model=model or self.request.model,
            first_token_ms=self._first_token_ms if self._first_token_ms is not None else total_ms,
            total_ms=total_ms,
            simulated=simulated,
            request_id=request_id,
        )

    def broken_off(self) -> RetrySameProvider:
        """The error for a stream that ended before the answer was whole."""
        message = f"{self.provider} closed the connection before the answer was complete"
        return RetrySameProvider("connection_lost", message, provider=self.provider, usage=self.spent())

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._began) * 1000


_OF_THE_STREAM: Final = (TimeoutError, httpx2.TransportError, Unreadable, Complained)
"""What an upstream can do to a call; anything else is a bug."""


def _no_limit(_seconds: float) -> None:
    return None


def spent_until(cancelled: asyncio.CancelledError) -> CallUsage | None:
    """CallUsage of a call at the time it was cancelled; None if it had not been made yet."""
    return next((argument for argument in cancelled.args if isinstance(argument, CallUsage)), None)


@asynccontextmanager
async def calling(call: Call) -> AsyncIterator[None]:
    """Everything that can go wrong while a model is asked, as our errors, each with what was consumed until then.

    Three limits, of the request: to the first token, between tokens, and for all. Once the answer has ended
    (`Call.has_ended`), a failure ends the block without an error: nothing that comes after can make the answer worse.
    Attaches the usage so far to a cancellation; see `spent_until`.
    """
    request, loop = call.request, asyncio.get_running_loop()
    end = loop.time() + request.timeout_seconds
    limit = asyncio.timeout_at(min(end, loop.time() + request.first_token_seconds))

    def extend(seconds: float) -> None:
        if not limit.expired():
            limit.reschedule(min(end, loop.time() + seconds))

    try:
        async with limit:
            call._extend = extend
            yield
    except asyncio.CancelledError as cancelled:
        # asyncio.timeout would not recognise a subclass as a cancellation.
        cancelled.args = (*cancelled.args, call.spent())
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, what was consumed must reach the ledger
        if not call.has_ended or not isinstance(error, _OF_THE_STREAM):
            raise _translated(error, call, timed_out=limit.expired(), at_the_end=loop.time() >= end) from None
    finally:
        call._extend = _no_limit


def _translated(error: Exception, call: Call, *, timed_out: bool, at_the_end: bool) -> ProviderError:
    provider, request, usage = call.provider, call.request, call.spent()
    match error:
        case ProviderError():
            return error
        case Complained(complaint=complaint):
            return error_of(complaint, provider=provider, usage=usage)
        case TimeoutError() if timed_out:
            if at_the_end:
                message = f"{provider} did not finish within {request.timeout_seconds:g} s"
            elif call.accepted and call.spent().output_tokens:
                message = f"{provider} was silent for {request.between_tokens_seconds:g} s while answering"
            else:
                message = f"{provider} did not begin to answer within {request.first_token_seconds:g} s"
            return RetrySameProvider("timeout", message, provider=provider, usage=usage)
        case Unreadable():
            message = f"{provider} sent what is not its format: {error}"
            return RetrySameProvider("provider_error", message, provider=provider, usage=usage)
        case httpx2.DecodingError() | httpx2.UnsupportedProtocol():
            message = f"{provider} cannot be used: {error}"
            return RetrySameProvider("provider_error", message, provider=provider, usage=usage)
        case httpx2.TransportError():
            if call.accepted:
                return call.broken_off()
            message = f"{provider} cannot be reached ({because(error)}); check its address and the network"
            return RetrySameProvider("unreachable", message, provider=provider)
        case _:
            # A bug, of ours or of a package. Its text may contain content: `described` leaves it out.
            _log.error("client of %s failed: %s", provider, described(error))
            message = f"the worker's client failed with {type(error).__name__}"
            return RetrySameProvider("worker_error", message, provider=provider, usage=usage)
