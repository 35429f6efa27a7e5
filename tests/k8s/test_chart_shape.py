"""What the chart makes is what the services read, and what it promises: variables, edges, grace periods."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from headrace_devstack.services import NAMES, SERVICES
from headrace_testing.certificates import Authority
from headrace_testing.k8s.helm import CHART, objects_in, template
from headrace_testing.k8s.plane import run_command
from headrace_testing.k8s.toolchain import Toolchain

LARGE = ("-f", str(CHART / "values-large.yaml"))
SECRETS = {
    "HEADRACE_DATABASE_URL": "postgresql://headrace:secret@postgres:5432/headrace",
    "HEADRACE_KEY_PEPPER": "a pepper of the chart's test",
    "HEADRACE_BOOTSTRAP_KEY": f"hr_{'k' * 16}_{'s' * 48}",
}
LOGINS: dict[str, Sequence[str]] = {
    "sasl": ("--set=kafka.auth.type=sasl",),
    "mtls": ("--set=kafka.auth.type=mtls", "--set=registry.caSecret.name=ca"),
    "none": ("--set=kafka.auth.type=none,kafka.tls.enabled=false",),
}


TENANTS = "tenants: {acme: {weight: 4, requests_per_minute: 6000}}"


def workloads(text: str) -> Iterator[Mapping[str, Any]]:
    return (one for one in objects_in(text) if one["kind"] in {"Deployment", "StatefulSet", "Job"})


def pod_of(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    pod: Mapping[str, Any] = workload["spec"]["template"]["spec"]
    return pod


def component(workload: Mapping[str, Any]) -> str:
    return str(workload["metadata"]["labels"]["app.kubernetes.io/component"])


def environment(container: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The variables as the kubelet would set them, with files of Secrets in `folder`."""
    found: dict[str, str] = {}
    for entry in container.get("env", ()):
        source = entry.get("valueFrom", {})
        if "secretKeyRef" in source:
            found[entry["name"]] = SECRETS.get(entry["name"], "secret")
        elif "fieldRef" in source:
            found[entry["name"]] = "hr-headrace-pod-0"
        else:
            found[entry["name"]] = entry["value"].replace("/etc/headrace", str(folder))
    return found


@pytest.mark.parametrize("login", LOGINS)
def test_services_and_jobs_find_their_variables_valid(tools: Toolchain, login: str, tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2]
    policy = shipped / "services/router/src/headrace_router/policy.yaml"
    prices = shipped / "libs/models/src/headrace_models/prices.yaml"
    options = [f"--set-file=router.policy={policy}", f"--set-file=priceBook={prices}"]
    options.append(
        "--set=cloudWorker.providers[0].name=mistral,cloudWorker.providers[0].url=https://api.example.com/v1"
    )
    options.append("--set=cloudWorker.providers[0].key=MISTRAL_API_KEY,topics.partitions.tasks=12")
    options.append("--set=cloudWorker.providers[1].name=lab,cloudWorker.providers[1].url=http://10.0.0.7:8000/v1")
    options.append("--set=cloudWorker.providers[1].dialect=vllm;seed=off")
    options.append("--set=localWorker.discovery.labels={gpu=nvidia.com/gpu.product}")
    options.append("--set=observability.otlpEndpoint=http://collector:4318")
    options.append(f"--set-literal=tenants={TENANTS}")
    text = template(tools, "helm3", *options, *LOGINS[login]).out
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.yaml").write_text(policy.read_text())
    (tmp_path / "tenants").mkdir()
    (tmp_path / "tenants" / "tenants.yaml").write_text(TENANTS)
    (tmp_path / "prices").mkdir()
    (tmp_path / "prices" / "prices.yaml").write_text(prices.read_text())
    # Services look at the registry's certificates when they start, and so when they validate.
    (tmp_path / "registry").mkdir()
    authority = Authority(tmp_path / "registry")
    shutil.copy(authority.file, tmp_path / "registry" / "ca.crt")
    checked = set()
    for workload in workloads(text):
        container = pod_of(workload)["containers"][0]
        command = container.get("command") or ["python", "-m", f"headrace_{container['name'].replace('-', '_')}"]
        if command[-1] == "upgrade":
            continue  # migrations have one variable and no --validate
        validate = [sys.executable, *command[1:], *([] if command[-1] == "--validate" else ["--validate"])]
        given = environment(container, tmp_path)
        said = run_command(["env", "-i", *(f"{name}={value}" for name, value in given.items()), *validate])
        assert "the settings are valid" in said.out
        assert said.err == "", f"{component(workload)}: a variable that no setting reads"
        checked.add(container["name"])
    assert checked == {*NAMES, "provision", "check-policy"}


