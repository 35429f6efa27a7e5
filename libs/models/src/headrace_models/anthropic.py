"""Anthropic's Messages API: requests through the `anthropic` package, answers read as everything from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import httpx2
from anthropic import APIConnectionError, APIStatusError, AsyncAnthropic
from pydantic import SecretStr

from headrace_models import capabilities
from headrace_models.answer import CitedSource, FinishReason
from headrace_models.anthropic_batches import AnthropicBatches
from headrace_models.anthropic_requests import ABLE, body_of, takes_schema
from headrace_models.call import Call, calling
from headrace_models.conversation import AnswerSchema
from headrace_models.embedding import makes_none
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
from headrace_models.upstream.complaints import Complained, Complaint, complaint_in, complaint_of
from headrace_models.upstream.events import ServerSentEvent, server_sent_events
from headrace_models.upstream.http import expect_ok, open_httpx_client, read_body
from headrace_models.upstream.probing import STATUS_TIMEOUT_SECONDS, Seen, probe
from headrace_models.upstream.values import MOST_MODELS, Unreadable, count, document, items, mapping, name, text
from headrace_models.wire import SIMULATED_HEADER, SIMULATED_MESSAGE_PREFIX

_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}
_KEEP_ALIVES: Final = frozenset({"ping", "keepalive", "heartbeat"})


class Anthropic:
    """The API with one key. Retries are left to the router. `proxy` as for `open_client`."""

    provider: Final = "anthropic"
    node: Final = "anthropic"

    def __init__(
        self, api_key: SecretStr, *, base_url: str = "https://api.anthropic.com", proxy: str | None = None
    ) -> None:
        self._key, self._base_url, self._proxy = api_key, base_url, proxy
        self._batches: AnthropicBatches | None = None
        # The package can put prompts into trace spans of its own; ours contain none.
        self._client = AsyncAnthropic(
            api_key=api_key.get_secret_value().strip(),
            base_url=base_url,
            max_retries=0,
            open_telemetry=False,
            http_client=open_httpx_client(base_url, proxy=proxy),
        )

    async def chat(self, request: ChatRequest, on_text: OnText, on_piece: OnPiece = no_pieces) -> ChatResult:
        call = Call(self.provider, request, on_text, on_piece)
        answer = _MessageAnswer(call)
        async with calling(call):
            capabilities.expect(request, ABLE, self.provider)
            with _as_ours():
                opened = self._client.messages.with_streaming_response.create(**body_of(request))
                response = await opened.__aenter__()
            try:
                await expect_ok(response.http_response)
                call.accepted = True
                async for event in server_sent_events(response.http_response.aiter_raw()):
                    await answer.take(event)
            finally:
                await response.close()
        return answer.result()

    def batches(self) -> AnthropicBatches:
        """Its batch API, over connections of its own, which `close` closes too."""
        if self._batches is None:
            self._batches = AnthropicBatches(self._key, self._base_url, self._proxy, self._body_of, self._answer_in)
        return self._batches

    def _body_of(self, request: ChatRequest) -> dict[str, Any]:
        capabilities.expect(request, ABLE, self.provider)
        return body_of(request)

    async def _answer_in(self, request: ChatRequest, said: Mapping[str, Any]) -> ChatResult:
        call = Call(self.provider, request, _unheard)
        answer = _MessageAnswer(call)
        async with calling(call):
            call.accepted = True
            await answer.take_message(said)
        return answer.result()

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        raise makes_none(self.provider)

    def keeps_to(self, schema: AnswerSchema, model: str) -> bool:
        return takes_schema(schema, model)

    async def status(self) -> ProviderStatus:
        return await probe(self.provider, self._look, otherwise="does not list its models")

    async def _look(self) -> Seen:
        with _as_ours():
            opened = self._client.models.with_streaming_response.list(limit=100, timeout=STATUS_TIMEOUT_SECONDS)
            response = await opened.__aenter__()
        try:
            listed = document(await read_body(response.http_response))
        finally:
            await response.close()
        models = tuple(
            ModelInfo(model, loaded=True, capabilities=ABLE)
            for entry in items(mapping(listed).get("data"))[:MOST_MODELS]
            if (model := name(mapping(entry).get("id")))
        )
        return Seen(models, SIMULATED_HEADER in response.headers)

    async def close(self) -> None:
        await self._client.close()
        if self._batches is not None:
            await self._batches.close()


def _unheard(_text: str) -> None:
    """Nobody waits for the pieces of an answer that is there already."""


@contextmanager
def _as_ours() -> Iterator[None]:
    """The package's errors, as what they wrap."""
    try:
        yield
    except APIStatusError as error:
        headers = {key.lower(): value for key, value in error.response.headers.items()}
        # Read by the package already; the transport has bounded it.
        body = error.response.content.decode("utf-8", "replace")
        raise Complained(complaint_of(error.status_code, body, headers, datetime.now(UTC))) from None
    except APIConnectionError as error:
        if isinstance(error.__cause__, httpx2.HTTPError | Unreadable):
            raise error.__cause__ from None
        raise httpx2.TransportError("the connection failed") from error


