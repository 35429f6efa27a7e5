"""The chart's life on a real API server: install, upgrade, rollback, uninstall; by Helm 3 and 4, for each preset."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from headrace_devstack.services import NAMES
from headrace_testing.k8s.helm import CHART, PRESETS, ROOT, VERSIONS, Helm, Record, objects_in, template
from headrace_testing.k8s.plane import NODES, ControlPlane
from headrace_testing.k8s.toolchain import Toolchain

WAIT = ("--wait", "--timeout=300s")
RELEASE = "hr"
OURS_BEFORE = ("Secret", "ServiceAccount/default", "ConfigMap/kube-root-ca.crt")
"""What stands in a namespace without the chart: what the cluster and this test put there."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def helm(plane: ControlPlane, record: Record, tmp_path: Path, request: pytest.FixtureRequest) -> Helm:
    return Helm(plane, request.param, tmp_path / "helm", record)


def secret(name: str, **values: str) -> Mapping[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}


SECRETS = (
    secret("headrace-cluster-ca-cert", **{"ca.crt": "a certificate"}),
    secret("headrace-postgres", url="postgresql://headrace:x@postgres:5432/headrace"),
    secret("headrace-api-keys", **{"pepper": "0123456789abcdef", "bootstrap-key": "hr_a_b"}),
    secret("headrace-providers", GROQ_API_KEY="x", ANTHROPIC_API_KEY="x", TAVILY_API_KEY="x"),
    *(secret(f"headrace-{user}", password="x") for user in ("provisioner", *NAMES)),
)


def give_secrets(plane: ControlPlane, namespace: str) -> None:
    """What the chart expects to find, by its defaults."""
    plane.kubectl("apply", "-n", namespace, "--server-side", "-f", "-", given=yaml.safe_dump_all(SECRETS))


def pods(plane: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    """The pods that are meant to stay."""
    found = plane.get("pods", "-n", namespace)["items"]
    return [
        pod for pod in found if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] != "Succeeded"
    ]


def tags(plane: ControlPlane, namespace: str) -> set[str]:
    """Versions of our images that run."""
    images = [one["image"] for pod in pods(plane, namespace) for one in pod["spec"]["containers"]]
    return {image.rpartition(":")[2] for image in images if "ollama/ollama" not in image}


def wait_until_only(plane: ControlPlane, namespace: str, tag: str) -> None:
    """Until no other version of our images runs.

    `helm --wait` returns once the new pods are ready; the controllers take the last old pod away a moment after.
    """
    deadline = time.monotonic() + 30.0
    while (running := tags(plane, namespace)) != {tag}:
        assert time.monotonic() < deadline, f"wanted only {tag}, but these run: {sorted(running)}"
        time.sleep(0.1)


def left_over(plane: ControlPlane, namespace: str) -> set[str]:
    """Everything that stands in the namespace, and everything in the cluster that bears the release's label."""
    kinds = plane.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").out.split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]
    found = plane.get(",".join(kinds), "-n", namespace)["items"]
    names = {f"{one['kind']}/{one['metadata']['name']}" for one in found}
    wide = plane.kubectl("api-resources", "--namespaced=false", "--verbs=list", "-o", "name").out.split()
    labelled = plane.get(",".join(wide), "-l", f"app.kubernetes.io/instance={RELEASE}")["items"]
    names |= {f"{one['kind']}/{one['metadata']['name']}" for one in labelled}
    # Topics outlive a release on purpose: what is in them is worth more than a tidy namespace.
    kept = {f"{one['kind']}/{one['metadata']['name']}" for one in found if is_kept(one)}
    return {name for name in names - kept if not name.startswith("Secret/headrace-") and name not in OURS_BEFORE}


def is_kept(one: Mapping[str, Any]) -> bool:
    annotations = one["metadata"].get("annotations", {})
    return bool(one["kind"] == "KafkaTopic" and annotations.get("helm.sh/resource-policy") == "keep")


