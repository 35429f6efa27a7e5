"""Any provider with an OpenAI-compatible API (Groq among them).

Its streams are read here, not by a vendor's package: what servers of this family send differs from what OpenAI sends in
more ways than a package for OpenAI's own API allows for (docs/adr/0012-read-streams-ourselves.md).
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from headrace_contracts.model_settings import NO_DEFAULTS, NodeDefaults
from pydantic import SecretStr

from headrace_models import capabilities
from headrace_models.answer import CitedSource, FinishReason
from headrace_models.call import Call, calling
from headrace_models.conversation import AnswerSchema
from headrace_models.dialects import Dialect, body_of, capabilities_of, dialect_for, embed_body_of
from headrace_models.embedding import MOST_VECTORS_BYTES, EmbedCall, in_order, makes_none
from headrace_models.errors import TryAnotherProvider
from headrace_models.ollama_listing import runs_elsewhere
from headrace_models.openai_batches import OpenAIBatches
from headrace_models.ports import (
    ChatRequest,
    ChatResult,
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    OnPiece,
    OnText,
    ProviderStatus,
    no_pieces,
)
from headrace_models.upstream.complaints import Complained, complaint_in
from headrace_models.upstream.events import server_sent_events
from headrace_models.upstream.http import expect_ok, open_client, read_body
from headrace_models.upstream.probing import STATUS_TIMEOUT_SECONDS, Seen, probe
from headrace_models.upstream.usage import UsageTally
from headrace_models.upstream.values import MOST_MODELS, Unreadable, count, document, items, mapping, name, text
from headrace_models.wire import SIMULATED_HEADER, SIMULATOR_FINGERPRINT

_DONE: Final = "[DONE]"
_EVENTS: Final = frozenset({"message", "error", "chunk", "completion", "chat.completion.chunk"})
"""Names of events that may carry a part of an answer; OpenAI names none. Others are keep-alives of gateways."""
_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "refusal",
    "safety": "refusal",
}
"""Of the family: `eos` Together, `model_length` Mistral, the others OpenAI's, and Anthropic's through gateways."""


class OpenAICompatible:
    """One provider by its base URL (`https://api.groq.com/openai/v1`). Retries are left to the router.

    Args:
        api_key: Empty for a server that asks for none.
        dialect: What it understands; None to go by its name and address.
        proxy, certificates: As for `open_client`.
        node: Name of the machine, if the server is one of our own: content sent there must stay there, so models that
            an Ollama server passes on to its maker's cloud are not offered over this API either.
        defaults: What this machine says of its models; top_k and think, the others are no matter of a call there.
    """

    def __init__(
        self,
        provider: str,
        base_url: str,
        api_key: SecretStr,
        *,
        dialect: Dialect | None = None,
        proxy: str | None = None,
        node: str | None = None,
        certificates: ssl.SSLContext | None = None,
        defaults: NodeDefaults = NO_DEFAULTS,
    ) -> None:
        self.provider = provider
        self.node = node or provider
        self._is_ours = node is not None
        self._defaults = defaults
        self._client = open_client(base_url, key=api_key, proxy=proxy, certificates=certificates)
        self._dialect = dialect or dialect_for(provider, self._client.host)
        self._able = capabilities_of(self._dialect)

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        call = Call(self.provider, request, on_text, on_piece)
        answer = _ChatAnswer(call)
        async with calling(call):
            capabilities.expect(request, self._able, self.provider)
            usual = replace(
                request,
                top_k=self._defaults.top_k if request.top_k is None else request.top_k,
                think=self._defaults.think if request.think is None else request.think,
            )
            body = body_of(usual, self._dialect, self.provider)
            async with self._client.stream("POST", "chat/completions", json=body) as response:
                await expect_ok(response)
                call.accepted = True
                async for event in server_sent_events(response.aiter_raw()):
                    if event.data.strip() == _DONE:
                        call.all_said()
                    elif event.name in _EVENTS:
                        await answer.take(document(event.data), failed=event.name == "error")
        return answer.result()

    def batches(self) -> OpenAIBatches:
        """Its batch API; whether it has one is not known. It shares this client's connections."""
        return OpenAIBatches(self._client, self.provider, self._body_of, self._answer_in)

    def _body_of(self, request: ChatRequest) -> dict[str, Any]:
        capabilities.expect(request, self._able, self.provider)
        return body_of(request, self._dialect, self.provider)

    async def _answer_in(self, request: ChatRequest, said: Mapping[str, Any]) -> ChatResult:
        call = Call(self.provider, request, _unheard)
        answer = _ChatAnswer(call)
        async with calling(call):
            call.accepted = True
            await answer.take(said)
        return answer.result()

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        call = EmbedCall(self.provider, request)
        async with calling(call):
            if capabilities.EMBEDDINGS not in self._able:
                raise makes_none(self.provider)
            if request.dimensions is not None and "dimensions" not in self._dialect.takes:
                message = f"{self.provider} cannot be asked for the length of vectors"
                raise TryAnotherProvider("request_rejected", message, provider=self.provider)
            async with self._client.stream(
                "POST", "embeddings", json=embed_body_of(request, self._dialect)
            ) as response:
                await expect_ok(response)
                call.accepted = True
                simulated = SIMULATED_HEADER in response.headers
                said = mapping(document(await read_body(response, MOST_VECTORS_BYTES)))
            if said.get("error") and (complaint := complaint_in(said)):
                raise Complained(complaint)
            used = _usage_in(said)
            call.usage.hear(input_tokens=count(used.get("prompt_tokens")) or used.get("total_tokens"))
        vectors = in_order([mapping(one) for one in items(said.get("data"))])
        return call.result(vectors, model=name(said.get("model")), simulated=simulated)

    def keeps_to(self, schema: AnswerSchema, model: str) -> bool:
        return schema.strict and "json_schema" in self._dialect.takes

    async def status(self) -> ProviderStatus:
        status = await probe(self.provider, self._look, otherwise="does not list its models")
        # Calls at a machine of ours that cannot be reached are given up soon: another one takes them at no cost.
        return status if self._is_ours else replace(status, unreachable=False)

    async def _look(self) -> Seen:
        async with self._client.stream("GET", "models", timeout=STATUS_TIMEOUT_SECONDS) as response:
            await expect_ok(response)
            listed = document(await read_body(response))
            models = _models(listed, self._able)
            if self._is_ours:
                if _entries(listed) and not models:
                    raise Unreadable("no name in its list can be used: give the model one there, as with --alias")
                models = tuple(one for one in models if not runs_elsewhere({"model": one.name}))
            return Seen(models, SIMULATED_HEADER in response.headers)

    async def close(self) -> None:
        await self._client.aclose()