def test_the_grace_period_holds_the_drain_and_what_comes_before(tools: Toolchain) -> None:
    text = template(tools, "helm3", "--set-json=localWorker.drainSeconds=601.5,intake.preStopSeconds=20").out
    seconds = {component(one): pod_of(one)["terminationGracePeriodSeconds"] for one in workloads(text) if
               one["kind"] != "Job"}  # fmt: skip
    assert seconds["local-worker"] == 602 + 15
    assert seconds["intake"] == 40 + 20 + 15
    for one in workloads(text):
        if one["kind"] == "Job":
            continue
        container = pod_of(one)["containers"][0]
        drain = next(float(entry["value"]) for entry in container["env"] if entry["name"] == "HEADRACE_DRAIN_SECONDS")
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert seconds[component(one)] >= drain + before + 10


def edges(text: str) -> dict[str, list[tuple[str, int]]]:
    """By component: where its pods may connect to (an address range, or "pods"), and at which port."""
    found: dict[str, list[tuple[str, int]]] = {}
    for policy in objects_in(text):
        if policy["kind"] != "NetworkPolicy":
            continue
        name = policy["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component", "")
        for rule in policy["spec"].get("egress", ()):
            for port in rule["ports"]:
                for peer in rule["to"]:
                    where = peer["ipBlock"]["cidr"] if "ipBlock" in peer else "pods"
                    found.setdefault(name, []).append((where, port["port"]))
    return found


