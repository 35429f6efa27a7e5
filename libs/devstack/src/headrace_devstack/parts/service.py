"""The services, each a process of its own, told everything by environment variables."""

import os
import shutil
import sys
from collections.abc import Mapping

from headrace_devstack.descriptions import ServiceDescription
from headrace_devstack.layout import DataFolder
from headrace_devstack.parts.part import Process, ProcessCommand
from headrace_devstack.parts.probes import http_ok
from headrace_devstack.ports import LOOPBACK, PortPlan

START_SECONDS = 120.0  # a busy machine takes its time to load all of them
DRAIN_SECONDS = (
    8.0  # calls in flight may finish; a longer wait would only serve callers whose answers no service is left to give
)
STOP_SECONDS = 20.0  # the drain, and then time to close what is open


def service_part(
    folder: DataFolder, ports: PortPlan, service: ServiceDescription, environment: Mapping[str, str], *, note: str
) -> Process:
    """One service. `environment` is what it is told beyond where it listens and how it stops.

    It could wait for topics and schemas by itself, but services that load take the processor from their creation.
    """
    ops = ports.ops(service.name)
    own = {
        "HEADRACE_OPS_HOST": LOOPBACK,
        "HEADRACE_OPS_PORT": str(ops),
        "HEADRACE_INSTANCE_ID": f"{service.name}-1",
        "HEADRACE_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "PYTHONUNBUFFERED": "1",
    }
    address = ""
    if service.ports.api is not None:
        api = ports.api(service.name)
        own |= {"HEADRACE_API_HOST": LOOPBACK, "HEADRACE_API_PORT": str(api)}
        address = f"http://{LOOPBACK}:{api}"
    return Process(
        name=service.name,
        command=ProcessCommand(
            argv=(*_manners(service), sys.executable, "-m", service.package),
            environment={**os.environ, **own, **environment},
            log=folder.log(service.name),
            folder=folder.root,
            stop_seconds=STOP_SECONDS,
        ),
        check=lambda: http_ok(f"http://{LOOPBACK}:{ops}/readyz"),
        after=("topics", "postgres"),
        address=address,
        note=note,
        start_seconds=START_SECONDS,
    )


def _manners(service: ServiceDescription) -> tuple[str, ...]:
    # On one machine, who is not waited for steps back for those who answer.
    return ("nice", "-n", "10") if service.background and shutil.which("nice") else ()
