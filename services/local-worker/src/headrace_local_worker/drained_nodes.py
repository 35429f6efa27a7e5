"""Nodes that operators have drained (`headrace nodes drain`): they get no new calls, and finish those that run."""

from __future__ import annotations

from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.events import NodeDrained
from headrace_contracts.topics import NODES_DRAINED
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.pool import Pool
from headrace_streams.ports import Log
from headrace_streams.tables import Table

_OPERATOR: Final = "operator"
_LONGEST_REASON: Final = 200


class DrainedNodes:
    """Keeps the pool in step with the table of nodes.drained.

    Attributes:
        table: The table, to be started before the pool gets calls.
    """

    def __init__(self, log: Log, codec: Codec, pool: Pool) -> None:
        self.table: Table[NodeDrained] = Table(log, codec, NODES_DRAINED, self._take)
        self._pool = pool
        pool.follow(self)

    def joined(self, endpoint: Endpoint) -> None:
        """A drained node stays drained when it comes back."""
        self._pool.withhold(endpoint.name, _OPERATOR, reason_of(self.table.get(endpoint.name)))

    def left(self, endpoint: Endpoint) -> None:
        """Its last calls go on."""

    def _take(self, node: str, drained: NodeDrained | None) -> None:
        if node in self._pool.endpoints:
            self._pool.withhold(node, _OPERATOR, reason_of(drained))


def reason_of(drained: NodeDrained | None) -> str | None:
    """Why a node gets no new calls, as the fleet is told; None if it is not drained."""
    if drained is None:
        return None
    by = f" ({drained.drained_by})" if drained.drained_by else ""
    return f"drained: {(drained.reason or 'by an operator')[:_LONGEST_REASON]}{by[:_LONGEST_REASON]}"
