"""One running call: the answer received so far, its times, what it has consumed, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, Protocol

import httpx2
from headrace_streams.dead_letters import described

from headrace_models.answer import (
    DECLINED,
    ChoiceInProgress,
    CitedSource,
    FinishReason,
    SpokenPiece,
    Unfit,
    WholeAnswer,
)
from headrace_models.conversation import MediaPart, ReasoningPart, ToolCallPart
from headrace_models.errors import ProviderError, RetryCode, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, OnPiece, OnText, hand_out, no_pieces
from headrace_models.prices import estimated_tokens
from headrace_models.upstream.complaints import Complained, error_of
from headrace_models.upstream.http import because
from headrace_models.upstream.usage import UsageTally
from headrace_models.upstream.values import Unreadable

_log = logging.getLogger(__name__)

AFTER_FINISH_SECONDS: Final = 2.0
"""How long to wait, once the answer is whole, for its usage and for the end of the stream."""
_LAST_BYTES_SECONDS: Final = 0.1
_MOST_CALLS: Final = 128
"""Tools that a model calls at once: as many as OpenAI's API takes definitions of."""
LONGEST_ANSWER_CHARACTERS: Final = 16 * 1024 * 1024
"""Above any model's longest output, and any record that Kafka would take; it only bounds what is held in memory."""


class TimeLimits(Protocol):
    """How long a call may take, in seconds; see `ChatRequest`."""

    @property
    def timeout_seconds(self) -> float: ...

    @property
    def first_token_seconds(self) -> float: ...

    @property
    def between_tokens_seconds(self) -> float: ...


class RunningCall(Protocol):
    """What `calling` must know of a call."""

    provider: str
    accepted: bool
    _extend: Callable[[float], None]

    @property
    def request(self) -> TimeLimits: ...

    @property
    def has_ended(self) -> bool: ...

    def spent(self) -> CallUsage: ...


