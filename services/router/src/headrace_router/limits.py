"""How the router paces itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RouterLimits:
    """How the service paces itself.

    Attributes:
        poll_records: Most records taken at once.
        tick_seconds: Time between commits, and between checkpoints of a quiet partition.
        rejoin_seconds: Wait before joining the group again after a failure; doubles up to ten times that.
        remembered: Ids of ended tasks kept per partition.
        largest_entry: Largest journal entry, in bytes.
        keep_alive_seconds: Longest time without an entry: positions and checkpoint must never be the oldest of the log.
        restate_seconds: A live task whose last entry is older is written once more, before retention removes it.
        early_cancellations: Cancellation requests of tasks that have not arrived yet, kept per partition.
        early_cancellation_seconds: How long such a cancellation request is kept.
    """

    poll_records: int = 500
    tick_seconds: float = 5.0
    rejoin_seconds: float = 0.2
    remembered: int = 50_000
    largest_entry: int = 4_000_000
    keep_alive_seconds: float = 600.0
    restate_seconds: float = 24 * 3600.0
    early_cancellations: int = 10_000
    early_cancellation_seconds: float = 3600.0
