"""`/v1/batches` in the form the openai client libraries expect."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from headrace_contracts.ids import new_id
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import parse_model, read_json
from headrace_runtime.problems import Problem

from headrace_intake.adapters.batch_store import BatchStore
from headrace_intake.adapters.encoding import dumps
from headrace_intake.adapters.files import no_such_file
from headrace_intake.decide.batches.life import WINDOW_MS, BatchStatus
from headrace_intake.decide.batches.records import StoredBatch, batch_document, page_document
from headrace_intake.decide.batches.requests import (
    BatchRequest,
    expect_possible,
    headers_of_batch,
    is_id,
    page_of_batches,
)
from headrace_intake.decide.idempotency import content_digest, parse_key
from headrace_intake.decide.tasks import expect_object


class BatchesApi:
    """Handlers of the batches API.

    Args:
        on_change: Told of a batch that there is something to do for.
    """

    def __init__(self, store: BatchStore, clock: Callable[[], int], on_change: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._on_change = on_change

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/batches", self.create),
            web.get("/v1/batches", self.list),
            web.get("/v1/batches/{id}", self.show),
            web.post("/v1/batches/{id}/cancel", self.cancel),
        ]

    async def create(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        key = parse_key(request.headers.getall("Idempotency-Key", []))
        headers = headers_of_batch(request.headers)
        body = expect_object(await read_json(request))
        wanted = parse_model(body, BatchRequest)
        expect_possible(wanted)
        now = self._clock()
        batch = StoredBatch(
            batch_id="batch_" + new_id().replace("-", ""),
            tenant=caller.tenant,
            key_id=caller.key_id,
            by_admin=caller.may(Scope.ADMIN),
            idempotency_key=key,
            digest=content_digest("batches", {**body, "headers": headers}),
            endpoint=wanted.endpoint,
            input_file_id=wanted.input_file_id,
            headers=headers,
            metadata=None if wanted.metadata is None else dumps(wanted.metadata),
            output_seconds=None if wanted.output_expires_after is None else wanted.output_expires_after.seconds,
            status=BatchStatus.VALIDATING,
            ending=None,
            created_at=now,
            expires_at=now + WINDOW_MS,
            in_progress_at=None,
            finalizing_at=None,
            completed_at=None,
            failed_at=None,
            expired_at=None,
            cancelling_at=None,
            cancelled_at=None,
            errors=None,
            total=0,
            completed=0,
            failed=0,
            usage=None,
            output_file_id=None,
            error_file_id=None,
            fence=0,
        )
        stored, replayed = await self._store.create(batch, now) if is_id(batch.input_file_id) else (None, False)
        if stored is None:
            raise no_such_file("input_file_id")
        self._on_change()
        told = {"Idempotency-Replayed": "true"} if replayed else None
        return web.json_response(batch_document(stored), headers=told, dumps=dumps)

    async def list(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        batches, more = await self._store.page(caller.tenant, page_of_batches(request.query))
        return web.json_response(page_document([batch_document(batch) for batch in batches], more=more), dumps=dumps)

    async def show(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        batch_id = request.match_info["id"]
        return _json(await self._store.get(caller.tenant, batch_id) if is_id(batch_id) else None)

    async def cancel(self, request: web.Request) -> web.Response:
        caller = require(request, Scope.TASKS)
        batch_id = request.match_info["id"]
        found = await self._store.cancel(caller.tenant, batch_id, self._clock()) if is_id(batch_id) else None
        self._on_change()
        return _json(found)


def _json(batch: StoredBatch | None) -> web.Response:
    if batch is None:
        raise Problem(404, "batch-not-found", "There is no batch with this id.", param="id")
    return web.json_response(batch_document(batch), dumps=dumps)
