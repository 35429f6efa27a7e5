"""Anthropic's Message Batches: all calls in one request, and a file of results at the batch itself.

Source: its API reference (platform.claude.com/docs), read in November 2026. A batch has no name of ours: only its
results do, in the ids of their calls. So one whose id was never heard shows itself when it has ended, not before.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from anthropic import omit
from pydantic import SecretStr

from headrace_models.batch_api import SKEW_MS, BatchApi, custom_id_in
from headrace_models.batch_calls import (
    BatchLook,
    BatchState,
    FoundBatch,
    ResultKind,
    ResultLine,
    json_line,
    number_of,
)
from headrace_models.ports import ChatRequest, ChatResult
from headrace_models.upstream.http import open_client
from headrace_models.upstream.values import count, mapping

_PATH: Final = "v1/messages/batches"
_VERSION: Final = "2023-06-01"
_NOT_OURS: Final = ("stream", "timeout", "extra_body", "service_tier")
_RUNNING: Final = ("in_progress", "canceling")
_ENDED: Final = ("ended",)
_JSON: Final = {"Content-Type": "application/json"}


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
        headers = {"X-Api-Key": api_key.get_secret_value().strip(), "Anthropic-Version": _VERSION}
        self._api = BatchApi(self._client, self.provider, headers)
        self._body_of = body_of
        self._answer_in = answer_in

    def line_of(self, custom_id: str, request: ChatRequest) -> bytes:
        body = self._body_of(request)
        params = {name: value for name, value in body.items() if value is not omit and name not in _NOT_OURS}
        params |= body.get("extra_body") or {}
        return json_line({"custom_id": custom_id, "params": params})

    async def submit(self, name: str, lines: Sequence[bytes]) -> str:
        # Each line is a document already.
        return await self._api.submitted(_PATH, content=b'{"requests":[' + b",".join(lines) + b"]}", headers=_JSON)

    async def find(self, name: str, count: int, since_ms: int, claimed: Collection[str]) -> FoundBatch:
        unsure = False
        async for batch in self._api.listed(_PATH, since_ms - SKEW_MS, created_ms=_created_ms, cursor="after_id"):
            batch_id = await self._api.checked(batch.get("id"))
            if batch_id in claimed or _calls_in(batch) != count:
                continue
            if batch.get("processing_status") != "ended":
                unsure = True
            elif await self._is_named(batch_id, name):
                return FoundBatch(batch_id)
        return FoundBatch(None, unsure)

    async def look(self, batch_id: str) -> BatchLook:
        path = f"{_PATH}/{await self._api.checked(batch_id)}"
        seen = await self._api.seen(path, "processing_status", running=_RUNNING, ended=_ENDED)
        if seen is None:
            return BatchLook(BatchState.GONE)
        return BatchLook(BatchState.ENDED, (batch_id,)) if seen[1] else BatchLook(BatchState.RUNNING)

    async def results(self, batch_id: str, look: BatchLook) -> list[ResultLine]:
        # The address that it names for them is not used: it could be any.
        return await self._api.results(f"{_PATH}/{batch_id}/results", _result)

    async def answer_of(self, line: ResultLine, request: ChatRequest) -> ChatResult:
        return await self._answer_in(request, line.said)

    async def cancel(self, batch_id: str) -> None:
        await self._api.asked("POST", f"{_PATH}/{await self._api.checked(batch_id)}/cancel")

    async def clean_up(self, name: str, look: BatchLook | None) -> None:
        if look is not None and look.state is BatchState.ENDED:
            for batch_id in look.files:
                await self._api.deleted(f"{_PATH}/{batch_id}")

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def _is_named(self, batch_id: str, name: str) -> bool:
        """Whether its results are those of the batch with our name."""
        found = await self.results(batch_id, BatchLook(BatchState.ENDED, (batch_id,)))
        return any(number_of(line.custom_id, name) is not None for line in found)


def _calls_in(batch: Mapping[str, Any]) -> int:
    counts = mapping(batch.get("request_counts"))
    return sum(count(counts.get(name)) or 0 for name in ("processing", "succeeded", "errored", "canceled", "expired"))


def _created_ms(batch: Mapping[str, Any]) -> float:
    """Milliseconds since the epoch; infinite if it says none, so that nothing is overlooked."""
    said = batch.get("created_at")
    try:
        return datetime.fromisoformat(said).timestamp() * 1000 if isinstance(said, str) else math.inf
    except (ValueError, OverflowError):
        return math.inf


def _result(said: Mapping[str, Any] | None) -> ResultLine:
    if said is None:
        return ResultLine("", ResultKind.BROKEN)
    custom_id = custom_id_in(said)
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
