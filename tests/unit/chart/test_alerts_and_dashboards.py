"""Alerts, dashboards and scalers ask for what the services export, and every alert is tested and explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from headrace_devstack.kubernetes import objectives
from headrace_testing.exported_metrics import exported

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "k8s" / "prometheus"
OWN = [ROOT / "charts/headrace/files/alerts.yaml", ROOT / "charts/headrace/files/objectives.yaml"]
AROUND = [PROMETHEUS / "kafka.yaml"]
TARGET_LABELS = {"namespace", "service", "pod", "job", "le"}
"""Labels that Prometheus adds to what it reads, and the one of buckets."""
FOREIGN = {
    "up": "Prometheus",
    "kafka_brokers": "Kafka Exporter",
    "kafka_topic_partition_in_sync_replica": "Kafka Exporter",
    "kafka_topic_partition_under_replicated_partition": "Kafka Exporter",
    "kafka_consumergroup_lag": "Kafka Exporter",
    "kubelet_volume_stats_available_bytes": "kubelet",
    "kubelet_volume_stats_capacity_bytes": "kubelet",
    "strimzi_certificate_expiration_timestamp_ms": "Strimzi's cluster operator",
    "certmanager_certificate_expiration_timestamp_seconds": "cert-manager",
    "kube_deployment_status_replicas_available": "kube-state-metrics",
    "kube_pod_status_ready": "kube-state-metrics",
    "kube_job_status_failed": "kube-state-metrics",
}
_SERIES = re.compile(r"\b([a-z][a-z0-9_]*_[a-z0-9_]+|up)\b(?!\()\s*(?:\{([^}]*)\})?")
_WORDS = {"group_left", "group_right"}


def rules(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


TESTED = [
    case
    for path in sorted(PROMETHEUS.glob("*.test.yaml"))
    for test in yaml.safe_load(path.read_text())["tests"]
    for case in test.get("alert_rule_test", ())
]
RULES = list(rules(OWN + AROUND))
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for path in sorted((ROOT / "k8s" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
    scaling = (ROOT / "charts/headrace/templates/autoscaling.yaml").read_text()
    for query in re.findall(r'printf "(sum\(.*?\))" \$', scaling):
        text = query.replace('\\"', '"').replace("%s_outstanding", "headrace_local_worker_outstanding")
        yield "a scaler of the chart", text.replace('{namespace="%s"%s}', '{namespace="%s"}')


def asked(expression: str) -> Iterator[tuple[str, str]]:
    """Names of time series with their matchers."""
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", expression)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    outside = re.sub(r'"[^"]*"', '""', bare)
    for found in _SERIES.finditer(outside):
        if found[1] in _WORDS:
            continue
        matchers = re.search(re.escape(found[1]) + r"\s*\{([^}]*)\}", bare)
        yield found[1], matchers[1] if matchers and found[2] is not None else ""


@pytest.fixture(scope="module")
def series() -> dict[str, list[str]]:
    return exported()


def test_every_time_series_that_is_asked_for_is_exported(series: dict[str, list[str]]) -> None:
    recorded = {rule["record"].split(":")[1] for rule in rules(OWN) if "record" in rule}
    questions = list(expressions())
    assert len(questions) > 100
    seen = set()
    for where, expression in questions:
        for name, matchers in asked(re.sub(r"headrace:(\w+):ratio_rate\w+", r"\1", expression)):
            if name in recorded:
                continue
            assert name in series or name in FOREIGN, f"{where}: no service exports {name}"
            seen.add(name)
            if name in series:
                labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
                assert labels <= {*series[name], *TARGET_LABELS}, f"{where}: {name} has no labels {labels}"
    assert set(FOREIGN) <= seen, "a foreign series that nothing uses"


def test_matchers_name_values_that_the_code_knows() -> None:
    code = "\n".join(path.read_text() for folder in ("services", "libs") for path in (ROOT / folder).rglob("*.py"))
    known = set(re.findall(r'"([^"\s]+)"', code)) | set(re.findall(r"^class (\w+)", code, re.MULTILINE))
    for rule in rules(OWN):
        for name, matchers in asked(rule["expr"]):
            if not name.startswith("headrace_"):
                continue
            for label, value in re.findall(r'(\w+)\s*=~?\s*"([^"]*)"', matchers):
                for choice in value.split("|"):
                    if label not in {"le", "namespace"} and re.fullmatch(r"\w+", choice):
                        assert choice in known, f"{rule.get('alert')}: {label} is never {choice}"


def test_every_bucket_that_is_asked_for_is_one() -> None:
    from headrace_runtime.metrics import LATENCY_BUCKETS

    buckets = {f"{bucket:g}" for bucket in LATENCY_BUCKETS}
    for rule in rules(OWN):
        for bound in re.findall(r'le="([^"]+)"', rule["expr"]):
            assert bound in buckets


@pytest.mark.parametrize("alert", sorted(set(ALERTS)))
def test_every_alert_is_tested_to_fire_and_to_be_quiet(alert: str) -> None:
    outcomes = {bool(case["exp_alerts"]) for case in TESTED if case["alertname"] == alert}
    generated = alert.startswith("Headrace") and "BudgetBurns" in alert
    # All objectives are made of the same rules: each is seen to fire, the first one to be quiet.
    assert True in outcomes
    assert generated or False in outcomes


@pytest.mark.parametrize("alert", sorted(set(ALERTS)))
def test_every_alert_has_an_entry_in_the_runbook(alert: str) -> None:
    found = [rule for rule in RULES if rule.get("alert") == alert]
    for rule in found:
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor == alert.lower()
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
        assert alert in headings
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]


def test_the_runbook_explains_no_alert_that_there_is_not() -> None:
    headings = re.findall(r"^#+ (Headrace[A-Z]\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(set(ALERTS))


def test_an_objective_burns_at_rates_that_follow_from_its_target() -> None:
    group = next(g for g in objectives.rules()["groups"] if g["name"].endswith(".api"))
    fast = next(rule for rule in group["rules"] if rule.get("alert") == "HeadraceApiBudgetBurnsFast")
    assert "ratio_rate1h > 14.4 * 0.001 and headrace:api_errors:ratio_rate5m > 14.4 * 0.001" in fast["expr"]
