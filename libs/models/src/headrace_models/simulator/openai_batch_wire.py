"""OpenAI's Batch API as Groq offers it: `/groq/openai/v1/files` and `/groq/openai/v1/batches`."""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

from headrace_models.simulator.batch_jobs import BatchFault, BatchJob, BatchJobs, spoiled
from headrace_models.simulator.exchange import SimulatorState, json_object, messages_of
from headrace_models.simulator.openai_wire import OpenAIWire

_ROOT: Final = "/groq/openai/v1"
_PROVIDER: Final = "groq"


class OpenAIBatchWire:
    """The routes."""

    def __init__(self, world: SimulatorState, chats: OpenAIWire, jobs: BatchJobs) -> None:
        self._world = world
        self._chats = chats
        self._jobs = jobs
        self._files: dict[str, tuple[str, bytes]] = {}
        self._made: set[str] = set()
        self._number = 0

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post(f"{_ROOT}/files", self._upload)
        app.router.add_get(f"{_ROOT}/files", self._list_files)
        app.router.add_get(f"{_ROOT}/files/{{file}}/content", self._content)
        app.router.add_delete(f"{_ROOT}/files/{{file}}", self._delete)
        app.router.add_post(f"{_ROOT}/batches", self._create)
        app.router.add_get(f"{_ROOT}/batches", self._list)
        app.router.add_get(f"{_ROOT}/batches/{{batch}}", self._look)
        app.router.add_post(f"{_ROOT}/batches/{{batch}}/cancel", self._cancel)

    @property
    def files(self) -> tuple[str, ...]:
        """Ids of the files that are there."""
        return tuple(self._files)

    def _keep(self, filename: str, content: bytes) -> str:
        self._number += 1
        file_id = f"file-sim{self._number:06d}"
        self._files[file_id] = (filename, content)
        return file_id

    async def _upload(self, request: web.Request) -> web.Response:
        if not _has_key(request):
            return _error(401, "Invalid API key", "invalid_api_key")
        form = await request.post()
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, web.FileField) or purpose != "batch":
            return _error(400, "a file and the purpose 'batch' are required")
        file_id = self._keep(file.filename, file.file.read())
        return web.json_response({"id": file_id, "object": "file", "filename": file.filename, "purpose": "batch"})

    async def _list_files(self, request: web.Request) -> web.Response:
        if not _has_key(request):
            return _error(401, "Invalid API key", "invalid_api_key")
        data = [
            {"id": file_id, "object": "file", "filename": filename, "purpose": "batch"}
            for file_id, (filename, _) in reversed(self._files.items())
        ]
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        found = self._files.get(request.match_info["file"])
        if found is None or not _has_key(request):
            return _error(404, "No such File object")
        filename, content = found
        job = self._jobs.get(_PROVIDER, filename.partition(".")[0])
        if job is not None and job.fault is BatchFault.RESULTS_CUT:
            job.fault = None
            response = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await response.prepare(request)
            await response.write(content[: len(content) // 2])
            if request.transport is not None:
                request.transport.close()
            return response
        return web.Response(body=content, content_type="application/octet-stream")

    async def _delete(self, request: web.Request) -> web.Response:
        file_id = request.match_info["file"]
        if self._files.pop(file_id, None) is None:
            return _error(404, "No such File object")
        self._jobs.deleted.append(file_id)
        return web.json_response({"id": file_id, "object": "file", "deleted": True})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        if not _has_key(request):
            return _error(401, "Invalid API key", "invalid_api_key")
        document = await json_object(request)
        found = self._files.get(str(document.get("input_file_id")))
        if found is None:
            return _error(400, "the input file does not exist")
        fault = self._jobs.take(_PROVIDER)
        if fault is BatchFault.REFUSED:
            return _error(403, "batches are not available on this plan", "not_available")
        if fault is BatchFault.BUSY:
            return _error(429, "too many enqueued tokens", "rate_limit_exceeded")
        calls: list[tuple[str, dict[str, Any]]] = []
        for line in found[1].splitlines():
            call = json.loads(line)
            body = call["body"]
            calls.append((call["custom_id"], body))
            self._world.evidence.record(_PROVIDER, _PROVIDER, str(body.get("model")), messages_of(body.get("messages")))
        job = self._jobs.create(
            _PROVIDER, calls, fault,
            prefix="batch_sim", metadata=document.get("metadata") or {}, input_file=str(document["input_file_id"]),
        )  # fmt: skip
        if fault is BatchFault.UNHEARD:
            job.fault = None
            if request.transport is not None:
                request.transport.close()
        return await self._document(job)

    async def _list(self, request: web.Request) -> web.Response:
        if not _has_key(request):
            return _error(401, "Invalid API key", "invalid_api_key")
        data = [self._described(job) for job in self._jobs.newest(_PROVIDER)]
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def _look(self, request: web.Request) -> web.Response:
        job = self._jobs.get(_PROVIDER, request.match_info["batch"])
        return _error(404, "No such batch") if job is None else await self._document(job)

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._jobs.get(_PROVIDER, request.match_info["batch"])
        if job is None:
            return _error(404, "No such batch")
        if job.end is not None:
            return _error(409, "the batch has ended")
        await self._jobs.cancel(job, self._chats.answered)
        return await self._document(job)

    async def _document(self, job: BatchJob) -> web.Response:
        await self._jobs.advance(job, self._chats.answered)
        return web.json_response(self._described(job))

    def _described(self, job: BatchJob) -> dict[str, Any]:
        files: dict[str, str | None] = {"output_file_id": None, "error_file_id": None}
        if job.end is not None:
            for kind in ("output", "error"):
                name = f"{job.job_id}.{kind}.jsonl"
                known = next((file for file, (filename, _) in self._files.items() if filename == name), None)
                lines = self._lines(job, of_errors=kind == "error")
                if lines and known is None and name not in self._made:
                    self._made.add(name)
                    known = self._keep(name, b"\n".join(lines) + b"\n")
                files[f"{kind}_file_id"] = known
        counts = job.counts
        return {
            "id": job.job_id, "object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": job.input_file,
            "completion_window": "24h", "status": job.end or "in_progress", "created_at": int(job.created_at), **files,
            "metadata": dict(job.metadata),
            "request_counts": {"total": len(job.calls), "completed": counts["succeeded"], "failed": counts["errored"]},
        }  # fmt: skip

    @staticmethod
    def _lines(job: BatchJob, *, of_errors: bool) -> list[bytes]:
        lines = []
        for place, (custom_id, result) in enumerate(job.results):
            failed = result is None or result[0] != 200
            if failed is of_errors:
                lines.append(_line(f"batch_req_{place}", custom_id, result, str(job.end)))
        other = _line("batch_req_x", "hr-00000000000000000000000000000000-0", (200, {"choices": []}), "")
        return lines if of_errors else spoiled(lines, job.fault, other)


def _line(request_id: str, custom_id: str, result: tuple[int, dict[str, Any]] | None, end: str) -> bytes:
    line: dict[str, Any] = {"id": request_id, "custom_id": custom_id, "response": None, "error": None}
    if result is None:
        line["error"] = {"code": f"batch_{end}", "message": "This request could not be executed before the end."}
    else:
        line["response"] = {"status_code": result[0], "request_id": request_id, "body": result[1]}
    return json.dumps(line).encode()


def _has_key(request: web.Request) -> bool:
    return request.headers.get("Authorization", "").startswith("Bearer ")


def _error(status: int, text: str, code: str | None = None) -> web.Response:
    document = {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": code}}
    return web.json_response(document, status=status)
