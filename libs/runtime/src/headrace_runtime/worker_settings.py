"""Settings that all workers share. How long a call may take and how many run at once depends on what is called, so each
worker says that itself."""

from __future__ import annotations

from headrace_runtime.settings import ServiceSettings, setting


class WorkerSettings(ServiceSettings):
    """For a service that runs attempts."""

    report_seconds: float = setting(
        5.0,
        unit="s",
        reason="Longest time between two reports to the fleet; each stands for three times as long.",
        gt=0,
    )
    delta_milliseconds: float = setting(
        10.0, unit="ms", reason="Pieces of a streamed answer that come faster than this go out together.", ge=0
    )
    cancel_history_seconds: float = setting(
        3600.0,
        unit="s",
        reason="Age of the cancellation requests that are read at the start: an attempt may have waited that long.",
        ge=0,
    )
    interactive_weight: int = setting(
        8, unit="starts", reason="Interactive attempts started for each batch attempt, while there are both.", ge=1
    )

    def kafka_config(self) -> dict[str, str]:
        """As for every service, with incremental rebalancing: a worker that comes or goes takes from the others only
        the partitions that move.

        A worker's topics need not be assigned together, and a model call costs too much to be dropped for a rebalance
        that leaves its partition where it was.
        """
        return {"partition.assignment.strategy": "cooperative-sticky", **super().kafka_config()}
