"""One embedded stack, from its settings to its stop: assembles the parts."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from headrace_contracts.registry_access import ANONYMOUS
from headrace_contracts.users import PROVISIONER

from headrace_devstack import ports as port_module
from headrace_devstack.artifacts import ArtifactCache, Bundles, require_room
from headrace_devstack.errors import InstallNewerPython, KeepTheBrokers
from headrace_devstack.java_training import kafka_archive, registry_archive
from headrace_devstack.layout import DataFolder, make_api_key, open_data_folder
from headrace_devstack.locked_artifacts import FetchProgress
from headrace_devstack.logins import Logins, open_logins, write_signing_key
from headrace_devstack.parts.kafka import kafka_parts
from headrace_devstack.parts.part import SetupStep, StackPart
from headrace_devstack.parts.postgres import database_url, postgres_part
from headrace_devstack.parts.registry import registry_part, registry_url
from headrace_devstack.parts.service import service_part
from headrace_devstack.parts.simulator import simulator_part, simulator_url
from headrace_devstack.parts.sizes import ROOMY, SMALL
from headrace_devstack.parts.together import ServiceThread, code_step, hosted_service, hosted_simulator
from headrace_devstack.ports import DEFAULT_PORT_BASE, LOOPBACK, PortPlan
from headrace_devstack.processes import ProcessMark, end_leftovers, mark
from headrace_devstack.providers import Providers, choose_providers, find_ollama, offered_in_the_cloud
from headrace_devstack.services import SERVICES
from headrace_devstack.settings import StackSettings
from headrace_devstack.supervisor import Condition, PartEvent, Supervisor

OLDEST_PYTHON = (3, 11)
PROVISION_SECONDS = 60.0
ROOM_FOR_DATA = 500_000_000  # bytes
KEY_PEPPER = "key-pepper"
"""Name of the secret from which all keys follow."""


@dataclass(frozen=True, slots=True)
class StackAddresses:
    """All addresses of a running stack."""

    bootstrap_servers: str
    registry_url: str
    database_url: str
    topic_prefix: str
    intake_url: str
    skills_url: str
    costs_url: str
    ops_urls: Mapping[str, str]
    simulator_url: str | None
    simulated: tuple[str, ...]
    ollama_nodes: str
    """As in HEADRACE_OLLAMA_NODES; empty without services."""
    cloud_providers: tuple[str, ...]
    """Names of those that are offered, simulated ones included."""
    api_key_file: Path
    tenant: str
    """The tenant of the API key."""
    signing_key_file: Path | None
    """Signs what this tenant writes to Kafka; None where nobody needs to."""
    kafka_users: Mapping[str, Path]
    """How to log in as each user; empty where nobody needs to."""
    registry_users: Mapping[str, Path]
    """Passwords of those who may write to the registry."""

    @property
    def secure(self) -> bool:
        """Whether logins are required."""
        return bool(self.kafka_users)


@dataclass(frozen=True, slots=True)
class Stack:
    """An assembled stack; `supervisor` runs its parts."""

    folder: DataFolder
    addresses: StackAddresses
    parts: tuple[StackPart, ...]
    supervisor: Supervisor
    processes: Literal["each", "one"]
    new_api_key: str | None
    started: datetime

    def publish(self) -> None:
        """Write ``stack.json``, once all parts have their pids."""
        addresses = self.addresses
        if any(
            status.name == "intake" and status.condition is Condition.HEALTHY for status in self.supervisor.status()
        ):
            # Intake has signed what an earlier release left: from now on nothing else is believed.
            self.folder.note_records_signed()
        marks = {status.name: mark(status.pid) for status in self.supervisor.status() if status.pid is not None}
        self.folder.write_stack(
            {
                "started": self.started.isoformat(timespec="seconds"),
                "supervisor_pid": os.getpid(),
                "processes": self.processes,
                "data": str(self.folder.root),
                "bootstrap_servers": addresses.bootstrap_servers,
                "registry_url": addresses.registry_url,
                "database_url": addresses.database_url,
                "topic_prefix": addresses.topic_prefix,
                "intake_url": addresses.intake_url,
                "skills_url": addresses.skills_url,
                "costs_url": addresses.costs_url,
                "ops_urls": dict(addresses.ops_urls),
                "simulator_url": addresses.simulator_url,
                "simulated": list(addresses.simulated),
                "ollama_nodes": addresses.ollama_nodes,
                "api_key_file": str(addresses.api_key_file),
                "tenant": addresses.tenant,
                "signing_key_file": None if addresses.signing_key_file is None else str(addresses.signing_key_file),
                "secure": addresses.secure,
                "kafka_users": {user: str(file) for user, file in addresses.kafka_users.items()},
                "registry_users": {user: str(file) for user, file in addresses.registry_users.items()},
                "pids": {name: known.pid for name, known in marks.items() if known},
                "process_created": {name: known.created for name, known in marks.items() if known},
            }
        )


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> None:
    """Refuse a Python that is too old.

    Raises:
        InstallNewerPython: it is.
    """
    if version < OLDEST_PYTHON:
        raise InstallNewerPython(
            f"This is Python {'.'.join(map(str, version))} ({sys.executable}); Headrace needs 3.11 or newer.",
            "install a newer Python and name it: `make up PYTHON=python3.12`.",
        )


@asynccontextmanager
async def open_stack(
    settings: StackSettings, emit: Callable[[PartEvent], None], progress: FetchProgress
) -> AsyncIterator[Stack]:
    """Prepare a stack; the caller starts its supervisor. When the block ends, everything has stopped.

    Raises:
        DevstackError: it cannot start; the message says why, and what to do about it.
    """
    check_python()
    with ExitStack() as closing:
        folder = closing.enter_context(open_data_folder(settings.data))
        await asyncio.to_thread(_end_leftovers, folder)
        require_room(folder.root, ROOM_FOR_DATA, "the data of the stack")
        ports = _choose_ports(settings, folder)
        bundles = await _fetch(settings, progress)
        sizes = SMALL if settings.processes == "one" else ROOMY
        new_api_key = not folder.api_key_file.exists()
        api_key = folder.secret("api-key", make_api_key)
        password = folder.secret("postgres-password")
        logins = open_logins(folder) if settings.secure else None
        kafka = kafka_parts(
            folder, ports, bundles.kafka_jars, logins.admin if logins else None, sizes,
            kafka_archive(bundles),
        )  # fmt: skip
        parts: list[StackPart] = [
            *kafka,
            registry_part(
                folder,
                ports,
                bundles.registry_home,
                logins.registry if logins else None,
                sizes,
                registry_archive(bundles),
            ),
            postgres_part(folder, ports, password, sizes),
        ]
        ready = [part.name for part in kafka]
        if logins:
            parts.append(_users_step(settings, ports, ready, logins))
            ready = ["users"]
        providers: Providers | None = None
        signing_key_file: Path | None = None
        if not settings.backing_only:
            if logins:
                signing_key_file = write_signing_key(folder, api_key, folder.secret(KEY_PEPPER))
            providers = choose_providers(
                os.environ,
                ollama=None if settings.simulate else await find_ollama(),
                simulator=simulator_url(ports),
                simulate_all=settings.simulate,
            )
            thread: ServiceThread | None = None
            if settings.processes == "one":
                thread = ServiceThread()
                closing.enter_context(thread.running(folder))
            parts += _service_parts(settings, folder, ports, ready, providers, password, api_key, logins, thread)
        supervisor = Supervisor(parts, emit)
        addresses = _addresses(settings, folder, ports, providers, password, logins, signing_key_file)
        try:
            shown_key = api_key if new_api_key else None
            yield Stack(
                folder, addresses, tuple(parts), supervisor, settings.processes, shown_key, started=datetime.now(UTC)
            )
        finally:
            await supervisor.stop()
            folder.remove_stack()


async def _fetch(settings: StackSettings, progress: FetchProgress) -> Bundles:
    cache = ArtifactCache(settings.cache, settings.maven_repository)
    try:
        return await asyncio.to_thread(cache.fetch, progress)
    except asyncio.CancelledError:
        cache.abandon()
        raise


def _users_step(settings: StackSettings, ports: PortPlan, brokers: Sequence[str], logins: Logins) -> SetupStep:
    async def users() -> str:
        from headrace_devstack.provision import provision_users

        return await provision_users(ports.bootstrap_servers, logins, settings.topic_prefix, seconds=PROVISION_SECONDS)

    return SetupStep("users", users, after=tuple(brokers))


def _service_parts(
    settings: StackSettings,
    folder: DataFolder,
    ports: PortPlan,
    kafka: Sequence[str],
    providers: Providers,
    password: str,
    api_key: str,
    logins: Logins | None,
    thread: ServiceThread | None,
) -> Iterator[StackPart]:
    bootstrap, registry = ports.bootstrap_servers, registry_url(ports)

    async def topics() -> str:
        # Imported here: loading the client libraries takes a while, during which Kafka is starting.
        from headrace_devstack.provision import provision_stack

        return await provision_stack(
            bootstrap,
            registry,
            settings.topic_prefix,
            sites=settings.site_names,
            replication=ports.brokers,
            request_bytes=settings.body_limit_bytes,
            seconds=PROVISION_SECONDS,
            login=logins.properties(PROVISIONER) if logins else None,
            registry_access=logins.registry_access(PROVISIONER) if logins else ANONYMOUS,
        )

    yield SetupStep("topics", topics, after=(*kafka, "registry"))
    if thread:
        yield code_step(SERVICES, providers.cloud)
    if providers.simulated and thread:
        yield hosted_simulator(thread, folder, ports, providers.simulated, settings.simulator_speed)
    elif providers.simulated:
        yield simulator_part(folder, ports, providers.simulated, settings.simulator_speed)
    common = {
        "HEADRACE_BOOTSTRAP_SERVERS": bootstrap,
        "HEADRACE_REGISTRY_URL": registry,
        "HEADRACE_TOPIC_PREFIX": settings.topic_prefix,
        "HEADRACE_BODY_LIMIT_BYTES": str(settings.body_limit_bytes),
        # A restarted service gets its partitions back at once, instead of waiting for its old session to time out.
        "HEADRACE_STATIC_MEMBER": "true",
        "HEADRACE_LOG_FORMAT": os.environ.get("HEADRACE_LOG_FORMAT", "json"),
        "HEADRACE_LOG_LEVEL": os.environ.get("HEADRACE_LOG_LEVEL", "info"),
        **tenants_file(),
    }
    pepper = {"HEADRACE_KEY_PEPPER": folder.secret(KEY_PEPPER)}
    if not folder.records_are_signed:
        pepper["HEADRACE_UNSIGNED_RECORDS"] = "accept"
    database = {"HEADRACE_DATABASE_URL": database_url(ports, password)}
    if thread and SMALL.pool:
        database["HEADRACE_DATABASE_POOL_SIZE"] = str(SMALL.pool)
    # Variables of single services; the rest follows from their descriptions.
    alone: Mapping[str, Mapping[str, str]] = {
        "intake": {"HEADRACE_BOOTSTRAP_KEY": api_key, "HEADRACE_BOOTSTRAP_TENANT": _first_tenant()},
        "router": {"HEADRACE_SITES": settings.sites},
        "local-worker": providers.local,
        "cloud-worker": providers.cloud,
        "cost-accountant": {"HEADRACE_WINDOWS_REPLICATION": str(ports.brokers)},
    }
    ollama_nodes = "simulated nodes" if "ollama" in providers.simulated else providers.local["HEADRACE_OLLAMA_NODES"]
    notes = {"local-worker": ollama_nodes, "cloud-worker": "simulated" if "groq" in providers.simulated else ""}
    for service in SERVICES:
        environment = {
            **common,
            **(pepper if service.holds_secret else {}),
            **(database if service.database else {}),
            **({"HEADRACE_KAFKA_PROPERTIES_FILE": str(logins.files[service.name])} if logins else {}),
            # Several users of the machine may write, and none may speak for the tenants of others.
            **({"HEADRACE_UNSIGNED_SUBMISSIONS": "refuse"} if logins and service.takes_submissions else {}),
            **alone.get(service.name, {}),
        }
        note = notes.get(service.name, "")
        if thread:
            yield hosted_service(thread, folder, ports, service, environment, note=note)
        else:
            yield service_part(folder, ports, service, environment, note=note)


def tenants_file() -> dict[str, str]:
    """The variable for the user's file of tenants, whose path does not depend on the working folder."""
    named = os.environ.get("HEADRACE_TENANTS_FILE")
    return {"HEADRACE_TENANTS_FILE": str(Path(named).absolute())} if named else {}


