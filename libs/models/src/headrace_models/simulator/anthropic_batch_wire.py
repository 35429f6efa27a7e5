"""Anthropic's Message Batches: `/anthropic/v1/messages/batches`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from headrace_models.conversation import ChatMessage
from headrace_models.simulator.anthropic_wire import AnthropicWire
from headrace_models.simulator.batch_jobs import BatchFault, BatchJob, BatchJobs, spoiled
from headrace_models.simulator.exchange import SimulatorState, json_object, messages_of, text_of

_ROOT: Final = "/anthropic/v1/messages/batches"
_PROVIDER: Final = "anthropic"


class AnthropicBatchWire:
    """The routes."""

    def __init__(self, world: SimulatorState, messages: AnthropicWire, jobs: BatchJobs) -> None:
        self._world = world
        self._messages = messages
        self._jobs = jobs

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post(_ROOT, self._create)
        app.router.add_get(_ROOT, self._list)
        app.router.add_get(f"{_ROOT}/{{batch}}", self._look)
        app.router.add_get(f"{_ROOT}/{{batch}}/results", self._results)
        app.router.add_post(f"{_ROOT}/{{batch}}/cancel", self._cancel)
        app.router.add_delete(f"{_ROOT}/{{batch}}", self._delete)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        if not request.headers.get("X-Api-Key") or not request.headers.get("Anthropic-Version"):
            return _error(401, "authentication_error", "invalid x-api-key")
        document = await json_object(request)
        fault = self._jobs.take(_PROVIDER)
        if fault is BatchFault.REFUSED:
            return _error(403, "permission_error", "batches are not available to this key")
        if fault is BatchFault.BUSY:
            return _error(429, "rate_limit_error", "too many calls of batches are waiting")
        calls: list[tuple[str, dict[str, Any]]] = []
        for call in document["requests"]:
            body = call["params"]
            if not isinstance(body.get("max_tokens"), int) or "stream" in body:
                return _error(400, "invalid_request_error", f"{call['custom_id']}: max_tokens is required")
            calls.append((call["custom_id"], body))
            said = messages_of(body.get("messages"))
            system = text_of(body.get("system") or "")
            self._world.evidence.record(
                _PROVIDER,
                _PROVIDER,
                str(body.get("model")),
                (*((ChatMessage("system", system),) if system else ()), *said),
            )
        job = self._jobs.create(_PROVIDER, calls, fault, prefix="msgbatch_sim")
        if fault is BatchFault.UNHEARD:
            job.fault = None
            if request.transport is not None:
                request.transport.close()
        return await self._document(request, job)

    async def _list(self, request: web.Request) -> web.Response:
        data = []
        for job in self._jobs.newest(_PROVIDER):
            await self._jobs.advance(job, self._messages.answered)
            data.append(_described(request, job))
        return web.json_response({"data": data, "has_more": False})

    async def _look(self, request: web.Request) -> web.Response:
        job = self._jobs.get(_PROVIDER, request.match_info["batch"])
        if job is None:
            return _error(404, "not_found_error", "no such batch")
        return await self._document(request, job)

    async def _results(self, request: web.Request) -> web.StreamResponse:
        job = self._jobs.get(_PROVIDER, request.match_info["batch"])
        if job is None or job.end is None:
            return _error(404, "not_found_error", "no such batch, or no results yet")
        other = json.dumps({"custom_id": "hr-00000000000000000000000000000000-0", "result": {"type": "expired"}})
        lines = spoiled([_line(custom_id, result, job) for custom_id, result in job.results], job.fault, other.encode())
        content = b"\n".join(lines) + b"\n"
        if job.fault is BatchFault.RESULTS_CUT:
            job.fault = None
            response = web.StreamResponse(headers={"Content-Length": str(len(content))})
            await response.prepare(request)
            await response.write(content[: len(content) // 2])
            if request.transport is not None:
                request.transport.close()
            return response
        return web.Response(body=content, content_type="application/x-jsonl")

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._jobs.get(_PROVIDER, request.match_info["batch"])
        if job is None:
            return _error(404, "not_found_error", "no such batch")
        await self._jobs.cancel(job, self._messages.answered)
        return await self._document(request, job)

    async def _delete(self, request: web.Request) -> web.Response:
        job = self._jobs.get(_PROVIDER, request.match_info["batch"])
        if job is None:
            return _error(404, "not_found_error", "no such batch")
        if job.end is None:
            return _error(400, "invalid_request_error", "the batch has not ended")
        self._jobs.delete(job.job_id)
        return web.json_response({"id": job.job_id, "type": "message_batch_deleted"})

    async def _document(self, request: web.Request, job: BatchJob) -> web.Response:
        await self._jobs.advance(job, self._messages.answered)
        return web.json_response(_described(request, job))


def _described(request: web.Request, job: BatchJob) -> dict[str, Any]:
    ended = job.end is not None
    counts = job.counts
    return {
        "id": job.job_id,
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": {
            name: counts[name] for name in ("processing", "succeeded", "errored", "canceled", "expired")
        },
        "created_at": datetime.fromtimestamp(job.created_at, UTC).isoformat().replace("+00:00", "Z"),
        "results_url": f"https://elsewhere.example{_ROOT}/{job.job_id}/results" if ended else None,
    }


def _line(custom_id: str, result: tuple[int, dict[str, Any]] | None, job: BatchJob) -> bytes:
    if result is None:
        said: dict[str, Any] = {"type": "expired" if job.end == "expired" else "canceled"}
    elif result[0] == 200:
        said = {"type": "succeeded", "message": result[1]}
    else:
        said = {"type": "errored", "error": result[1]}
    return json.dumps({"custom_id": custom_id, "result": said}).encode()


def _error(status: int, kind: str, text: str) -> web.Response:
    document = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_simulated"}
    return web.json_response(document, status=status)
