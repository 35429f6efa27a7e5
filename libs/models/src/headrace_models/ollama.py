"""An Ollama node, through the `ollama` package."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from typing import Any, Final, cast

import httpx
from ollama import AsyncClient, ChatResponse, ResponseError

from headrace_models.call import Call, limited
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider, from_status
from headrace_models.ports import CallUsage, ChatRequest, ChatResult, ModelInfo, OnText, ProviderStatus
from headrace_models.wire import SIMULATED_HEADER, SIMULATOR_NAME

_STATUS_TIMEOUT_SECONDS: Final = 3.0
_NO_ROOM: Final = ("more system memory", "out of memory", "insufficient memory")


class OllamaNode:
    """One node: its models, its health, its chats.

    `address` is a base URL such as `http://127.0.0.1:11434`; without `http://` and port, Ollama's own port is assumed.
    `keep_alive` is how long the node keeps a model in memory after a call, in Ollama's notation.
    """

    provider: Final = "ollama"

    def __init__(self, node: str, address: str, *, keep_alive: str = "30m") -> None:
        self.node = node
        self._name = f"ollama node {node}"
        self._keep_alive = keep_alive
        self._simulated = False
        hooks = {"response": [self._notice_simulator]}
        self._client = AsyncClient(host=address, event_hooks=hooks)
        self._plain = httpx.AsyncClient(base_url=_base_url(address), timeout=_STATUS_TIMEOUT_SECONDS)

    async def chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        call = Call(self._name, request, on_text)
        try:
            async with limited(call):
                return await self._chat(call)
        except ResponseError as error:
            raise self._translated(error, call) from None
        except (httpx.TransportError, ConnectionError, json.JSONDecodeError):
            raise call.unreachable() from None

    async def _chat(self, call: Call) -> ChatResult:
        request = call.request
        options = {
            "num_predict": request.max_output_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "stop": list(request.stop) or None,
        }
        stream = await self._client.chat(
            model=request.model,
            messages=[{"role": message.role, "content": message.text} for message in request.messages],
            stream=True,
            format="json" if request.json else None,
            options={name: value for name, value in options.items() if value is not None},
            keep_alive=self._keep_alive,
        )
        last: ChatResponse | None = None
        async with aclosing(cast(Any, stream)) as parts:
            part: ChatResponse
            # Read to the very end, even after the part that says done: a connection with unread data is closed
            # instead of reused for the next call.
            async for part in parts:
                call.accepted = True
                await call.hear(part.message.content or "")
                if part.done:
                    last = part
        if last is None:
            raise call.unreachable()
        call.reported = CallUsage(last.prompt_eval_count or 0, last.eval_count or 0)
        return call.result(
            "length" if last.done_reason == "length" else "stop",
            model=last.model or request.model,
            simulated=self._simulated,
            request_id="",
        )

    async def status(self) -> ProviderStatus:
        began = time.perf_counter()
        try:
            answer = await self._plain.get("/api/version")
            answer.raise_for_status()
            latency_ms = (time.perf_counter() - began) * 1000
            version = str(answer.json()["version"])
            tags = (await self._plain.get("/api/tags")).raise_for_status().json()
            running = (await self._plain.get("/api/ps")).raise_for_status().json()
        except httpx.HTTPStatusError as error:
            return ProviderStatus(False, f"{self._name} answered {error.response.status_code}")
        except httpx.TransportError as error:
            return ProviderStatus(False, f"{self._name} cannot be reached ({type(error).__name__})")
        except (ValueError, KeyError, TypeError):
            return ProviderStatus(False, f"{self._name} does not respond like Ollama; check its address")
        loaded = {entry.get("model") or entry.get("name"): entry for entry in running.get("models") or ()}
        models = tuple(_model_info(entry, loaded) for entry in tags.get("models") or ())
        self._simulated = SIMULATOR_NAME in version
        return ProviderStatus(True, "", models, latency_ms, version, self._simulated)

    async def close(self) -> None:
        await cast(Any, self._client).close()
        await self._plain.aclose()

    async def _notice_simulator(self, response: httpx.Response) -> None:
        self._simulated = SIMULATED_HEADER in response.headers

    def _translated(self, error: ResponseError, call: Call) -> ProviderError:
        if any(mark in error.error.lower() for mark in _NO_ROOM):
            message = f"{self._name} has not enough memory for this model"
            return TryAnotherProvider("model_does_not_fit", message, provider=self.provider, usage=call.spent())
        if error.status_code < 400:
            message = f"{self._name} failed while answering"
            return RetrySameProvider("provider_error", message, provider=self.provider, usage=call.spent())
        return from_status(error.status_code, provider=self._name, usage=call.spent())


def _base_url(address: str) -> str:
    return address if "://" in address else f"http://{address}" if ":" in address else f"http://{address}:11434"


def _model_info(entry: dict[str, Any], loaded: dict[str | None, dict[str, Any]]) -> ModelInfo:
    name = str(entry.get("model") or entry.get("name"))
    in_memory = loaded.get(name)
    context = in_memory.get("context_length") if in_memory is not None else None
    return ModelInfo(
        name=name,
        size_bytes=entry.get("size"),
        context_tokens=int(context) if context is not None else None,
        loaded=in_memory is not None,
    )
