"""Whole platforms of different sizes, each from an empty folder: `headrace up`, and more instances beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from headrace_contracts.codec import Codec
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import TASKS_SUBMITTED, TOPICS, with_partitions
from headrace_devstack.supervisor import PartEvent, Supervisor
from headrace_gateway_bench.processes import Parts
from headrace_gateway_bench.systems import Gateway, headrace_gateway, upstream_variables
from headrace_streams.kafka import KafkaLog
from headrace_streams.provisioning import provision
from headrace_testing.journaled_tasks import write_journal
from headrace_testing.more_instances import another_instance
from headrace_testing.services_on_kafka import Topics
from headrace_testing.up import RunningStack, open_folder, running_up

from headrace_scale_bench.history_rows import add_rows

MULTIPLIED: Final = ("router", "cloud-worker")
"""Services with several instances: those that share the partitions of tasks and of their attempts."""
_WORK_TOPICS: Final = ("work.cloud.interactive", "work.cloud.batch", "attempts.cancelled.cloud")
_KEY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class PlatformSize:
    """How large a platform is when it has started.

    Attributes:
        partitions: Of the topics of tasks and of attempts in the cloud.
        instances: Of each service in `MULTIPLIED`.
        tenants: How many have a key, and submit tasks in turn.
        history: How many tasks have ended before: entries of the journal, rows of intake's view and of the ledger.
    """

    partitions: int = TASKS_SUBMITTED.partitions
    instances: int = 1
    tenants: int = 1
    history: int = 0


@dataclass(frozen=True, slots=True)
class ScaledPlatform:
    """A running platform.

    Attributes:
        turns: Headers that requests have in turn: keys of the tenants, if there are several.
    """

    size: PlatformSize
    stack: RunningStack
    gateway: Gateway
    turns: Sequence[Mapping[str, str]]

    async def add_history(self) -> None:
        """Copy rows of a task that has ended until there are as many as its size says."""
        if self.size.history:
            await add_rows(self.stack.database_url, self.size.history)


@asynccontextmanager
async def platform_running(size: PlatformSize, upstream: str) -> AsyncIterator[ScaledPlatform]:
    """A platform whose models all are the upstream, from healthy to stopped; with the journal of its history."""
    variables = upstream_variables(upstream)
    with open_folder("bench-scale") as folder:
        if size.history or size.partitions != TASKS_SUBMITTED.partitions:
            with running_up(folder, "--port-base", "0", "--backing-only") as backing:
                await _make_topics(backing, size)
        with running_up(folder, "--port-base", "0", **variables) as stack:
            async with _more_instances(folder, stack, size.instances, variables) as pids:
                parts = Parts({**stack.pids, "supervisor": stack.process.pid, **pids})
                yield ScaledPlatform(size, stack, headrace_gateway(stack, parts, str(size)), await _turns(stack, size))


async def _make_topics(stack: RunningStack, size: PlatformSize) -> None:
    specs = with_partitions(TOPICS, dict.fromkeys(("tasks", *_WORK_TOPICS), size.partitions))
    log = KafkaLog({"bootstrap.servers": stack.bootstrap_servers, "linger.ms": 20})
    async with SchemaRegistry(stack.registry_url) as registry:
        codec = Codec(registry, stack.topic_prefix)
        await provision(log.admin(), codec, list(specs.values()), replication=1)
        for partition in range(size.partitions if size.history else 0):
            await write_journal(log, codec, partition, 0, size.history // size.partitions)


@asynccontextmanager
async def _more_instances(
    folder: Path, stack: RunningStack, instances: int, variables: Mapping[str, str]
) -> AsyncIterator[Mapping[str, int]]:
    """Process ids by instance."""
    more = [
        another_instance(folder, stack, name, number, variables)
        for name in MULTIPLIED
        for number in range(2, instances + 1)
    ]
    supervisor = Supervisor(more, _unheard)
    try:
        await supervisor.start()
        yield {status.name: status.pid for status in supervisor.status() if status.pid is not None}
    finally:
        await supervisor.stop()


def _unheard(event: PartEvent) -> None:
    """Instances that do not start raise; nothing else of them is told."""


async def _turns(stack: RunningStack, size: PlatformSize) -> Sequence[Mapping[str, str]]:
    """The keys of its tenants."""
    return () if size.tenants == 1 else await tenants_headers(stack, size.tenants)


async def tenants_headers(stack: RunningStack, tenants: int) -> Sequence[Mapping[str, str]]:
    """Headers with a key of each of so many new tenants, which intake knows when this returns. Raises TimeoutError."""
    async with SchemaRegistry(stack.registry_url) as registry:
        topics = Topics(stack.bootstrap_servers, registry, stack.topic_prefix, stack.key_pepper)
        await topics.codec.prepare(list(TOPICS.values()), register=False)
        # The id of a key comes from the first bytes of the tenant's name.
        keys = await asyncio.gather(*(topics.key(f"{number:05}-tenant", "tasks") for number in range(tenants)))
        await topics.producer.close()
    headers = [{"Authorization": f"Bearer {key}"} for key in keys]
    async with asyncio.timeout(_KEY_SECONDS), aiohttp.ClientSession(headers=headers[-1]) as session:
        while True:
            async with session.get(f"{stack.intake_url}/v1/models") as response:
                if response.status == 200:
                    return headers
            await asyncio.sleep(0.2)
