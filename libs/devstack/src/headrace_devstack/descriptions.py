"""The services, as each describes itself in the table ``[tool.headrace.service]`` of its pyproject.toml.

Everything that lists services is derived from these descriptions: `headrace up`, the compose file, the chart, the Kafka
users, the linters' settings and the tests. `headrace_devstack.services` has them where there is no checkout, and
docs/extending.md explains how to add one.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from headrace_contracts.topics import TOPICS
from headrace_runtime.invalid_fields import message_of
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

SERVICE_PORTS: Final = range(20, 40)
"""Offsets of ops ports from the first port of `headrace up`; lower ones are for APIs and `OTHER_PORTS`."""
OTHER_PORTS: Final[Mapping[str, int]] = {
    "registry": 1,
    "simulator": 4,
    "postgres": 5,
    "registry (management)": 6,
    "kafka": 12,
    "kafka (controller)": 13,
    "kafka-2": 14,
    "kafka-2 (controller)": 15,
    "kafka-3": 16,
    "kafka-3 (controller)": 17,
}
"""The same offsets for everything that is not a service; those of `kafka` are the first broker's."""


class DescribeTheService(Exception):
    """A service's pyproject.toml lacks what `ServiceDescription` requires; the message names the file."""


class _Described(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda name: name.replace("_", "-"), populate_by_name=True
    )


class ServicePorts(_Described):
    """Ports of a service, as offsets from the first port of `headrace up`.

    Attributes:
        ops: Port of /healthz, /readyz and /metrics; services are listed in this order.
        api: Port of its HTTP API; None for a service without one.
    """

    ops: int = Field(ge=SERVICE_PORTS.start, lt=SERVICE_PORTS.stop)
    api: int | None = Field(default=None, ge=0, lt=SERVICE_PORTS.start)


class ServiceDescription(_Described):
    """What the rest of the repository needs to know about a service.

    Attributes:
        name: The name of its folder; its package is `headrace_<name>`.
        summary: One sentence: the project's description.
        paths: Path prefixes that the chart's Ingress routes to its API.
        database: Whether it stores data in Postgres; it then has `headrace_<name>.migrations`.
        stateful: Whether its pods have stable names.
        background: Whether no caller waits for its work, so that on one machine it runs at lower priority.
        scaled_by_lag: Topics that it reads as a member of the group named after it, and by whose lag it is scaled.
        scaled_by_work: Whether it exports outstanding work-seconds, and is scaled by them.
        provider_keys: Whether it calls cloud providers: compose passes it their API keys (`headrace_models.cloud`).
        compose: Variables that the compose file sets in addition to those derived from the rest.
        chart: Its values in the chart that differ from `serviceDefaults`.
    """

    name: str = Field(pattern=r"^[a-z]+(-[a-z]+)*$")
    summary: str = Field(min_length=1)
    ports: ServicePorts
    paths: tuple[str, ...] = ()
    database: bool = False
    stateful: bool = False
    background: bool = False
    scaled_by_lag: tuple[str, ...] = ()
    scaled_by_work: bool = False
    provider_keys: bool = False
    compose: Mapping[str, str] = Field(default_factory=dict)
    chart: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def package(self) -> str:
        """Its Python package."""
        return f"headrace_{self.name.replace('-', '_')}"

    @property
    def holds_secret(self) -> bool:
        """Whether it needs the installation's secret (the key pepper): to recognise API keys, or to tell signed records
        from forged ones."""
        signed = (spec for spec in TOPICS.values() if spec.signed)
        return self.ports.api is not None or any(self.name in (*spec.writers, *spec.readers) for spec in signed)

    @property
    def takes_submissions(self) -> bool:
        """Whether it reads what producers of tenants write to Kafka, and checks their signatures."""
        return self.holds_secret and any(
            spec.scope is not None and self.name in spec.readers for spec in TOPICS.values()
        )

    @property
    def values_key(self) -> str:
        """Its key in the chart's values."""
        first, *others = self.name.split("-")
        return first + "".join(part.capitalize() for part in others)


ALL: Final = TypeAdapter(tuple[ServiceDescription, ...])
"""Reads and writes the descriptions as JSON."""


def described(root: Path) -> tuple[ServiceDescription, ...]:
    """The current descriptions of a checkout's services, in the order of their ops ports.

    Raises DescribeTheService.
    """
    found = sorted(map(_read, root.glob("services/*/pyproject.toml")), key=lambda service: service.ports.ops)
    taken = {distance: part for part, distance in OTHER_PORTS.items()}
    for service in found:
        for port in (service.ports.ops, service.ports.api):
            if port in taken:
                raise DescribeTheService(f"{service.name}: port {port} belongs to {taken[port]}; choose a free one")
            if port is not None:
                taken[port] = service.name
    return tuple(found)


def as_json(services: tuple[ServiceDescription, ...]) -> str:
    """The descriptions as stored in ``services.json``."""
    return ALL.dump_json(services, by_alias=True, exclude_defaults=True, indent=2).decode() + "\n"


def _read(path: Path) -> ServiceDescription:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    project, name = document.get("project", {}), path.parent.name
    table = document.get("tool", {}).get("headrace", {}).get("service")
    if table is None:
        raise DescribeTheService(f"{path}: describe the service in [tool.headrace.service] (docs/extending.md)")
    if project.get("name") != f"headrace-{name}":
        raise DescribeTheService(f"{path}: name the project headrace-{name}, after its folder")
    try:
        return ServiceDescription(name=name, summary=project.get("description", ""), **table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DescribeTheService(f"{path}: [tool.headrace.service] {where}: {message_of(first)}") from error
