"""Helm on the control plane, with a record of commands, output and durations."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from headrace_testing.k8s.plane import ControlPlane, Said, run_command
from headrace_testing.k8s.toolchain import KUBERNETES_VERSION, Toolchain

ROOT: Final = Path(__file__).parents[4]
CHART: Final = ROOT / "charts" / "headrace"
PRESETS: Final = ("small", "medium", "large")
VERSIONS: Final = ("helm3", "helm4")

_CUSTOM_KINDS: Final = (
    "keda.sh/v1alpha1/ScaledObject",
    "keda.sh/v1alpha1/TriggerAuthentication",
    "monitoring.coreos.com/v1/ServiceMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
    "kafka.strimzi.io/v1/KafkaTopic",
    "gateway.networking.k8s.io/v1/HTTPRoute",
)


@dataclass(slots=True)
class Record:
    """Commands and timings, for the report.

    Attributes:
        times: Seconds per step.
        lines: The transcript.
    """

    times: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write both to files."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kubernetes.json").write_text(json.dumps(self.times, indent=2) + "\n")
        (folder / "kubernetes-transcript.txt").write_text("\n".join(self.lines) + "\n")


def template(tools: Toolchain, version: str, *options: str, custom: bool = True, check: bool = True) -> Said:
    """Render the chart without a cluster; with `custom`, as if the cluster had all custom resource definitions."""
    kinds = [f"--api-versions={kind}" for kind in _CUSTOM_KINDS] if custom else []
    command = [
        str(tools.path(version)), "template", "hr", str(CHART), "--namespace=headrace",
        f"--kube-version={KUBERNETES_VERSION}", *kinds, *options,
    ]  # fmt: skip
    return run_command(command, check=check)


def objects_in(text: str) -> list[Mapping[str, Any]]:
    """The Kubernetes objects of a YAML text."""
    return [one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one]


@dataclass(frozen=True, slots=True)
class Helm:
    """One version of Helm on the control plane.

    Attributes:
        home: Folder of its caches and configuration.
    """

    plane: ControlPlane
    version: str
    home: Path
    record: Record

    def run(self, *arguments: str, check: bool = True) -> Said:
        """Run it as an administrator. Raises CommandFailed."""
        command = [str(self.plane.tools.path(self.version)), *arguments, f"--kubeconfig={self.plane.kubeconfig}"]
        return run_command(
            command,
            check=check,
            HELM_CACHE_HOME=str(self.home / "cache"),
            HELM_CONFIG_HOME=str(self.home / "config"),
            HELM_DATA_HOME=str(self.home / "data"),
        )

    def step(self, what: str, *arguments: str) -> float:
        """Run it and record its output and duration, in seconds."""
        began = time.monotonic()
        said = self.run(*arguments)
        seconds = time.monotonic() - began
        self.record.times[f"{self.version} {what}"] = round(seconds, 1)
        told = said.out.partition("NOTES:")[0].rstrip().splitlines()
        self.record.lines += [f"$ {self.version} {_shown(arguments)}", *told, f"({seconds:.1f} s)", ""]
        return seconds

    def show(self, *arguments: str) -> str:
        """Run kubectl, and add its output to the transcript."""
        out = self.plane.kubectl(*arguments).out
        self.record.lines += [f"$ kubectl {_shown(arguments)}", *out.rstrip().splitlines(), ""]
        return out


def _shown(arguments: Sequence[str]) -> str:
    return " ".join(argument.replace(f"{ROOT}/", "") for argument in arguments)
