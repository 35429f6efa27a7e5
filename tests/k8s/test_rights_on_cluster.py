"""What each service account may do, asked of a real API server and compared with the table in the chart's README."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from headrace_devstack.services import NAMES
from headrace_testing.k8s.helm import CHART, objects_in, template
from headrace_testing.k8s.plane import ControlPlane

ACCOUNTS = (*NAMES, "hook", "ollama")

Right = tuple[str, str]
"""A verb and a resource."""


@dataclass(frozen=True, slots=True)
class Release:
    """The accounts and roles of a release whose nodes are in a namespace of their own."""

    namespace: str
    nodes: str

    def account(self, name: str) -> str:
        return f"system:serviceaccount:{self.namespace}:hr-headrace-{name}"


@pytest.fixture(scope="module", params=["labels", "no labels"])
def release(request: pytest.FixtureRequest, plane: ControlPlane) -> Iterator[Release]:
    made = Release(f"t-{uuid.uuid4().hex[:8]}", f"t-{uuid.uuid4().hex[:8]}")
    for name in (made.namespace, made.nodes):
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    options = [
        f"--namespace={made.namespace}", f"--set=localWorker.discovery.namespace={made.nodes}",
        "--set=ollama.enabled=true,ollama.pools.general.models={llama3.2:3b}",
    ]  # fmt: skip
    if request.param == "labels":
        options.append("--set=localWorker.discovery.labels={gpu=nvidia.com/gpu.product}")
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    objects = [one for one in objects_in(template(plane.tools, "helm3", *options).out) if one["kind"] in kinds]
    try:
        plane.kubectl("apply", "--server-side", "-f", "-", given=in_place(objects, made.namespace))
        yield made
    finally:
        plane.kubectl("delete", "-f", "-", "--ignore-not-found", given=in_place(objects, made.namespace))
        plane.kubectl("delete", "namespace", made.namespace, made.nodes, "--wait=false")


def in_place(objects: list[Mapping[str, Any]], namespace: str) -> str:
    """Objects with the namespace that Helm would put them in."""
    placed = [
        one if "namespace" in one["metadata"] or one["kind"].startswith("Cluster")
        else {**one, "metadata": {**one["metadata"], "namespace": namespace}}
        for one in objects
    ]  # fmt: skip
    return yaml.safe_dump_all(placed)


def rights(plane: ControlPlane, user: str, namespace: str) -> set[Right]:
    """Everything a user may do with resources in a namespace, or in the whole cluster."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    groups = ("system:serviceaccounts", "system:authenticated")
    said = plane.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review, as_user=user, as_groups=groups)
    status = said["status"]
    assert not status["incomplete"]
    return {
        (verb, ".".join(part for part in (resource, group) if part))
        for rule in status["resourceRules"]
        for verb in rule["verbs"]
        for group in rule.get("apiGroups", ())
        for resource in rule.get("resources", ())
    }


def table() -> dict[str, dict[str, set[Right]]]:
    """The table in the README: account to place to rights."""
    section = (CHART / "README.md").read_text().partition("## Rights in the cluster")[2].partition("\n## ")[0]
    found: dict[str, dict[str, set[Right]]] = {}
    for account, where, may in re.findall(r"^\| `([a-z-]+)` \| (.*?) \| (.*?) \|$", section, re.MULTILINE):
        *verbs, resource = re.findall(r"`([^`]+)`", may)
        found.setdefault(account, {})[where] = {(verb, resource) for verb in verbs}
    return found


def test_accounts_may_do_what_the_table_says_and_nothing_else(
    plane: ControlPlane, release: Release, request: pytest.FixtureRequest
) -> None:
    (local,) = (places for account, places in table().items() if account == "local-worker")
    slices = local["the release's namespace, `localWorker.discovery.namespace`"]
    nodes = local["the cluster, with `localWorker.discovery.labels`"]
    assert slices
    assert nodes
    wide = set() if "no labels" in request.node.name else nodes
    expected = {release.namespace: slices | wide, release.nodes: slices | wide, "default": wide, "kube-system": wide}
    for namespace, wanted in expected.items():
        # What every account has, such as asking for its own rights.
        anybody = rights(plane, f"system:serviceaccount:{release.namespace}:nobody", namespace)
        for account in ACCOUNTS:
            found = rights(plane, release.account(account), namespace) - anybody
            assert found == (wanted if account == "local-worker" else set()), (account, namespace)


@pytest.mark.parametrize(
    ("verb", "resource", "where", "allowed"),
    [
        ("list", "endpointslices.discovery.k8s.io", "nodes", True),
        ("watch", "endpointslices.discovery.k8s.io", "namespace", True),
        ("watch", "endpointslices.discovery.k8s.io", "kube-system", False),
        ("patch", "endpointslices.discovery.k8s.io", "nodes", False),
        ("create", "endpointslices.discovery.k8s.io", "nodes", False),
        ("list", "nodes", "namespace", False),
        ("patch", "nodes", "namespace", False),
        ("get", "secrets", "namespace", False),
        ("list", "pods", "namespace", False),
        ("create", "serviceaccounts/token", "namespace", False),
        ("create", "pods/exec", "namespace", False),
    ],
)
def test_the_local_worker_asks_for_single_rights(
    plane: ControlPlane, release: Release, verb: str, resource: str, where: str, allowed: bool
) -> None:
    namespace = {"nodes": release.nodes, "namespace": release.namespace}.get(where, where)
    user = release.account("local-worker")
    said = plane.kubectl("auth", "can-i", verb, resource, "-n", namespace, f"--as={user}", check=False)
    assert said.out.strip() == ("yes" if allowed else "no"), said.err


def test_only_the_local_worker_holds_a_token(plane: ControlPlane) -> None:
    options = ("--set=ollama.enabled=true,ollama.pools.general.models={llama3.2:3b}",)
    objects = objects_in(template(plane.tools, "helm3", *options).out)
    accounts = {one["metadata"]["name"]: one for one in objects if one["kind"] == "ServiceAccount"}
    assert len(accounts) == len(ACCOUNTS)
    for one in objects:
        pod = one if one["kind"] == "Pod" else one.get("spec", {}).get("template", {})
        if not isinstance(pod, dict) or "containers" not in pod.get("spec", {}):
            continue
        spec = pod["spec"]
        account = accounts.get(spec.get("serviceAccountName", ""), {})
        mounts = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        assert mounts == one["metadata"]["name"].endswith("-local-worker"), one["metadata"]["name"]
