"""Whether every partition has a leader, and as many replicas as it must have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from headrace_streams.records import PartitionReplicas, Replication, TopicPartition
from headrace_streams.topic_settings import IN_SYNC

from headrace.cli.checkups.findings import Finding, counted, listed, numbers, warning, wrong

PART: Final = "replication"
_DURABLE: Final = 3
"""So many brokers can keep records in spite of the loss of one."""


def judge_replication(
    replication: Replication, settings: Mapping[str, Mapping[str, str]], prefix: str
) -> list[Finding]:
    """What is wrong with the replicas; one finding that all is well if nothing is.

    Args:
        settings: Those of the topics, by name with the prefix, as far as they are known.
    """
    leaderless, starved, lagging = [], [], []
    for name, kept in sorted(replication.partitions.items()):
        least = int(settings.get(name.topic, {}).get(IN_SYNC, "1"))
        if kept.leader is None:
            leaderless.append(name)
        elif len(kept.in_sync) < least:
            starved.append(name)
        elif set(kept.in_sync) < set(kept.replicas):
            lagging.append(name)
    found = []
    if leaderless:
        detail = _of(leaderless, prefix, "without a leader, so that they can be neither read nor written")
        found.append(wrong(PART, detail, _remedy(replication, leaderless)))
    if starved:
        detail = _of(starved, prefix, f"with fewer replicas in sync than {IN_SYNC}, so that they cannot be written")
        found.append(wrong(PART, detail, _remedy(replication, starved)))
    if lagging:
        detail = _of(lagging, prefix, "under-replicated, so that the loss of another broker may stop them")
        found.append(wrong(PART, detail, _remedy(replication, lagging)))
    return found or [_well(replication, prefix)]


def _well(replication: Replication, prefix: str) -> Finding:
    brokers, partitions = len(replication.brokers), replication.partitions
    all_there = f"{counted(len(partitions), 'partition')} on {counted(brokers, 'broker')}, all replicas in sync"
    single = sorted(name for name, kept in partitions.items() if len(kept.replicas) < 2)
    if brokers >= _DURABLE and single:
        detail = _of(single, prefix, f"with one replica, which is lost with its broker, although there are {brokers}")
        remedy = (
            "give them three replicas: kafka-reassign-partitions.sh (Strimzi: replicas of the KafkaTopic), "
            "and create topics with HEADRACE_REPLICATION=3"
        )
        return warning(PART, detail, remedy)
    return Finding(PART, True, all_there)


def _of(names: Iterable[TopicPartition], prefix: str, what: str) -> str:
    by_topic: dict[str, list[int]] = defaultdict(list)
    for name in names:
        by_topic[name.topic.removeprefix(prefix)].append(name.partition)
    count = sum(map(len, by_topic.values()))
    places = listed(f"{topic} ({numbers(found)})" for topic, found in by_topic.items())
    return f"{counted(count, 'partition')} {what}: {places}"


def _remedy(replication: Replication, names: Iterable[TopicPartition]) -> str:
    kept: list[PartitionReplicas] = [replication.partitions[name] for name in names]
    away = sorted({broker for each in kept for broker in each.replicas} - replication.brokers)
    if away:
        brokers = f"{'broker' if len(away) == 1 else 'brokers'} {', '.join(map(str, away))}"
        logs = " and ".join(f"kafka-{broker}.log" for broker in away)
        return f"start {brokers} again (`headrace up` does so by itself); {logs} in logs/ beside stack.json says more"
    late = sorted({broker for each in kept for broker in set(each.replicas) - set(each.in_sync)})
    brokers = f"{'broker' if len(late) == 1 else 'brokers'} {', '.join(map(str, late))}"
    return f"wait until {brokers} caught up; if that lasts, look at log and disk there"