def _unheard(_text: str) -> None:
    """Nobody waits for the pieces of an answer that is there already."""


class _ChatAnswer:
    """One answer, put together from the documents of a stream, or from the one of a body that is no stream."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._refused: set[int] = set()
        self._model = self._request_id = self._fingerprint = ""

    async def take(self, said: object, *, failed: bool = False) -> None:
        """The next document. Raises Complained."""
        chunk = mapping(said)
        if (chunk.get("error") or failed or chunk.get("object") == "error") and (complaint := complaint_in(chunk)):
            _hear_usage(self._call.usage, _usage_in(chunk), whole=False)
            raise Complained(complaint)
        self._model = name(chunk.get("model")) or self._model
        self._request_id = name(chunk.get("id")) or self._request_id
        self._fingerprint = name(chunk.get("system_fingerprint")) or self._fingerprint
        ends: list[tuple[int, object]] = []
        for choice in map(mapping, items(chunk.get("choices"))):
            index = count(choice.get("index")) or 0
            await self._take_choice(choice, index)
            if choice.get("finish_reason"):
                ends.append((index, choice["finish_reason"]))
        _hear_usage(self._call.usage, _usage_in(chunk), whole=bool(ends) or self._call.has_ended)
        for index, ended in ends:
            reason = _FINISH_REASONS.get(ended.lower()) if isinstance(ended, str) else None
            await self._call.finish(
                "refusal" if reason is not None and index in self._refused else reason, choice=index
            )

    async def _take_choice(self, choice: Mapping[str, Any], index: int) -> None:
        delta = mapping(choice.get("delta")) or mapping(choice.get("message"))
        thought = text(delta.get("reasoning_content")) or text(delta.get("reasoning"))
        await self._call.hear_reasoning(thought, choice=index)
        await self._call.hear(text(delta.get("content")) or text(choice.get("text")), choice=index)
        if refusal := text(delta.get("refusal")):
            self._refused.add(index)
            await self._call.hear_refusal(refusal, choice=index)
        for place, called in enumerate(map(mapping, items(delta.get("tool_calls")))):
            function = mapping(called.get("function"))
            # Servers that send whole calls may leave the index out.
            key = count(called.get("index"))
            await self._call.hear_call(
                place if key is None else key,
                _arguments(function.get("arguments")),
                call_id=name(called.get("id")),
                name=name(function.get("name")),
                choice=index,
            )
        self._call.hear_logprobs(items(mapping(choice.get("logprobs")).get("content")), choice=index)
        for cited in map(mapping, items(delta.get("annotations"))):
            if (source := mapping(cited.get("url_citation"))) and isinstance(source.get("url"), str):
                self._call.hear_citation(
                    CitedSource(
                        source["url"],
                        text(source.get("title")),
                        start=count(source.get("start_index")),
                        end=count(source.get("end_index")),
                    ),
                    choice=index,
                )
        if any(delta.get(field) for field in ("reasoning", "reasoning_content", "content", "tool_calls")):
            self._call.progress()

    def result(self) -> ChatResult:
        return self._call.result(
            model=self._model, simulated=self._fingerprint == SIMULATOR_FINGERPRINT, request_id=self._request_id
        )


def _arguments(value: object) -> str:
    """Arguments of a tool call: text, or, from some servers, the object itself."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else text(value)