class Call:
    """Collects the pieces of one answer, measures its times, and bounds the provider's silence."""

    def __init__(
        self,
        provider: str,
        request: ChatRequest,
        on_text: OnText,
        on_piece: OnPiece = no_pieces,
        *,
        maker: str = "",
    ) -> None:
        """`maker` is the provider as attempts name it, whose reasoning this is; `provider` if it is empty."""
        self.provider = provider
        self.request = request
        self.accepted = False
        """Whether the provider has begun to answer, and so may bill."""
        self.usage = UsageTally()
        """What the provider has said about tokens."""
        self._maker = maker or provider
        self._on_text = on_text
        self._on_piece = on_piece
        self._choices: dict[int, ChoiceInProgress] = {}
        self._written: list[str] = []
        self._unspoken: list[str] = []
        self._characters = 0
        self._began = time.perf_counter()
        self._first_token_ms: float | None = None
        self._ended_unknown = False
        self._extend: Callable[[float], None] = no_limit

    def _choice(self, index: int) -> ChoiceInProgress:
        """The answer with this number. More than were asked for are not part of the answer: they end up nowhere."""
        choice = self._choices.get(index)
        if choice is None:
            choice = ChoiceInProgress(index)
            if 0 <= index < self.request.choices:
                self._choices[index] = choice
        return choice

    async def hear(self, piece: str, *, choice: int = 0, key: object = 0) -> None:
        """Record the next piece of the text and pass it on. `key` tells several texts of one answer apart."""
        if piece:
            self.progress()
            await self._pass_on(self._choice(choice).add("text", key, piece))

    def hear_unspoken(self, piece: str) -> None:
        """The next piece of a text that is not passed on, since something else will be made of it."""
        if piece:
            self.progress()
            self._count(piece)
            self._unspoken.append(piece)

    @property
    def unspoken(self) -> str:
        """That text."""
        return "".join(self._unspoken)

    async def hear_refusal(self, piece: str, *, choice: int = 0) -> None:
        """The next piece of the words with which the model declines."""
        if piece:
            self.progress()
            await self._pass_on(self._choice(choice).add("refusal", 0, piece))

    async def hear_reasoning(
        self, piece: str, *, choice: int = 0, key: object = 0, signature: str = "", sealed: bool = False
    ) -> None:
        """The next piece of what the model thinks, or of its signature; of all of it, if it is `sealed`."""
        if piece or signature:
            self.progress()
        if piece:
            await self._pass_on(self._choice(choice).add("reasoning", key, piece))
        if signature:
            self._count(signature)
            await self._pass_on(self._choice(choice).sign(key, signature, sealed=sealed))

    async def hear_call(
        self, key: object, arguments: str = "", *, call_id: str = "", name: str = "", choice: int = 0
    ) -> None:
        """The next piece of a tool call's arguments; `key` tells the calls of one answer apart.

        Of a model that calls several tools where one at a time was asked for, only the first call is heard: it may
        make the others once it has the result.
        """
        self.progress()
        answer = self._choice(choice)
        if self.request.parallel_tool_calls is False and answer.calls and not answer.has_call(key):
            return
        if answer.calls >= _MOST_CALLS and not answer.has_call(key):
            raise Unreadable(f"it calls more than {_MOST_CALLS} tools at once")
        await self._pass_on(answer.add("tool_call", key, arguments, call_id=call_id, name=name))

    def hear_logprobs(self, tokens: list[object], *, choice: int = 0) -> None:
        """Log probabilities of the next tokens, as in OpenAI's `logprobs.content`."""
        if self.request.top_logprobs is not None:
            self._count("".join(map(str, tokens)))
            self._choice(choice).add_logprobs(tokens)

    def hear_citation(self, citation: CitedSource, *, choice: int = 0) -> None:
        """A source that the answer names."""
        self._count(citation.url + citation.title + citation.text)
        self._choice(choice).citations.append(citation)

    def progress(self) -> None:
        """The model has written something, be it hidden thinking. Keep-alives are silence, and do not count."""
        if not self.has_ended:
            self._extend(self.request.between_tokens_seconds)

    async def finish(self, reason: FinishReason | None, *, choice: int = 0, stop_sequence: str = "") -> None:
        """The provider has named a reason why an answer ends: it is whole, whatever else goes wrong.

        None stands for a reason that we do not know, so that the answer may not be whole. In either case the usage may
        follow, so this is not the end of the call.
        """
        if reason is None:
            self._ended_unknown = True
            self._extend(AFTER_FINISH_SECONDS)
            return
        answer = self._choice(choice)
        for piece in answer.end():
            await self._pass_on(piece)
        ended_before = self.has_ended
        answer.finish = reason
        answer.stop_sequence = stop_sequence
        if self.has_ended and not ended_before:
            self._extend(AFTER_FINISH_SECONDS)

    def all_said(self) -> None:
        """Nothing of interest follows; what is left is only read so that the connection can be used again."""
        self._extend(_LAST_BYTES_SECONDS)

    @property
    def has_ended(self) -> bool:
        """Whether the provider has said that its answers end here."""
        finished = sum(choice.finish is not None for choice in self._choices.values())
        return finished == self.request.choices or self._ended_unknown

    async def _pass_on(self, piece: SpokenPiece | None) -> None:
        if piece is None or piece.choice >= self.request.choices:
            return
        self._count(piece.text)
        if piece.kind == "reasoning":
            piece = replace(piece, provider=self._maker)
        if self._first_token_ms is None and piece.kind != "reasoning":
            self._first_token_ms = self._elapsed_ms()
        self._written.append(piece.text)
        await hand_out(self._on_text, self._on_piece, piece)

    def _count(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > LONGEST_ANSWER_CHARACTERS:
            message = f"{self.provider} sent more than {LONGEST_ANSWER_CHARACTERS} characters"
            raise TryAnotherProvider("answer_too_large", message, provider=self.provider, usage=self.spent())

    def spent(self) -> CallUsage:
        """What the call has consumed until now: as reported, else estimated, once the provider has begun to answer."""
        if not self.accepted:
            return CallUsage()
        return self.usage.of(
            prompt_estimate=estimated_prompt(self.request),
            text_estimate=estimated_tokens("".join(self._written)),
        )

    def result(self, *, model: str, simulated: bool, request_id: str) -> ChatResult:
        """The whole answer. Raises RetrySameProvider if it is not whole, empty, or calls tools as nobody can."""
        if self._ended_unknown:
            message = f"{self.provider} ended the answer for an unknown reason, or for an error of its own"
            raise RetrySameProvider("unknown_finish", message, provider=self.provider, usage=self.spent())
        if not self.has_ended:
            raise broken_off(self)
        choices = tuple(self._whole(self._choices[index]) for index in sorted(self._choices))
        first = choices[0]
        total_ms = self._elapsed_ms()
        return ChatResult(
            text=first.text,
            finish_reason=first.finish_reason,
            usage=self.spent(),
            model=model or self.request.model,
            first_token_ms=self._first_token_ms if self._first_token_ms is not None else total_ms,
            total_ms=total_ms,
            simulated=simulated,
            request_id=request_id,
            choices=() if len(choices) == 1 and first.is_plain else choices,
        )

    def _whole(self, answer: ChoiceInProgress) -> WholeAnswer:
        request = self.request
        tools = {tool.name: tool for tool in request.callable_tools}
        try:
            choice = answer.whole(self._maker, tools)
        except Unfit as unfit:
            raise self._unusable("invalid_tool_call", str(unfit)) from None
        declined = choice.finish_reason in DECLINED
        cut_off = choice.finish_reason == "length" and (answer.calls or request.reasoning_tokens or request.must_call)
        if not declined and not cut_off and not choice.calls and not choice.text.strip():
            thought = any(isinstance(part, ReasoningPart) for part in choice.parts)
            limit = " up to its limit of tokens" if choice.finish_reason == "length" else ""
            raise self._unusable(
                "empty_answer", f"thought{limit}, and gave no answer" if thought else "gave an empty answer"
            )
        if request.must_call and not declined and not cut_off and not choice.calls:
            raise self._unusable("tool_call_missing", "called no tool, where it had to")
        return choice

    def _unusable(self, code: RetryCode, why: str) -> RetrySameProvider:
        return RetrySameProvider(code, f"{self.provider} {why}", provider=self.provider, usage=self.spent())

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._began) * 1000


