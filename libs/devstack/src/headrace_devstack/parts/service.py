"""The services, each a separate process configured by environment variables."""

import os
import shutil
import sys
from collections.abc import Mapping

from headrace_devstack.descriptions import ServiceDescription
from headrace_devstack.layout import DataFolder
from headrace_devstack.parts.part import Process, ProcessCommand
from headrace_devstack.parts.probes import http_ok
from headrace_devstack.ports import LOOPBACK, PortPlan

START_SECONDS = 120.0  # a busy machine takes long to load all of them
# For calls in flight; a longer wait would only serve callers whose answers no service is left to give.
DRAIN_SECONDS = 8.0
STOP_SECONDS = 20.0  # the drain, then time to close connections


def service_part(
    folder: DataFolder, ports: PortPlan, service: ServiceDescription, environment: Mapping[str, str], *, note: str
) -> Process:
    """One service. `environment` is added to what `environment_of` sets.

    It could wait for topics and schemas by itself, but services that are loading would slow down their creation.
    """
    return Process(
        name=service.name,
        command=ProcessCommand(
            argv=(*_manners(service), sys.executable, "-m", service.package),
            environment=environment_of(ports, service, environment),
            log=folder.log(service.name),
            folder=folder.root,
            stop_seconds=STOP_SECONDS,
        ),
        check=lambda: http_ok(f"http://{LOOPBACK}:{ports.ops(service.name)}/readyz"),
        after=("topics", "postgres"),
        address=api_address(ports, service),
        note=note,
        start_seconds=START_SECONDS,
    )


def environment_of(ports: PortPlan, service: ServiceDescription, environment: Mapping[str, str]) -> dict[str, str]:
    """All variables of a service: the user's, those of its addresses and its stop, and `environment`."""
    own = {
        "HEADRACE_OPS_HOST": LOOPBACK,
        "HEADRACE_OPS_PORT": str(ports.ops(service.name)),
        "HEADRACE_INSTANCE_ID": f"{service.name}-1",
        "HEADRACE_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "PYTHONUNBUFFERED": "1",
    }
    if service.ports.api is not None:
        own |= {"HEADRACE_API_HOST": LOOPBACK, "HEADRACE_API_PORT": str(ports.api(service.name))}
    return {**_inherited(), **own, **environment}


def api_address(ports: PortPlan, service: ServiceDescription) -> str:
    """Base URL of a service's API; empty for one without."""
    return "" if service.ports.api is None else f"http://{LOOPBACK}:{ports.api(service.name)}"


def _manners(service: ServiceDescription) -> tuple[str, ...]:
    # On one machine, background services run at lower priority than those that callers wait for.
    return ("nice", "-n", "10") if service.background and shutil.which("nice") else ()


def _inherited() -> dict[str, str]:
    # A login in the user's environment is for another Kafka.
    logins = ("HEADRACE_KAFKA_SASL_", "HEADRACE_KAFKA_SECURITY_PROTOCOL", "HEADRACE_KAFKA_PROPERTIES_FILE")
    return {name: value for name, value in os.environ.items() if not name.startswith(logins)}
