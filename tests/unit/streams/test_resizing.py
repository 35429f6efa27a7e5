"""Partitions are added in the order that keeps every task whole."""

from __future__ import annotations

import pytest
from headrace_contracts.topics import TOPICS
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.resizing import GROUPS, Extension, ResizeRefused, differences, names_of, plan, resize

PREFIX = "test."


@pytest.fixture
def cluster() -> MemoryCluster:
    made = MemoryCluster()
    for name, spec in TOPICS.items():
        made.create_topic(PREFIX + name, spec.partitions)
    return made


def test_all_that_must_be_equal_are_in_a_group_and_tasks_submitted_is_last() -> None:
    assert {name for name, spec in TOPICS.items() if spec.copartitioned} <= set(GROUPS["tasks"])
    assert {name for name in TOPICS if name.startswith("work.") and not name.endswith(".dlq")} <= set(GROUPS["tasks"])
    assert GROUPS["tasks"][-1] == "tasks.submitted"
    assert GROUPS["skills"][-1] == "skills.submitted"
    assert all(name in TOPICS for members in GROUPS.values() for name in members)


@pytest.mark.parametrize("wanted", [7, 8, 24])
@pytest.mark.parametrize("group", list(GROUPS))
async def test_a_group_is_extended_in_its_order(cluster: MemoryCluster, group: str, wanted: int) -> None:
    admin = MemoryLog(cluster).admin()
    said: list[Extension] = []
    names = [PREFIX + name for name in GROUPS[group]]
    planned = await resize(admin, group, wanted, PREFIX, say=said.append, dry_run=True)
    assert list(await resize(admin, group, wanted, PREFIX, say=said.append)) == list(planned)
    assert [step.topic for step in planned] == names
    assert said == [*planned, *planned]
    assert set((await admin.partition_counts(names)).values()) == {wanted}
    assert not await resize(admin, group, wanted, PREFIX)


@pytest.mark.parametrize("done", [1, 4, 8])
async def test_after_an_interruption_it_goes_on(cluster: MemoryCluster, done: int) -> None:
    for name in GROUPS["tasks"][:done]:
        cluster.add_partitions(PREFIX + name, 8)
    steps = await resize(MemoryLog(cluster).admin(), "tasks", 8, PREFIX)
    assert [step.topic for step in steps] == [PREFIX + name for name in GROUPS["tasks"][done:]]


@pytest.mark.parametrize(
    ("what", "wanted", "words"),
    [
        ("tasks", 5, "cannot take partitions away"),
        ("skills", 1, "cannot take partitions away"),
        ("usage.recorded", 1, "cannot take partitions away"),
        ("tasks.journal", 8, "resize tasks"),
        ("test.work.local.batch", 8, "resize tasks"),
        ("skills.catalog", 8, "resize skills"),
        ("nothing", 8, "there is no topic nothing"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_changes(
    cluster: MemoryCluster, what: str, wanted: int, words: str
) -> None:
    admin = MemoryLog(cluster).admin()
    before = await admin.describe_topics([PREFIX + name for name in TOPICS])
    with pytest.raises(ResizeRefused, match=words):
        await resize(admin, what, wanted, PREFIX)
    assert await admin.describe_topics([PREFIX + name for name in TOPICS]) == before


def test_missing_topics_are_provisioned_first() -> None:
    with pytest.raises(ResizeRefused, match="provision"):
        plan(names_of("skills", PREFIX), 8, {})


@pytest.mark.parametrize("what", ["usage.recorded", "test.usage.recorded", "usage.recorded.dlq"])
def test_topics_are_named_with_or_without_their_prefix(what: str) -> None:
    assert names_of(what, PREFIX) == [PREFIX + what.removeprefix(PREFIX)]


async def test_differences_are_told(cluster: MemoryCluster) -> None:
    admin = MemoryLog(cluster).admin()
    names = [PREFIX + name for name in TOPICS]
    assert not differences(await admin.describe_topics(names), PREFIX)
    cluster.delete_topic(PREFIX + "access.keys")
    cluster.add_partitions(PREFIX + "usage.recorded", 40)
    cluster.add_partitions(PREFIX + "tasks.journal", 8)
    found = differences(await admin.describe_topics(names), PREFIX)
    assert "missing" in found["access.keys"]
    assert "the specification has" in found["usage.recorded"]
    assert found["tasks.submitted"] == "fewer than others of its group: headrace topics resize tasks 8"
