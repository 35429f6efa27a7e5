"""What doctor says of consumer groups: members, assignments, positions, lag."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace.cli.checkups.groups import GroupFacts, check_groups, judge_group, judge_groups
from headrace_contracts.events import Lane, Place
from headrace_contracts.groups import (
    CLOUD_BATCHES,
    CLOUD_WORKER,
    GROUPS,
    INTAKE_VIEW,
    LEDGER,
    LIVE_WINDOWS,
    LOCAL_WORKER,
    ROUTER,
    SKILL_BROADCASTER,
    GroupSpec,
)
from headrace_contracts.topics import TOPICS, work_topic
from headrace_streams.log_identity import fingerprint
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.provisioning import topic_of
from headrace_streams.records import (
    GroupMember,
    GroupPhase,
    GroupState,
    OffsetAndMetadata,
    TopicDescription,
    TopicPartition,
)
from headrace_testing.logs import Listener, until

PREFIX = "h."
every_group = pytest.mark.parametrize("spec", GROUPS.values(), ids=lambda spec: spec.name)


def facts(spec: GroupSpec, partitions: int = 3, first: int = 10, end: int = 100, position: int = 100) -> GroupFacts:
    """A group that is well: one member has all, and has read up to the end."""
    described = {PREFIX + topic.name: TopicDescription(f"id-{topic.name}", partitions) for topic in spec.topics}
    names = [TopicPartition(topic, number) for topic in described for number in range(partitions)]
    member = GroupMember("m-1", None, "c", "/127.0.0.1", frozenset(names))
    return GroupFacts(
        spec,
        GroupState(GroupPhase.STABLE, (member,)),
        {name: OffsetAndMetadata(position) for name in names},
        described,
        dict.fromkeys(names, (first, end)),
    )


@every_group
def test_a_group_that_reads_everything_is_well(spec: GroupSpec) -> None:
    assert judge_group(facts(spec), PREFIX) == []
    assert judge_group(replace(facts(spec), committed={}), PREFIX) == []
    (finding,) = judge_groups([facts(spec, position=97)], PREFIX)
    assert finding.well
    assert f"lag: {spec.name} {3 * 3 * len(spec.topics)}" in finding.detail


@every_group
@pytest.mark.parametrize("phase", [GroupPhase.EMPTY, GroupPhase.MISSING])
def test_a_group_without_members_is_wrong(spec: GroupSpec, phase: GroupPhase) -> None:
    (finding,) = judge_group(replace(facts(spec, position=90), state=GroupState(phase)), PREFIX)
    assert (finding.ok, finding.part) == (False, f"group {spec.name}")
    assert "has no members" in finding.detail
    assert ("never had any" in finding.detail) is (phase is GroupPhase.MISSING)
    assert spec.topics[0].name in finding.detail
    assert f"{30 * len(spec.topics)} records wait" in finding.detail
    assert finding.remedy.startswith(f"start {spec.service} (`headrace up`)")


@pytest.mark.parametrize(
    ("spec", "ok"),
    [
        (CLOUD_WORKER, True),
        (CLOUD_BATCHES, True),
        (LOCAL_WORKER, True),
        (ROUTER, False),
        (LEDGER, False),
        (INTAKE_VIEW, False),
    ],
)
def test_an_installation_can_do_without_workers_of_one_kind(spec: GroupSpec, ok: bool) -> None:
    (finding,) = judge_group(replace(facts(spec), state=GroupState(GroupPhase.MISSING)), PREFIX)
    assert (finding.ok, finding.warning) == (ok, ok)


@every_group
def test_a_rebalance_is_a_warning(spec: GroupSpec) -> None:
    found = facts(spec)
    (finding,) = judge_group(replace(found, state=replace(found.state, phase=GroupPhase.REBALANCING)), PREFIX)
    assert (finding.ok, finding.warning, spec.service in finding.remedy) == (True, True, True)


@every_group
@pytest.mark.parametrize(("had", "static"), [(1, "pod-0.p1-1"), (2, None), (0, None)])
def test_partitions_that_nobody_reads_are_named(spec: GroupSpec, had: int, static: str | None) -> None:
    found = facts(spec)
    member = found.state.members[0]
    kept = frozenset(name for name in member.assigned if name.partition < had)
    state = GroupState(GroupPhase.STABLE, (replace(member, assigned=kept, instance_id=static),))
    (finding,) = judge_group(replace(found, state=state), PREFIX)
    assert not finding.ok
    free = "2" if had == 2 else f"{had}-2"
    assert f"{free} of {min(topic.name for topic in spec.topics)}" in finding.detail
    assert ("static members pod-0.p1-1 keep an assignment" in finding.detail) is (static is not None)
    assert f"restart {spec.service}" in finding.remedy


@every_group
@pytest.mark.parametrize(
    ("position", "topic_id", "says", "ok"),
    [
        (101, None, "created again", False),
        (10**15, None, "created again", False),
        (50, "another", "created again", False),
        (101, "own", "lost records at its end", False),
        (9, None, "deleted before they were read", None),
        (0, "own", "deleted before they were read", None),
    ],
)
def test_positions_outside_the_log_are_named(
    spec: GroupSpec, position: int, topic_id: str | None, says: str, ok: bool | None
) -> None:
    found = facts(spec, position=position)
    if topic_id is not None:
        metadata = {
            name: f"i1{fingerprint('another' if topic_id == 'another' else found.described[name.topic].topic_id)}"
            for name in found.committed
        }
        found = replace(found, committed={name: OffsetAndMetadata(position, metadata[name]) for name in metadata})
    for state in (found.state, GroupState(GroupPhase.EMPTY)):
        finding = judge_group(replace(found, state=state), PREFIX)[-1]
        # A position that decides nothing may fall behind while its topic is idle.
        decides = spec.positions == "kafka"
        assert finding.ok is (not decides if ok is None else ok)
        assert says in finding.detail
        assert f"[0] stands at {position:,} of 10 to 100" in finding.detail
        assert ("It goes on by" in finding.detail) is not decides
        assert ("wait half a minute" in finding.remedy) is bool(state.members)
        assert spec.service in finding.remedy


@every_group
@pytest.mark.parametrize("behind", [10_001, 250_000])
def test_lag_is_a_warning(spec: GroupSpec, behind: int) -> None:
    (finding,) = judge_group(facts(spec, partitions=1, first=0, end=behind, position=0), PREFIX)
    assert (finding.ok, finding.warning) == (True, True)
    assert f"{behind * len(spec.topics):,} records behind" in finding.detail
    assert spec.service in finding.remedy


def test_what_cannot_be_known_is_not_judged() -> None:
    found = facts(SKILL_BROADCASTER)
    name = next(iter(found.bounds))
    beyond = {**found.committed, name: OffsetAndMetadata(10**9)}
    bounds = {each: found.bounds[each] for each in found.bounds if each != name}
    assert judge_group(replace(found, committed=beyond, bounds=bounds), PREFIX) == []
    assert judge_group(replace(found, described={}, committed={}, bounds={}), PREFIX) == []


async def test_on_a_cluster_a_second_look_forgives_what_has_passed() -> None:
    log = MemoryLog(MemoryCluster())
    admin = log.admin()
    await admin.create_topics([topic_of(spec, PREFIX, 1) for spec in TOPICS.values()])
    findings = await check_groups(admin, PREFIX, (), again_seconds=0.0)
    assert {finding.part for finding in findings if not finding.ok} == {
        f"group {spec.name}" for spec in GROUPS.values() if spec not in (LOCAL_WORKER, CLOUD_WORKER, CLOUD_BATCHES)
    }
    consumers = []
    for spec in GROUPS.values():
        listener = Listener()
        consumer = log.consumer(PREFIX + spec.name)
        await consumer.subscribe([PREFIX + topic.name for topic in spec.topics], listener)
        await until(lambda listener=listener: bool(listener.owned), consumer)  # type: ignore[misc]
        consumers.append(consumer)
    (well,) = await check_groups(admin, PREFIX, (), again_seconds=0.05)
    assert well.well
    assert f"{len(GROUPS)} read all" in well.detail
    for consumer in consumers:
        await consumer.close()


@pytest.mark.parametrize(("spec", "place"), [(LOCAL_WORKER, Place.LOCAL), (CLOUD_WORKER, Place.CLOUD)])
def test_the_table_names_what_workers_read(spec: GroupSpec, place: Place) -> None:
    assert spec.topics == tuple(work_topic(place, lane) for lane in (Lane.INTERACTIVE, Lane.BATCH))


def test_readers_in_the_topics_are_those_of_the_groups() -> None:
    for spec in GROUPS.values():
        assert all(spec.service in topic.readers for topic in spec.topics), spec
        assert spec.name.startswith(spec.service)
    assert LIVE_WINDOWS.topics == LEDGER.topics
    assert len(ROUTER.topics) == 4
    assert INTAKE_VIEW.service == "intake"
