"""What is counted of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from headrace_models.worker.metrics import MetricFactory


class BatchObserver:
    """Counts what happens to batches; does nothing by itself."""

    def submitted(self, provider: str, calls: int) -> None:
        """A provider has a batch of so many calls."""

    def refused(self, provider: str) -> None:
        """A provider has not taken a batch."""

    def unaccounted(self, provider: str) -> None:
        """A provider may bill calls whose results nobody will read."""

    def settled(self, provider: str, how: str, count: int) -> None:
        """Attempts of a batch have ended: with a result, by an ordinary call, cancelled, or lost."""


class BatchMetrics(BatchObserver):
    """The same as metrics."""

    def __init__(self, metrics: MetricFactory) -> None:
        self._batches = metrics.counter("batches", "Batches submitted to a provider.", ("provider",))
        self._calls = metrics.counter("batch_calls", "Calls submitted in batches.", ("provider",))
        self._refused = metrics.counter("batches_refused", "Batches that a provider did not take.", ("provider",))
        self._unaccounted = metrics.counter(
            "batches_unaccounted", "Batches that a provider may bill without results that were read.", ("provider",)
        )
        self._attempts = metrics.counter(
            "batch_attempts", "Attempts of batches, by how they ended.", ("provider", "how")
        )
        self._open = metrics.gauge("batches_open", "Batches that this worker looks after.", ("provider", "phase"))
        self._metrics = metrics

    def watch(self, phases: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Export the batches that a worker looks after from now on; call it once."""

        def refresh() -> None:
            self._open.clear()
            for provider, phase in phases():
                self._open.labels(provider, phase).inc()

        self._metrics.before_scrape(refresh)

    def submitted(self, provider: str, calls: int) -> None:
        self._batches.labels(provider).inc()
        self._calls.labels(provider).inc(calls)

    def refused(self, provider: str) -> None:
        self._refused.labels(provider).inc()

    def unaccounted(self, provider: str) -> None:
        self._unaccounted.labels(provider).inc()

    def settled(self, provider: str, how: str, count: int) -> None:
        self._attempts.labels(provider, how).inc(count)
