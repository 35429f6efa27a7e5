"""The six services, each a process of its own, told everything by environment variables."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from headrace_devstack.layout import DataFolder
from headrace_devstack.parts.part import Process, ProcessCommand
from headrace_devstack.parts.probes import http_ok
from headrace_devstack.ports import LOOPBACK, PortPlan

START_SECONDS = 120.0  # a busy machine takes its time to load six of them
NOBODY_WAITS = frozenset({"cost-accountant"})  # for what these do; on one machine they step back for those who answer
DRAIN_SECONDS = 8.0  # calls in flight may end; callers may wait for answers that nobody is left to give, though
STOP_SECONDS = 20.0  # the drain, and then time to close what is open


@dataclass(frozen=True, slots=True)
class ServiceNeeds:
    """What one service is told beyond what all are."""

    name: str
    environment: Mapping[str, str]
    api_port: int | None = None
    note: str = ""


def service_part(folder: DataFolder, ports: PortPlan, common: Mapping[str, str], needs: ServiceNeeds) -> Process:
    """One service.

    It could wait for topics and schemas by itself, but six services that load take the processor from their creation.
    """
    ops = ports.ops(needs.name)
    own = {
        "HEADRACE_OPS_HOST": LOOPBACK,
        "HEADRACE_OPS_PORT": str(ops),
        "HEADRACE_INSTANCE_ID": f"{needs.name}-1",
        "HEADRACE_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "PYTHONUNBUFFERED": "1",
    }
    if needs.api_port is not None:
        own |= {"HEADRACE_API_HOST": LOOPBACK, "HEADRACE_API_PORT": str(needs.api_port)}
    return Process(
        name=needs.name,
        command=ProcessCommand(
            argv=(*_manners(needs.name), sys.executable, "-m", f"headrace_{needs.name.replace('-', '_')}"),
            environment={**os.environ, **common, **own, **needs.environment},
            log=folder.log(needs.name),
            folder=folder.root,
            stop_seconds=STOP_SECONDS,
        ),
        check=lambda: http_ok(f"http://{LOOPBACK}:{ops}/readyz"),
        after=("topics", "postgres"),
        address=f"http://{LOOPBACK}:{needs.api_port}" if needs.api_port else "",
        note=needs.note,
        start_seconds=START_SECONDS,
    )


def _manners(name: str) -> tuple[str, ...]:
    return ("nice", "-n", "10") if name in NOBODY_WAITS and shutil.which("nice") else ()
