"""Prometheus metrics under conventional names: `headrace_<subsystem>_<what>_<unit>`.

Each process creates one `Metrics` in its wiring; the ops server serves its registry. `for_subsystem` gives libraries
their own name prefix in the same registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from headrace_streams.log_identity import Broken
from headrace_streams.records import TopicPartition
from headrace_streams.suspending import OnSuspension
from headrace_streams.watching import OnDiscontinuity
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

LATENCY_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
)  # fmt: skip
"""Seconds, 0.5 ms to 60 s: Headrace's own latency is at the low end, model calls are at the high end."""

SIZE_BUCKETS: Final = (256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0)
"""Bytes."""


class Metrics:
    """Creates the metrics of one subsystem in the process's registry."""

    def __init__(self, subsystem: str, registry: CollectorRegistry | None = None) -> None:
        self.subsystem = subsystem
        if registry is None:
            registry = CollectorRegistry(auto_describe=True)
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)
        self.registry = registry
        self.documents: dict[str, Callable[[], Mapping[str, Any]]] = {}
        """JSON documents that the ops server serves beside the metrics, by path."""
        self.pages: dict[str, Callable[[], str]] = {}
        """Pages (HTML) that it serves for people, by path."""

    def for_subsystem(self, subsystem: str) -> Metrics:
        """The same registry with another subsystem in the names."""
        return Metrics(subsystem, self.registry)

    def counter(self, what: str, help: str, labels: Sequence[str] = (), *, unit: str = "") -> Counter:
        """A counter; `_total` is added to its name."""
        return Counter(self._name(what, unit), help, labels, registry=self.registry)

    def gauge(self, what: str, help: str, labels: Sequence[str] = (), *, unit: str = "") -> Gauge:
        """A gauge."""
        return Gauge(self._name(what, unit), help, labels, registry=self.registry)

    def latency(self, what: str, help: str, labels: Sequence[str] = ()) -> Histogram:
        """A histogram of durations in seconds."""
        return Histogram(self._name(what, "seconds"), help, labels, registry=self.registry, buckets=LATENCY_BUCKETS)

    def size(self, what: str, help: str, labels: Sequence[str] = ()) -> Histogram:
        """A histogram of sizes in bytes."""
        return Histogram(self._name(what, "bytes"), help, labels, registry=self.registry, buckets=SIZE_BUCKETS)

    def before_scrape(self, refresh: Callable[[], None]) -> None:
        """Call this before each scrape, to refresh metrics that are created after this call."""
        self.registry.register(_Refresh(refresh))

    def _name(self, what: str, unit: str) -> str:
        return "_".join(part for part in ("headrace", self.subsystem, what, unit) if part)


def discontinuities(metrics: Metrics) -> OnDiscontinuity:
    """Counts partitions whose stored position was not one of their log; call it once for each process."""
    counter = metrics.for_subsystem("log").counter(
        "discontinuities", "Partitions whose log was not the one read before, by what had happened.", ("topic", "kind")
    )

    def count(partition: TopicPartition, verdict: Broken) -> None:
        counter.labels(partition.topic, verdict.kind.value).inc()

    return count


def suspensions(metrics: Metrics, say: Callable[[str, str | None], None]) -> OnSuspension:
    """Shows partitions that rest after too many unforeseen errors, as a metric and in /readyz; call it once for each
    process.

    Args:
        say: `Health.report` where the process is there for these partitions, else `Health.degrade`.
    """
    gauge = metrics.for_subsystem("log").gauge(
        "partition_suspended", "Whether a partition rests after too many unforeseen errors.", ("topic", "partition")
    )

    def show(partition: TopicPartition, reason: str | None) -> None:
        gauge.labels(partition.topic, partition.partition).set(reason is not None)
        say(str(partition), f"suspended: {reason}" if reason else None)

    return show


class _Refresh(Collector):
    """A collector without metrics of its own."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        self._refresh = refresh

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        self._refresh()
        return ()
