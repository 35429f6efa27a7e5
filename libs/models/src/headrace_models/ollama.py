"""An Ollama node: requests by the types of the `ollama` package, answers read as everything from outside."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import httpx2
from ollama import Message, Options

from headrace_models.call import Call, calling
from headrace_models.errors import TryAnotherProvider
from headrace_models.ollama_listing import runs_elsewhere
from headrace_models.ports import ChatRequest, ChatResult, FinishReason, ModelInfo, OnText, ProviderStatus
from headrace_models.upstream.complaints import Complained, Complaint, complaint_in
from headrace_models.upstream.events import lines
from headrace_models.upstream.http import because, expect_ok, open_client, read_body
from headrace_models.upstream.values import MOST_MODELS, Unreadable, count, document, items, mapping, name, text
from headrace_models.wire import SIMULATED_HEADER, SIMULATOR_NAME

_log = logging.getLogger(__name__)

_STATUS_TIMEOUT_SECONDS: Final = 3.0
_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {"stop": "stop", "length": "length"}


class OllamaNode:
    """One node: its models, its health, its chats.

    Models that the node only passes on to another host are not offered, and an answer that was made elsewhere is
    refused: whoever asks a node means that the content stays there.

    `address` is a base URL such as `http://127.0.0.1:11434`; without `http://` and port, Ollama's own port is assumed.
    `keep_alive` is how long the node keeps a model in memory after a call, in Ollama's notation.
    """

    provider: Final = "ollama"

    def __init__(self, node: str, address: str, *, keep_alive: str = "30m") -> None:
        self.node = node
        self._name = f"ollama node {node}"
        self._keep_alive = keep_alive
        self._simulated = False
        self._elsewhere: frozenset[str] = frozenset()
        """Names of models that are known to run at another host."""
        self._client = open_client(_base_url(address))

    async def chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        call = Call(self._name, request, on_text)
        model = request.model
        async with calling(call):
            if model in self._elsewhere or runs_elsewhere({"model": model}):
                message = f"{self._name} does not run this model itself"
                raise TryAnotherProvider("model_missing", message, provider=self.provider)
            async with self._client.stream("POST", "api/chat", json=self._body(request)) as response:
                await expect_ok(response)
                call.accepted = True
                self._simulated = SIMULATED_HEADER in response.headers
                # Read to the very end, even after the part that says done: a connection with unread data is closed
                # instead of reused for the next call.
                async for line in lines(response.aiter_raw()):
                    if line.strip():
                        model = await self._take(call, mapping(document(line)), model)
        return call.result(model=model, simulated=self._simulated, request_id="")

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        options = Options(
            num_predict=request.max_output_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop=list(request.stop) or None,
        )
        messages = [Message(role=message.role, content=message.text) for message in request.messages]
        return {
            "model": request.model,
            "messages": [message.model_dump(exclude_none=True) for message in messages],
            "stream": True,
            "options": options.model_dump(exclude_none=True),
            "keep_alive": self._keep_alive,
            **({"format": "json"} if request.json else {}),
        }

    async def _take(self, call: Call, part: Mapping[str, Any], model: str) -> str:
        if runs_elsewhere(part):
            self._elsewhere |= {call.request.model}
            _log.error("%s had an answer of %s made at another host", self._name, call.request.model)
            breach = f"{self._name} had this answer made at another host; set OLLAMA_NO_CLOUD=1 there"
            raise TryAnotherProvider("answered_remotely", breach, provider=self.provider, usage=call.spent())
        if part.get("error") and (complaint := complaint_in(part)):
            raise Complained(complaint)
        message = mapping(part.get("message"))
        await call.hear(text(message.get("content")))
        if message.get("thinking"):
            call.progress()
        done = part.get("done") is True
        call.usage.hear(input_tokens=part.get("prompt_eval_count"), output_tokens=part.get("eval_count"), final=done)
        if done:
            # Servers before 0.1.45 name no reason.
            await call.finish(_FINISH_REASONS.get(str(part.get("done_reason") or "stop")))
            call.all_said()
        return name(part.get("model")) or model

    async def status(self) -> ProviderStatus:
        began = time.perf_counter()
        try:
            version = name(mapping(await self._document("api/version"))["version"])
            latency_ms = (time.perf_counter() - began) * 1000
            listed = _entries(await self._document("api/tags"))
            running = _entries(await self._document("api/ps"))
        except Complained as refused:
            return ProviderStatus(False, f"{self._name} answered {refused.complaint.status}")
        except httpx2.HTTPError as error:
            return ProviderStatus(False, f"{self._name} cannot be reached ({because(error)})")
        except (Unreadable, KeyError):
            return ProviderStatus(False, f"{self._name} does not respond like Ollama; check its address")
        remote = frozenset(
            model for one in (*listed, *running) if runs_elsewhere(one) and (model := _model_name(one)) is not None
        )
        if remote - self._elsewhere:
            _log.warning(
                "%s lists models that run at another host, which are not offered: %s",
                self._name, ", ".join(sorted(remote)),
            )  # fmt: skip
        # What has once answered remotely stays out, whatever the list says: the list is no proof.
        self._elsewhere |= remote
        loaded = {_model_name(one): one for one in running}
        models = tuple(
            _model_info(model, one, loaded.get(model))
            for one in listed
            if (model := _model_name(one)) is not None and model not in self._elsewhere
        )
        self._simulated = SIMULATOR_NAME in version
        return ProviderStatus(True, "", models, latency_ms, version, self._simulated)

    async def _document(self, path: str) -> object:
        async with self._client.stream("GET", path, timeout=_STATUS_TIMEOUT_SECONDS) as response:
            if response.status_code != 200:
                raise Complained(Complaint(status=response.status_code))
            return document(await read_body(response))

    async def close(self) -> None:
        await self._client.aclose()


def _base_url(address: str) -> str:
    return address if "://" in address else f"http://{address}" if ":" in address else f"http://{address}:11434"


def _entries(listed: object) -> list[Mapping[str, Any]]:
    return [mapping(entry) for entry in items(mapping(listed).get("models"))[:MOST_MODELS]]


def _model_name(entry: Mapping[str, Any]) -> str | None:
    return name(entry.get("model")) or name(entry.get("name")) or None


def _model_info(model: str, entry: Mapping[str, Any], in_memory: Mapping[str, Any] | None) -> ModelInfo:
    size = entry.get("size")
    return ModelInfo(
        name=model,
        size_bytes=size if isinstance(size, int) and 0 <= size < 2**63 else None,
        context_tokens=count(in_memory.get("context_length")) if in_memory is not None else None,
        loaded=in_memory is not None,
    )
