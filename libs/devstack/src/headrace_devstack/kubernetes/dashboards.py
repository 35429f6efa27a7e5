"""Grafana dashboards as code: the Prometheus queries and the layout of the panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_SCHEMA_VERSION: Final = 41
_WIDTH: Final = 24
_HEIGHT: Final = 8
_HERE: Final = 'namespace=~"$namespace"'
"""Every query is restricted to the namespaces chosen at the top; `{here}` stands for that filter."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
        title: What it shows.
        unit: Grafana's name of the unit.
        queries: PromQL, with `{here}` for the namespace, and the legend of each.
        text: How to read it, and what is bad.
        width: Columns, of 24.
        kind: `timeseries`, `stat` or `table`.
    """

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    text: str = ""
    width: int = 8
    kind: str = "timeseries"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page; its address ends with its name."""

    name: str
    title: str
    panels: Sequence[Panel]


def _rate(counter: str, by: str = "", where: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    inside = ",".join(part for part in ("{here}", where) if part)
    return f"sum{grouped} (rate({counter}{{{inside}}}[$__rate_interval]))"


def _quantiles(histogram: str, where: str = "", by: str = "") -> tuple[tuple[str, str], ...]:
    labels = ", ".join(part for part in ("le", by) if part)
    inside = ",".join(part for part in ("{here}", where) if part)
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple(
        (
            f"histogram_quantile({quantile}, "
            f"sum by ({labels}) (rate({histogram}_bucket{{{inside}}}[$__rate_interval])))",
            f"p{round(quantile * 100)}{legend}",
        )
        for quantile in (0.5, 0.95, 0.99)
    )


def _gauge(name: str, by: str = "", where: str = "", how: str = "sum") -> str:
    grouped = f" by ({by})" if by else ""
    inside = ",".join(part for part in ("{here}", where) if part)
    return f"{how}{grouped} ({name}{{{inside}}})"


DASHBOARDS: Final = (
    Dashboard("flow", "Headrace: flow", (
        Panel("Tasks accepted", "reqps", (
            (_rate("headrace_intake_tasks_accepted_total", "api"), "{{api}}"),
            (_rate("headrace_intake_tasks_not_accepted_total"), "not accepted"),
        )),
        Panel("Tasks ended, by status", "reqps", (
            (_rate("headrace_router_tasks_finished_total", "status"), "{{status}}"),
        )),
        Panel("Answers, by source", "reqps", (
            (_rate("headrace_router_tasks_finished_total", "served_from"), "{{served_from}}"),
        ), "Attempts, the cache, or an equal task."),
        Panel("Tasks in flight, by phase", "short", ((_gauge("headrace_router_tasks", "phase"), "{{phase}}"),),
              "Waiting tasks have no node or provider that offers a model they may use."),
        Panel("Decisions, by cause", "reqps", ((_rate("headrace_router_decisions_total", "cause"), "{{cause}}"),)),
        Panel("Rejected candidates, by reason", "reqps", (
            (_rate("headrace_router_candidates_rejected_total", "code"), "{{code}}"),
        )),
        Panel("Partitions owned, by router", "short", ((_gauge("headrace_router_partitions", "pod"), "{{pod}}"),),
              "Their sum is constant; while it is lower, the tasks of the missing partitions are stalled."),
        Panel("Partitions not routed, by phase", "short", (
            (_gauge("headrace_router_partitions_in_phase", "phase", 'phase!="routing"'), "{{phase}}"),
        ), "Suspended and fenced partitions are taken over again by themselves; /partitions says why they are."),
        Panel("Dead letters", "short", (
            (_rate("headrace_router_dead_letters_total", "topic"), "{{topic}}"),
            (_rate("headrace_local_worker_records_total", "", 'ending="dead_letter"'), "local worker"),
            (_rate("headrace_cloud_worker_records_total", "", 'ending="dead_letter"'), "cloud worker"),
            (_rate("headrace_costs_implausible_total"), "cost accountant"),
        ), "Check every one of them: `headrace dlq list`."),
        Panel("Requests, by status", "reqps", (
            (_rate("headrace_http_request_seconds_count", "status"), "{{status}}"),
        )),
        Panel("Error budget: share of bad events", "percentunit", (
            ("headrace:api_errors:ratio_rate1h{{here}}", "requests answered with 5xx (0.1 % allowed)"),
            ("headrace:slow_acceptance:ratio_rate1h{{here}}", "tasks accepted late (1 %)"),
            ("headrace:slow_routing:ratio_rate1h{{here}}", "events routed late (1 %)"),
            ("headrace:failed_tasks:ratio_rate1h{{here}}", "tasks failed or expired (1 %)"),
        ), width=16),
    )),
    Dashboard("latency", "Headrace: latency", (
        Panel("Request to answer", "s", _quantiles("headrace_intake_answer_seconds"),
              "What callers see; nearly all of it is the model's time."),
        Panel("Acceptance: to Kafka's acknowledgement", "s", _quantiles("headrace_intake_accept_seconds")),
        Panel("Router: from an event to its published records", "s", _quantiles("headrace_router_decision_seconds")),
        Panel("Router: journal append", "s", _quantiles("headrace_router_journal_append_seconds"),
              "The broker's share of a decision."),
        Panel("Wait for a worker, interactive", "s",
              _quantiles("headrace_local_worker_queued_seconds", 'lane="interactive"')),
        Panel("Replies: from writing to delivery", "s", _quantiles("headrace_intake_reply_delay_seconds")),
        Panel("Time at the model, p95", "s", (
            ("histogram_quantile(0.95, sum by (le, model) "
             "(rate(headrace_local_worker_model_seconds_bucket{{here}}[$__rate_interval])))", "{{model}}"),
            ("histogram_quantile(0.95, sum by (le, model) "
             "(rate(headrace_cloud_worker_model_seconds_bucket{{here}}[$__rate_interval])))", "{{model}}"),
        )),
        Panel("First text, p95", "s", (
            ("histogram_quantile(0.95, sum by (le, model) "
             "(rate(headrace_local_worker_first_output_seconds_bucket{{here}}[$__rate_interval])))", "{{model}}"),
            ("histogram_quantile(0.95, sum by (le, model) "
             "(rate(headrace_cloud_worker_first_output_seconds_bucket{{here}}[$__rate_interval])))", "{{model}}"),
        )),
        Panel("Taking over a partition", "s", _quantiles("headrace_router_recovery_seconds"),
              "How long the tasks of a partition wait when its router leaves."),
        Panel("Requests by route, p95", "s", (
            ("histogram_quantile(0.95, sum by (le, route) "
             "(rate(headrace_http_request_seconds_bucket{{here}}[$__rate_interval])))", "{{route}}"),
        ), width=16),
        Panel("Event loop lag", "s", (
            (_gauge("headrace_runtime_loop_lag_seconds", "pod", how="max"), "{{pod}}"),
        ), "Above some tens of milliseconds a process is overloaded."),
    )),
    Dashboard("cost", "Headrace: cost", (
        Panel("Executions booked", "reqps", (
            (_rate("headrace_costs_booked_total"), "booked"),
            (_rate("headrace_costs_repeated_total"), "repeated (booked before)"),
        )),
        Panel("Booked without a price", "reqps", (
            (_rate("headrace_costs_unpriced_total", "provider"), "{{provider}}"),
        )),
        Panel("Attempts at providers", "reqps", (
            (_rate("headrace_cloud_worker_attempts_total", "provider, outcome"), "{{provider}} {{outcome}}"),
        ), "Each of these is billed, often including failed ones."),
        Panel("Attempts on our nodes", "reqps", (
            (_rate("headrace_local_worker_attempts_total", "model, outcome"), "{{model}} {{outcome}}"),
        )),
        Panel("Candidates rejected over budget", "reqps", (
            (_rate("headrace_router_candidates_rejected_total", "code",
                   'code=~"over_budget|price_unknown"'), "{{code}}"),
        )),
        Panel("Share answered without a model", "percentunit", ((
            _rate("headrace_router_tasks_finished_total", "", 'served_from=~"cache|coalesced"')
            + " / " + _rate("headrace_router_tasks_finished_total"), "cache and coalescing"),)),
        Panel("Live windows", "short", (
            (_gauge("headrace_costs_windows_running", how="max"), "running"),
            (_rate("headrace_costs_windows_published_total"), "published per second"),
            (_rate("headrace_costs_windows_failures_total"), "failures"),
        ), width=24),
    )),
    Dashboard("fleet", "Headrace: fleet", (
        Panel("Healthy nodes and providers", "short", (
            (_gauge("headrace_local_worker_node_healthy", "node", how="max"), "{{node}}"),
            (_gauge("headrace_cloud_worker_node_healthy", "node", how="max"), "{{node}}"),
        )),
        Panel("Slots busy, by node", "short", (
            (_gauge("headrace_local_worker_slots_busy", "node"), "{{node}}"),
            (_gauge("headrace_cloud_worker_slots_busy", "node"), "{{node}}"),
        )),
        Panel("Slots in use", "percentunit", (
            (_gauge("headrace_local_worker_slots_busy") + " / " + _gauge("headrace_local_worker_slots"), "our nodes"),
            (_gauge("headrace_cloud_worker_slots_busy") + " / " + _gauge("headrace_cloud_worker_slots"), "providers"),
        )),
        Panel("Outstanding work", "s", (
            (_gauge("headrace_local_worker_outstanding_work_seconds"), "our nodes"),
            (_gauge("headrace_cloud_worker_outstanding_work_seconds"), "providers"),
        ), "The metric that workers are scaled by: unfinished attempts, times the usual time of one."),
        Panel("Received and not started, by topic", "short", (
            (_gauge("headrace_local_worker_waiting", "topic"), "{{topic}}"),
            (_gauge("headrace_cloud_worker_waiting", "topic"), "{{topic}}"),
        )),
        Panel("In flight", "short", (
            (_gauge("headrace_local_worker_in_flight", "pod"), "{{pod}}"),
            (_gauge("headrace_cloud_worker_in_flight", "pod"), "{{pod}}"),
        )),
        Panel("Wait for a free slot", "short", (
            (_gauge("headrace_local_worker_slot_waiters"), "our nodes"),
            (_gauge("headrace_cloud_worker_slot_waiters"), "providers"),
        )),
        Panel("Attempts that failed, by reason", "reqps", (
            (_rate("headrace_local_worker_attempts_total", "failure", 'failure!=""'), "local {{failure}}"),
            (_rate("headrace_cloud_worker_attempts_total", "provider, failure",
                   'failure!=""'), "{{provider}} {{failure}}"),
        )),
        Panel("Longest span behind an unfinished record", "short", (
            (_gauge("headrace_local_worker_longest_span", "pod", how="max"), "{{pod}}"),
            (_gauge("headrace_cloud_worker_longest_span", "pod", how="max"), "{{pod}}"),
        ), "Records finished beyond one that does not end; a restart would repeat none of them."),
        Panel("Partitions paused", "short", (
            (_gauge("headrace_local_worker_partitions_paused", "pod"), "{{pod}}"),
            (_gauge("headrace_cloud_worker_partitions_paused", "pod"), "{{pod}}"),
        ), "Backpressure: too many records are in flight, so the rest stays in Kafka."),
        Panel("Bytes of records held", "bytes", (
            (_gauge("headrace_local_worker_held_bytes", "pod, topic", how="max"), "{{pod}} {{topic}}"),
            (_gauge("headrace_cloud_worker_held_bytes", "pod, topic", how="max"), "{{pod}} {{topic}}"),
        ), "Received and not finished; at its limit a lane is paused."),
    )),
    Dashboard("skills", "Headrace: skills", (
        Panel("Submissions, by outcome", "reqps", (
            (_rate("headrace_skills_submissions_total", "outcome"), "{{outcome}}"),
        )),
        Panel("From submission to the catalog", "s", _quantiles("headrace_skills_catalogued_seconds")),
        Panel("From publication to the last agent", "s", _quantiles("headrace_skills_pushed_seconds")),
        Panel("Agents connected", "short", ((_gauge("headrace_skills_agents", "pod"), "{{pod}}"),)),
        Panel("Events pushed", "reqps", ((_rate("headrace_skills_events_pushed_total"), "pushed"),)),
        Panel("Agents dropped for reading too slowly", "reqps", (
            (_rate("headrace_skills_agents_dropped_total"), "dropped"),
        ), "They reconnect, resume and miss nothing."),
        Panel("Searches", "s", _quantiles("headrace_skills_search_seconds")),
        Panel("Skills in the catalog", "short", ((_gauge("headrace_skills_catalog_entries", how="max"), "skills"),)),
        Panel("Catalog partitions re-read, by reason", "reqps", (
            (_rate("headrace_skills_catalog_reloads_total", "reason"), "{{reason}}"),
        )),
    )),
)  # fmt: skip


def document(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(dashboard.panels, start=1):
        if x + panel.width > _WIDTH:
            x, y = 0, y + _HEIGHT
        panels.append(_panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": _HEIGHT}))
        x += panel.width
    return {
        "uid": f"headrace-{dashboard.name}",
        "title": dashboard.title,
        "description": "Generated from headrace_devstack.kubernetes.dashboards by `make generate`.",
        "tags": ["headrace"],
        "timezone": "browser",
        "schemaVersion": _SCHEMA_VERSION,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["headrace"], "title": "Headrace", "asDropdown": True}],
        "templating": {"list": [_datasource(), _namespace()]},
        "panels": panels,
    }


def _panel(number: int, panel: Panel, place: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "gridPos": place,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": {"fillOpacity": 10, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": _finished(query), "legendFormat": legend}
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }


def _finished(query: str) -> str:
    return query.replace("{here}", _HERE)


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _namespace() -> dict[str, Any]:
    return {
        "name": "namespace",
        "type": "query",
        "label": "Namespace",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": "label_values(headrace_router_partitions, namespace)", "refId": "namespaces"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