def _addresses(
    settings: StackSettings,
    folder: DataFolder,
    ports: PortPlan,
    providers: Providers | None,
    password: str,
    logins: Logins | None,
    signing_key_file: Path | None,
) -> StackAddresses:
    return StackAddresses(
        bootstrap_servers=ports.bootstrap_servers,
        registry_url=registry_url(ports),
        database_url=database_url(ports, password),
        topic_prefix=settings.topic_prefix,
        intake_url=f"http://{LOOPBACK}:{ports.api('intake')}",
        skills_url=f"http://{LOOPBACK}:{ports.api('skill-broadcaster')}",
        costs_url=f"http://{LOOPBACK}:{ports.api('cost-accountant')}",
        ops_urls={service.name: f"http://{LOOPBACK}:{ports.ops(service.name)}" for service in SERVICES},
        simulator_url=simulator_url(ports) if providers and providers.simulated else None,
        simulated=providers.simulated if providers else (),
        ollama_nodes=providers.local["HEADRACE_OLLAMA_NODES"] if providers else "",
        cloud_providers=offered_in_the_cloud(providers.cloud) if providers else (),
        api_key_file=folder.api_key_file,
        tenant=_first_tenant(),
        signing_key_file=signing_key_file,
        kafka_users=logins.files if logins else {},
        registry_users=logins.registry_files if logins else {},
    )


