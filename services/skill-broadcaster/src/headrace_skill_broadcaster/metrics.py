"""What the broadcaster counts and times."""

from __future__ import annotations

from headrace_runtime.metrics import Metrics


class SkillMetrics:
    """The service's metrics in the process's registry."""

    def __init__(self, metrics: Metrics) -> None:
        own = metrics.for_subsystem("skills")
        self.submissions = own.counter(
            "submissions", "Submissions dealt with, by what became of them.", ("outcome",)
        )  # fmt: skip
        self.reloads = own.counter(
            "catalog_reloads", "Times a catalog partition was read anew, by what made it necessary.", ("reason",)
        )
        self.catalogued = own.latency("catalogued", "From the submission to its catalog record being on disk.")
        self.pushed = own.latency("pushed", "From the publication of a version to its push to the last agent here.")
        self.fan_out = own.latency("fan_out", "From reading a feed record to having written it to the last agent.")
        self.searched = own.latency("search", "Searches, waiting for the index included.")
        self.agents = own.gauge("agents", "Agents connected to the feed here.")
        self.events_pushed = own.counter("events_pushed", "Events written to agents.")
        self.agents_dropped = own.counter("agents_dropped", "Agents disconnected because they read too slowly.")
        self.unreadable = own.counter("unreadable_records", "Records of the feed or catalog passed over.", ("topic",))
        self.entries = own.gauge("catalog_entries", "Skills in the catalog, revoked ones included.")
