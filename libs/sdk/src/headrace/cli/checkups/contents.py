"""Whether records can be read: their schema ids, and dead letters that nobody has dealt with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final

from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import TOPICS, dead_letters_of, sites_in, topics_with
from headrace_streams.ports import Log
from headrace_streams.records import TopicPartition

from headrace.cli.checkups.findings import Finding, counted, listed, warning, wrong
from headrace.connecting import Cluster
from headrace.dead_letters import DeadLetterSelection, DeadLetterTopics, StoredDeadLetter
from headrace.schema_ids import LOST, REUSED, IdUse, check

SCHEMA_IDS: Final = "schema ids"
DEAD_LETTERS: Final = "dead letters"
_RECORDS: Final = 20
"""So many newest records of each partition are looked at; `headrace schemas check` looks at more."""


async def check_schema_ids(log: Log, registry: SchemaRegistry, prefix: str, topics: Collection[str]) -> list[Finding]:
    """Look at the newest records of these topics. Raises RegistryUnavailable, TransientError."""
    specs = [spec for name, spec in topics_with(sites_in(topics)).items() if name in topics]
    return judge_schema_ids(await check(log, registry, prefix, records=_RECORDS, topics=specs))


def judge_schema_ids(uses: Sequence[IdUse]) -> list[Finding]:
    """What the registry says of the ids in records. What new records need is `judge_registry`'s."""
    found: list[Finding] = []
    lost = [use for use in uses if use.status == LOST]
    reused = [use for use in uses if use.status == REUSED]
    if lost:
        detail = f"the registry has lost ids that records name: {_ids(lost)}"
        remedy = "headrace schemas check, then headrace schemas repair (before anything else registers schemas)"
        found.append(wrong(SCHEMA_IDS, detail, remedy))
    if reused:
        detail = f"the registry has given ids that records name to other schemas: {_ids(reused)}"
        remedy = "headrace schemas check; then empty the registry, and headrace schemas repair"
        found.append(wrong(SCHEMA_IDS, detail, remedy))
    ids = {use.schema_id for use in uses if use.records}
    return found or [Finding(SCHEMA_IDS, True, f"{counted(len(ids), 'id')} in the newest records, all as registered")]


def _ids(uses: Sequence[IdUse]) -> str:
    return listed(
        f"{use.schema_id} in {use.topic} ({counted(use.records, 'record')}"
        f"{f', now {use.registry_has}' if use.status == REUSED else ''})"
        for use in uses
    )


async def check_dead_letters(cluster: Cluster, leaderless: Collection[TopicPartition]) -> list[Finding]:
    """Count those that nobody has dealt with. Raises RegistryUnavailable, TransientError."""
    names = {cluster.topic(dead_letters_of(spec)): name for name, spec in TOPICS.items() if spec.dead_letters}
    admin = cluster.log.admin()
    counts = await admin.partition_counts(list(names))
    partitions = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
    bounds = await admin.bounds([name for name in partitions if name not in leaderless])
    some = frozenset(names[name.topic] for name, (first, end) in bounds.items() if end > first)
    if not some:
        return judge_dead_letters([], cluster.codec.topic_prefix)
    async with DeadLetterTopics(cluster) as topics:
        return judge_dead_letters(await topics.letters(DeadLetterSelection(topics=some)), cluster.codec.topic_prefix)


def judge_dead_letters(letters: Sequence[StoredDeadLetter], prefix: str) -> list[Finding]:
    """Those that are open, by the topic of their record."""
    if not letters:
        return [Finding(DEAD_LETTERS, True, "none open")]
    by_topic = Counter(letter.topic.removeprefix(prefix) for letter in letters)
    errors = Counter(letter.error_type for letter in letters)
    topics = listed(f"{count} of {topic}" for topic, count in by_topic.most_common())
    detail = f"{len(letters)} open: {topics}; {listed(error for error, _ in errors.most_common())}"
    remedy = "headrace dlq list; mend the cause, then headrace dlq replay or drop"
    return [warning(DEAD_LETTERS, detail, remedy)]
