"""The chart and the manifests agree with the code: variables, users, commands, generated parts."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from headrace_contracts.topics import TOPICS
from headrace_devstack.descriptions import ServiceDescription
from headrace_devstack.kubernetes import services
from headrace_devstack.kubernetes.__main__ import files
from headrace_devstack.services import SERVICES
from headrace_runtime.provision import ProvisionSettings
from headrace_runtime.settings import variable_of
from headrace_streams.rights import USERS
from headrace_testing.described_services import settings_of, wiring_of
from headrace_testing.exported_metrics import exported

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "headrace"
TEMPLATES = "\n".join(path.read_text() for path in sorted((CHART / "templates").rglob("*")) if path.is_file())


def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return loaded


def variables() -> set[str]:
    """All variables that any service or Job reads."""
    found = {variable_of(name, field) for name, field in ProvisionSettings.model_fields.items()}
    for service in SERVICES:
        found |= {variable_of(name, field) for name, field in settings_of(service).model_fields.items()}
    return found


@pytest.fixture(scope="module")
def series() -> dict[str, list[str]]:
    return exported()


def test_generated_files_are_current() -> None:
    stale = [str(path) for path, text in files(ROOT).items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run `make generate`"


def test_every_variable_that_the_chart_sets_is_read_by_somebody() -> None:
    known = variables()
    named = set(re.findall(r"\b(HEADRACE_[A-Z_]*[A-Z])(?=:| |\")", TEMPLATES)) - {"HEADRACE_KAFKA"}
    librdkafka = {name for name in named if name.startswith("HEADRACE_KAFKA_")}
    assert len(named) > 30
    assert named - librdkafka - known == set()


def test_every_command_of_the_chart_is_a_module() -> None:
    migrations = [f"{service.package}.migrations" for service in SERVICES if service.database]
    for module in ("headrace_runtime.provision", *migrations):
        assert importlib.util.find_spec(module) is not None
    assert '"headrace_runtime.provision"' in TEMPLATES
    assert '"headrace_%s.migrations"' in TEMPLATES


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_is_scaled_by_the_lag_of_what_it_reads_and_by_what_it_exports(
    service: ServiceDescription, series: dict[str, list[str]]
) -> None:
    assert set(service.scaled_by_lag) <= {spec.name for spec in wiring_of(service).READS}
    if service.scaled_by_work:
        assert f"{service.package}_outstanding_work_seconds" in series


def test_every_service_has_values_and_a_schema_of_its_own() -> None:
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    for service in SERVICES:
        assert service.values_key in values()
        assert service.values_key in schema["properties"]
        assert ("postgresSecret" in values()[service.values_key]) == service.database


def test_paths_of_callers_lead_to_one_api_each() -> None:
    paths = [path for service in SERVICES for path in service.paths]
    assert len(paths) == len(set(paths))
    assert all(service.ports.api is not None for service in SERVICES if service.paths)


def test_an_alert_for_all_services_names_all_of_them() -> None:
    few = 'up{service=~".+-(intake|router)-ops"} or up{service=~".+-(kafka|registry)-ops"}'
    all_of_them = "|".join(service.name for service in SERVICES)
    expected = f'up{{service=~".+-({all_of_them})-ops"}} or up{{service=~".+-(kafka|registry)-ops"}}'
    assert services.alerts(few, SERVICES) == expected
    for path in (CHART / "files/alerts.yaml", ROOT / "k8s/prometheus/kafka.yaml"):
        assert f"({all_of_them})" in path.read_text()


def test_default_secrets_are_those_that_strimzi_makes_for_the_users() -> None:
    assert values()["kafka"]["auth"]["secretPrefix"] == "headrace-"
    users = [doc["metadata"]["name"] for doc in yaml.safe_load_all((ROOT / "k8s/strimzi/users/users.yaml").read_text())]
    assert set(users) == {f"headrace-{user}" for user in USERS}


@pytest.mark.parametrize("preset", ["small", "medium", "large"])
def test_presets_name_topics_and_models_that_there_are(preset: str) -> None:
    chosen: dict[str, Any] = yaml.safe_load((CHART / f"values-{preset}.yaml").read_text())
    partitions = chosen.get("topics", {}).get("partitions", {})
    assert set(partitions) <= {*TOPICS, "tasks"}
    assert partitions.get("skills.submitted") == partitions.get("skills.catalog")
    policy = (ROOT / "services/router/src/headrace_router/policy.yaml").read_text()
    for pool in chosen.get("ollama", {}).get("pools", {}).values():
        for model in pool["models"]:
            assert f"ollama/{model}" in policy, f"no role of the shipped policy asks for {model}"


def test_mirrors_and_their_users_name_topics_that_there_are() -> None:
    documents = [
        document
        for path in sorted((ROOT / "k8s/strimzi/mirror").glob("mirror*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]
    mirror = next(document for document in documents if document["kind"] == "KafkaMirrorMaker2")
    pattern = mirror["spec"]["mirrors"][0]["topicsPattern"]
    mirrored = {f"headrace.{name}" for name in TOPICS if re.fullmatch(pattern, f"headrace.{name}")}
    assert mirrored == {
        "headrace.skills.catalog",
        "headrace.skills.feed",
        "headrace.preferences",
        "headrace.access.keys",
    }
    for user in (document for document in documents if document["kind"] == "KafkaUser"):
        named = {
            acl["resource"]["name"]
            for acl in user["spec"]["authorization"]["acls"]
            if acl["resource"].get("name", "").startswith("headrace.")
        }
        assert named == mirrored, user["metadata"]["name"]


def test_the_schema_knows_every_value() -> None:
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            target: Any = schema
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = target
        return node

    def walk(value: Any, node: dict[str, Any], path: str) -> None:
        node = resolved(node)
        if isinstance(value, dict) and "properties" in node:
            for key, child in value.items():
                assert key in node["properties"] or node.get("additionalProperties", True), f"{path}.{key}"
                if key in node["properties"]:
                    walk(child, node["properties"][key], f"{path}.{key}")

    walk(values(), schema, "")
    assert schema["additionalProperties"] is False


def test_no_value_holds_a_secret() -> None:
    secret = re.compile(r"password|pepper|token|hr_", re.IGNORECASE)

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, child in node.items():
                walk(child, f"{path}.{key}")
        elif isinstance(node, str) and not path.endswith(("Key", ".key")):
            assert not secret.search(node), path

    walk(values(), "")


def test_every_ollama_container_of_the_chart_and_the_manifests_passes_nothing_on() -> None:
    template = (CHART / "templates/ollama.yaml").read_text()
    containers = re.split(r"^ +- name: ", template, flags=re.MULTILINE)[1:]
    servers = [text for text in containers if "OLLAMA_HOST" in text]
    assert [text.split()[0] for text in servers] == ["preload", "ollama"]
    assert all('{name: OLLAMA_NO_CLOUD, value: "1"}' in text for text in servers)
    shipped = tuple(int(part) for part in values()["ollama"]["image"]["tag"].split("."))
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["ollama"]["image"]
    assert compose == f"ollama/ollama:{values()['ollama']['image']['tag']}"
    assert shipped >= (0, 16, 2), "older versions ignore OLLAMA_NO_CLOUD"
    elsewhere = [path for path in (ROOT / "k8s").rglob("*.yaml") if "image: ollama" in path.read_text()]
    assert elsewhere == [], "Ollama runs by the chart only, so that this test covers all of its containers"
