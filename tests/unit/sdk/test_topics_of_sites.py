"""`headrace doctor`, `topics` and `schemas check` know the topics and groups of sites."""

from __future__ import annotations

import json
from typing import cast

import pytest
from headrace.addresses import Addresses
from headrace.cli.checkups.cluster import check_contents, gather_facts
from headrace.cli.checkups.groups import judge_group
from headrace.cli.checkups.topics import judge_topics
from headrace.cli.main import build
from headrace.connecting import Cluster
from headrace.schema_ids import check, parse_ids, to_restore, unreadable
from headrace_contracts.codec import Codec
from headrace_contracts.groups import groups_with, local_worker_of
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import TOPICS, sites_in, topic_named, topics_with
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.records import GroupPhase, GroupState
from headrace_streams.resizing import differences, members_of
from typer.testing import CliRunner, Result

PREFIX = "headrace."
SPECS = topics_with(["berlin", "gpu-1"])
OF_SITES = SPECS.keys() - TOPICS.keys()
BERLIN = "work.local.berlin.batch"


class Registry(MemoryRegistry):
    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> MemoryCluster:
    made = MemoryCluster()
    for name, spec in SPECS.items():
        made.create_topic(PREFIX + name, spec.partitions)
    made.create_topic("other.work.local.elsewhere.batch", 1)
    made.create_topic(PREFIX + "work.local.Not A Site.batch", 1)
    monkeypatch.setattr(Cluster, "at", lambda _addresses, user: Cluster.over(MemoryLog(made), Registry()))
    return made


def run(*arguments: str) -> Result:
    environment = {"HEADRACE_BOOTSTRAP_SERVERS": "127.0.0.1:1", "HEADRACE_REGISTRY_URL": "http://127.0.0.1:1"}
    return CliRunner().invoke(build([]), ["topics", *arguments], env=environment)


def test_sites_are_read_from_names_of_topics() -> None:
    names = [*SPECS, "work.local.", "work.local.x", "work.local.A.batch", "work.local.batch.batch", "tasks.submitted"]
    assert sites_in(names) == ("berlin", "gpu-1")
    assert sites_in(TOPICS) == ()
    assert {spec.name for spec in groups_with(["berlin"])} >= {"local-worker.berlin", "local-worker-placements.berlin"}


def test_they_are_listed_with_what_differs(cluster: MemoryCluster) -> None:
    cluster.delete_topic(PREFIX + BERLIN)
    cluster.add_partitions(PREFIX + "work.local.gpu-1.batch", 40)
    listed = {row["topic"]: row for row in json.loads(run("list", "--json").stdout)}
    assert listed.keys() == SPECS.keys()
    assert listed[BERLIN]["differs"] == "missing: provision it"
    assert "specification" in listed["work.local.gpu-1.batch"]["differs"]
    assert listed["work.local.gpu-1.interactive"]["differs"] == (
        "fewer than others of its group: headrace topics resize tasks 40"
    )


def test_they_get_partitions_with_the_others_before_tasks_submitted(cluster: MemoryCluster) -> None:
    assert run("resize", "tasks", "12").exit_code == 0
    names = [PREFIX + name for name in members_of("tasks", SPECS)]
    assert {name.removeprefix(PREFIX) for name in names} >= OF_SITES
    assert names[-1] == PREFIX + "tasks.submitted"
    assert set(cluster.partition_counts(names).values()) == {12}
    refused = run("resize", BERLIN, "20")
    assert (refused.exit_code, "resize tasks" in refused.stderr) == (2, True)


async def test_the_doctor_looks_at_their_topics_and_groups(cluster: MemoryCluster) -> None:
    admin = MemoryLog(cluster).admin()
    facts = await gather_facts(admin, PREFIX)
    assert facts.specs.keys() == SPECS.keys()
    before = judge_topics(facts.described, facts.settings, facts.replication, PREFIX, facts.specs)
    assert not [finding for finding in before if "missing" in finding.detail or finding.part == "topics tasks"]
    cluster.delete_topic(PREFIX + BERLIN)
    cluster.add_partitions(PREFIX + "work.local.gpu-1.batch", 12)
    facts = await gather_facts(admin, PREFIX)
    said = str(judge_topics(facts.described, facts.settings, facts.replication, PREFIX, facts.specs))
    assert BERLIN in said
    assert "one has 12, but" in said
    assert differences(facts.described, PREFIX, facts.specs)[BERLIN] == "missing: provision it"
    findings = await check_contents(Addresses(topic_prefix=PREFIX), MemoryLog(cluster), facts)
    parts = {finding.part for finding in findings}
    assert "group local-worker.gpu-1" in parts
    assert "group local-worker-placements.gpu-1" in parts


async def test_workers_of_a_site_may_be_absent_as_those_without_one_may(cluster: MemoryCluster) -> None:
    from headrace.cli.checkups.groups import GroupFacts

    spec = local_worker_of("berlin")
    described = cluster.describe_topics([PREFIX + topic.name for topic in spec.topics])
    (finding,) = judge_group(GroupFacts(spec, GroupState(GroupPhase.MISSING, ()), {}, described, {}), PREFIX)
    assert "has no members and never had any" in finding.detail
    assert "if this installation does without it" in str(finding)


async def test_their_schema_ids_are_checked_and_brought_back(cluster: MemoryCluster) -> None:
    registry = Registry()
    codec = Codec(registry, PREFIX)
    await codec.prepare(SPECS.values(), register=True)
    log = MemoryLog(cluster)
    uses = await check(log, cast(SchemaRegistry, registry), PREFIX, records=5)
    assert {use.topic for use in uses} >= OF_SITES
    assert all(use.matches for use in uses)
    assert await unreadable(log, PREFIX) == []
    spec = topic_named(BERLIN)
    version = next(use.version for use in uses if use.topic == BERLIN)
    assert version is not None
    rows = [{"topic": BERLIN, "schema_id": 1, "fingerprint": version.fingerprint}]
    (lost,) = parse_ids(json.dumps(rows))
    assert [one.subject for one in to_restore([lost], PREFIX)] == [PREFIX + spec.subject]
    with pytest.raises(ValueError, match="not the output"):
        parse_ids(json.dumps([{"topic": "work.local.A B.batch", "schema_id": 1, "fingerprint": ""}]))