class _MessageAnswer:
    """One answer, put together from the events of a stream, or from a body that is no stream."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._model = self._message_id = ""
        self._read: dict[str, int] = {}

    async def take(self, event: ServerSentEvent) -> None:
        """The next event. Raises Complained, and Unreadable."""
        if event.name in _KEEP_ALIVES:
            return
        said = mapping(document(event.data))
        kind = said.get("type") or event.name
        match kind:
            case "message_start":
                message = mapping(said.get("message"))
                self._hear_names(message)
                self._hear_usage(mapping(message.get("usage")), whole=False)
                await self._hear_blocks(message.get("content"))
            case "content_block_start":
                await self._hear_block(mapping(said.get("content_block")), said.get("index"))
            case "content_block_delta":
                await self._hear_block(mapping(said.get("delta")), said.get("index"))
            case "message_delta":
                self._hear_usage(mapping(said.get("usage")), whole=True)
                await self._hear_end(mapping(said.get("delta")))
            case "message_stop":
                self._call.all_said()
            case "message":
                # A whole message where a stream was asked for.
                await self.take_message(said)
            case "error":
                raise Complained(complaint_in(said) or Complaint(status=None))

    async def take_message(self, said: Mapping[str, Any]) -> None:
        """All of an answer that is no stream. Raises Complained."""
        self._hear_names(said)
        await self._hear_blocks(said.get("content"))
        self._hear_usage(mapping(said.get("usage")), whole=True)
        await self._hear_end(said)
        if said.get("error") and (complaint := complaint_in(said)):
            raise Complained(complaint)

    def _hear_names(self, message: Mapping[str, Any]) -> None:
        self._model = name(message.get("model")) or self._model
        self._message_id = name(message.get("id")) or self._message_id

    async def _hear_blocks(self, blocks: object) -> None:
        for place, block in enumerate(items(blocks)):
            await self._hear_block(mapping(block), place)

    async def _hear_block(self, block: Mapping[str, Any], place: object) -> None:
        """A block of content, or a part of one. `place` is its number in the answer."""
        key = count(place) or 0
        match block.get("type"):
            case "text" | "text_delta":
                await self._call.hear(text(block.get("text")), key=key)
                for cited in items(block.get("citations")):
                    self._hear_citation(mapping(cited))
            case "citations_delta":
                self._hear_citation(mapping(block.get("citation")))
            case "thinking" | "thinking_delta" | "signature_delta":
                await self._call.hear_reasoning(
                    text(block.get("thinking")), key=key, signature=text(block.get("signature"))
                )
            case "redacted_thinking":
                await self._call.hear_reasoning("", key=key, signature=text(block.get("data")), sealed=True)
            case "tool_use":
                # In a stream the arguments follow piece by piece, and this is an empty object.
                given = block.get("input")
                await self._call.hear_call(
                    key,
                    json.dumps(given, ensure_ascii=False) if given else "",
                    call_id=name(block.get("id")),
                    name=name(block.get("name")),
                )
            case "input_json_delta":
                await self._call.hear_call(key, text(block.get("partial_json")))
            case _:
                if any(block.get(field) for field in ("thinking", "signature", "data", "partial_json")):
                    self._call.progress()

    def _hear_citation(self, cited: Mapping[str, Any]) -> None:
        self._call.hear_citation(
            CitedSource(
                text(cited.get("url")),
                text(cited.get("title")) or text(cited.get("document_title")),
                text(cited.get("cited_text")),
            )
        )

    async def _hear_end(self, end: Mapping[str, Any]) -> None:
        reason = end.get("stop_reason")
        if not reason:
            return
        stop = text(end.get("stop_sequence")) if reason == "stop_sequence" else ""
        await self._call.finish(_FINISH_REASONS.get(reason) if isinstance(reason, str) else None, stop_sequence=stop)

    def _hear_usage(self, usage: Mapping[str, Any], *, whole: bool) -> None:
        # Anthropic counts the parts of a prompt apart, and repeats some of them later: merged here, added up below.
        written = mapping(usage.get("cache_creation"))
        for field, value in (
            ("plain", usage.get("input_tokens")),
            ("cached", usage.get("cache_read_input_tokens")),
            ("writes", usage.get("cache_creation_input_tokens")),
            ("writes_5m", written.get("ephemeral_5m_input_tokens")),
            ("writes_1h", written.get("ephemeral_1h_input_tokens")),
        ):
            self._read[field] = count(value) or self._read.get(field, 0)
        read = self._read
        long = read["writes_1h"]
        # Without details, a write is kept for the shorter time, which is the default.
        short = max(read["writes"] - long, read["writes_5m"])
        self._call.usage.hear(
            input_tokens=read["plain"] + read["cached"] + short + long,
            output_tokens=usage.get("output_tokens"),
            cached_input_tokens=read["cached"],
            cache_write_5m_tokens=short,
            cache_write_1h_tokens=long,
            reasoning_tokens=mapping(usage.get("output_tokens_details")).get("thinking_tokens"),
            final=whole,
        )

    def result(self) -> ChatResult:
        return self._call.result(
            model=self._model,
            simulated=self._message_id.startswith(SIMULATED_MESSAGE_PREFIX),
            request_id=self._message_id,
        )
