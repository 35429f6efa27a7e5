"""Any provider with an OpenAI-compatible API (Groq among them), through the `openai` package."""

from __future__ import annotations

import time
from typing import Any, Final

import httpx2
from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI, OpenAIError, omit
from openai.types.chat import ChatCompletionChunk
from openai.types.completion_usage import CompletionUsage
from pydantic import SecretStr

from headrace_models.call import Call, limited
from headrace_models.errors import ProviderError, RetrySameProvider, from_status, retry_after
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, FinishReason, ModelInfo, OnText, ProviderStatus
from headrace_models.wire import SIMULATED_HEADER, SIMULATOR_FINGERPRINT

_STATUS_TIMEOUT_SECONDS: Final = 5.0
_FINISH_REASONS: Final[dict[str, FinishReason]] = {"length": "length", "content_filter": "refusal"}
_JSON_REMINDER: Final = "Answer with exactly one JSON value."


class OpenAICompatible:
    """One provider by its base URL (`https://api.groq.com/openai/v1`). Retries are left to the router."""

    def __init__(self, provider: str, base_url: str, api_key: SecretStr) -> None:
        self.provider = provider
        self.node = provider
        self._client = AsyncOpenAI(base_url=base_url, api_key=api_key.get_secret_value(), max_retries=0)

    async def chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        call = Call(self.provider, request, on_text)
        try:
            async with limited(call):
                return await self._chat(call)
        except (APITimeoutError, httpx2.TimeoutException):
            raise RetrySameProvider(
                "timeout", f"{self.provider} did not answer in time", provider=self.provider, usage=call.spent()
            ) from None
        except (APIConnectionError, httpx2.TransportError):
            raise call.unreachable() from None
        except APIError as error:
            raise _translated(error, call) from None

    async def _chat(self, call: Call) -> ChatResult:
        request = call.request
        stream = await self._client.chat.completions.create(
            model=request.model,
            messages=_messages(request),
            stream=True,
            stream_options={"include_usage": True},
            max_completion_tokens=request.max_output_tokens,
            temperature=request.temperature if request.temperature is not None else omit,
            top_p=request.top_p if request.top_p is not None else omit,
            stop=list(request.stop) or omit,
            seed=request.seed if request.seed is not None else omit,
            response_format={"type": "json_object"} if request.json else omit,
            timeout=request.timeout_seconds,
        )
        call.accepted = True
        finished: FinishReason | None = None
        refused, model, fingerprint, request_id = False, request.model, "", ""
        async with stream:
            chunk: ChatCompletionChunk
            async for chunk in stream:
                model, request_id = chunk.model or model, chunk.id or request_id
                fingerprint = chunk.system_fingerprint or fingerprint
                if chunk.usage is not None:
                    call.reported = _usage(chunk.usage)
                for choice in chunk.choices:
                    await call.hear(choice.delta.content or "")
                    if choice.delta.refusal:
                        refused = True
                        await call.hear(choice.delta.refusal)
                    if choice.finish_reason is not None:
                        finished = _FINISH_REASONS.get(choice.finish_reason, "stop")
        if finished is None:
            raise call.unreachable()
        return call.result(
            "refusal" if refused else finished,
            model=model,
            simulated=fingerprint == SIMULATOR_FINGERPRINT,
            request_id=request_id,
        )

    async def status(self) -> ProviderStatus:
        began = time.perf_counter()
        try:
            answer = await self._client.models.with_raw_response.list(timeout=_STATUS_TIMEOUT_SECONDS)
        except APIStatusError as error:
            return ProviderStatus(False, str(from_status(error.status_code, provider=self.provider)))
        except OpenAIError as error:
            return ProviderStatus(False, f"{self.provider} cannot be reached ({type(error).__name__})")
        latency_ms = (time.perf_counter() - began) * 1000
        models = tuple(
            ModelInfo(model.id, context_tokens=getattr(model, "context_window", None), loaded=True)
            for model in answer.parse().data
        )
        return ProviderStatus(True, "", models, latency_ms, "", SIMULATED_HEADER in answer.headers)

    async def close(self) -> None:
        await self._client.close()


def _messages(request: ChatRequest) -> Any:
    messages = [{"role": message.role, "content": message.text} for message in request.messages]
    if request.json and not any("json" in message.text.lower() for message in request.messages):
        # These APIs reject JSON mode unless a message mentions JSON.
        messages.insert(0, {"role": "system", "content": _JSON_REMINDER})
    return messages


def _usage(usage: CompletionUsage) -> CallUsage:
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details is not None else None
    return CallUsage(usage.prompt_tokens, usage.completion_tokens, cached or 0)


def _translated(error: APIError, call: Call) -> ProviderError:
    kind = str(error.code or error.type or "")
    if not isinstance(error, APIStatusError):
        message = f"{call.provider} failed while answering" + (f" ({kind})" if kind else "")
        return RetrySameProvider("provider_error", message, provider=call.provider, usage=call.spent())
    headers = {name.lower(): value for name, value in error.response.headers.items()}
    return from_status(
        error.status_code,
        provider=call.provider,
        kind=kind,
        after_seconds=retry_after(headers),
        usage=call.spent(),
    )
