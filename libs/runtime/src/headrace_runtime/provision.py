"""`python -m headrace_runtime.provision`: create Headrace's topics and register its schemas.

Run it before the services, with the right to create topics, by hand or as a job. Of existing topics it changes only
limits of records that are too small, so it can run before every start. Exit codes: 0 done, 1 refused or out of time, 2
bad settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Annotated, Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import RegistryUnavailable, SchemaIncompatible
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import TOPICS, topic_named, topics_with, with_partitions
from headrace_streams.errors import RecordRefused, TransientError
from headrace_streams.kafka import KafkaLog
from headrace_streams.provisioning import PartitionsDiffer, Provisioned, provision
from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from headrace_runtime.main import run_job
from headrace_runtime.settings import ServiceSettings, setting
from headrace_runtime.site_settings import SitesSettings
from headrace_runtime.waiting import wait_until

REFUSED: Final = (RecordRefused, SchemaIncompatible, PartitionsDiffer, ValueError)
"""Errors of `provision` that waiting does not resolve."""


def parse_partitions(value: object) -> object:
    """Parse `tasks=12,usage.recorded=3`. Raises ValueError for any other form."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",") if item.strip()]
    if any(not name.strip() or not number.strip().isdecimal() for name, _, number in pairs):
        raise ValueError("must be a list like tasks=12,usage.recorded=3")
    partitions = {name.strip(): int(number) for name, _, number in pairs}
    # Whether a topic of a site exists is known once all settings are.
    with_partitions(TOPICS, {name: number for name, number in partitions.items() if not _is_of_site(name)})
    return partitions


def _is_of_site(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(topic_named(name).site)
    return False


class ProvisionSettings(ServiceSettings, SitesSettings):
    """Settings of provisioning, besides those of Kafka and the registry."""

    service_name = "runtime"

    replication: int = setting(3, unit="copies", reason="Replication factor; 1 for a single broker.", ge=1, le=32_767)
    partitions: Annotated[dict[str, int], NoDecode, BeforeValidator(parse_partitions)] = setting(
        unit="topic=n, ...",
        reason="Overrides the partition counts of new topics, for example tasks=12,usage.recorded=3; "
        "tasks stands for all topics of the task group.",
        default_factory=dict,
        shown_default="(as in docs/events.md)",
    )
    create_topics: bool = setting(
        True,
        unit="true | false",
        reason="Create missing topics; false if another tool creates them. Schemas are registered in any case.",
    )
    provision_seconds: float = setting(
        120.0, unit="s", reason="How long to wait for Kafka and the registry before giving up.", gt=0
    )


async def provision_within(settings: ProvisionSettings) -> Provisioned:
    """Provision, waiting for Kafka and the registry for as long as the settings say.

    Raises TimeoutError, and the errors in `REFUSED`.
    """
    log = KafkaLog(settings.kafka_config())
    specs = with_partitions(topics_with(settings.sites), settings.partitions).values()
    async with (
        SchemaRegistry(settings.registry_url, access=settings.registry_access()) as registry,
        asyncio.timeout(settings.provision_seconds),
    ):
        codec = Codec(registry, settings.topic_prefix)
        return await wait_until(
            f"Kafka at {settings.bootstrap_servers} and the registry at {settings.registry_url}",
            lambda: provision(
                log.admin(),
                codec,
                list(specs),
                replication=settings.replication,
                create=settings.create_topics,
                request_bytes=settings.body_limit_bytes,
            ),
            not_yet=(TransientError, RegistryUnavailable),
        )


def main() -> int:
    """Returns the exit code."""
    return run_job(
        ProvisionSettings,
        provision_within,
        name="provision",
        doing="provisioning",
        seconds=lambda settings: settings.provision_seconds,
        refused=REFUSED,
    )


if __name__ == "__main__":
    sys.exit(main())
