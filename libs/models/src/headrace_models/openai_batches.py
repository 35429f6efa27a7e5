"""OpenAI's Batch API, which Groq and others offer too: a file of calls in, one or two files of results out.

Sources: the API references of OpenAI and Groq, read in November 2026. A batch carries our name in its metadata, and so
does the name of its file: by these a batch is found again whose id was never heard.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

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
    result_lines,
)
from headrace_models.errors import ProviderError, RetrySameProvider, TryAnotherProvider
from headrace_models.ports import ChatRequest, ChatResult
from headrace_models.upstream.http import UpstreamClient, expect_ok, read_body
from headrace_models.upstream.values import Unreadable, count, document, items, mapping

_BOUNDARY: Final = "headrace-batch-7f3a91c2e5"
_METADATA: Final = "headrace_batch"
_ENDPOINT: Final = "/v1/chat/completions"
_PAGE: Final = 100
_SKEW_MS: Final = 60_000
"""Most that its clock and ours may differ."""
_RUNNING: Final = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_NOT_RUN: Final = frozenset({"batch_expired", "batch_cancelled"})
_NOT_OURS: Final = ("stream", "stream_options", "service_tier")
"""What a call in a batch cannot have: nobody hears a stream, and the tier is that of batches."""
_SURELY_NOT: Final = frozenset({429, 503, 529})
"""Answers of a server that has taken nothing in."""


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
        self._client = client
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
        try:
            async with asking(self.provider, SUBMIT_SECONDS):
                return batch_id_of((await self._said("POST", "batches", json=body, timeout=SUBMIT_SECONDS)).get("id"))
        except ProviderError as error:
            if surely_not_created(error):
                raise NotSubmitted("the provider takes no batch") from error
            raise

    async def find(self, name: str, count: int, since_ms: int, claimed: Collection[str]) -> FoundBatch:
        async for batch in self._listed("batches", since_ms - _SKEW_MS):
            if mapping(batch.get("metadata")).get(_METADATA) == name:
                return FoundBatch(_id_in(batch))
        return FoundBatch(None)

    async def look(self, batch_id: str) -> BatchLook:
        try:
            async with asking(self.provider):
                said = await self._said("GET", f"batches/{batch_id_of(batch_id)}")
                status = said.get("status")
                if status in _RUNNING:
                    return BatchLook(BatchState.RUNNING)
                if status not in _ENDED:
                    raise Unreadable("it names no state of a batch")
                files = (said.get("output_file_id"), said.get("error_file_id"))
                return BatchLook(BatchState.ENDED, tuple(batch_id_of(one) for one in files if one))
        except TryAnotherProvider as error:
            if error.status == 404:
                return BatchLook(BatchState.GONE)
            raise

    async def results(self, batch_id: str, look: BatchLook) -> list[ResultLine]:
        found: list[ResultLine] = []
        for file_id in look.files:
            async with (
                asking(self.provider, READ_SECONDS) as asked,
                self._client.stream("GET", f"files/{file_id}/content", timeout=SILENCE_SECONDS) as response,
            ):
                await expect_ok(response)
                asked.accepted = True
                found += [_result(said) async for said in result_lines(response.aiter_raw())]
        return found

    async def answer_of(self, line: ResultLine, request: ChatRequest) -> ChatResult:
        return await self._answer_in(request, line.said)

    async def cancel(self, batch_id: str) -> None:
        async with asking(self.provider):
            await self._said("POST", f"batches/{batch_id_of(batch_id)}/cancel")

    async def clean_up(self, name: str, look: BatchLook | None) -> None:
        files = list(look.files) if look is not None else []
        if (uploaded := await self._file_named(name)) is not None:
            files.append(uploaded)
        for file_id in files:
            try:
                async with asking(self.provider):
                    await self._said("DELETE", f"files/{file_id}")
            except TryAnotherProvider as error:
                if error.status != 404:
                    raise

    async def _upload(self, name: str, lines: Sequence[bytes]) -> str:
        head = (
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n"
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{_filename(name)}\"\r\n"
            "Content-Type: application/jsonl\r\n\r\n"
        )  # fmt: skip
        # No line can hold the boundary's line breaks: JSON escapes them.
        body = b"".join((head.encode(), *(line + b"\n" for line in lines), f"\r\n--{_BOUNDARY}--\r\n".encode()))
        headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        async with (
            asking(self.provider, SUBMIT_SECONDS),
            self._client.stream("POST", "files", content=body, headers=headers, timeout=SUBMIT_SECONDS) as response,
        ):
            await expect_ok(response)
            return batch_id_of(mapping(document(await read_body(response))).get("id"))

    async def _file_named(self, name: str) -> str | None:
        """The file of calls of this batch, if it was uploaded before."""
        async for file in self._listed("files?purpose=batch", 0):
            if file.get("filename") == _filename(name):
                return _id_in(file)
        return None

    async def _listed(self, path: str, since_ms: int) -> AsyncIterator[Mapping[str, Any]]:
        """The newest batches or files, those created since a time."""
        after, seen = "", 0
        while seen < MOST_LISTED:
            page = f"{path}{'&' if '?' in path else '?'}limit={_PAGE}{after}"
            async with asking(self.provider):
                said = await self._said("GET", page)
            entries = [mapping(one) for one in items(said.get("data"))[:_PAGE]]
            for entry in entries:
                if _seconds(entry.get("created_at")) * 1000 < since_ms:
                    return
                yield entry
            seen += max(1, len(entries))
            if not entries or said.get("has_more") is not True:
                return
            async with asking(self.provider):
                after = f"&after={batch_id_of(entries[-1].get('id'))}"

    async def _said(
        self, method: str, path: str, *, json: object = None, timeout: float = LOOK_SECONDS
    ) -> Mapping[str, Any]:
        async with self._client.stream(method, path, json=json, timeout=timeout) as response:
            await expect_ok(response)
            return mapping(document(await read_body(response)))


def surely_not_created(error: ProviderError) -> bool:
    """Whether nothing can have come of a request to create a batch that ended so."""
    if isinstance(error, RetrySameProvider):
        return not error.sent or error.status in _SURELY_NOT
    return True


def _seconds(value: object) -> float:
    """A time in seconds since the epoch; infinite if it is none, so that nothing is overlooked."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else math.inf


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
    named = said.get("custom_id")
    custom_id = named if isinstance(named, str) else ""
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
