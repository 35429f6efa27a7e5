"""`/v1/files` in the form the openai client libraries expect: files of requests for batches, and of their results."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from aiohttp import web
from headrace_contracts.content import ContentSealed
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.database import DatabaseAway
from headrace_runtime.logging import get_logger
from headrace_runtime.problems import Problem

from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.file_store import FileGone, FileInUse, FileStore, chunks_of
from headrace_intake.adapters.uploads import Uploads
from headrace_intake.decide.batches.records import StoredFile, file_document, page_document
from headrace_intake.decide.batches.requests import is_id, page_of_files

_log = get_logger("headrace.intake.files")


class FilesApi:
    """Handlers of the files API."""

    def __init__(self, store: FileStore, uploads: Uploads, clock: Callable[[], int]) -> None:
        self._store = store
        self._uploads = uploads
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self.upload),
            web.get("/v1/files", self.list),
            web.get("/v1/files/{id}", self.show),
            web.delete("/v1/files/{id}", self.delete),
            web.get("/v1/files/{id}/content", self.content),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        stored = await self._uploads.take(request, caller.tenant)
        return web.json_response(file_document(stored), dumps=dumps)

    async def list(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        files, more = await self._store.page(caller.tenant, page_of_files(request.query), self._clock())
        return web.json_response(page_document([file_document(file) for file in files], more=more), dumps=dumps)

    async def show(self, request: web.Request) -> web.Response:
        return web.json_response(file_document(await self._found(request)), dumps=dumps)

    async def delete(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        file_id = request.match_info["id"]
        try:
            deleted = is_id(file_id) and await self._store.delete(caller.tenant, file_id)
        except FileInUse:
            why = "A batch that has not ended reads this file: cancel the batch first."
            raise Problem(409, "file-in-use", why, headers={"x-should-retry": "false"}) from None
        if not deleted:
            raise no_such_file()
        return web.json_response({"id": file_id, "object": "file", "deleted": True}, dumps=dumps)

    async def content(self, request: web.Request) -> web.StreamResponse:
        file = await self._found(request)
        # The first chunk before the head of the answer: what fails at once fails with a status.
        try:
            first = await self._store.chunk(file.file_id, 0) if file.bytes else b""
        except FileGone:
            raise no_such_file() from None
        except ContentSealed as sealed:
            raise Problem(502, "content-sealed", f"The content cannot be shown here: {sealed}") from sealed
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            }
        )
        response.content_length = file.bytes
        await response.prepare(request)
        await response.write(first)
        try:
            for number in range(1, chunks_of(file.bytes)):
                await response.write(await self._store.chunk(file.file_id, number))
        except (DatabaseAway, FileGone, ContentSealed) as error:
            # The head has been sent with the length: only the end of the connection says that this is not all.
            _log.warning("the content of a file was cut off", file_id=file.file_id, reason=str(error))
            raise ConnectionResetError("the content was cut off") from error
        await response.write_eof()
        return response

    async def _found(self, request: web.Request) -> StoredFile:
        caller = require(request, Scope.TASKS)
        file_id = request.match_info["id"]
        found = await self._store.get(caller.tenant, file_id, self._clock()) if is_id(file_id) else None
        if found is None:
            raise no_such_file()
        return found


def no_such_file(param: str = "id") -> Problem:
    """404 for a file that there is not, is another tenant's, or has expired."""
    return Problem(404, "file-not-found", "There is no file with this id; it may have expired.", param=param)
