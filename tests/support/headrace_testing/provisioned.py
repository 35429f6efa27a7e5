"""Topics and schemas on the shared Kafka and registry, which may be slow while many tests run."""

from __future__ import annotations

from collections.abc import Iterable

from headrace_contracts.codec import Codec
from headrace_contracts.errors import RegistryUnavailable
from headrace_contracts.topics import TopicSpec
from headrace_runtime.waiting import wait_until
from headrace_streams.errors import TransientError
from headrace_streams.ports import Admin
from headrace_streams.provisioning import provision


async def provision_patiently(admin: Admin, codec: Codec, specs: Iterable[TopicSpec]) -> None:
    """Create what is missing, again until it works, as every command that provisions does."""
    specs = list(specs)
    await wait_until(
        "Kafka and the registry",
        lambda: provision(admin, codec, specs, replication=1),
        not_yet=(TransientError, RegistryUnavailable),
    )
