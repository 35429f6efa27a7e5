"""The schema registry: Apicurio with the Confluent API, its schemas in a file that survives a kill."""

from pathlib import Path

from headrace_devstack.layout import DataFolder
from headrace_devstack.parts.java import java_command, java_environment
from headrace_devstack.parts.part import Process, ProcessCommand
from headrace_devstack.parts.probes import http_ok
from headrace_devstack.ports import LOOPBACK, PortPlan

HEAP_MEGABYTES = 192


def registry_url(ports: PortPlan) -> str:
    """Base URL of the Confluent API."""
    return f"http://{LOOPBACK}:{ports.registry}/apis/ccompat/v7"


def registry_part(folder: DataFolder, ports: PortPlan, installed: Path) -> Process:
    """The registry on the given data folder."""
    home = folder.part("registry")
    # With only the first compiler tier it starts sooner, and it has little to do afterwards.
    options = ("-XX:TieredStopAtLevel=1", "-jar", str(installed / "quarkus-run.jar"))
    return Process(
        name="registry",
        command=ProcessCommand(
            argv=java_command(heap_megabytes=HEAP_MEGABYTES, tmp=folder.tmp, options=options),
            environment={
                **java_environment(),
                "QUARKUS_HTTP_HOST": LOOPBACK,
                "QUARKUS_HTTP_PORT": str(ports.registry),
                "QUARKUS_MANAGEMENT_HOST": LOOPBACK,
                "QUARKUS_MANAGEMENT_PORT": str(ports.registry_management),
                "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
                "APICURIO_STORAGE_SQL_KIND": "h2",
                # Without WRITE_DELAY=0 the last second of registrations is lost when the process is killed.
                "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{home / 'schemas'};WRITE_DELAY=0",
                # The registry's own default is NONE.
                "APICURIO_RULES_GLOBAL_COMPATIBILITY": "FULL_TRANSITIVE",
            },
            log=folder.log("registry"),
            folder=home,
        ),
        check=lambda: http_ok(f"{registry_url(ports)}/subjects"),
        address=registry_url(ports),
    )
