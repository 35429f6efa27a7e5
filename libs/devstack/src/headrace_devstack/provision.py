"""Topics and schemas of an embedded stack: created before its first service starts, and then left unchanged."""

import asyncio

from headrace_contracts.codec import Codec
from headrace_contracts.errors import RegistryUnavailable, SchemaIncompatible
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import TOPICS
from headrace_streams.errors import RecordRefused, TransientError
from headrace_streams.kafka import KafkaLog
from headrace_streams.provisioning import PartitionsDiffer, provision

from headrace_devstack.errors import ProvisionByHand

PAUSE_SECONDS = 0.5


async def provision_stack(
    bootstrap_servers: str, registry_url: str, topic_prefix: str, *, replication: int = 1, seconds: float
) -> str:
    """Create what is missing, retrying this many seconds until Kafka and the registry answer; returns a summary.

    `replication` is the number of replicas of new topics.

    Raises:
        ProvisionByHand: it failed, and why.
    """
    admin = KafkaLog({"bootstrap.servers": bootstrap_servers}).admin()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    async with SchemaRegistry(registry_url) as registry:
        while True:
            try:
                done = await provision(
                    admin, Codec(registry, topic_prefix), list(TOPICS.values()), replication=replication
                )
            except (TransientError, RegistryUnavailable) as error:
                if loop.time() >= deadline:
                    raise ProvisionByHand(
                        f"Topics and schemas could not be created within {seconds:.0f} s: {error}.",
                        "check whether Kafka and the registry are healthy (their logs say more), then start again.",
                    ) from error
            except (RecordRefused, PartitionsDiffer, SchemaIncompatible) as error:
                raise ProvisionByHand(
                    f"The content of this data folder is not compatible with this version of Headrace: {error}.",
                    "run the version that wrote it, or choose another data folder (--data DIR); if you are changing a "
                    "schema, make it a compatible change (schemas/README.md).",
                ) from error
            else:
                return str(done)
            await asyncio.sleep(PAUSE_SECONDS)
