"""After a run, collects its records from the topics, the ledger and the simulator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any, Final

import aiohttp
from headrace import Addresses, Client, Cluster, RetryLater, Unavailable
from headrace_contracts import topics
from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import AttemptFinished, AttemptRequested, Privacy, TaskCompleted, TaskSubmitted
from headrace_contracts.headers import header
from headrace_contracts.topics import TopicSpec
from headrace_contracts.users import CONTENT_READER
from headrace_streams.records import Record, TopicPartition
from headrace_streams.rights import reader_of

from headrace_devstack.demo.measure import cost_by_tenant
from headrace_devstack.demo.outcomes import CloudAttempt, MarkerSearch, RunEvidence
from headrace_devstack.demo.tool_loops import round_of

_READ: Final[tuple[TopicSpec, ...]] = (
    topics.TASKS_SUBMITTED,
    topics.TASKS_COMPLETED,
    topics.ATTEMPTS_FINISHED,
    topics.ATTEMPTS_FINISHED_CLOUD,
    topics.WORK_CLOUD_INTERACTIVE,
    topics.WORK_CLOUD_BATCH,
)
_QUIET_SECONDS: Final = 1.0
_LEDGER_SECONDS: Final = 20.0
_SIMULATOR_SECONDS: Final = 30.0

TopicEnds = Mapping[TopicPartition, int]
Readers = Mapping[str, Cluster]
"""For each topic that is evidence, the cluster with a login that may read it."""


@asynccontextmanager
async def all_readers(addresses: Addresses) -> AsyncIterator[Readers]:
    """The cluster for each of the topics. On a secure stack, what only services read is read as one of them."""
    async with AsyncExitStack() as stack:
        clusters: dict[str, Cluster] = {}
        for spec in _READ:
            user = (reader_of(spec) or spec.readers[0]) if addresses.needs_login else CONTENT_READER
            if user not in clusters:
                clusters[user] = await stack.enter_async_context(Cluster.at(addresses, user=user))
            clusters[spec.name] = clusters[user]
        yield {spec.name: clusters[spec.name] for spec in _READ}


async def ends_of_topics(readers: Readers) -> dict[TopicPartition, int]:
    """The current end offsets of the topics that are evidence."""
    ends: dict[TopicPartition, int] = {}
    for spec in _READ:
        cluster = readers[spec.name]
        reader = cluster.log.reader()
        try:
            partitions = await reader.partitions_of(cluster.topic(spec))
            ends |= {part: end for part, (_, end) in (await reader.bounds(partitions)).items()}
        finally:
            await reader.close()
    return ends


class Collector:
    """Reads what a run left behind.

    Args:
        start: End offsets of the topics before the run.
        tenants: The run's tenants, which no other client uses.
    """

    def __init__(self, readers: Readers, start: TopicEnds, tenants: Collection[str]) -> None:
        self._readers = readers
        self._start = start
        self._tenants = frozenset(tenants)
        self.unread: list[str] = []
        """Records that could not be decoded, each with its reason."""

    async def collect(
        self, clients: Mapping[str, Client], since: datetime, simulator_url: str | None, markers: Sequence[str]
    ) -> RunEvidence:
        """All evidence of the run; waits for the ledger to catch up."""
        # Duplicates would arrive within moments.
        await asyncio.sleep(_QUIET_SECONDS)
        records = await self._read(await ends_of_topics(self._readers))
        completions = tuple(await self._events(records, topics.TASKS_COMPLETED, TaskCompleted))
        submitted = await self._read_events(records, topics.TASKS_SUBMITTED, TaskSubmitted)
        cloud = [
            (spec, await self._events(records, spec, AttemptRequested))
            for spec in (topics.WORK_CLOUD_INTERACTIVE, topics.WORK_CLOUD_BATCH)
        ]
        return RunEvidence(
            submitted=tuple(round_of(task, record.partition, record.offset) for record, task in submitted),
            completions=completions,
            attempts=(
                *await self._events(records, topics.ATTEMPTS_FINISHED, AttemptFinished),
                *await self._events(records, topics.ATTEMPTS_FINISHED_CLOUD, AttemptFinished),
            ),
            cloud_attempts=tuple(
                CloudAttempt(spec.name, attempt.task_id, attempt.provider, attempt.privacy is Privacy.SENSITIVE)
                for spec, attempts in cloud
                for attempt in attempts
            ),
            ledger=await _ledger(clients, since, cost_by_tenant(completions)),
            received=None if simulator_url is None else await _received(simulator_url, markers),
        )

    async def _read(self, ends: TopicEnds) -> list[Record]:
        """All records of the run's tenants between the start and the given ends."""
        found: list[Record] = []
        for name, cluster in self._readers.items():
            topic = cluster.codec.topic_prefix + name
            found += await self._read_topic(cluster, {part: end for part, end in ends.items() if part.topic == topic})
        return found

    async def _read_topic(self, cluster: Cluster, ends: TopicEnds) -> list[Record]:
        left = {part: end for part, end in ends.items() if self._start.get(part, 0) < end}
        if not left:
            return []
        reader = cluster.log.reader()
        found: list[Record] = []
        try:
            await reader.assign({part: self._start.get(part, 0) for part in left})
            while left:
                for record in await reader.poll(1000, 1.0):
                    end = left.get(record.topic_partition)
                    if end is None:
                        continue
                    if record.offset < end and header(record.headers, "ce_tenant") in self._tenants:
                        found.append(record)
                    if record.offset + 1 >= end:
                        del left[record.topic_partition]
        finally:
            await reader.close()
        return found

    async def _events(self, records: Sequence[Record], spec: TopicSpec, event: type[Any]) -> list[Any]:
        return [found for _, found in await self._read_events(records, spec, event)]

    async def _read_events(
        self, records: Sequence[Record], spec: TopicSpec, event: type[Any]
    ) -> list[tuple[Record, Any]]:
        cluster = self._readers[spec.name]
        topic = cluster.topic(spec)
        events = []
        for record in records:
            if record.topic != topic:
                continue
            origin = Origin(record.topic, record.partition, record.offset)
            try:
                events.append((record, await cluster.codec.read(event, record.value, origin)))
            except UnreadableValue as error:
                self.unread.append(str(error))
        return events


async def _ledger(clients: Mapping[str, Client], since: datetime, expected: Mapping[str, int]) -> dict[str, int]:
    """Cost by tenant, as soon as it matches the tasks, or else its value after a while."""
    give_up_at = time.monotonic() + _LEDGER_SECONDS
    while True:
        try:
            costs = {
                tenant: (await client.costs(since=since)).total.cost_nanodollars for tenant, client in clients.items()
            }
        except (Unavailable, RetryLater):
            costs = {}
        if all(costs.get(tenant) == cost for tenant, cost in expected.items()) or time.monotonic() > give_up_at:
            return costs
        await asyncio.sleep(0.5)


async def _received(simulator_url: str, markers: Sequence[str]) -> MarkerSearch:
    timeout = aiohttp.ClientTimeout(total=_SIMULATOR_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:
        async with session.get(f"{simulator_url}/control/received") as response:
            providers = {entry["provider"] for entry in (await response.json())["received"]}
        hits: dict[str, set[int]] = {provider: set() for provider in providers}
        complete = True
        if markers:
            async with session.post(f"{simulator_url}/control/search", json={"needles": list(markers)}) as response:
                document = await response.json()
            complete = bool(document["complete"])
            for hit in document["hits"]:
                hits.setdefault(hit["provider"], set()).add(int(hit["number"]))
    return MarkerSearch(complete, {provider: len(numbers) for provider, numbers in hits.items()})
