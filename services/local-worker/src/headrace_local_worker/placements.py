"""Carries out placement requests: models onto nodes, and away from them.

1. The engine reads placements.requested, each node's requests in their order: no node pulls a model twice at once.
2. A request for a node that this site's workers do not have is none of theirs. One that has expired is not begun.
3. The node is asked. While it cannot be reached the request is repeated until it expires; a pull goes on where it broke
   off. How far it has come is in the node's reports.
4. When it has ended, in whatever way, its record is finished. A worker that dies before that leaves it to another one,
   which begins it again: a model that is there already is done at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol, runtime_checkable

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import PlacementAction, PlacementPhase, PlacementRequested, PlacementStatus
from headrace_contracts.model_settings import ModelSettingInvalid, context_length, duration
from headrace_models.ollama_models import PlacementFailed, PullProgress
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.pool import Pool
from headrace_streams.errors import SendToDeadLetters
from headrace_streams.records import Record

_log = logging.getLogger(__name__)

_TOLD: Final = 8
"""Requests whose ends a node's reports tell."""
_REPORT_SECONDS: Final = 1.0
"""Between two reports about one request."""
_AGAIN_SECONDS: Final = 5.0
_LONGEST_REASON: Final = 300


@runtime_checkable
class TakesModels(Protocol):
    """A client of a server whose models can be placed."""

    async def place(
        self, action: PlacementAction, model: str, on_progress: Callable[[PullProgress], None],
        *, num_ctx: int | None = None, keep_alive: str | None = None,
    ) -> None:  # fmt: skip
        """Carry out a placement request. Raises PlacementFailed."""


class Placements:
    """The handler of placement requests.

    Args:
        clock_ms: Milliseconds since the epoch.
    """

    def __init__(self, pool: Pool, codec: Codec, clock_ms: Callable[[], int]) -> None:
        self._pool = pool
        self._codec = codec
        self._clock_ms = clock_ms

    async def handle(self, record: Record) -> None:
        """Carry out one request. Raises UnreadableValue, RegistryUnavailable, SendToDeadLetters."""
        where = Origin(record.topic, record.partition, record.offset)
        request = await self._codec.read(PlacementRequested, record.value, where)
        if request.action is PlacementAction.UNKNOWN:
            raise SendToDeadLetters(
                f"the request {request.request_id} is for an action that this release does not know"
            )
        endpoint = self._pool.endpoints.get(request.node)
        if endpoint is None:
            _log.info("no node %s is here: the request %s is for others", request.node, request.request_id)
            return
        status = PlacementStatus(
            request_id=request.request_id,
            model=request.model,
            action=request.action,
            phase=PlacementPhase.RUNNING,
            updated_at=self._clock_ms(),
        )
        try:
            status = await self._carried_out(endpoint, request, status)
        except PlacementFailed as error:
            status = replace(status, phase=PlacementPhase.FAILED, reason=str(error)[:_LONGEST_REASON])
        self._tell(endpoint, status)
        _log.info(
            "%s of %s at %s: %s%s", request.action, request.model, request.node, status.phase,
            f" ({status.reason})" if status.reason else "",
        )  # fmt: skip
        # What it offers now is to be known at once.
        endpoint.doubted.set()

    async def _carried_out(
        self, endpoint: Endpoint, request: PlacementRequested, status: PlacementStatus
    ) -> PlacementStatus:
        if not isinstance(endpoint.provider, TakesModels):
            raise PlacementFailed(f"models of {endpoint.provider.provider} are placed by other means", again=False)
        try:
            num_ctx = None if request.num_ctx is None else context_length("num_ctx", request.num_ctx)
            keep_alive = None if request.keep_alive is None else duration("keep_alive", request.keep_alive)
        except ModelSettingInvalid as error:
            raise PlacementFailed(str(error), again=False) from None
        loop = asyncio.get_running_loop()
        told_at = -_REPORT_SECONDS
        newest = status

        def progressed(progress: PullProgress) -> None:
            nonlocal newest, told_at
            newest = replace(
                status,
                completed_bytes=progress.completed_bytes,
                total_bytes=progress.total_bytes,
                reason=progress.status,
            )
            if loop.time() - told_at >= _REPORT_SECONDS:
                told_at = loop.time()
                self._tell(endpoint, newest)

        while self._clock_ms() < request.valid_until:
            self._tell(endpoint, newest)
            try:
                await endpoint.provider.place(
                    request.action, request.model, progressed, num_ctx=num_ctx, keep_alive=keep_alive
                )
            except PlacementFailed as error:
                if not error.again:
                    raise
                newest = replace(newest, reason=str(error)[:_LONGEST_REASON])
                self._tell(endpoint, newest)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return replace(newest, phase=PlacementPhase.DONE, reason="")
        raise PlacementFailed(newest.reason or "it has expired before it was begun", again=False)

    def _tell(self, endpoint: Endpoint, status: PlacementStatus) -> None:
        others = [one for one in endpoint.placements if one.request_id != status.request_id]
        endpoint.placements = (*others[-_TOLD + 1 :], replace(status, updated_at=self._clock_ms()))
        self._pool.changed.set()