def test_nothing_is_allowed_but_the_edges_that_exist(tools: Toolchain) -> None:
    text = template(tools, "helm3", *LARGE).out
    allowed = edges(text)
    denied = next(one for one in objects_in(text) if one["metadata"]["name"].endswith("-deny"))
    assert denied["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in denied["spec"]
    assert "egress" not in denied["spec"]
    to_internet = {name for name, found in allowed.items() if any(where in {"0.0.0.0/0", "::/0"} for where, _ in found)}
    assert to_internet == {"cloud-worker", "ollama"}
    by_port = {port: {name for name, found in allowed.items() if any(p == port for _, p in found)} for port in
               (5432, 11434, 6443, 9093, 9100)}  # fmt: skip
    assert by_port[5432] == {"hook", *(service.name for service in SERVICES if service.database)}
    assert by_port[11434] == {"local-worker"}
    assert by_port[6443] == {"local-worker"}
    assert by_port[9093] == {*NAMES, "hook"}
    assert by_port[9100] == {"test"}


def test_the_internet_is_without_private_addresses(tools: Toolchain) -> None:
    for policy in objects_in(template(tools, "helm3", *LARGE).out):
        for rule in policy["spec"].get("egress", ()) if policy["kind"] == "NetworkPolicy" else ():
            for peer in rule["to"]:
                block = peer.get("ipBlock", {})
                if block.get("cidr") == "0.0.0.0/0":
                    assert {"10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16"} <= set(block["except"])
                    assert [port["port"] for port in rule["ports"]] == [443]


def test_only_apis_are_open_to_callers(tools: Toolchain) -> None:
    apis = set()
    for policy in objects_in(template(tools, "helm3").out):
        if policy["kind"] == "NetworkPolicy":
            for rule in policy["spec"].get("ingress", ()):
                if {"namespaceSelector": {}} in rule["from"]:
                    assert [port["port"] for port in rule["ports"]] == [8080]
                    apis.add(policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"])
    assert apis == {service.name for service in SERVICES if service.ports.api is not None}


def test_routers_keep_their_names_and_never_outnumber_partitions(tools: Toolchain) -> None:
    text = template(tools, "helm3", *LARGE, "--set=topics.partitions.tasks=9").out
    router = next(one for one in workloads(text) if component(one) == "router")
    assert router["kind"] == "StatefulSet"
    env = {entry["name"]: entry for entry in pod_of(router)["containers"][0]["env"]}
    assert env["HEADRACE_STATIC_MEMBER"]["value"] == "true"
    assert env["HEADRACE_INSTANCE_ID"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    scaled = next(one for one in objects_in(text) if one["kind"] == "ScaledObject" and component(one) == "router")
    assert scaled["spec"]["maxReplicaCount"] == 9


def test_what_an_autoscaler_decides_is_not_set(tools: Toolchain) -> None:
    for mode in ("keda", "hpa"):
        text = template(tools, "helm3", f"--set=autoscaling.mode={mode}").out
        scaled = {
            one["spec"]["scaleTargetRef"]["name"]
            for one in objects_in(text)
            if one["kind"] in {"ScaledObject", "HorizontalPodAutoscaler"}
        }
        assert len(scaled) == 6
        assert not [one["metadata"]["name"] for one in workloads(text) if "replicas" in one["spec"]]
    fixed = template(tools, "helm3", "--set=autoscaling.mode=none").out
    assert all("replicas" in one["spec"] for one in workloads(fixed) if one["kind"] != "Job")


SITE_AND_POOL = (
    "--set=autoscaling.mode=keda,cloudWorker.autoscaling.minReplicas=0,localWorker.autoscaling.minReplicas=0",
    "--set=localWorker.sites[0].name=gpu-1,localWorker.sites[0].nodes=http://gpu-1:11434",
    "--set=ollama.enabled=true,ollama.pools.small.models={gemma2:2b,phi3},ollama.pools.small.autoscaling.minReplicas=0",
)


def scaled_by(text: str) -> dict[str, dict[str, Any]]:
    """By the name of what is scaled, the metadata of each trigger, by its name."""
    return {
        one["spec"]["scaleTargetRef"]["name"]: {each["name"]: each["metadata"] for each in one["spec"]["triggers"]}
        for one in objects_in(text)
        if one["kind"] == "ScaledObject"
    }


def test_workers_scale_by_what_they_have_and_what_waits_that_they_could_run(tools: Toolchain) -> None:
    found = scaled_by(template(tools, "helm3", *SITE_AND_POOL).out)
    queries = {
        name: triggers["work-seconds"]["query"] for name, triggers in found.items() if "work-seconds" in triggers
    }
    waits = 'or vector(0)) + (sum(headrace_router_waiting_work_seconds{namespace="headrace",place='
    of_cloud, of_site, of_rest, of_pool = (
        next(query for name, query in queries.items() if name.endswith(ending))
        for ending in ("cloud-worker", "local-worker-gpu-1", "local-worker", "ollama-small")
    )
    assert f'{waits}"cloud"}}) or vector(0))' in of_cloud
    assert f'{waits}"local",site="gpu-1"}}) or vector(0))' in of_site
    assert f'{waits}"local",site=""}}) or vector(0))' in of_rest
    assert of_pool == (
        '(sum(headrace_local_worker_outstanding_work_seconds{namespace="headrace",model=~"gemma2:2b|phi3|phi3:latest"})'
        " or vector(0)) + (max(sum by (site) (headrace_router_waiting_work_seconds"
        '{namespace="headrace",place="local",model=~"gemma2:2b|phi3|phi3:latest"})) or vector(0))'
    )
    assert "headrace_router_tasks" not in str(found), "tasks that others run wake nobody"


def test_workers_and_pools_start_before_the_hour_in_which_they_are_needed(tools: Toolchain) -> None:
    found = scaled_by(template(tools, "helm3", *SITE_AND_POOL).out)
    expected = {
        name.rpartition("headrace-")[2]: triggers["forecast"]
        for name, triggers in found.items()
        if "forecast" in triggers
    }
    assert expected.keys() == {"cloud-worker", "local-worker", "ollama-small"}, "nobody knows at which site"
    assert expected["ollama-small"]["query"] == (
        "max(sum by (pod) (headrace_forecast_busy_calls"
        '{namespace="headrace",place="local",model=~"gemma2:2b|phi3|phi3:latest"}))'
    )
    assert (expected["local-worker"]["threshold"], expected["local-worker"]["activationThreshold"]) == ("64", "0.05")
    off = ("localWorker", "cloudWorker", "ollama.poolDefaults")
    options = ",".join(f"{name}.autoscaling.targetForecastCalls=0" for name in off)
    without = scaled_by(template(tools, "helm3", *SITE_AND_POOL, f"--set={options}").out)
    assert not [name for name, triggers in without.items() if "forecast" in triggers]


def test_without_prometheus_workers_ask_the_routers_what_waits(tools: Toolchain) -> None:
    found = scaled_by(template(tools, "helm3", *SITE_AND_POOL, "--set=autoscaling.source=metrics-api").out)
    asked = {
        name.rpartition("headrace-")[2]: (triggers["waiting-work"]["url"], triggers["waiting-work"]["valueLocation"])
        for name, triggers in found.items()
        if "waiting-work" in triggers
    }
    assert {name: location for name, (_, location) in asked.items()} == {
        "cloud-worker": "cloud.waiting_work_seconds",
        "local-worker": "sites._.waiting_work_seconds",
        "local-worker-gpu-1": "sites.gpu-1.waiting_work_seconds",
    }
    assert {url.rpartition("/")[2] for url, _ in asked.values()} == {"waiting"}
    assert all("-router-ops." in url for url, _ in asked.values())


def test_pods_restart_for_what_changed_and_not_for_a_version_of_the_chart(tools: Toolchain) -> None:
    def template_of(*options: str, name: str = "router") -> Mapping[str, Any]:
        text = template(tools, "helm3", *options).out
        workload = next(one for one in workloads(text) if component(one) == name)
        found: Mapping[str, Any] = workload["spec"]["template"]
        return found

    assert not re.search(r"helm\.sh/chart|app\.kubernetes\.io/version", str(template_of()["metadata"]["labels"]))
    assert template_of("--set=router.policy=a: 1") != template_of("--set=router.policy=a: 2")
    for name in ("router", "intake", "cost-accountant"):
        one, other = (template_of(f"--set-literal=tenants=default: {{weight: {weight}}}", name=name) for weight in "23")
        assert one != other
    worker = [
        template_of(f"--set-literal=tenants=default: {{weight: {number}}}", name="cloud-worker") for number in "23"
    ]
    assert worker[0] == worker[1]


def test_the_file_of_tenants_is_where_it_is_read(tools: Toolchain) -> None:
    text = template(tools, "helm3", f"--set-literal=tenants={TENANTS}").out
    readers = {"router", *(service.name for service in SERVICES if service.ports.api is not None)}
    mounted = {
        pod_of(one)["containers"][0]["name"]
        for one in workloads(text)
        if any(mount["mountPath"] == "/etc/headrace/tenants" for mount in pod_of(one)["containers"][0]["volumeMounts"])
    }
    assert mounted == {*readers, "check-policy"}
    maps = [one for one in objects_in(text) if one["kind"] == "ConfigMap" and "tenants.yaml" in one["data"]]
    # What is new is checked before the services' own is changed.
    assert [one["metadata"]["name"].rsplit("headrace-", 1)[1] for one in maps] in (
        ["tenants", "check-policy"],
        ["check-policy", "tenants"],
    )
    assert all(one["data"]["tenants.yaml"].strip() == TENANTS for one in maps)
    assert "/etc/headrace/tenants" not in template(tools, "helm3").out
