"""The simulator: one process that stands in for model providers, over their own wire formats."""

import os
import sys

from headrace_devstack.layout import DataFolder
from headrace_devstack.parts.part import Process, ProcessCommand
from headrace_devstack.parts.probes import http_ok
from headrace_devstack.ports import LOOPBACK, PortPlan


def simulator_url(ports: PortPlan) -> str:
    """Base URL of all simulated providers."""
    return f"http://{LOOPBACK}:{ports.simulator}"


def simulator_part(folder: DataFolder, ports: PortPlan, stands_for: tuple[str, ...], speed: str) -> Process:
    """The simulator; requests are recorded in the data folder, to check what was sent to cloud providers."""
    home = folder.part("simulator")
    return Process(
        name="simulator",
        command=ProcessCommand(
            argv=(
                sys.executable, "-m", "headrace_models.simulator",
                "--host", LOOPBACK, "--port", str(ports.simulator),
                "--log", str(home / "requests.jsonl"), "--speed", speed,
            ),
            environment={**os.environ, "PYTHONUNBUFFERED": "1"},
            log=folder.log("simulator"),
            folder=home,
        ),
        check=lambda: http_ok(f"{simulator_url(ports)}/healthz"),
        address=simulator_url(ports),
        note=f"stands in for {', '.join(stands_for)}",
    )  # fmt: skip