def referenced_secrets(objects: list[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Secrets and keys that pods cannot start without."""
    found: set[tuple[str, str]] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if (key := value.get("secretKeyRef")) and not key.get("optional"):
                found.add((key["name"], key["key"]))
            if (volume := value.get("secret")) and isinstance(volume, dict) and not volume.get("optional"):
                found.update((volume["secretName"], item["key"]) for item in volume.get("items", ()))
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    for one in objects:
        walk(one.get("spec"))
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_pods_ask_for_no_other_secrets_than_the_manual_names(tools: Toolchain, preset: str) -> None:
    objects = objects_in(template(tools, "helm3", "-f", str(CHART / f"values-{preset}.yaml")).out)
    there = {(one["metadata"]["name"], key) for one in SECRETS for key in one["stringData"]}
    assert referenced_secrets(objects) - there == set()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("helm", VERSIONS, indirect=True)
def test_a_release_lives_and_leaves_nothing_behind(
    helm: Helm, plane: ControlPlane, namespace: str, preset: str
) -> None:
    give_secrets(plane, namespace)
    before = left_over(plane, namespace)
    assert before == set(), "the test itself must leave nothing that it would not notice"
    release = (RELEASE, str(CHART), f"--namespace={namespace}", f"--values={CHART / f'values-{preset}.yaml'}")

    helm.step(f"install {preset}", "install", *release, *WAIT)
    running = pods(plane, namespace)
    assert {pod["status"]["phase"] for pod in running} == {"Running"}
    assert {pod["spec"]["nodeName"] for pod in running} <= set(NODES)
    assert all(all(one["ready"] for one in pod["status"]["containerStatuses"]) for pod in running)
    components = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in running}
    assert components >= set(NAMES)
    (first,) = tags(plane, namespace)
    helm.show("get", "pods,jobs", "-n", namespace)
    helm.step(f"test {preset}", "test", RELEASE, f"--namespace={namespace}", "--timeout=120s")

    helm.step(f"upgrade {preset}", "upgrade", *release, "--set=image.tag=2.0.0", *WAIT)
    wait_until_only(plane, namespace, "2.0.0")
    helm.step(f"rollback {preset}", "rollback", RELEASE, "1", f"--namespace={namespace}", *WAIT)
    wait_until_only(plane, namespace, first)
    history = json.loads(helm.run("history", RELEASE, f"--namespace={namespace}", "--output=json").out)
    assert [one["status"] for one in history] == ["superseded", "superseded", "deployed"]

    helm.step(f"uninstall {preset}", "uninstall", RELEASE, f"--namespace={namespace}", *WAIT)
    plane.kubectl("wait", "pods", "--all", "--for=delete", "-n", namespace, "--timeout=60s")
    assert left_over(plane, namespace) == set()


def test_pod_security_is_enforced_where_we_install(plane: ControlPlane, namespace: str) -> None:
    """So that the pods above run because they are restricted, not because nothing is enforced."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "careless", "namespace": namespace},
        "spec": {"containers": [{"name": "x", "image": "x"}]},
    }
    refused = plane.kubectl("create", "-f", "-", given=yaml.safe_dump(pod), check=False)
    assert refused.code != 0
    assert "violates PodSecurity" in refused.err


@pytest.mark.parametrize("helm", VERSIONS, indirect=True)
def test_a_failing_hook_stops_an_upgrade_and_what_runs_goes_on(helm: Helm, plane: ControlPlane, namespace: str) -> None:
    give_secrets(plane, namespace)
    release = (RELEASE, str(CHART), f"--namespace={namespace}", f"--values={CHART / 'values-small.yaml'}")
    helm.run("install", *release, *WAIT)
    generation = {one["metadata"]["name"]: one["metadata"]["generation"] for one in workloads(plane, namespace)}
    # Pod Security refuses the pods of the hook's Job, so that it never completes.
    failed = helm.run(
        "upgrade", *release, "--set=image.tag=2.0.0", "--set=securityContext.allowPrivilegeEscalation=true",
        "--set=hooks.deadlineSeconds=10", "--wait", "--timeout=20s", check=False,
    )  # fmt: skip
    assert failed.code != 0
    assert {one["metadata"]["name"]: one["metadata"]["generation"] for one in workloads(plane, namespace)} == generation
    assert "2.0.0" not in tags(plane, namespace)
    helm.run("uninstall", RELEASE, f"--namespace={namespace}", *WAIT)


def workloads(plane: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plane.get("deployments,statefulsets", "-n", namespace)["items"]
    return found


def dry_runs() -> Iterator[tuple[str, str]]:
    yield from ((preset, f"--values={CHART / f'values-{preset}.yaml'}") for preset in PRESETS)
    yield "mtls", "--set=kafka.auth.type=mtls"
    yield "keda by ops ports", "--set=autoscaling.mode=keda,autoscaling.source=metrics-api"
    yield "monitoring", "--set=monitoring.serviceMonitor.enabled=true,monitoring.rules.enabled=true"
    yield "ollama", "--set=ollama.enabled=true,ollama.pools.general.models={llama3.2:3b},autoscaling.mode=keda"


@pytest.mark.parametrize(("case", "option"), list(dry_runs()))
def test_the_api_server_takes_every_object(
    plane: ControlPlane, tools: Toolchain, namespace: str, case: str, option: str
) -> None:
    """With strict validation, defaulting, admission and the schemas of custom resources; KEDA's among them."""
    text = template(tools, "helm3", option, f"--namespace={namespace}").out
    said = plane.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", given=text
    )
    assert "Warning" not in said.err, said.err
    if case == "large":
        assert "scaledobject.keda.sh/hr-headrace-local-worker serverside-applied" in said.out


def test_the_api_server_takes_the_manifests(plane: ControlPlane, tools: Toolchain, namespace: str) -> None:
    manifests = ROOT / "k8s"
    overlays = sorted(path.parent for path in manifests.rglob("kustomization.yaml"))
    texts = [plane.kubectl("kustomize", str(overlay)).out for overlay in overlays]
    texts += [path.read_text() for path in sorted((manifests / "strimzi").glob("*.yaml"))]
    for text in texts:
        objects = [one for one in objects_in(text) if "apiVersion" in one and one["kind"] != "Namespace"]
        for one in objects:
            one["metadata"].pop("namespace", None)
        plane.kubectl(
            "apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-",
            given=yaml.safe_dump_all(objects),
        )  # fmt: skip
