"""Settings shared by all workers. The limits on duration and concurrency of calls depend on what is called, so each
worker declares its own."""

from __future__ import annotations

from headrace_runtime.settings import ServiceSettings, setting


class WorkerSettings(ServiceSettings):
    """For a service that runs attempts."""

    report_seconds: float = setting(
        5.0,
        unit="s",
        reason="Longest time between two reports to the fleet; each is valid for three times as long.",
        gt=0,
    )
    delta_milliseconds: float = setting(
        10.0, unit="ms", reason="Pieces of a streamed answer that come faster than this are sent together.", ge=0
    )
    cancel_history_seconds: float = setting(
        3600.0,
        unit="s",
        reason="Age of the oldest cancellations read at startup: an attempt may have waited that long.",
        ge=0,
    )
    interactive_weight: int = setting(
        8, unit="starts", reason="Interactive attempts started for each batch attempt, while both are waiting.", ge=1
    )

    @property
    def held_records_bytes(self) -> int:
        """Most bytes of records from their receipt until they are finished."""
        return self.memory.held_records

    def kafka_config(self) -> dict[str, str]:
        """As for every service, but with incremental rebalancing: a worker that joins or leaves only moves the
        partitions that must change owner.

        A worker's topics need not be co-partitioned, and a model call is too expensive to be dropped in a rebalance
        that does not move its partition.
        """
        return {"partition.assignment.strategy": "cooperative-sticky", **super().kafka_config()}
