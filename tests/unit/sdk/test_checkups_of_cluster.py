"""What doctor says of topics, replicas, schema ids, dead letters and clocks, for many inputs of each kind."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from headrace.cli.checkups.clocks import judge_clocks, judge_times
from headrace.cli.checkups.connections import judge_registry
from headrace.cli.checkups.contents import judge_dead_letters, judge_schema_ids
from headrace.cli.checkups.findings import listed, numbers
from headrace.cli.checkups.replication import judge_replication
from headrace.cli.checkups.topics import judge_topics
from headrace.dead_letters import StoredDeadLetter
from headrace.schema_ids import IdUse
from headrace_contracts.topics import TASKS_SUBMITTED, TOPICS
from headrace_streams.provisioning import topic_of
from headrace_streams.records import PartitionReplicas, Replication, TopicDescription, TopicPartition

PREFIX = "h."
DESCRIBED = {PREFIX + name: TopicDescription(f"id-{name}", spec.partitions) for name, spec in TOPICS.items()}
SETTINGS = {
    PREFIX + name: {"retention.bytes": "-1", "min.insync.replicas": "1", **dict(topic_of(spec, "", 1).config)}
    for name, spec in TOPICS.items()
}


def replicated(
    leader: int | None = 1, replicas: tuple[int, ...] = (1,), in_sync: tuple[int, ...] = (1,)
) -> Replication:
    kept = PartitionReplicas(leader, replicas, in_sync)
    names = [TopicPartition(topic, number) for topic, each in DESCRIBED.items() for number in range(each.partitions)]
    return Replication(frozenset(replicas), dict.fromkeys(names, kept))


def changed(topic: str, **settings: str) -> dict[str, dict[str, str]]:
    given = {key.replace("_", "."): value for key, value in settings.items()}
    return {**SETTINGS, PREFIX + topic: {**SETTINGS[PREFIX + topic], **given}}


def test_topics_as_provisioned_are_well() -> None:
    (finding,) = judge_topics(DESCRIBED, SETTINGS, replicated(), PREFIX)
    assert (finding.well, finding.detail) == (True, f"{len(TOPICS)}, as specified")
    larger = {PREFIX + name: replace(DESCRIBED[PREFIX + name], partitions=12) for name in TOPICS}
    assert [finding.well for finding in judge_topics(larger, SETTINGS, replicated(), PREFIX)] == [True]


@pytest.mark.parametrize(
    ("topic", "key", "value", "says", "ok"),
    [
        ("tasks.journal", "cleanup_policy", "delete", "compact", False),
        ("tasks.submitted", "cleanup_policy", "compact", "only the newest record of each key", False),
        ("preferences", "cleanup_policy", "delete", "only the newest|deleted with their age", False),
        ("preferences", "cleanup_policy", "compact,delete", "deleted with their age", False),
        ("fleet.status", "cleanup_policy", "compact", "grows without end", False),
        ("tasks.journal", "cleanup_policy", "delete, compact", "", True),
        ("tasks.completed", "max_message_bytes", "1048588", "do not fit", False),
        ("tasks.submitted.dlq", "max_message_bytes", "999", "do not fit", False),
        ("tasks.completed", "max_message_bytes", "18874368", "", True),
        ("tasks.journal", "max_message_bytes", "4194305", "", True),
        ("tasks.completed", "max_message_bytes", "18874369", "larger than specified", True),
        ("usage.recorded", "retention_ms", "60000", "deleted before their time", False),
        ("tasks.journal", "retention_ms", "1", "deleted before their time", False),
        ("usage.recorded", "retention_ms", "-1", "kept longer", True),
        ("tasks.replies", "retention_ms", "86400000", "kept longer", True),
        ("preferences", "retention_ms", "60000", "", True),
        ("tasks.completed", "retention_bytes", "1000000", "deleted before their time", False),
        ("tasks.journal", "min_compaction_lag_ms", "0", "compacted before", False),
        ("tasks.submitted", "min_insync_replicas", "2", "nothing can be written", False),
        ("work.cloud.batch", "unclean_leader_election_enable", "true", "lacks acknowledged records", False),
    ],
)
def test_settings_that_differ_are_named_with_what_they_do(
    topic: str, key: str, value: str, says: str, ok: bool
) -> None:
    (finding,) = judge_topics(DESCRIBED, changed(topic, **{key: value}), replicated(), PREFIX)
    assert finding.ok is ok
    if not says:
        assert finding.well
        return
    assert finding.part == f"topic {topic}"
    assert f"{key.replace('_', '.')} is {value}, not " in finding.detail
    assert any(each in finding.detail for each in says.split("|"))
    assert finding.remedy.startswith(f"headrace topics configure {topic}")


@pytest.mark.parametrize(
    ("value", "replicas", "says"),
    [("1", 3, "too few brokers"), ("2", 3, ""), ("3", 3, "one broker is away"), ("4", 3, "nothing can be written"),
     ("1", 2, ""), ("3", 5, "too few brokers")],
)  # fmt: skip
def test_replicas_that_must_be_in_sync(value: str, replicas: int, says: str) -> None:
    ids = tuple(range(1, replicas + 1))
    wanted = {
        PREFIX + name: {
            "retention.bytes": "-1",
            "min.insync.replicas": "1",
            **dict(topic_of(spec, "", replicas).config),
        }
        for name, spec in TOPICS.items()
    }
    wanted[PREFIX + "tasks.submitted"]["min.insync.replicas"] = value
    (finding,) = judge_topics(DESCRIBED, wanted, replicated(1, ids, ids), PREFIX)
    assert (says in finding.detail) if says else finding.well


@pytest.mark.parametrize("gone", [["tasks.journal"], ["skills.feed", "usage.recorded.dlq"], list(TOPICS)[:7]])
def test_missing_topics_are_counted_and_named(gone: list[str]) -> None:
    there = {topic: each for topic, each in DESCRIBED.items() if topic.removeprefix(PREFIX) not in gone}
    findings = judge_topics(there, {t: SETTINGS[t] for t in there}, replicated(), PREFIX)
    assert not findings[0].ok
    assert f"{len(gone)} of {len(TOPICS)} topics are missing: " in findings[0].detail
    assert all(name in findings[0].detail for name in gone[:4])
    assert "headrace_runtime.provision" in findings[0].remedy


def test_another_prefix_is_one_finding() -> None:
    (finding,) = judge_topics({}, {}, Replication(frozenset({1}), {}), "other.")
    assert "none of the" in finding.detail
    assert "HEADRACE_TOPIC_PREFIX" in finding.remedy


@pytest.mark.parametrize(
    ("topic", "group", "count"),
    [("tasks.journal", "tasks", 12), ("skills.catalog", "skills", 7), ("tasks.submitted", "tasks", 9)],
)  # fmt: skip
def test_companions_must_have_as_many_partitions(topic: str, group: str, count: int) -> None:
    grown = {**DESCRIBED, PREFIX + topic: TopicDescription("x", count)}
    (finding,) = judge_topics(grown, SETTINGS, replicated(), PREFIX)
    assert (finding.ok, finding.part) == (False, f"topics {group}")
    assert finding.remedy == f"headrace topics resize {group} {count}"
    assert f"one has {count}" in finding.detail


def test_settings_that_may_not_be_read_are_a_warning() -> None:
    known = {topic: found for topic, found in SETTINGS.items() if "dlq" not in topic}
    (finding,) = judge_topics(DESCRIBED, known, replicated(), PREFIX)
    assert (finding.ok, finding.warning, "DescribeConfigs" in finding.remedy) == (True, True, True)


@pytest.mark.parametrize(
    ("kept", "least", "says", "does"),
    [
        (PartitionReplicas(None, (1, 2, 3), ()), "2", "without a leader", "catches up|caught up"),
        (PartitionReplicas(None, (4,), ()), "1", "without a leader", "start broker 4 again"),
        (PartitionReplicas(1, (1, 4, 5), (1,)), "2", "fewer replicas in sync", "start brokers 4, 5 again"),
        (PartitionReplicas(1, (1, 2, 4), (1, 2)), "2", "under-replicated", "start broker 4 again"),
        (PartitionReplicas(1, (1, 2, 3), (1, 3)), "2", "under-replicated", "broker 2 caught up"),
    ],
)
def test_partitions_without_enough_replicas(kept: PartitionReplicas, least: str, says: str, does: str) -> None:
    every = replicated(1, (1, 2, 3), (1, 2, 3))
    sick = {TopicPartition(PREFIX + "tasks.journal", number): kept for number in (0, 1, 2, 5)}
    settings = {topic: {**found, "min.insync.replicas": least} for topic, found in SETTINGS.items()}
    (finding,) = judge_replication(Replication(every.brokers, {**every.partitions, **sick}), settings, PREFIX)
    assert not finding.ok
    assert finding.detail.startswith("4 partitions ")
    assert says in finding.detail
    assert "tasks.journal (0-2, 5)" in finding.detail
    assert any(each in finding.remedy for each in does.split("|"))


def test_one_replica_is_well_on_one_broker_and_a_warning_on_three() -> None:
    (well,) = judge_replication(replicated(), SETTINGS, PREFIX)
    assert well.well
    three = replicated(1, (1, 2, 3), (1, 2, 3))
    assert judge_replication(three, SETTINGS, PREFIX)[0].well
    (finding,) = judge_replication(Replication(three.brokers, replicated().partitions), SETTINGS, PREFIX)
    assert (finding.ok, finding.warning, "one replica" in finding.detail) == (True, True, True)


@pytest.mark.parametrize(
    ("statuses", "says"),
    [
        (["ok", "foreign", "missing"], []),
        (["lost"], ["the registry has lost ids that records name: 7 in tasks.submitted (1 record)", "schemas repair"]),
        (["reused", "ok"], ["to other schemas: 7 in tasks.submitted (1 record, now x.Y)", "empty the registry"]),
        (["lost", "reused"], ["has lost ids", "to other schemas"]),
    ],
)
def test_schema_ids(statuses: list[str], says: list[str]) -> None:
    uses = [IdUse("tasks.submitted", 7, 1, status, "x.Y", None) for status in statuses]
    findings = judge_schema_ids(uses)
    said = " ".join(f"{finding.detail} {finding.remedy}" for finding in findings)
    assert all(finding.well for finding in findings) is not bool(says)
    assert [words for words in says if words not in said] == []


@pytest.mark.parametrize(("old", "lost"), [(["tasks.submitted"], []), (list(TOPICS), []), ([], ["id 3 is lost"])])
def test_what_a_registry_lacks(old: list[str], lost: list[str]) -> None:
    findings = judge_registry("http://r", old, lost)
    assert not any(finding.ok for finding in findings)
    assert all("headrace schemas check" in finding.remedy for finding in findings)
    assert judge_registry("http://r", [], [])[0].well


def letter(topic: str, error: str) -> StoredDeadLetter:
    now = datetime.now(UTC)
    return StoredDeadLetter(f"{topic}/0/0", PREFIX + topic, 0, 0, (), (), error, "", 1, "", 0, now, now)


@pytest.mark.parametrize(
    "letters",
    [
        [letter(TASKS_SUBMITTED.name, "BadBytes")],
        [letter("usage.recorded", "KeyError"), letter("usage.recorded", "KeyError"), letter("work.cloud.batch", "X")],
        [letter("skills.submitted", f"E{number}") for number in range(9)],
    ],
)
def test_open_dead_letters_are_a_warning_by_topic(letters: list[StoredDeadLetter]) -> None:
    (finding,) = judge_dead_letters(letters, PREFIX)
    assert (finding.ok, finding.warning) == (True, True)
    assert finding.detail.startswith(f"{len(letters)} open: ")
    for topic in {each.topic.removeprefix(PREFIX) for each in letters}:
        assert f"{sum(each.topic == PREFIX + topic for each in letters)} of {topic}" in finding.detail
    assert "headrace dlq list" in finding.remedy
    assert judge_dead_letters([], PREFIX)[0].well


@pytest.mark.parametrize(
    ("ahead", "says"),
    [
        ({"router": 0.4, "intake": -1.9}, None),
        ({"router": 61.0}, "61 s ahead of that of router"),
        ({"router": 0.1, "schema registry": -7200.0}, "7,200 s behind that of schema registry"),
        ({"a": 9.0, "b": 9.0}, "that of a, 9 s ahead of that of b"),
    ],
)
def test_clocks(ahead: dict[str, float], says: str | None) -> None:
    (finding,) = judge_clocks(ahead)
    assert finding.ok is (says is None)
    assert (says or "agrees with") in finding.detail
    assert judge_clocks({}) == []


@pytest.mark.parametrize(
    ("newest", "named"),
    [({}, []), ({"tasks.journal": 1_000_000}, []),
     ({"tasks.journal": 1_006_000}, ["tasks.journal by 6 s (written by router, operator)"]),
     ({"usage.recorded": 5_000_000, "fleet.status": 2}, ["usage.recorded by 4,000 s"])],
)  # fmt: skip
def test_records_dated_in_the_future(newest: dict[str, int], named: list[str]) -> None:
    findings = judge_times(1_000_000, newest)
    assert len(findings) == bool(named)
    assert all(finding.warning and finding.ok for finding in findings)
    assert all(words in findings[0].detail for words in named)


def test_lists_and_ranges_are_short() -> None:
    assert listed("abc") == "a, b, c"
    assert listed("abcdefg") == "a, b, c, d and 3 more"
    assert numbers([5, 0, 1, 2, 9]) == "0-2, 5, 9"
    assert numbers([]) == ""