_MEDIA_TOKENS: Final = {"image": 1_600, "audio": 3_000, "file": 20_000}
"""Assumed for a part that is no text, while its provider has not said: an image of 1,092 x 1,092 pixels at Anthropic,
five minutes of sound at OpenAI, a document of ten pages."""


def estimated_prompt(request: ChatRequest) -> int:
    """Tokens that the prompt may have."""
    tokens = 0
    for message in request.messages:
        tokens += estimated_tokens(message.text)
        for part in message.parts:
            match part:
                case MediaPart(kind=kind):
                    tokens += _MEDIA_TOKENS[kind]
                case ToolCallPart(arguments=text) | ReasoningPart(text=text):
                    tokens += estimated_tokens(text)
                case _:
                    pass
    return tokens + sum(estimated_tokens(f"{tool.name}{tool.description}{tool.parameters}") for tool in request.tools)


_OF_THE_STREAM: Final = (TimeoutError, httpx2.TransportError, Unreadable, Complained)
"""What an upstream can do to a call; anything else is a bug."""


def no_limit(_seconds: float) -> None:
    """A call that is not under way has no time limit."""
    return


def broken_off(call: RunningCall) -> RetrySameProvider:
    """The error for a response that ended before the answer was whole."""
    message = f"{call.provider} closed the connection before the answer was complete"
    return RetrySameProvider("connection_lost", message, provider=call.provider, usage=call.spent())


def spent_until(cancelled: asyncio.CancelledError) -> CallUsage | None:
    """CallUsage of a call at the time it was cancelled; None if it had not been made yet."""
    return next((argument for argument in cancelled.args if isinstance(argument, CallUsage)), None)


@asynccontextmanager
async def calling(call: RunningCall) -> AsyncIterator[None]:
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
        call._extend = no_limit


def _translated(error: Exception, call: RunningCall, *, timed_out: bool, at_the_end: bool) -> ProviderError:
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
                return broken_off(call)
            message = f"{provider} cannot be reached ({because(error)}); check its address and the network"
            sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
            return RetrySameProvider("unreachable", message, provider=provider, sent=sent)
        case _:
            # A bug, of ours or of a package. Its text may contain content: `described` leaves it out.
            _log.error("client of %s failed: %s", provider, described(error))
            message = f"the worker's client failed with {type(error).__name__}"
            return RetrySameProvider("worker_error", message, provider=provider, usage=usage)