def _first_tenant() -> str:
    return os.environ.get("HEADRACE_BOOTSTRAP_TENANT") or "default"


def _choose_ports(settings: StackSettings, folder: DataFolder) -> PortPlan:
    base = settings.port_base
    if base is None:
        base = folder.saved_port_base() or DEFAULT_PORT_BASE
    elif base == 0:
        base = port_module.choose_base()
    plan = PortPlan(base, choose_brokers(settings.brokers, folder))
    port_module.require_free(plan.all().items())
    folder.save_port_base(base)
    return plan


def choose_brokers(wanted: int | None, folder: DataFolder) -> int:
    """How many brokers to run on a data folder.

    Raises:
        KeepTheBrokers: it has data of another number of them.
    """
    there = folder.saved_brokers()
    if wanted is None or there is None or wanted == there:
        return wanted or there or 1
    raise KeepTheBrokers(
        f"The data folder {folder.root} was started with {there} Kafka broker{'s' if there > 1 else ''}, "
        f"and {wanted} cannot run on it.",
        f"start it without --brokers (HEADRACE_BROKERS) or with --brokers {there}, or choose another data folder: "
        "--data DIR.",
    )


def _end_leftovers(folder: DataFolder) -> None:
    """End processes left over by a killed supervisor: they would block ports and data files."""
    left = folder.read_stack() or {}
    pids, created = left.get("pids"), left.get("process_created")
    if not isinstance(pids, dict) or not isinstance(created, dict):
        return
    marks = []
    for name, pid in pids.items():
        with contextlib.suppress(TypeError, ValueError, KeyError):
            marks.append(ProcessMark(int(pid), float(created[name])))
    end_leftovers(marks)
    folder.remove_stack()
