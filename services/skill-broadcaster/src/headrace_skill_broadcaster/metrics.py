"""Metrics of the broadcaster."""

from __future__ import annotations

from headrace_runtime.metrics import Metrics


class SkillMetrics:
    """The service's metrics in the process's registry."""

    def __init__(self, metrics: Metrics) -> None:
        own = metrics.for_subsystem("skills")
        self.submissions = own.counter(
            "submissions", "Submissions handled, by outcome.", ("outcome",)
        )  # fmt: skip
        self.reloads = own.counter(
            "catalog_reloads", "Times a catalog partition was read again, by reason.", ("reason",)
        )
        self.catalogued = own.latency("catalogued", "Time from a submission to its catalog record being acknowledged.")
        self.pushed = own.latency("pushed", "Time from a version's publication to its push to the last agent here.")
        self.fan_out = own.latency("fan_out", "Time from reading a feed record to writing it to the last agent.")
        self.searched = own.latency("search", "Search time, including the wait for the index.")
        self.agents = own.gauge("agents", "Agents connected to the feed here.")
        self.events_pushed = own.counter("events_pushed", "Events written to agents.")
        self.agents_dropped = own.counter("agents_dropped", "Agents disconnected because they read too slowly.")
        self.unreadable = own.counter("unreadable_records", "Records of the feed or catalog skipped.", ("topic",))
        self.forgotten = own.counter("forgotten", "Skills removed from the catalog long after they were revoked.")
        self.entries = own.gauge("catalog_entries", "Skills in the catalog, including revoked ones.")
