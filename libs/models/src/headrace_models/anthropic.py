"""Anthropic's Messages API: requests through the `anthropic` package, answers read as everything from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import httpx2
from anthropic import APIConnectionError, APIStatusError, AsyncAnthropic, omit
from pydantic import SecretStr

from headrace_models.call import Call, calling
from headrace_models.ports import ChatRequest, ChatResult, FinishReason, ModelInfo, OnText, ProviderStatus
from headrace_models.upstream.complaints import Complained, Complaint, complaint_in, complaint_of
from headrace_models.upstream.events import ServerSentEvent, server_sent_events
from headrace_models.upstream.http import CONNECT_SECONDS, expect_ok, open_client, read_body
from headrace_models.upstream.probing import STATUS_TIMEOUT_SECONDS, Seen, probe
from headrace_models.upstream.values import MOST_MODELS, Unreadable, count, document, items, mapping, name, text
from headrace_models.wire import SIMULATED_HEADER, SIMULATED_MESSAGE_PREFIX

_FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}
_KEEP_ALIVES: Final = frozenset({"ping", "keepalive", "heartbeat"})
_TAKES_SAMPLING: Final = re.compile(r"claude-(?:3|(?:haiku|sonnet|opus)-4(?:-[0-6])?(?:-20\d{6})?$)")
"""Models that accept temperature or top_p; later ones reject requests with them."""
_JSON_REMINDER: Final = "Answer with exactly one JSON value and nothing else: no prose, no code fence."
_NOTHING_SAID: Final = "(no text)"
"""Stands for a conversation without any text, which intake lets through and the API does not."""


class Anthropic:
    """The API with one key. Retries are left to the router. `proxy` as for `open_client`."""

    provider: Final = "anthropic"
    node: Final = "anthropic"

    def __init__(
        self, api_key: SecretStr, *, base_url: str = "https://api.anthropic.com", proxy: str | None = None
    ) -> None:
        # The package can put prompts into trace spans of its own; ours contain none.
        self._client = AsyncAnthropic(
            api_key=api_key.get_secret_value().strip(),
            base_url=base_url,
            max_retries=0,
            open_telemetry=False,
            http_client=open_client(base_url, proxy=proxy),
        )

    async def chat(self, request: ChatRequest, on_text: OnText) -> ChatResult:
        call = Call(self.provider, request, on_text)
        answer = _MessageAnswer(call)
        async with calling(call):
            with _as_ours():
                opened = self._client.messages.with_streaming_response.create(**_body(request))
                response = await opened.__aenter__()
            try:
                await expect_ok(response.http_response)
                call.accepted = True
                async for event in server_sent_events(response.http_response.aiter_raw()):
                    await answer.take(event)
            finally:
                await response.close()
        return answer.result()

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
            ModelInfo(model, loaded=True)
            for entry in items(mapping(listed).get("data"))[:MOST_MODELS]
            if (model := name(mapping(entry).get("id")))
        )
        return Seen(models, SIMULATED_HEADER in response.headers)

    async def close(self) -> None:
        await self._client.close()


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
                await self._hear_block(mapping(said.get("content_block")))
            case "content_block_delta":
                await self._hear_block(mapping(said.get("delta")))
            case "message_delta":
                self._hear_usage(mapping(said.get("usage")), whole=True)
                await self._hear_end(mapping(said.get("delta")).get("stop_reason"))
            case "message_stop":
                self._call.all_said()
            case "message":
                # A whole message where a stream was asked for.
                self._hear_names(said)
                await self._hear_blocks(said.get("content"))
                self._hear_usage(mapping(said.get("usage")), whole=True)
                await self._hear_end(said.get("stop_reason"))
                if said.get("error") and (complaint := complaint_in(said)):
                    raise Complained(complaint)
            case "error":
                raise Complained(complaint_in(said) or Complaint(status=None))

    def _hear_names(self, message: Mapping[str, Any]) -> None:
        self._model = name(message.get("model")) or self._model
        self._message_id = name(message.get("id")) or self._message_id

    async def _hear_blocks(self, blocks: object) -> None:
        for block in items(blocks):
            await self._hear_block(mapping(block))

    async def _hear_block(self, block: Mapping[str, Any]) -> None:
        """A block of content, or a part of one."""
        if block.get("type") in ("text", "text_delta"):
            await self._call.hear(text(block.get("text")))
        elif any(block.get(field) for field in ("thinking", "signature", "data", "partial_json")):
            self._call.progress()

    async def _hear_end(self, reason: object) -> None:
        if not reason:
            return
        await self._call.finish(_FINISH_REASONS.get(reason) if isinstance(reason, str) else None)

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
            final=whole,
        )

    def result(self) -> ChatResult:
        return self._call.result(
            model=self._model,
            simulated=self._message_id.startswith(SIMULATED_MESSAGE_PREFIX),
            request_id=self._message_id,
        )


def _body(request: ChatRequest) -> dict[str, Any]:
    system, messages = _conversation(request)
    # A stop text of white space alone is rejected.
    stops = [stop for stop in request.stop if stop.strip()]
    sampled = _TAKES_SAMPLING.match(request.model) is not None
    return {
        "model": request.model,
        "max_tokens": request.max_output_tokens,
        "system": system or omit,
        "messages": messages,
        "stream": True,
        "stop_sequences": stops or omit,
        "timeout": httpx2.Timeout(None, connect=CONNECT_SECONDS),
        "extra_body": _sampling(request) if sampled else None,
    }


def _conversation(request: ChatRequest) -> tuple[str, list[dict[str, str]]]:
    """The system text and the turns, as the API takes them.

    It rejects empty messages and texts of white space, white space at the end of a last message of the assistant, and a
    conversation that does not begin with the user.
    """
    system = [message.text for message in request.messages if message.role == "system" and message.text.strip()]
    turns = [
        {"role": message.role, "content": message.text}
        for message in request.messages
        if message.role != "system" and message.text.strip()
    ]
    if turns and turns[-1]["role"] == "assistant":
        turns[-1]["content"] = turns[-1]["content"].rstrip()
    if not turns:
        turns = [{"role": "user", "content": system.pop() if system else _NOTHING_SAID}]
    elif turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": _NOTHING_SAID})
    if request.json:
        system.append(_JSON_REMINDER)
    return "\n\n".join(system), turns


def _sampling(request: ChatRequest) -> dict[str, float] | None:
    # The API rejects requests that set both.
    if request.temperature is not None:
        return {"temperature": min(request.temperature, 1.0)}
    return {"top_p": request.top_p} if request.top_p is not None else None
