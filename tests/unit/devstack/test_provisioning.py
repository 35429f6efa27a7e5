"""Topics as Kafka is asked for them."""

import pytest
from headrace_contracts.topics import TOPICS
from headrace_devstack.provision import parse_partitions, topic_of


def test_every_specification_becomes_a_topic_with_its_cleanup_and_retention() -> None:
    for spec in TOPICS.values():
        topic = topic_of(spec, "x.", replication=1)
        config = dict(topic.config)
        assert topic.name == f"x.{spec.name}"
        assert (topic.partitions, topic.replication_factor) == (spec.partitions, 1)
        assert config["cleanup.policy"] == spec.cleanup
        assert config.get("retention.ms") == (None if spec.retention_ms is None else str(spec.retention_ms))
        assert int(config["max.message.bytes"]) > 2 * 1024 * 1024
        assert "min.insync.replicas" not in config


def test_with_three_copies_two_must_have_a_record() -> None:
    topic = topic_of(TOPICS["tasks.submitted"], "", replication=3)
    assert dict(topic.config)["min.insync.replicas"] == "2"


def test_partitions_are_read_as_a_list() -> None:
    assert parse_partitions("tasks=12, usage.recorded=3".replace(" ", "")) == {"tasks": 12, "usage.recorded": 3}
    assert parse_partitions("") == {}


@pytest.mark.parametrize("text", ["tasks", "tasks=many", "=3", "tasks=-1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"tasks=12,usage\.recorded=3"):
        parse_partitions(text)
