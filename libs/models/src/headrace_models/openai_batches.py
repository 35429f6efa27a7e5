"""OpenAI's Batch API, which Groq and others offer too: a file of calls in, one or two files of results out.

Sources: the API references of OpenAI and Groq, read in November 2026. A batch carries our name in its metadata, and so
does the name of its file: by these a batch is found again whose id was never heard.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

from headrace_models.batch_api import SKEW_MS, BatchApi, custom_id_in
from headrace_models.batch_calls import (
    BatchLook,
    BatchState,
    FoundBatch,
    NotSubmitted,
    ResultKind,
    ResultLine,
    batch_id_of,
    json_line,
)
from headrace_models.errors import ProviderError
from headrace_models.ports import ChatRequest, ChatResult
from headrace_models.upstream.http import UpstreamClient
from headrace_models.upstream.values import Unreadable, count, mapping

_BOUNDARY: Final = "headrace-batch-7f3a91c2e5"
_METADATA: Final = "headrace_batch"
_ENDPOINT: Final = "/v1/chat/completions"
_RUNNING: Final = ("validating", "in_progress", "finalizing", "cancelling")
_ENDED: Final = ("completed", "failed", "expired", "cancelled")
_NOT_RUN: Final = frozenset({"batch_expired", "batch_cancelled"})
_NOT_OURS: Final = ("stream", "stream_options", "service_tier")
"""What a call in a batch cannot have: nobody hears a stream, and the tier is that of batches."""


class OpenAIBatches:
    """The batches of one provider.

    Args:
        body_of: The body of a chat completion; raises TryAnotherProvider.
        answer_in: The answer in the document of one.
    """

    def __init__(
        self,
        client: UpstreamClient,
        provider: str,
        body_of: Callable[[ChatRequest], dict[str, Any]],
        answer_in: Callable[[ChatRequest, Mapping[str, Any]], Awaitable[ChatResult]],
    ) -> None:
        self.provider = provider
        self._api = BatchApi(client, provider)
        self._body_of = body_of
        self._answer_in = answer_in

    def line_of(self, custom_id: str, request: ChatRequest) -> bytes:
        body = {name: value for name, value in self._body_of(request).items() if name not in _NOT_OURS}
        return json_line({"custom_id": custom_id, "method": "POST", "url": _ENDPOINT, "body": body})

    async def submit(self, name: str, lines: Sequence[bytes]) -> str:
        try:
            file_id = await self._file_named(name) or await self._upload(name, lines)
        except ProviderError as error:
            # Without its batch a file does nothing.
            raise NotSubmitted("no file of calls is there") from error
        body = {
            "input_file_id": file_id,
            "endpoint": _ENDPOINT,
            "completion_window": "24h",
            "metadata": {_METADATA: name},
        }
        return await self._api.submitted("batches", json=body)

    async def find(self, name: str, count: int, since_ms: int, claimed: Collection[str]) -> FoundBatch:
        async for batch in self._listed("batches", since_ms - SKEW_MS):
            if mapping(batch.get("metadata")).get(_METADATA) == name:
                return FoundBatch(_id_in(batch))
        return FoundBatch(None)

    async def look(self, batch_id: str) -> BatchLook:
        path = f"batches/{await self._api.checked(batch_id)}"
        seen = await self._api.seen(path, "status", running=_RUNNING, ended=_ENDED)
        if seen is None:
            return BatchLook(BatchState.GONE)
        said, has_ended = seen
        if not has_ended:
            return BatchLook(BatchState.RUNNING)
        files = [said.get(field) for field in ("output_file_id", "error_file_id")]
        return BatchLook(BatchState.ENDED, tuple([await self._api.checked(one) for one in files if one]))

    async def results(self, batch_id: str, look: BatchLook) -> list[ResultLine]:
        found: list[ResultLine] = []
        for file_id in look.files:
            found += await self._api.results(f"files/{file_id}/content", _result)
        return found

    async def answer_of(self, line: ResultLine, request: ChatRequest) -> ChatResult:
        return await self._answer_in(request, line.said)

    async def cancel(self, batch_id: str) -> None:
        await self._api.asked("POST", f"batches/{await self._api.checked(batch_id)}/cancel")

    async def clean_up(self, name: str, look: BatchLook | None) -> None:
        files = list(look.files) if look is not None else []
        if (uploaded := await self._file_named(name)) is not None:
            files.append(uploaded)
        for file_id in files:
            await self._api.deleted(f"files/{file_id}")

    async def _upload(self, name: str, lines: Sequence[bytes]) -> str:
        head = (
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n"
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{_filename(name)}\"\r\n"
            "Content-Type: application/jsonl\r\n\r\n"
        )  # fmt: skip
        # No line can hold the boundary's line breaks: JSON escapes them.
        body = b"".join((head.encode(), *(line + b"\n" for line in lines), f"\r\n--{_BOUNDARY}--\r\n".encode()))
        headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        return await self._api.created("files", content=body, headers=headers)

    async def _file_named(self, name: str) -> str | None:
        """The file of calls of this batch, if it was uploaded before."""
        async for file in self._listed("files?purpose=batch", 0):
            if file.get("filename") == _filename(name):
                return _id_in(file)
        return None

    def _listed(self, path: str, since_ms: float) -> AsyncIterator[Mapping[str, Any]]:
        return self._api.listed(path, since_ms, created_ms=_created_ms, cursor="after")


def _created_ms(entry: Mapping[str, Any]) -> float:
    """Milliseconds since the epoch; infinite if it says none, so that nothing is overlooked."""
    said = entry.get("created_at")
    return float(said) * 1000 if isinstance(said, int) and not isinstance(said, bool) and said > 0 else math.inf


def _filename(name: str) -> str:
    return f"headrace-{name}.jsonl"


def _id_in(entry: Mapping[str, Any]) -> str | None:
    try:
        return batch_id_of(entry.get("id"))
    except Unreadable:
        return None


def _result(said: Mapping[str, Any] | None) -> ResultLine:
    if said is None:
        return ResultLine("", ResultKind.BROKEN)
    custom_id = custom_id_in(said)
    response, error = mapping(said.get("response")), mapping(said.get("error"))
    if error.get("code") in _NOT_RUN:
        return ResultLine(custom_id, ResultKind.NOT_RUN)
    status = count(response.get("status_code"))
    body = mapping(response.get("body"))
    if status == 200 and body:
        return ResultLine(custom_id, ResultKind.ANSWERED, body, status)
    if error:
        return ResultLine(custom_id, ResultKind.FAILED, {"error": error}, status)
    if status is not None and status >= 400:
        return ResultLine(custom_id, ResultKind.FAILED, body, status)
    return ResultLine(custom_id, ResultKind.BROKEN)
