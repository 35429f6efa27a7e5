"""Creates the topics and registers the schemas: once, before the first service starts, wherever the services run.

``python -m headrace_devstack.provision`` does it for any cluster; ``--help`` lists its settings. What is there already
stays as it is, so it may run before every start. `headrace up` calls `provision` directly.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Annotated

import typer
from headrace_contracts.codec import Codec
from headrace_contracts.errors import RegistryUnavailable, SchemaIncompatible
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import TOPICS, TopicSpec, with_partitions
from headrace_runtime import kafka_properties
from headrace_streams.errors import RecordRefused, TryAgain
from headrace_streams.kafka import KafkaLog
from headrace_streams.records import NewTopic

from headrace_devstack.errors import ProvisionByHand

# A task may have 1 MiB; its journal record holds it beside the state, and both are base for what a fetch must carry.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
DURABLE_REPLICATION = 3


def topic_of(spec: TopicSpec, prefix: str, replication: int) -> NewTopic:
    """The topic to create for a specification."""
    config = {"cleanup.policy": spec.cleanup, "max.message.bytes": str(MAX_MESSAGE_BYTES)}
    if spec.retention_ms is not None:
        config["retention.ms"] = str(spec.retention_ms)
    if replication >= DURABLE_REPLICATION:
        config["min.insync.replicas"] = str(replication - 1)
    return NewTopic(prefix + spec.name, spec.partitions, replication, tuple(sorted(config.items())))


async def provision(
    bootstrap_servers: str,
    registry_url: str,
    topic_prefix: str,
    *,
    replication: int = 1,
    partitions: Mapping[str, int] | None = None,
    properties: Mapping[str, str] | None = None,
) -> str:
    """Create missing topics and register the schemas of all; returns what was done, in words.

    Args:
        partitions: Other numbers of partitions than specified, by topic; "tasks" for all co-partitioned topics.
        properties: librdkafka properties, for a cluster that asks for TLS or a login.

    Raises:
        ValueError: `partitions` names an unknown topic.
        TryAgain: Kafka cannot be reached or is busy.
        RecordRefused: Kafka refuses a topic for good.
        RegistryUnavailable: the registry cannot be reached.
        SchemaIncompatible: the registry holds schemas that these are not compatible with.
    """
    specs = with_partitions(TOPICS, partitions or {})
    log = KafkaLog({**(properties or {}), "bootstrap.servers": bootstrap_servers})
    created = await log.admin().create_topics([topic_of(spec, topic_prefix, replication) for spec in specs.values()])
    async with SchemaRegistry(registry_url) as registry:
        await Codec(registry, topic_prefix).prepare(specs.values(), register=True)
    return f"{len(specs)} topics ({len(created)} new), {len(specs)} schemas"


async def provision_with_patience(
    seconds: float,
    bootstrap_servers: str,
    registry_url: str,
    topic_prefix: str,
    *,
    replication: int = 1,
    partitions: Mapping[str, int] | None = None,
    properties: Mapping[str, str] | None = None,
) -> str:
    """`provision`, trying for so many seconds to reach Kafka and the registry.

    Raises:
        ProvisionByHand: it did not work out, and why.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            return await provision(
                bootstrap_servers, registry_url, topic_prefix,
                replication=replication, partitions=partitions, properties=properties,
            )  # fmt: skip
        except (TryAgain, RegistryUnavailable) as error:
            if loop.time() >= deadline:
                raise ProvisionByHand(
                    f"Topics and schemas could not be created within {seconds:.0f} s: {error}.",
                    "see whether Kafka and the registry are healthy (their logs say more), then start again.",
                ) from error
        except RecordRefused as error:
            raise ProvisionByHand(
                f"Kafka refuses to create a topic: {error}.",
                "check that this client may create topics, and that there are as many brokers as copies are asked for.",
            ) from error
        except SchemaIncompatible as error:
            raise ProvisionByHand(
                f"The registry holds schemas of another version, which these are not compatible with: {error}.",
                "run the version that wrote them, name another data folder (--data DIR), or make the schema change a "
                "compatible one (schemas/README.md).",
            ) from error
        await asyncio.sleep(0.5)


def parse_partitions(text: str) -> dict[str, int]:
    """Read ``tasks=12,usage.recorded=3``.

    Raises:
        ValueError: it does not look like that.
    """
    pairs = [item.partition("=") for item in text.split(",") if item]
    if any(not name or not number.isdecimal() for name, _, number in pairs):
        raise ValueError(f"{text!r} is not a list like tasks=12,usage.recorded=3")
    return {name.strip(): int(number) for name, _, number in pairs}


def main(
    bootstrap_servers: Annotated[str, typer.Option(envvar="HEADRACE_BOOTSTRAP_SERVERS", help="Kafka, host:port,...")],
    registry_url: Annotated[str, typer.Option(envvar="HEADRACE_REGISTRY_URL", help="Root of the Confluent API.")],
    topic_prefix: Annotated[
        str, typer.Option(envvar="HEADRACE_TOPIC_PREFIX", help="Start of all topic names.")
    ] = "headrace.",
    replication: Annotated[
        int, typer.Option(envvar="HEADRACE_REPLICATION", min=1, help="Copies of each partition; 3 in production.")
    ] = 1,
    partitions: Annotated[
        str,
        typer.Option(
            envvar="HEADRACE_PARTITIONS", help="Other numbers of partitions, for example tasks=12,usage.recorded=3."
        ),
    ] = "",
    seconds: Annotated[
        float, typer.Option(envvar="HEADRACE_PROVISION_SECONDS", help="How long to wait for Kafka and the registry.")
    ] = 120.0,
) -> None:
    """Create Headrace's topics and register its schemas; what exists stays as it is.

    Variables HEADRACE_KAFKA_<PROPERTY> set any librdkafka property.
    """
    try:
        done = asyncio.run(
            provision_with_patience(
                seconds,
                bootstrap_servers,
                registry_url,
                topic_prefix,
                replication=replication,
                partitions=parse_partitions(partitions),
                properties=kafka_properties.collect(os.environ),
            )
        )
    except (ValueError, ProvisionByHand, kafka_properties.KafkaPropertiesInvalid) as error:
        print(f"provisioning failed: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(done)


if __name__ == "__main__":
    typer.run(main)
