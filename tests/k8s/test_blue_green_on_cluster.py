"""Blue and green routers by the script, on the real control plane: who runs what after each step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from headrace_devstack.services import SERVICES
from headrace_testing.k8s.helm import CHART, ROOT, VERSIONS
from headrace_testing.k8s.plane import ControlPlane, Said, run_command

ONLY_ROUTERS = (
    *(f"--set={service.values_key}.enabled=false" for service in SERVICES if service.name != "router"),
    "--set=migrations.enabled=false",
    "--set=autoscaling.mode=none,router.replicas=2,topics.replication=1",
)


@pytest.fixture(params=VERSIONS)
def tell(request: pytest.FixtureRequest, plane: ControlPlane, namespace: str, tmp_path: Path) -> Callable[..., Said]:
    """Runs a command with helm and kubectl in the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "helm").symlink_to(plane.tools.path(request.param))
    (programs / "kubectl").symlink_to(plane.tools.path("kubectl"))

    def run(*command: str) -> Said:
        return run_command(
            command,
            PATH=f"{programs}:{os.environ['PATH']}", KUBECONFIG=str(plane.kubeconfig),
            NAMESPACE=namespace, RELEASE="hr",
            HELM_CACHE_HOME=str(tmp_path / "cache"), HELM_CONFIG_HOME=str(tmp_path / "config"),
            HELM_DATA_HOME=str(tmp_path / "data"),
        )  # fmt: skip

    return run


def routers(plane: ControlPlane, namespace: str) -> dict[str, str]:
    """Names of the routers that run, with the version of their image."""
    found = plane.get("pods", "-n", namespace, "-l", "app.kubernetes.io/component=router")["items"]
    return {
        pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"].rpartition(":")[2]
        for pod in found
        if "deletionTimestamp" not in pod["metadata"]
    }


def test_green_joins_takes_over_and_blue_comes_back_with_its_version(
    plane: ControlPlane, namespace: str, tell: Callable[..., Said]
) -> None:
    script = str(ROOT / "k8s/scripts/router-blue-green.sh")
    change = "--set=router.image.tag=2.0.0"
    tell("helm", "install", "hr", str(CHART), f"--namespace={namespace}", *ONLY_ROUTERS, "--wait", "--timeout=3m")
    blue = {"hr-headrace-router-0": "0.1.0", "hr-headrace-router-1": "0.1.0"}
    green = {"hr-green-router-0": "2.0.0", "hr-green-router-1": "2.0.0"}
    assert routers(plane, namespace) == blue

    tell(script, "start", change)
    assert routers(plane, namespace) == blue | green
    tell(script, "abort")
    assert routers(plane, namespace) == blue

    tell(script, "start", change)
    tell(script, "shift")
    assert routers(plane, namespace) == green
    tell(script, "promote", change)
    assert routers(plane, namespace) == dict.fromkeys(blue, "2.0.0")
    releases = tell("helm", "list", f"--namespace={namespace}", "--short").out.split()
    assert releases == ["hr"]
    tell("helm", "uninstall", "hr", f"--namespace={namespace}", "--wait")
