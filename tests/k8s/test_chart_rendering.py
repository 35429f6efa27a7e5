"""The chart and the manifests, as far as they can be checked without a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
import yaml
from headrace_devstack.services import SERVICES
from headrace_testing.k8s.helm import CHART, PRESETS, ROOT, VERSIONS, objects_in, template
from headrace_testing.k8s.plane import Said, run_command
from headrace_testing.k8s.schemas import Definitions
from headrace_testing.k8s.toolchain import Toolchain

MANIFESTS: Final = ROOT / "k8s"

SWITCHES: Final[dict[str, Sequence[str]]] = {
    "sasl and a topics job": ("kafka.auth.type=sasl", "topics.manage=job"),
    "mtls and strimzi": ("kafka.auth.type=mtls", "topics.manage=strimzi"),
    "no login, no tls": ("kafka.auth.type=none", "kafka.tls.enabled=false", "topics.manage=none"),
    "public authorities": (
        "kafka.tls.caSecret.name=",
        "registry.caSecret.name=registry-ca",
        "postgres.caSecret.name=pg-ca",
    ),
    "registry: name and password": ("registry.auth.type=basic", "registry.auth.secret=registry-reader"),
    "registry: token": (
        "registry.auth.type=token",
        "registry.auth.secret=registry-reader",
        "registry.auth.provisionSecret=registry-writer",
    ),
    "registry: mtls": (
        "registry.url=https://registry/apis/ccompat/v7",
        "registry.auth.type=mtls",
        "registry.auth.secret=registry-reader",
    ),
    "keda by ops ports": ("autoscaling.mode=keda", "autoscaling.source=metrics-api"),
    "keda to zero": (
        "autoscaling.mode=keda",
        "localWorker.autoscaling.minReplicas=0",
        "cloudWorker.autoscaling.minReplicas=0",
    ),
    "hpa": ("autoscaling.mode=hpa",),
    "nothing scales": ("autoscaling.mode=none",),
    "fixed nodes": ("localWorker.discovery.enabled=false", "localWorker.nodes=http://gpu-1:11434;slots=4"),
    "sites": (
        "localWorker.sites[0].name=berlin",
        "localWorker.sites[0].nodes=http://gpu-1:11434;slots=4",
        "localWorker.sites[1].name=rack-2",
        "localWorker.sites[1].discovery.selector=site=rack-2",
        "sites={paris}",
        "topics.manage=strimzi",
    ),
    "nodes of all kinds": (
        "localWorker.nodes=http://gpu-1:11434",
        "localWorker.discovery.dns={_ollama._tcp.example.org;slots=2}",
        "localWorker.discovery.announced=true",
        "localWorker.nodeTokenSecret=node-token",
        "localWorker.nodeTlsSecret=node-tls",
    ),
    "nodes elsewhere": ("localWorker.discovery.namespace=models",),
    "accounts and rights by others": ("rbac.create=false", "serviceAccounts.create=false"),
    "ollama": ("ollama.enabled=true", "ollama.pools.general.models={llama3.2:3b}"),
    "apis": (
        "ingress.enabled=true",
        "ingress.tlsSecret=tls",
        "gateway.enabled=true",
        "gateway.parentRefs[0].name=public",
    ),
    "monitoring": ("monitoring.serviceMonitor.enabled=true", "monitoring.rules.enabled=true"),
    "unsigned submissions": ("apiKeys.unsignedSubmissions=accept",),
    "bare": ("networkPolicy.enabled=false", "migrations.enabled=false", "skillBroadcaster.enabled=false"),
    "policy and prices": ("router.policy=version: 1", "priceBook=models: []"),
    "tenants": ("tenants=default: {weight: 2}",),
}


@pytest.fixture(scope="module")
def conform(tools: Toolchain, definitions: Definitions) -> Conform:
    return Conform(tools.path("kubeconform"), definitions.schemas())


class Conform:
    """kubeconform on our own schemas, strict; a kind that has no schema is an error."""

    def __init__(self, program: Path, schemas: Path) -> None:
        location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
        self._command = [str(program), "-strict", "-summary", "-schema-location", location]

    def __call__(self, text: str) -> Said:
        return run_command([*self._command, "-"], given=text, check=False)


def options(switches: Sequence[str]) -> list[str]:
    return [f"--set={switch}" for switch in switches]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("preset", ["values", *(f"values-{preset}" for preset in PRESETS)])
def test_lint_is_content(tools: Toolchain, version: str, preset: str) -> None:
    command = [str(tools.path(version)), "lint", "--strict", str(CHART), "-f", str(CHART / f"{preset}.yaml")]
    run_command([*command, "--kube-version=1.36.3"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_renders_to_valid_objects(tools: Toolchain, conform: Conform, version: str, preset: str) -> None:
    said = conform(template(tools, version, "-f", str(CHART / f"values-{preset}.yaml")).out)
    assert (said.code, "Skipped: 0" in said.out) == (0, True), said.out + said.err


@pytest.mark.parametrize("case", SWITCHES)
def test_every_switch_renders_to_valid_objects(tools: Toolchain, conform: Conform, case: str) -> None:
    text, other = (template(tools, version, *options(SWITCHES[case])).out for version in VERSIONS)
    assert objects_in(text) == objects_in(other), "Helm 3 and 4 make the same of it"
    said = conform(text)
    assert (said.code, "Skipped: 0" in said.out) == (0, True), said.out + said.err
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects_in(text)]
    assert len(names) == len(set(names)), "two objects of one name overwrite each other"


def test_each_site_has_workers_and_topics_of_its_own_under_the_local_workers_rights(tools: Toolchain) -> None:
    found = objects_in(template(tools, VERSIONS[-1], *options(SWITCHES["sites"])).out)
    pods = {one["metadata"]["name"]: one["spec"]["template"] for one in found if one["kind"] == "Deployment"}
    variables = {
        name: {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
        for name, pod in pods.items()
    }
    workers = {name: found for name, found in variables.items() if "local-worker" in name}
    assert {name: one.get("HEADRACE_SITE") for name, one in workers.items()} == {
        "hr-headrace-local-worker": None,
        "hr-headrace-local-worker-berlin": "berlin",
        "hr-headrace-local-worker-rack-2": "rack-2",
    }
    assert workers["hr-headrace-local-worker-berlin"]["HEADRACE_OLLAMA_NODES"] == "http://gpu-1:11434;slots=4"
    assert workers["hr-headrace-local-worker-rack-2"]["HEADRACE_DISCOVERY_SELECTOR"] == "site=rack-2"
    assert workers["hr-headrace-local-worker-rack-2"]["HEADRACE_DISCOVERY_PEERS"].endswith("local-worker-rack-2-ops")
    of_workers = [pods[name]["spec"] for name in workers]
    assert len({spec["serviceAccountName"] for spec in of_workers}) == 1, "one account, one Kafka user"
    assert len({spec["containers"][0]["image"] for spec in of_workers}) == 1
    assert len({yaml.dump(pods[name]["metadata"]["labels"]) for name in workers}) == 3, "no selector finds another's"
    told = [
        each["value"]
        for one in found
        if one["kind"] in ("Job", "StatefulSet")
        for each in one["spec"]["template"]["spec"]["containers"][0].get("env", ())
        if each["name"] == "HEADRACE_SITES"
    ]
    assert told == ["paris,berlin,rack-2"] * 2, "who creates topics, and the router"
    topics = {one["spec"]["topicName"]: one["spec"] for one in found if one["kind"] == "KafkaTopic"}
    assert topics["headrace.work.local.paris.batch"]["config"] == topics["headrace.work.local.batch"]["config"]
    assert len([name for name in topics if name.startswith("headrace.work.local.")]) == 4 + 2 * 3


def test_the_schemas_refuse_what_the_api_server_would(conform: Conform) -> None:
    """So that the tests above can fail."""
    port = {"name": "http", "port": 80, "targetPort": "web"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [port]}}
    assert conform(yaml.safe_dump(service)).code == 0
    assert "additional propert" in conform(yaml.safe_dump({**service, "spec": {"port": [port]}})).out
    assert conform(yaml.safe_dump({**service, "spec": {"ports": [{**port, "port": "many"}]}})).code != 0
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "x"},
        "spec": {"scaleTargetRef": {"name": "x"}, "triggers": [], "minReplicas": 0},
    }
    assert "minReplicas" in conform(yaml.safe_dump(scaled)).out


def test_small_asks_for_nothing_that_a_plain_cluster_lacks(tools: Toolchain) -> None:
    text = template(tools, "helm3", "-f", str(CHART / "values-small.yaml"), custom=False).out
    groups = {one["apiVersion"].partition("/")[0] for one in objects_in(text) if "/" in one["apiVersion"]}
    assert all("." not in group or group.endswith(".k8s.io") for group in groups), groups


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        (("router.replica=3",), "replica"),
        (("router.replicas=many",), "router"),
        (("kafka.auth.type=plain",), "kafka"),
        (("topics.manage=yes",), "manage"),
        (("topics.replication=0",), "replication"),
        (("postgres.url=postgresql://u:p@h/d",), "url"),
        (("router.settings.HEADRACE_KAFKA_SASL_PASSWORD=secret",), "values hold no secrets"),
        (("intake.settings.HEADRACE_KEY_PEPPER=secret",), "apiKeys.secret"),
        (("apiKeys.unsignedSubmissions=maybe",), "unsignedSubmissions"),
        (("kafka.properties.acks=1",), "acks"),
        (("kafka.properties.group\\.id=x",), "Headrace sets this property itself"),
        (("kafka.properties.sasl\\.password=x",), "values hold no secrets"),
        (("localWorker.autoscaling.minReplicas=9", "localWorker.autoscaling.maxReplicas=3"), "above maxReplicas"),
        (("ollama.enabled=true",), "ollama.pools"),
        (("ollama.enabled=true", "ollama.pools.a.models={llama3.2:3b,gpt-oss:120b-cloud}"), "runs in Ollama's cloud"),
        (("ollama.enabled=true", "ollama.pools.a.models={kimi-k2:Cloud}"), "runs in Ollama's cloud"),
        (("ollama.enabled=true", "ollama.pools.a.models={x:1b}", "ollama.image.tag=0.12.3"), "use 0.16.2 or newer"),
        (("ollama.enabled=true", "ollama.pools.a.models={x:1b}", "ollama.image.tag=0.16.1-rocm"), "use 0.16.2"),
        (("autoscaling.mode=sometimes",), "mode"),
        (("podSecurityContext=root",), "podSecurityContext"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_values_are_refused_in_words_that_help(
    tools: Toolchain, version: str, switches: Sequence[str], said: str
) -> None:
    refused = template(tools, version, *options(switches), check=False)
    assert refused.code != 0
    assert said in refused.err
    assert len(refused.err) < 2_000, "an operator does not read more"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "switches",
    [
        ("ollama.pools.general.models={llama3.2:3b}",),
        ("ollama.pools.a.models={llama3.2:3b}", "ollama.pools.b.models={mistral:7b}", "ollama.pools.b.gpus=0"),
        ("ollama.pools.empty.replicas=2", "ollama.image.tag=0.16.2-rocm"),
        ("ollama.pools.general.models={cloudy:7b}", "ollama.image.tag=latest"),
    ],
)
def test_no_ollama_container_passes_chats_on_to_ollama_s_cloud(
    tools: Toolchain, version: str, switches: Sequence[str]
) -> None:
    objects = objects_in(template(tools, version, *options(("ollama.enabled=true", *switches))).out)
    pods = [one["spec"]["template"]["spec"] for one in objects if "template" in one.get("spec", {})]
    containers = [
        container
        for pod in pods
        for container in (*pod.get("initContainers", ()), *pod["containers"])
        if container["image"].startswith("ollama/")
    ]
    assert containers
    for container in containers:
        assert {"name": "OLLAMA_NO_CLOUD", "value": "1"} in container["env"], container["name"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("switches", "unsigned"),
    [
        ((), "refuse"),
        (("kafka.auth.type=mtls",), "refuse"),
        (("kafka.auth.type=none",), "accept"),
        (("apiKeys.unsignedSubmissions=accept",), "accept"),
        (("kafka.auth.type=mtls", "apiKeys.unsignedSubmissions=accept"), "accept"),
        (("kafka.auth.type=none", "apiKeys.unsignedSubmissions=refuse"), "refuse"),
    ],
)
def test_where_kafka_has_logins_submissions_must_be_signed(
    tools: Toolchain, version: str, switches: Sequence[str], unsigned: str
) -> None:
    pods = [
        one["spec"]["template"]["spec"]
        for one in objects_in(template(tools, version, *options(switches)).out)
        if one["kind"] in ("Deployment", "StatefulSet")
    ]
    told = {
        container["name"]: variable["value"]
        for pod in pods
        for container in pod["containers"]
        for variable in container["env"]
        if variable["name"] == "HEADRACE_UNSIGNED_SUBMISSIONS"
    }
    assert len(told) == sum(service.takes_submissions for service in SERVICES) > 2
    assert set(told.values()) == {unsigned}


def manifests() -> Iterator[Path]:
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        text = path.read_text()
        if "apiVersion:" in text and path.name != "kustomization.yaml" and "kind.x-k8s.io" not in text:
            yield path


def overlays() -> list[Path]:
    return sorted(path.parent for path in MANIFESTS.rglob("kustomization.yaml"))


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(MANIFESTS))) for path in manifests()])
def test_every_manifest_is_valid(conform: Conform, path: Path) -> None:
    if any("$patch" in text or "patches" in path.parts for text in (path.read_text(),)):
        pytest.skip("part of an object: it is checked in the overlay that it goes into")
    said = conform(path.read_text())
    assert (said.code, "Skipped: 0" in said.out) == (0, True), said.out + said.err


@pytest.mark.parametrize("overlay", [pytest.param(path, id=str(path.relative_to(MANIFESTS))) for path in overlays()])
def test_every_overlay_builds_to_valid_objects(tools: Toolchain, conform: Conform, overlay: Path) -> None:
    text = run_command([str(tools.path("kubectl")), "kustomize", str(overlay)]).out
    said = conform(text)
    assert (said.code, "Skipped: 0" in said.out) == (0, True), said.out + said.err


def rules() -> list[Path]:
    found = [*sorted((CHART / "files").glob("*.yaml")), *sorted((MANIFESTS / "prometheus").glob("*.yaml"))]
    return [
        path
        for path in found
        if path.read_text().split("groups:")[0].strip().startswith(("", "#")) and _has_rules(path)
    ]


def _has_rules(path: Path) -> bool:
    first = next(yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader), None)
    return isinstance(first, dict) and "groups" in first


def test_alerts_are_rules_that_prometheus_takes(tools: Toolchain) -> None:
    found = rules()
    assert found
    run_command([str(tools.path("promtool")), "check", "rules", "--lint=all", "--lint-fatal", *map(str, found)])


@pytest.mark.timeout(900)  # a month of burning error budgets, minute by minute
def test_alerts_fire_when_they_should_and_else_are_quiet(tools: Toolchain) -> None:
    tests = sorted((MANIFESTS / "prometheus").glob("*.test.yaml"))
    assert tests
    run_command([str(tools.path("promtool")), "test", "rules", *map(str, tests)])


def test_every_alert_is_tested_to_fire(tools: Toolchain) -> None:
    alerts = {
        rule["alert"]
        for path in rules()
        for group in yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    tested = {
        expected["alertname"]
        for path in (MANIFESTS / "prometheus").glob("*.test.yaml")
        for test in yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["tests"]
        for expected in test.get("alert_rule_test", ())
        if expected.get("exp_alerts")
    }
    assert alerts - tested == set()
