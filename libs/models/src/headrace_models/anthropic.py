"""Anthropic's Messages API, through the `anthropic` package."""

from __future__ import annotations

import re
import time
from typing import Any, Final

import httpx2
from anthropic import (
    AnthropicError,
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncAnthropic,
    omit,
)
from anthropic.types import MessageDeltaUsage
from anthropic.types import Usage as MessageUsage
from pydantic import SecretStr

from headrace_models.call import Call, limited
from headrace_models.errors import ProviderError, RetrySameProvider, from_status, retry_after
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, FinishReason, ModelInfo, OnText, ProviderStatus
from headrace_models.wire import SIMULATED_HEADER, SIMULATED_MESSAGE_PREFIX

_STATUS_TIMEOUT_SECONDS: Final = 5.0
_FINISH_REASONS: Final[dict[str, FinishReason]] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}
_STATUS_OF_TYPE: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Errors inside a stream come after a 200; the type determines the status it would have had."""

_TAKES_SAMPLING: Final = re.compile(r"claude-(?:3|(?:haiku|sonnet|opus)-4(?:-[0-6])?(?:-20\d{6})?$)")
"""Models that accept temperature or top_p; later ones reject requests with them."""
_NO_CREDIT: Final = "credit balance"
_JSON_REMINDER: Final = "Answer with exactly one JSON value and nothing else: no prose, no code fence."


class Anthropic:
    """The API with one key. Retries are left to the router."""

    provider: Final = "anthropic"
    node: Final = "anthropic"

    def __init__(self, api_key: SecretStr, *, base_url: str = "https://api.anthropic.com") -> None:
        # The package can put prompts into trace spans of its own; ours contain none.
        self._client = AsyncAnthropic(
            api_key=api_key.get_secret_value(), base_url=base_url, max_retries=0, open_telemetry=False
        )

    async def chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        call = Call(self.provider, request, on_text)
        try:
            async with limited(call):
                return await self._chat(call)
        except (APITimeoutError, httpx2.TimeoutException):
            raise RetrySameProvider(
                "timeout", "anthropic did not answer in time", provider=self.provider, usage=call.spent()
            ) from None
        except (APIConnectionError, httpx2.TransportError):
            raise call.unreachable() from None
        except APIError as error:
            raise _translated(error, call) from None

    async def _chat(self, call: Call) -> ChatResult:
        request = call.request
        system, messages = _split(request)
        sampled = _TAKES_SAMPLING.match(request.model) is not None
        stream = await self._client.messages.create(
            model=request.model,
            max_tokens=request.max_output_tokens,
            system=system or omit,
            messages=messages,
            stream=True,
            stop_sequences=list(request.stop) or omit,
            timeout=request.timeout_seconds,
            extra_body=_sampling(request) if sampled else None,
        )
        call.accepted = True
        finished: FinishReason | None = None
        model, message_id, whole = request.model, "", False
        async with stream:
            async for event in stream:
                match event.type:
                    case "message_start":
                        model, message_id = str(event.message.model), event.message.id
                        call.reported = _usage(event.message.usage, None)
                    case "content_block_delta" if event.delta.type == "text_delta":
                        await call.hear(event.delta.text)
                    case "message_delta":
                        finished = _FINISH_REASONS.get(event.delta.stop_reason or "", "stop")
                        call.reported = _usage(event.usage, call.reported)
                    case "message_stop":
                        whole = True
        if finished is None or not whole:
            raise call.unreachable()
        return call.result(
            finished,
            model=model,
            simulated=message_id.startswith(SIMULATED_MESSAGE_PREFIX),
            request_id=message_id,
        )

    async def status(self) -> ProviderStatus:
        began = time.perf_counter()
        try:
            answer = await self._client.models.with_raw_response.list(limit=100, timeout=_STATUS_TIMEOUT_SECONDS)
        except APIStatusError as error:
            return ProviderStatus(False, str(from_status(error.status_code, provider=self.provider)))
        except AnthropicError as error:
            return ProviderStatus(False, f"anthropic cannot be reached ({type(error).__name__})")
        latency_ms = (time.perf_counter() - began) * 1000
        models = tuple(ModelInfo(model.id, loaded=True) for model in (await answer.parse()).data)
        return ProviderStatus(True, "", models, latency_ms, "", SIMULATED_HEADER in answer.headers)

    async def close(self) -> None:
        await self._client.close()


def _split(request: ChatRequest) -> tuple[str, Any]:
    """Separates system texts from the conversation, which must have at least one message."""
    system = [message.text for message in request.messages if message.role == "system"]
    turns = [
        {"role": message.role, "content": message.text} for message in request.messages if message.role != "system"
    ]
    if not turns and system:
        turns = [{"role": "user", "content": system.pop()}]
    if request.json:
        system.append(_JSON_REMINDER)
    return "\n\n".join(system), turns


def _sampling(request: ChatRequest) -> dict[str, float] | None:
    # The API rejects requests that set both.
    if request.temperature is not None:
        return {"temperature": min(request.temperature, 1.0)}
    return {"top_p": request.top_p} if request.top_p is not None else None


def _usage(usage: MessageUsage | MessageDeltaUsage, before: CallUsage | None) -> CallUsage:
    cached = usage.cache_read_input_tokens or 0
    if usage.input_tokens is None and before is not None:
        return CallUsage(before.input_tokens, usage.output_tokens, before.cached_input_tokens)
    total = (usage.input_tokens or 0) + (usage.cache_creation_input_tokens or 0) + cached
    return CallUsage(total, usage.output_tokens, cached)


def _translated(error: APIError, call: Call) -> ProviderError:
    if not isinstance(error, APIStatusError):
        return RetrySameProvider(
            "provider_error", "anthropic failed while answering", provider=call.provider, usage=call.spent()
        )
    kind = str(error.type or "")
    status = _STATUS_OF_TYPE.get(kind, error.status_code)
    if status == 400 and _NO_CREDIT in (error.api_message or ""):
        kind = "billing_error"
    headers = {name.lower(): value for name, value in error.response.headers.items()}
    return from_status(
        status, provider=call.provider, kind=kind, after_seconds=retry_after(headers), usage=call.spent()
    )
