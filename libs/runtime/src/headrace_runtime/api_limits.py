"""What the callers of one HTTP server may hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What the callers of one server may hold.

    Attributes:
        connections: Most connections at a time.
        starting_per_address: Most connections of one address that have sent no whole request head yet.
        head_seconds: Longest time from the first byte of a request (or the connection) to the end of its head.
        idle_seconds: Longest time between two requests.
        unread_seconds: Longest time for which a peer may read nothing of what it was sent.
    """

    connections: int = 10_000
    starting_per_address: int = 256
    head_seconds: float = 10.0
    idle_seconds: float = 75.0
    unread_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What callers of one process may hold at a time.

    Attributes:
        requests_per_tenant: Most open requests of a tenant, streams included.
        body_bytes: Most bytes of bodies of all open requests.
    """

    requests_per_tenant: int = 12_000
    body_bytes: int = 268_435_456

    @property
    def body_bytes_per_tenant(self) -> int:
        """Most bytes of bodies of a tenant's open requests: half, so that there is always room for others."""
        return self.body_bytes // 2
