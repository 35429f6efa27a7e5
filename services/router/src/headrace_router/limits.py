"""Limits and periods of the router."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RouterLimits:
    """Limits and periods of the service.

    Attributes:
        poll_records: Most records per poll.
        tick_seconds: Time between commits, and between checkpoints of an idle partition.
        rejoin_seconds: Wait before rejoining the group after a failure; doubles up to ten times that.
        remembered: Ids of ended tasks held per partition.
        largest_entry: Largest journal entry, in bytes.
        unpublished_bytes: Commands of a partition that are on their way or wait, in bytes, beyond which it takes no
            more input.
        keep_alive_seconds: Longest time without an entry, so that retention never removes positions and checkpoint.
        restate_seconds: A live task whose last entry is older is written again, before retention removes it.
        early_cancellations: Cancellation requests of tasks that have not arrived yet, held per partition.
        early_cancellation_seconds: How long such a cancellation request is held.
    """

    poll_records: int = 500
    tick_seconds: float = 5.0
    rejoin_seconds: float = 0.2
    remembered: int = 50_000
    largest_entry: int = 4_000_000
    unpublished_bytes: int = 32 * 1024 * 1024
    keep_alive_seconds: float = 600.0
    restate_seconds: float = 24 * 3600.0
    early_cancellations: int = 10_000
    early_cancellation_seconds: float = 3600.0