def _usage_in(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    # Groq also reports it in a field of its own.
    return mapping(chunk.get("usage")) or mapping(mapping(chunk.get("x_groq")).get("usage"))


def _hear_usage(tally: UsageTally, usage: Mapping[str, Any], *, whole: bool) -> None:
    read = count(usage.get("prompt_tokens")) or count(usage.get("input_tokens"))
    written = count(usage.get("completion_tokens")) or count(usage.get("output_tokens"))
    total = count(usage.get("total_tokens"))
    if read and total:
        # Some count hidden reasoning in the total only; it is written, and billed as such.
        written = max(written or 0, total - read) or None
    tally.hear(
        input_tokens=read,
        output_tokens=written,
        cached_input_tokens=count(mapping(usage.get("prompt_tokens_details")).get("cached_tokens"))
        or usage.get("prompt_cache_hit_tokens"),
        reasoning_tokens=mapping(usage.get("completion_tokens_details")).get("reasoning_tokens"),
        image_tokens=mapping(usage.get("prompt_tokens_details")).get("image_tokens"),
        audio_tokens=mapping(usage.get("prompt_tokens_details")).get("audio_tokens"),
        final=whole,
    )


def _entries(listed: object) -> list[Any]:
    return items(mapping(listed).get("data")) or items(listed)


def _models(listed: object, able: frozenset[str]) -> tuple[ModelInfo, ...]:
    return tuple(
        ModelInfo(
            model,
            context_tokens=count(entry.get("context_window"))
            or count(entry.get("context_length"))
            or count(entry.get("max_model_len"))
            or count(entry.get("max_context_length"))
            or None,
            loaded=True,
            capabilities=able,
        )
        for entry in map(mapping, _entries(listed)[:MOST_MODELS])
        if (model := name(entry.get("id")))
    )
