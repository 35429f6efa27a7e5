"""Metrics of the accountant."""

from __future__ import annotations

from collections.abc import Mapping

from headrace_runtime.metrics import Metrics


class LedgerMetrics:
    """The service's metrics in the process's registry."""

    def __init__(self, metrics: Metrics) -> None:
        own = metrics.for_subsystem("costs")
        self.booked = own.counter("booked", "Executions added to the ledger.")
        self.ledger_waiting = own.gauge("ledger_waiting", "1 while the ledger waits for an outage to end, else 0.")
        self.repeated = own.counter("repeated", "Usage events already in the ledger.")
        self.implausible = own.counter("implausible", "Usage events dead-lettered for implausible numbers.")
        self.possibly_billed = own.counter(
            "possibly_billed", "Events of executions that were lost, and may have been billed."
        )
        self.unpriced = own.counter("unpriced", "Executions booked without a price, by provider.", ("provider",))
        self.windows_running = own.gauge("windows_running", "1 while live windows are computed, else 0.")
        self.windows_failures = own.counter("windows_failures", "Times the computation of live windows failed.")
        self.windows_published = own.counter("windows_published", "Events written to spend.windows.")
        self.windows_passed_over = own.counter(
            "windows_passed_over", "Usage events that the live windows could not read; the ledger handles them."
        )


class ForecastMetrics:
    """What is expected of the next time."""

    def __init__(self, metrics: Metrics) -> None:
        self._busy = metrics.for_subsystem("forecast").gauge(
            "busy_calls",
            "Calls expected to run at once on average, now or when the lead time is over, whatever is more.",
            ("place", "provider", "model"),
        )

    def expected(self, busy: Mapping[tuple[str, str, str], float]) -> None:
        """Show this, and nothing else."""
        self._busy.clear()
        for target, calls in busy.items():
            self._busy.labels(*target).set(calls)
