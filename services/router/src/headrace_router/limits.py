"""Limits and periods of the router."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RouterLimits:
    """Limits and periods of the service.

    Attributes:
        poll_records: Most records per poll.
        tick_seconds: Time between commits, and between checkpoints of an idle partition.
        rejoin_seconds: Wait before joining the group again, and before taking a partition over again, after the first
            failure; doubles with each one that follows.
        longest_wait_seconds: Longest such wait.
        assign_seconds: How long the group waits for the partitions that it assigns. Those that take longer start later,
            without holding up the others.
        watch_seconds: Time between comparisons of the positions with the inputs, unless there is reason to doubt them.
        patience_seconds: How long all partitions wait for the input of one, before that is paused instead.
        failures_per_minute: Records of a partition whose handling failed in a way that nobody foresaw. With more of
            them in a minute the fault is probably ours, and the partition is suspended rather than dead-lettered.
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
    longest_wait_seconds: float = 30.0
    assign_seconds: float = 1.0
    watch_seconds: float = 30.0
    patience_seconds: float = 0.1
    failures_per_minute: int = 60
    remembered: int = 50_000
    largest_entry: int = 4_000_000
    unpublished_bytes: int = 32 * 1024 * 1024
    keep_alive_seconds: float = 600.0
    restate_seconds: float = 24 * 3600.0
    early_cancellations: int = 10_000
    early_cancellation_seconds: float = 3600.0
