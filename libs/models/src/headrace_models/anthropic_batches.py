"""Anthropic's Message Batches: all calls in one request, and a file of results at the batch itself.

Source: its API reference (platform.claude.com/docs), read in November 2026. A batch has no name of ours: only its
results do, in the ids of their calls. So one whose id was never heard shows itself when it has ended, not before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from anthropic import omit
from pydantic import SecretStr

from headrace_models.batch_calls import (
    LOOK_SECONDS,
    MOST_LISTED,
    READ_SECONDS,
    SILENCE_SECONDS,
    SUBMIT_SECONDS,
    BatchLook,
    BatchState,
    FoundBatch,
    NotSubmitted,
    ResultKind,
    ResultLine,
    asking,
    batch_id_of,
    json_line,
    number_of,
    result_lines,
)
from headrace_models.errors import ProviderError, TryAnotherProvider
from headrace_models.openai_batches import surely_not_created
from headrace_models.ports import ChatRequest, ChatResult
from headrace_models.upstream.http import expect_ok, open_client, read_body
from headrace_models.upstream.values import Unreadable, count, document, items, mapping

_PATH: Final = "v1/messages/batches"
_VERSION: Final = "2023-06-01"
_PAGE: Final = 100
_NOT_OURS: Final = ("stream", "timeout", "extra_body", "service_tier")
_SKEW_MS: Final = 60_000
"""Most that its clock and ours may differ."""


class AnthropicBatches:
    """The batches of one key.

    Args:
        body_of: The arguments of `AsyncAnthropic.messages.create`; raises TryAnotherProvider.
        answer_in: The answer in the document of a message.
    """

    provider: Final = "anthropic"

    def __init__(
        self,
        api_key: SecretStr,
        base_url: str,
        proxy: str | None,
        body_of: Callable[[ChatRequest], dict[str, Any]],
        answer_in: Callable[[ChatRequest, Mapping[str, Any]], Awaitable[ChatResult]],
    ) -> None:
        self._client = open_client(base_url, proxy=proxy)
        self._headers = {"X-Api-Key": api_key.get_secret_value().strip(), "Anthropic-Version": _VERSION}
        self._body_of = body_of
        self._answer_in = answer_in

    def line_of(self, custom_id: str, request: ChatRequest) -> bytes:
        body = self._body_of(request)
        params = {name: value for name, value in body.items() if value is not omit and name not in _NOT_OURS}
        params |= body.get("extra_body") or {}
        return json_line({"custom_id": custom_id, "params": params})

    async def submit(self, name: str, lines: Sequence[bytes]) -> str:
        body = b'{"requests":[' + b",".join(lines) + b"]}"
        try:
            async with asking(self.provider, SUBMIT_SECONDS):
                return batch_id_of((await self._said("POST", _PATH, content=body, timeout=SUBMIT_SECONDS)).get("id"))
        except ProviderError as error:
            if surely_not_created(error):
                raise NotSubmitted("the provider takes no batch") from error
            raise

    async def find(self, name: str, count: int, since_ms: int, claimed: Collection[str]) -> FoundBatch:
        unsure = False
        async for batch in self._listed(since_ms - _SKEW_MS):
            async with asking(self.provider):
                batch_id = batch_id_of(batch.get("id"))
            if batch_id in claimed or _calls_in(batch) != count:
                continue
            if batch.get("processing_status") != "ended":
                unsure = True
            elif await self._is_named(batch_id, name):
                return FoundBatch(batch_id)
        return FoundBatch(None, unsure)

    async def look(self, batch_id: str) -> BatchLook:
        try:
            async with asking(self.provider):
                status = (await self._said("GET", f"{_PATH}/{batch_id_of(batch_id)}")).get("processing_status")
                if status in ("in_progress", "canceling"):
                    return BatchLook(BatchState.RUNNING)
                if status != "ended":
                    raise Unreadable("it names no state of a batch")
                return BatchLook(BatchState.ENDED, (batch_id,))
        except TryAnotherProvider as error:
            if error.status == 404:
                return BatchLook(BatchState.GONE)
            raise

    async def results(self, batch_id: str, look: BatchLook) -> list[ResultLine]:
        # The address that it names for them is not used: it could be any.
        async with (
            asking(self.provider, READ_SECONDS) as asked,
            self._client.stream(
                "GET", f"{_PATH}/{batch_id}/results", timeout=SILENCE_SECONDS, headers=self._headers
            ) as response,
        ):
            await expect_ok(response)
            asked.accepted = True
            return [_result(said) async for said in result_lines(response.aiter_raw())]

    async def answer_of(self, line: ResultLine, request: ChatRequest) -> ChatResult:
        return await self._answer_in(request, line.said)

    async def cancel(self, batch_id: str) -> None:
        async with asking(self.provider):
            await self._said("POST", f"{_PATH}/{batch_id_of(batch_id)}/cancel")

    async def clean_up(self, name: str, look: BatchLook | None) -> None:
        if look is None or look.state is not BatchState.ENDED:
            return
        for batch_id in look.files:
            try:
                async with asking(self.provider):
                    await self._said("DELETE", f"{_PATH}/{batch_id}")
            except TryAnotherProvider as error:
                if error.status != 404:
                    raise

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def _is_named(self, batch_id: str, name: str) -> bool:
        """Whether its results are those of the batch with our name."""
        found = await self.results(batch_id, BatchLook(BatchState.ENDED, (batch_id,)))
        return any(number_of(line.custom_id, name) is not None for line in found)

    async def _listed(self, since_ms: int) -> AsyncIterator[Mapping[str, Any]]:
        after, seen = "", 0
        while seen < MOST_LISTED:
            async with asking(self.provider):
                said = await self._said("GET", f"{_PATH}?limit={_PAGE}{after}")
            entries = [mapping(one) for one in items(said.get("data"))[:_PAGE]]
            for entry in entries:
                created = _time(entry.get("created_at"))
                if created is not None and created < since_ms:
                    return
                yield entry
            seen += max(1, len(entries))
            if not entries or said.get("has_more") is not True:
                return
            async with asking(self.provider):
                after = f"&after_id={batch_id_of(entries[-1].get('id'))}"

    async def _said(
        self, method: str, path: str, *, content: bytes | None = None, timeout: float = LOOK_SECONDS
    ) -> Mapping[str, Any]:
        headers = self._headers if content is None else {**self._headers, "Content-Type": "application/json"}
        async with self._client.stream(method, path, content=content, timeout=timeout, headers=headers) as response:
            await expect_ok(response)
            return mapping(document(await read_body(response)))


def _calls_in(batch: Mapping[str, Any]) -> int:
    counts = mapping(batch.get("request_counts"))
    return sum(count(counts.get(name)) or 0 for name in ("processing", "succeeded", "errored", "canceled", "expired"))


def _time(value: object) -> int | None:
    try:
        return round(datetime.fromisoformat(value).timestamp() * 1000) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None


def _result(said: Mapping[str, Any] | None) -> ResultLine:
    if said is None:
        return ResultLine("", ResultKind.BROKEN)
    named = said.get("custom_id")
    custom_id = named if isinstance(named, str) else ""
    result = mapping(said.get("result"))
    match result.get("type"):
        case "succeeded" if message := mapping(result.get("message")):
            return ResultLine(custom_id, ResultKind.ANSWERED, message)
        case "errored":
            # The error stands in a document like that of a response.
            error = mapping(result.get("error"))
            return ResultLine(custom_id, ResultKind.FAILED, error if error.get("error") else {"error": error})
        case "canceled" | "expired":
            return ResultLine(custom_id, ResultKind.NOT_RUN)
        case _:
            return ResultLine(custom_id, ResultKind.BROKEN)
