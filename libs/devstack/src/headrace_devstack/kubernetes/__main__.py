"""Writes the Kubernetes files that are derived from the code.

`--check` writes nothing, reports files that are not up to date, and exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from headrace_contracts.tools.files import bring_up_to_date
from headrace_contracts.tools.schemas import repository
from headrace_models.cloud import CLOUD_PROVIDERS

from headrace_devstack.kubernetes import dashboards, kafka_resources, objectives, services, values_table
from headrace_devstack.services import SERVICES

_BEGIN = "<!-- values: generated from values.yaml by `make generate`; edit that instead -->"
_END = "<!-- end of values -->"
_HEADER = "# Generated from {source} by `make generate`; edit that instead.\n"


def files(root: Path) -> dict[Path, str]:
    """Every generated file with its expected content."""
    specs = "the topic specifications (headrace_contracts.topics)"
    chart = root / "charts" / "headrace"
    k8s = root / "k8s"
    readme = chart / "README.md"
    schema = chart / "values.schema.json"
    values = services.values(_text(chart / "values.yaml"), SERVICES)
    rules = {
        "headrace": [chart / "files" / "objectives.yaml", chart / "files" / "alerts.yaml"],
        "headrace-kafka": [k8s / "prometheus" / "kafka.yaml"],
    }
    generated = {
        chart / "files" / "objectives.yaml": _documents("headrace_devstack.kubernetes.objectives", [objectives.rules()])
    }
    generated |= {
        source: services.alerts(_text(source), SERVICES)
        for source in (chart / "files" / "alerts.yaml", k8s / "prometheus" / "kafka.yaml")
    }
    generated |= {
        k8s / "dashboards" / f"headrace-{dashboard.name}.json": _json(dashboards.document(dashboard))
        for dashboard in dashboards.DASHBOARDS
    }
    generated |= {
        k8s / "prometheus" / f"prometheusrule-{name}.yaml": _rule_resource(name, sources, root, generated)
        for name, sources in rules.items()
    }
    return generated | {
        chart / "values.yaml": values,
        schema: services.schema(_text(schema), values, SERVICES),
        chart / "files" / "services.yaml": _documents("services/*/pyproject.toml", [services.traits(SERVICES)]),
        chart / "files" / "topics.yaml": _documents(specs, [kafka_resources.topics_data()]),
        chart / "files" / "providers.yaml": _documents(
            "the table of providers (headrace_models.cloud)",
            [{"keys": [provider.key_variable for provider in CLOUD_PROVIDERS]}],
        ),
        k8s / "strimzi" / "topics" / "topics.yaml": _documents(specs, kafka_resources.topic_resources()),
        k8s / "strimzi" / "users" / "users.yaml": _documents(specs, kafka_resources.user_resources()),
        readme: _between(_text(readme), values_table.table(values)),
    }


def _rule_resource(name: str, sources: list[Path], root: Path, generated: Mapping[Path, str]) -> str:
    """The PrometheusRule with the groups of plain rule files, which promtool reads unchanged."""
    texts = [generated[source] for source in sources]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "headrace"}},
        "spec": {"groups": [group for text in texts for group in yaml.safe_load(text)["groups"]]},
    }
    return _documents(", ".join(str(source.relative_to(root)) for source in sources), [resource])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _documents(source: str, documents: list[dict[str, Any]]) -> str:
    dumped = yaml.safe_dump_all(documents, sort_keys=False, width=120, allow_unicode=True)
    return _HEADER.format(source=source) + dumped


def _between(text: str, generated: str) -> str:
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"the chart's README.md must contain the lines {_BEGIN} and {_END}")
    return f"{before}{begin}\n\n{generated}\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m headrace_devstack.kubernetes", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file is not up to date")
    check = parser.parse_args().check
    return bring_up_to_date(files(repository()), check=check)


if __name__ == "__main__":
    sys.exit(main())
