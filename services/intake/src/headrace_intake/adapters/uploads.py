"""Takes files of callers as they come in: a chunk at a time goes to Postgres, none of them is held whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.hdrs import CONTENT_ENCODING, CONTENT_TRANSFER_ENCODING
from aiohttp.http_exceptions import HttpProcessingError
from headrace_contracts.ids import new_id
from headrace_runtime.bodies import too_large
from headrace_runtime.database import DatabaseAway
from headrace_runtime.logging import get_logger
from headrace_runtime.open_requests import OPEN_REQUEST
from headrace_runtime.problems import Problem

from headrace_intake.adapters.file_store import FileStore
from headrace_intake.decide.batches.records import CHUNK_BYTES, INPUT, StoredFile
from headrace_intake.decide.batches.requests import filename_of, upload_fields
from headrace_intake.decide.refusals import bad_request

_CHUNK_SECONDS: Final = 60.0
"""Longest time for a chunk to arrive: a slow line sends 256 KiB in it."""
_UPLOAD_SECONDS: Final = 3_600.0
"""Longest time for all of it; the sweep of uploads that were broken off waits longer."""
_PIECE_BYTES: Final = 65_536
_LONGEST_FIELD: Final = 1_024
_MOST_PARTS: Final = 8
_FORM_BYTES: Final = 16_384
"""What an upload may have beside its file."""

_log = get_logger("headrace.intake.uploads")


class Uploads:
    """Takes multipart forms.

    Args:
        limit_bytes: Largest file.
        kept_ms: How long a file is kept at most.
    """

    def __init__(self, store: FileStore, clock: Callable[[], int], *, limit_bytes: int, kept_ms: int) -> None:
        self._store = store
        self._clock = clock
        self._limit = limit_bytes
        self._kept_ms = kept_ms

    async def take(self, request: web.Request, tenant: str) -> StoredFile:
        """Store the file of the form.

        Raises Problem: 415 for another content type or coding, 413 above the limit, 408 when it comes too slowly, 400
        for a form that is none; Refusal for a field that is not possible, and when the tenant has no room.
        Raises DatabaseAway.
        """
        if request.content_type != "multipart/form-data":
            raise Problem(415, "unsupported-media-type", "Send the file as multipart/form-data.")
        if request.headers.get(CONTENT_ENCODING, "identity").strip().lower() != "identity":
            why = "A file cannot be sent in a content coding: send it plain."
            raise Problem(415, "unsupported-content-encoding", why, headers={"Accept-Encoding": "identity"})
        announced = request.content_length
        if announced is not None and announced > self._limit + _FORM_BYTES:
            raise too_large(self._limit)
        counted = request.get(OPEN_REQUEST)
        if counted is not None:
            counted.reserve(2 * CHUNK_BYTES)
        now = self._clock()
        file = StoredFile(
            file_id="file-" + new_id().replace("-", ""),
            tenant=tenant,
            purpose=INPUT,
            filename="",
            bytes=self._limit if announced is None else min(announced, self._limit),
            created_at=now,
            expires_at=now + self._kept_ms,
        )
        await self._store.begin(file)
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                return await self._read(request, file)
        except TimeoutError:
            await self._discard(file.file_id)
            raise Problem(408, "body-timeout", f"The file did not arrive within {_UPLOAD_SECONDS:g} s.") from None
        except BaseException:
            await self._discard(file.file_id)
            raise

    async def _read(self, request: web.Request, file: StoredFile) -> StoredFile:
        fields: dict[str, str] = {}
        found: StoredFile | None = None
        with _form():
            form = await request.multipart()
        for _ in range(_MOST_PARTS):
            part = await _next(form)
            if part is None:
                break
            name = part.name or ""
            if name == "file" and found is None:
                size = await self._store_part(part, file.file_id)
                found = replace(file, bytes=size, filename=filename_of(part.filename))
            elif name in fields or name == "file":
                raise bad_request("A field of the form was sent twice.", "file" if name == "file" else "(form)")
            else:
                fields[name] = await _text(part)
        else:
            raise bad_request("The form has too many parts.", "(form)")
        wanted = upload_fields(fields)
        if found is None:
            raise bad_request("There is no part named `file` in the form.", "file")
        if found.bytes == 0:
            raise bad_request("The file is empty.", "file", "empty-file")
        if wanted.keep_seconds is not None:
            kept_ms = min(self._kept_ms, wanted.keep_seconds * 1000)
            found = replace(found, expires_at=found.created_at + kept_ms)
        await self._store.complete(found)
        return found

    async def _store_part(self, part: BodyPartReader, file_id: str) -> int:
        if part.headers.get(CONTENT_TRANSFER_ENCODING, "binary").lower() not in ("binary", "8bit", "7bit"):
            raise bad_request("The file cannot be sent in a transfer encoding: send it as it is.", "file")
        size = number = 0
        held = bytearray()
        async for piece in _pieces(part):
            size += len(piece)
            if size > self._limit:
                raise too_large(self._limit)
            held += piece
            if len(held) >= CHUNK_BYTES:
                await self._store.append(file_id, number, bytes(held[:CHUNK_BYTES]))
                del held[:CHUNK_BYTES]
                number += 1
        if held:
            await self._store.append(file_id, number, bytes(held))
        return size

    async def _discard(self, file_id: str) -> None:
        try:
            await self._store.discard(file_id)
        except DatabaseAway as error:
            # Nobody sees it, and the next sweep removes it.
            _log.warning("an upload that failed could not be removed yet", file_id=file_id, reason=str(error))


@contextmanager
def _form() -> Iterator[None]:
    """Problems in place of aiohttp's many errors for a form that is not as it has to be."""
    try:
        yield
    except TimeoutError:
        raise Problem(408, "body-timeout", f"Nothing more arrived within {_CHUNK_SECONDS:g} s.") from None
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError):
        raise Problem(400, "malformed-multipart", "The body is not multipart/form-data, or is cut off.") from None


async def _next(form: MultipartReader) -> BodyPartReader | None:
    with _form():
        async with asyncio.timeout(_CHUNK_SECONDS):
            part = await form.next()
    if part is not None and not isinstance(part, BodyPartReader):
        raise bad_request("A part of the form is a form itself.", "(form)")
    return part


async def _pieces(part: BodyPartReader) -> AsyncIterator[bytes]:
    while True:
        with _form():
            async with asyncio.timeout(_CHUNK_SECONDS):
                piece = await part.read_chunk(_PIECE_BYTES)
        if not piece:
            if not part.at_eof():
                raise Problem(400, "malformed-multipart", "The body is cut off.")
            return
        yield bytes(piece)


async def _text(part: BodyPartReader) -> str:
    held = bytearray()
    async for piece in _pieces(part):
        held += piece
        if len(held) > _LONGEST_FIELD:
            raise bad_request("A field of the form is too long.", "(form)")
    try:
        return held.decode()
    except UnicodeDecodeError:
        raise bad_request("A field of the form is not UTF-8 text.", "(form)") from None
