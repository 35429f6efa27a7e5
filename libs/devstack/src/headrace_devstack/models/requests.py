"""Asks workers to place models, and follows what becomes of it in the nodes' reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.connecting import Cluster
from headrace.errors import HeadraceError
from headrace_contracts.events import (
    NodeStatus,
    PlacementAction,
    PlacementPhase,
    PlacementRequested,
    PlacementStatus,
)
from headrace_contracts.ids import new_id
from headrace_contracts.topics import FLEET_STATUS, PLACEMENTS_REQUESTED
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.tables import Table

_SOURCE: Final = "headrace/operator"
_ENDED: Final = frozenset({PlacementPhase.DONE, PlacementPhase.FAILED})


class NotPlaced(HeadraceError):
    """Some models were not placed; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What is asked for; num_ctx and keep_alive are of what is loaded (`headrace_contracts.model_settings`)."""

    node: str
    model: str
    action: PlacementAction
    num_ctx: int | None = None
    keep_alive: str | None = None


async def place(
    cluster: Cluster,
    placements: Sequence[Placement],
    *,
    who: str,
    now_ms: int,
    valid_seconds: float,
    on_status: Callable[[PlacementRequested, PlacementStatus], None],
) -> tuple[tuple[PlacementRequested, PlacementStatus], ...]:
    """Ask for all of them, and wait until each has ended. Those of one node are carried out in their order.

    Args:
        valid_seconds: After this no worker begins any of them.
        on_status: Told of every report about one.

    Raises NotPlaced if no worker says anything about one before it has expired; StreamsError, ContractError.
    """
    requests = [
        PlacementRequested(
            request_id=new_id(),
            node=one.node,
            model=one.model,
            action=one.action,
            num_ctx=one.num_ctx,
            keep_alive=one.keep_alive,
            requested_by=who,
            requested_at=now_ms,
            valid_until=now_ms + round(valid_seconds * 1000),
        )
        for one in placements
    ]
    waiting = {request.request_id: request for request in requests}
    ended: dict[str, PlacementStatus] = {}
    changed = asyncio.Event()

    def look(_key: str, report: NodeStatus | None) -> None:
        for status in () if report is None else report.placements:
            request = waiting.get(status.request_id)
            if request is None or status.request_id in ended or report is None or report.node != request.node:
                continue
            on_status(request, status)
            if status.phase in _ENDED:
                ended[status.request_id] = status
                changed.set()

    await cluster.codec.prepare([PLACEMENTS_REQUESTED])
    table: Table[NodeStatus] = Table(cluster.log, cluster.codec, FLEET_STATUS, look)
    producer = cluster.log.producer()
    try:
        await table.start()
        publisher = Publisher(producer, cluster.codec, _SOURCE)
        await asyncio.gather(*(publisher.send(_publication(request)) for request in requests))
        try:
            async with asyncio.timeout(valid_seconds):
                while len(ended) < len(requests):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            silent = sorted({waiting[name].node for name in waiting.keys() - ended.keys()})
            raise NotPlaced(f"no worker has reported the end of all requests for {', '.join(silent)}") from None
    finally:
        await producer.close()
        await table.close()
    return tuple((request, ended[request.request_id]) for request in requests)


def _publication(request: PlacementRequested) -> Publication:
    return Publication(
        spec=PLACEMENTS_REQUESTED,
        event=request,
        event_id=request.request_id,
        key=request.node.encode(),
        tenant="",
        time_ms=request.requested_at,
        subject=request.node,
    )
