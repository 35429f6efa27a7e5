"""What `headrace doctor` asks of Kafka: whether it answers, and then everything that can be compared there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from headrace_contracts.errors import RegistryUnavailable
from headrace_contracts.groups import groups_with
from headrace_contracts.topics import TOPICS, TopicSpec, sites_in
from headrace_streams.errors import StreamsError
from headrace_streams.kafka import KafkaLog
from headrace_streams.ports import Admin, Log
from headrace_streams.present_topics import expected_topics
from headrace_streams.records import Replication, TopicDescription, TopicPartition

from headrace.addresses import Addresses
from headrace.cli.checkups.clocks import check_times
from headrace.cli.checkups.contents import DEAD_LETTERS, SCHEMA_IDS, check_dead_letters, check_schema_ids
from headrace.cli.checkups.findings import START, Finding, counted, unanswered, warning
from headrace.cli.checkups.groups import PART as GROUPS_PART
from headrace.cli.checkups.groups import check_groups
from headrace.cli.checkups.guarding import guarded
from headrace.cli.checkups.replication import judge_replication
from headrace.cli.checkups.topics import judge_topics
from headrace.connecting import Cluster, registry_at

PART: Final = "kafka"
_SECONDS: Final = 5.0
_READING_SECONDS: Final = 25.0
"""Of checks that read records; together with the first look less than the limit of the whole."""
_LOOK: Final = "headrace topics list; Kafka's log says more (kafka.log beside stack.json in logs/)"


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What Kafka says of our topics; those that are missing are left out.

    Attributes:
        settings: Without those of topics that may not be asked about.
        specs: The topics that there should be, by name without the prefix, those of sites included.
    """

    described: Mapping[str, TopicDescription]
    settings: Mapping[str, Mapping[str, str]]
    replication: Replication
    specs: Mapping[str, TopicSpec] = field(default_factory=lambda: TOPICS)

    @property
    def leaderless(self) -> frozenset[TopicPartition]:
        """Partitions that do not answer."""
        return frozenset(name for name, kept in self.replication.partitions.items() if kept.leader is None)


async def gather_facts(admin: Admin, prefix: str) -> ClusterFacts:
    """Raises what the admin raises."""
    specs = await expected_topics(admin, prefix)
    names = [prefix + name for name in specs]
    described, replication = await asyncio.gather(admin.describe_topics(names), admin.replication(names))
    return ClusterFacts(described, await admin.topic_settings(list(described)), replication, specs)


async def check_cluster(addresses: Addresses) -> list[Finding]:
    """All findings about Kafka, and about what is in it."""
    where = addresses.bootstrap_servers
    if not where:
        return [unanswered(PART, "its address is unknown", "set HEADRACE_BOOTSTRAP_SERVERS")]
    log = KafkaLog({**addresses.kafka_properties, "bootstrap.servers": where})
    began = time.monotonic()
    try:
        async with asyncio.timeout(_SECONDS):
            facts = await gather_facts(log.admin(), addresses.topic_prefix)
    except (StreamsError, TimeoutError) as error:
        why = str(error) or f"no answer within {_SECONDS:.0f} s"
        return [unanswered(PART, f"{where} does not answer: {why}; what is in it was not checked", START)]
    took = (time.monotonic() - began) * 1000
    brokers = counted(len(facts.replication.brokers), "broker")
    return [
        Finding(PART, True, f"{where}, {brokers}, {took:.0f} ms"),
        *await check_contents(addresses, log, facts),
    ]


async def check_contents(addresses: Addresses, log: Log, facts: ClusterFacts) -> list[Finding]:
    """All findings about what is in a cluster that answers."""
    prefix, admin, sites = addresses.topic_prefix, log.admin(), sites_in(facts.specs)
    found = [
        *judge_topics(facts.described, facts.settings, facts.replication, prefix, facts.specs),
        *judge_replication(facts.replication, facts.settings, prefix),
    ]
    checks = [
        guarded(
            GROUPS_PART, partial(check_groups, admin, prefix, facts.leaderless, specs=groups_with(sites)), remedy=_LOOK
        ),
        guarded("record times", partial(check_times, admin, facts.described, facts.leaderless, prefix), remedy=_LOOK),
        guarded(
            SCHEMA_IDS,
            partial(_schema_ids, addresses, log, facts),
            seconds=_READING_SECONDS,
            remedy="headrace schemas check",
        ),
        guarded(
            DEAD_LETTERS,
            partial(_dead_letters, addresses, log, facts),
            seconds=_READING_SECONDS,
            remedy="headrace dlq list",
        ),
    ]
    for each in await asyncio.gather(*checks):
        found += each
    return found


async def _schema_ids(addresses: Addresses, log: Log, facts: ClusterFacts) -> list[Finding]:
    if not addresses.registry_url:
        return []
    prefix = addresses.topic_prefix
    broken = {name.topic for name in facts.leaderless}
    topics = {name.removeprefix(prefix) for name in facts.described if name not in broken}
    async with registry_at(addresses, timeout_seconds=_SECONDS) as registry:
        try:
            return await check_schema_ids(log, registry, prefix, topics)
        except RegistryUnavailable:
            return [_not_checked(SCHEMA_IDS)]


async def _dead_letters(addresses: Addresses, log: Log, facts: ClusterFacts) -> list[Finding]:
    if not addresses.registry_url:
        return []
    async with registry_at(addresses, timeout_seconds=_SECONDS) as registry:
        cluster = Cluster.over(log, registry, topic_prefix=addresses.topic_prefix)
        try:
            return await check_dead_letters(cluster, facts.leaderless)
        except RegistryUnavailable:
            return [_not_checked(DEAD_LETTERS)]


def _not_checked(part: str) -> Finding:
    return warning(part, "not checked, since the schema registry does not answer", START)
