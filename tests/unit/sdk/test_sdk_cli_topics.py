"""`headrace topics` on the in-memory twin."""

from __future__ import annotations

import json

import pytest
from headrace.cli.main import build
from headrace.connecting import Cluster
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TOPICS
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.resizing import GROUPS
from typer.testing import CliRunner, Result


class Registry(MemoryRegistry):
    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> MemoryCluster:
    made = MemoryCluster()
    for name, spec in TOPICS.items():
        made.create_topic("headrace." + name, spec.partitions)
    monkeypatch.setattr(Cluster, "at", lambda _addresses, user: Cluster.over(MemoryLog(made), Registry()))
    return made


def run(*arguments: str) -> Result:
    environment = {"HEADRACE_BOOTSTRAP_SERVERS": "127.0.0.1:1", "HEADRACE_REGISTRY_URL": "http://127.0.0.1:1"}
    return CliRunner().invoke(build([]), ["topics", *arguments], env=environment)


def test_topics_are_listed_with_what_differs(cluster: MemoryCluster) -> None:
    cluster.delete_topic("headrace.access.keys")
    cluster.add_partitions("headrace.usage.recorded", 40)
    listed = {row["topic"]: row for row in json.loads(run("list", "--json").stdout)}
    assert listed.keys() == TOPICS.keys()
    assert listed["usage.recorded"]["partitions"] == 40
    assert "specification" in listed["usage.recorded"]["differs"]
    assert listed["access.keys"] == {"topic": "access.keys", "partitions": None, "topic_id": None,
                                     "differs": "missing: provision it"}  # fmt: skip
    described = cluster.describe_topics(["headrace.tasks.submitted"])["headrace.tasks.submitted"]
    assert listed["tasks.submitted"]["topic_id"] == described.topic_id
    assert listed["tasks.submitted"]["differs"] is None
    shown = run("list").stdout
    assert "tasks.submitted" in shown
    assert described.topic_id in shown


@pytest.mark.parametrize("wanted", [7, 12])
def test_a_group_is_resized_with_a_word_on_each_topic(cluster: MemoryCluster, wanted: int) -> None:
    names = ["headrace." + name for name in GROUPS["tasks"]]
    dry = run("resize", "tasks", str(wanted), "--dry-run")
    assert [line.split()[0] for line in dry.stdout.splitlines()] == names
    assert set(cluster.partition_counts(names).values()) == {6}
    assert run("resize", "tasks", str(wanted)).exit_code == 0
    assert set(cluster.partition_counts(names).values()) == {wanted}
    assert "nothing to do" in run("resize", "tasks", str(wanted)).stdout


@pytest.mark.parametrize(
    ("what", "wanted", "words"),
    [("tasks", "2", "take partitions away"), ("tasks.journal", "9", "resize tasks"), ("nothing", "9", "no topic")],
)
def test_what_cannot_be_is_wrong_usage(cluster: MemoryCluster, what: str, wanted: str, words: str) -> None:
    result = run("resize", what, wanted)
    assert result.exit_code == 2
    assert words in result.stderr
