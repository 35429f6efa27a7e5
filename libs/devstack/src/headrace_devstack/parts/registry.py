"""The schema registry: Apicurio with the Confluent API, its schemas in a file that survives a kill."""

from collections.abc import Mapping
from pathlib import Path

from headrace_devstack.layout import DataFolder, write_private
from headrace_devstack.logins import REGISTRY_ROLES
from headrace_devstack.parts.java import QUICK, java_command, java_environment
from headrace_devstack.parts.java_archive import RECORDING_SECONDS, JavaArchive
from headrace_devstack.parts.part import Process, ProcessCommand, nothing_to_finish
from headrace_devstack.parts.probes import http_ok
from headrace_devstack.parts.sizes import ROOMY, Sizes
from headrace_devstack.ports import LOOPBACK, PortPlan


def registry_url(ports: PortPlan) -> str:
    """Base URL of the Confluent API."""
    return f"http://{LOOPBACK}:{ports.registry}/apis/ccompat/v7"


def registry_program(installed: Path) -> Path:
    """What Java runs."""
    return installed / "quarkus-run.jar"


def registry_part(
    folder: DataFolder,
    ports: PortPlan,
    installed: Path,
    passwords: Mapping[str, str] | None = None,
    sizes: Sizes = ROOMY,
    archive: JavaArchive | None = None,
) -> Process:
    """The registry on the given data folder.

    With `passwords` of the users in `REGISTRY_ROLES`, only they may write; reading needs no login, since schemas are
    no secrets, and every reader of a topic needs them.
    """
    home = folder.part("registry")
    configuration = home / "config" / "application.properties"  # where Quarkus looks for it, below its working folder

    async def prepare() -> None:
        if archive:
            archive.prepare()
        configuration.parent.mkdir(exist_ok=True)
        write_private(configuration, _access(passwords))
        # Where it is missing, Quarkus makes it readable and writable for everyone.
        (folder.tmp / "vertx-cache").mkdir(exist_ok=True)

    cached = archive.options if archive else ()
    options = (*QUICK, *sizes.java, *cached, "-jar", str(registry_program(installed)))
    return Process(
        name="registry",
        command=ProcessCommand(
            argv=java_command(heap_megabytes=sizes.registry_heap_megabytes, tmp=folder.tmp, options=options),
            environment={
                **java_environment(sizes.environment),
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
            stop_seconds=RECORDING_SECONDS if archive and archive.records else 10.0,
        ),
        prepare=prepare,
        ended=archive.finish if archive else nothing_to_finish,
        check=lambda: http_ok(f"{registry_url(ports)}/subjects"),
        address=registry_url(ports),
    )


def _access(passwords: Mapping[str, str] | None) -> str:
    """Who may do what, as Quarkus and Apicurio configure it. In a file: users see each other's processes."""
    if passwords is None:
        return ""
    users = "quarkus.security.users.embedded"
    properties = {
        "quarkus.http.auth.basic": "true",
        f"{users}.plain-text": "true",
        **{f"{users}.users.{user}": password for user, password in passwords.items()},
        **{f"{users}.roles.{user}": REGISTRY_ROLES[user] for user in passwords},
        "apicurio.auth.role-based-authorization": "true",
        "apicurio.auth.anonymous-read-access.enabled": "true",
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())
