"""Users, topics and schemas of an embedded stack: created before its first service starts, and then left unchanged."""

import asyncio
from collections.abc import Mapping, Sequence

from headrace_contracts.codec import Codec
from headrace_contracts.errors import RegistryUnavailable, SchemaIncompatible
from headrace_contracts.limits import DEFAULT_REQUEST_BYTES
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.registry_access import ANONYMOUS, RegistryAccess
from headrace_contracts.topics import topics_with
from headrace_contracts.users import PROVISIONER
from headrace_streams.errors import LeaveGroup, RecordRefused, TransientError
from headrace_streams.kafka import KafkaLog
from headrace_streams.kafka.users import apply_users, until_accepted
from headrace_streams.provisioning import PartitionsDiffer, provision
from headrace_streams.rights import rights

from headrace_devstack.errors import ProvisionByHand, ReadThePartLog
from headrace_devstack.logins import ADMIN, Logins

PAUSE_SECONDS = 0.5


async def provision_stack(
    bootstrap_servers: str,
    registry_url: str,
    topic_prefix: str,
    *,
    sites: Sequence[str] = (),
    replication: int = 1,
    request_bytes: int = DEFAULT_REQUEST_BYTES,
    seconds: float,
    login: Mapping[str, str] | None = None,
    registry_access: RegistryAccess = ANONYMOUS,
) -> str:
    """Create what is missing, retrying this many seconds until Kafka and the registry answer; returns a summary.

    `sites` are those of local workers, `replication` is the number of replicas of new topics, `request_bytes` the
    largest request that they have to take, `login` librdkafka properties.

    Raises:
        ProvisionByHand: it failed, and why.
    """
    admin = KafkaLog({**(login or {}), "bootstrap.servers": bootstrap_servers}).admin()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    async with SchemaRegistry(registry_url, access=registry_access) as registry:
        while True:
            try:
                done = await provision(
                    admin,
                    Codec(registry, topic_prefix),
                    list(topics_with(sites).values()),
                    replication=replication,
                    request_bytes=request_bytes,
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


async def provision_users(bootstrap_servers: str, logins: Logins, topic_prefix: str, *, seconds: float) -> str:
    """Make the Kafka users and permissions those of this version, within this many seconds; returns a summary.

    Raises:
        ReadThePartLog: it failed, and why.
    """
    admin = {**logins.properties(ADMIN), "bootstrap.servers": bootstrap_servers}
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            done = await apply_users(admin, logins.kafka, rights(topic_prefix))
            await until_accepted(bootstrap_servers.split(","), logins.properties(PROVISIONER), seconds)
        except (TransientError, LeaveGroup) as error:
            if isinstance(error, LeaveGroup) or asyncio.get_running_loop().time() >= deadline:
                raise ReadThePartLog(
                    f"The users of Kafka could not be made: {error}.", "read the end of Kafka's log, then start again."
                ) from error
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return str(done)
