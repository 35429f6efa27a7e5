"""What stands in k8s/ out of the chart is what the chart makes now."""

import os

import pytest
from headrace_testing.k8s.helm import ROOT, VERSIONS
from headrace_testing.k8s.plane import run_command
from headrace_testing.k8s.toolchain import Toolchain


@pytest.mark.parametrize("version", VERSIONS)
def test_scaled_objects_and_monitors_are_current(tools: Toolchain, version: str) -> None:
    run_command(["env", f"HELM={tools.path(version)}", str(ROOT / "k8s/scripts/render.sh"), "--check"])


def test_scripts_are_executable_and_can_be_read_by_bash() -> None:
    scripts = sorted((ROOT / "k8s/scripts").glob("*.sh"))
    assert len(scripts) >= 4
    for script in scripts:
        assert os.access(script, os.X_OK), script
        run_command(["bash", "-n", str(script)])
