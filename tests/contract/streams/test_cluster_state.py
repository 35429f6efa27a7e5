"""What an operator asks a cluster: settings, replicas, groups, times of records."""

from __future__ import annotations

import asyncio

import pytest
from headrace_streams.errors import RecordRefused, TopicMissing
from headrace_streams.records import (
    GroupPhase,
    GroupState,
    NewTopic,
    OffsetAndMetadata,
    TopicPartition,
)
from headrace_testing.logs import PATIENCE, Listener, LogBench, take, until


@pytest.mark.parametrize(
    ("key", "value"), [("cleanup.policy", "compact,delete"), ("retention.ms", "3600000"), ("min.insync.replicas", "1")]
)
async def test_settings_are_those_in_force(bench: LogBench, key: str, value: str) -> None:
    admin = bench.log.admin()
    plain, named = await bench.topic(), f"{bench.prefix}named"
    await admin.create_topics([NewTopic(named, 1, 1, ((key, value),))])
    found = await admin.topic_settings([plain, named, f"{bench.prefix}missing"])
    assert found.keys() == {plain, named}
    assert found[named][key] == value
    # Defaults are settings as well.
    assert {"cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes"} <= found[plain].keys()
    assert await admin.topic_settings([]) == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"retention.ms": "7200000"},
        {"max.message.bytes": "2000000", "cleanup.policy": "compact"},
        {"retention.bytes": "1"},
    ],
)
async def test_settings_are_changed_one_by_one(bench: LogBench, changed: dict[str, str]) -> None:
    admin = bench.log.admin()
    topic, other = await bench.topic(), await bench.topic()
    before = await admin.topic_settings([topic, other])
    await admin.change_topic_settings({topic: changed})
    async with asyncio.timeout(PATIENCE):
        while (await admin.topic_settings([topic]))[topic] != {**before[topic], **changed}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await admin.topic_settings([other]))[other] == before[other]
    if "max.message.bytes" in changed:
        assert await admin.topic_limits([topic]) == {topic: int(changed["max.message.bytes"])}
    with pytest.raises((TopicMissing, RecordRefused)):
        await admin.change_topic_settings({f"{bench.prefix}missing": changed})


@pytest.mark.parametrize("partitions", [1, 2, 6])
async def test_partitions_have_a_leader_among_the_brokers(bench: LogBench, partitions: int) -> None:
    topic = await bench.topic(partitions)
    found = await bench.log.admin().replication([topic, f"{bench.prefix}missing"])
    assert found.partitions.keys() == {TopicPartition(topic, number) for number in range(partitions)}
    for kept in found.partitions.values():
        assert kept.leader in found.brokers
        assert kept.replicas == kept.in_sync == (kept.leader,)


async def test_the_newest_time_is_the_highest(bench: LogBench) -> None:
    admin = bench.log.admin()
    topic = await bench.topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    assert await admin.newest_timestamps([first, second]) == {}
    await bench.write(topic, [b"a", b"b"], partition=1)
    reader = bench.reader()
    await reader.assign({second: 0})
    newest = max(record.timestamp_ms for record in await take(reader, 2))
    assert await admin.newest_timestamps([first, second]) == {second: newest}


@pytest.mark.parametrize("instance_id", [None, "pod-0.p6"])
async def test_a_group_from_before_its_first_member_to_after_its_last(bench: LogBench, instance_id: str | None) -> None:
    admin = bench.log.admin()
    topic = await bench.topic(3)
    names = frozenset(TopicPartition(topic, number) for number in range(3))
    group, never = f"{bench.prefix}group", f"{bench.prefix}never"
    assert await admin.group_states([group, never]) == {
        group: GroupState(GroupPhase.MISSING),
        never: GroupState(GroupPhase.MISSING),
    }
    assert (await admin.committed(never), await admin.group_states([])) == ({}, {})

    listener = Listener()
    consumer = await bench.member(topic, listener, instance_id=instance_id)
    await until(lambda: listener.owned == names, consumer)
    await bench.write(topic, [b"a", b"b"])
    await take(consumer, 2)
    committed = {TopicPartition(topic, 0): OffsetAndMetadata(2, "i1abc")}
    await consumer.commit(committed)
    assert await admin.committed(group) == committed
    state = (await admin.group_states([group]))[group]
    assert (state.phase, len(state.members)) == (GroupPhase.STABLE, 1)
    assert (state.members[0].assigned, state.members[0].instance_id) == (names, instance_id)

    await consumer.close()
    async with asyncio.timeout(PATIENCE):
        # A static member is gone when its session has ended.
        while (await admin.group_states([group]))[group].members:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert (await admin.group_states([group]))[group] == GroupState(GroupPhase.EMPTY)
    assert await admin.committed(group) == committed
