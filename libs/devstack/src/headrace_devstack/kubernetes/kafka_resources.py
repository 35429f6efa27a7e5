"""Topics and users of Kafka, out of the topic specifications.

Who may do what follows from the writers and readers of each topic. "anyone" is not a user: readers that the
specification leaves open become the user `observer`, writers the user `agent`. No service is either, so that what
anyone may read is not read by, for example, the cloud worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from headrace_contracts.events import DeadLetter
from headrace_contracts.topics import TOPICS, TopicSpec
from headrace_streams.kafka.properties import READER_GROUP
from headrace_streams.provisioning import topic_of

from headrace_devstack.services import NAMES

DEFAULT_PREFIX: Final = "headrace."
CLUSTER: Final = "headrace"
OBSERVER: Final = "observer"
"""Reads what is open to anyone: analytics, audit, `headrace tail`."""
AGENT: Final = "agent"
"""Writes what is open to anyone: other teams' agents that produce to Kafka themselves."""
OPERATOR: Final = "operator"
"""A person who looks after what failed (`headrace dlq`, `headrace tasks why`): reads all dead letters, sensitive ones
included, what is open to anyone, and writes records back to where they came from."""
PROVISIONER: Final = "provisioner"
"""Makes topics; reads and writes none."""
CLIENTS: Final = (*NAMES, OBSERVER, AGENT, OPERATOR)
"""All users that read or write."""
USERS: Final = (*CLIENTS, PROVISIONER)

_ANYONE: Final = "anyone"
_LIVE_WINDOWS: Final = "cost-accountant.windows-"
_REPLICATION: Final = 3


@dataclass(frozen=True, slots=True)
class Right:
    """Operations that a user may do on topics or groups of a name, or of all names with a prefix.

    Attributes:
        kind: What the name is of; a cluster has none.
        name: With the installation's prefix.
        is_prefix: Whether it stands for all names that begin with it.
        operations: Names as in Kafka, such as Read.
    """

    kind: Literal["topic", "group"]
    name: str
    operations: tuple[str, ...]
    is_prefix: bool = False


def rights(prefix: str = DEFAULT_PREFIX, topics: Iterable[TopicSpec] | None = None) -> Mapping[str, Sequence[Right]]:
    """What each user may do: that and nothing else. Raises ValueError where a topic names a user that there is not."""
    specs = list(TOPICS.values() if topics is None else topics)
    unknown = {name for spec in specs for name in (*spec.writers, *spec.readers)} - {*NAMES, OPERATOR, _ANYONE}
    if unknown:
        raise ValueError(f"topics name writers or readers that are no user: {', '.join(sorted(unknown))}")
    found: dict[str, list[Right]] = {}
    for user in USERS:
        found[user] = [
            Right("topic", prefix + spec.name, operations)
            for spec in sorted(specs, key=lambda spec: spec.name)
            if (operations := _operations(user, spec))
        ]
    for user in CLIENTS:
        # Groups begin with their owner's name. Readers of chosen partitions join none, but their client asks who would
        # coordinate it.
        found[user].append(Right("group", READER_GROUP, ("Describe",)))
        found[user].append(Right("group", prefix + user, ("Read",), is_prefix=True))
    changelogs = ("Create", "Describe", "DescribeConfigs", "Read", "Write")
    found["cost-accountant"].append(Right("topic", prefix + _LIVE_WINDOWS, changelogs, is_prefix=True))
    found[PROVISIONER] = [Right("topic", prefix, ("Create", "Describe", "DescribeConfigs"), is_prefix=True)]
    return found


def _operations(user: str, spec: TopicSpec) -> tuple[str, ...]:
    readers = {OBSERVER: {_ANYONE}, OPERATOR: {OPERATOR, _ANYONE}}.get(user, {user})
    writers = {AGENT: {_ANYONE}}.get(user, {user})
    is_dead_letters = spec.record is DeadLetter
    operations = []
    if readers & set(spec.readers) or (user == OPERATOR and is_dead_letters):
        operations.append("Read")
    if writers & set(spec.writers) or (user == OPERATOR and spec.dead_letters):
        operations.append("Write")
    return ("Describe", *operations) if operations else ()


def topics_data() -> dict[str, Any]:
    """What the chart's templates need to make KafkaTopics with any prefix and replication."""
    return {
        "topics": [
            {
                "name": spec.name,
                "partitions": spec.partitions,
                "tasks": spec.copartitioned,
                # As text: Helm reads numbers as floats, and would write a year in milliseconds with an exponent.
                "config": dict(topic_of(spec, "", replication=1).config),
            }
            for spec in TOPICS.values()
        ]
    }


def topic_resources(prefix: str = DEFAULT_PREFIX, cluster: str = CLUSTER) -> list[dict[str, Any]]:
    """KafkaTopics of a cluster with three brokers or more."""
    return [
        {
            "apiVersion": "kafka.strimzi.io/v1",
            "kind": "KafkaTopic",
            "metadata": {"name": _resource_name(prefix + spec.name), "labels": {"strimzi.io/cluster": cluster}},
            "spec": {
                "topicName": prefix + spec.name,
                "partitions": spec.partitions,
                "replicas": _REPLICATION,
                "config": _config(spec),
            },
        }
        for spec in TOPICS.values()
    ]


def user_resources(prefix: str = DEFAULT_PREFIX, cluster: str = CLUSTER) -> list[dict[str, Any]]:
    """KafkaUsers with passwords (SCRAM-SHA-512) and rights; their Secrets are called like them."""
    return [
        {
            "apiVersion": "kafka.strimzi.io/v1",
            "kind": "KafkaUser",
            "metadata": {"name": f"headrace-{user}", "labels": {"strimzi.io/cluster": cluster}},
            "spec": {
                "authentication": {"type": "scram-sha-512"},
                "authorization": {"type": "simple", "acls": [_acl(right) for right in granted]},
            },
        }
        for user, granted in rights(prefix).items()
    ]


def _acl(right: Right) -> dict[str, Any]:
    resource = {
        "type": right.kind,
        "name": right.name,
        "patternType": "prefix" if right.is_prefix else "literal",
    }
    return {"resource": resource, "operations": list(right.operations), "host": "*"}


def _config(spec: TopicSpec) -> dict[str, str | int]:
    config = topic_of(spec, "", _REPLICATION).config
    return {name: int(value) if value.isdecimal() else value for name, value in config}


def _resource_name(topic: str) -> str:
    return topic.lower().replace("_", "-").strip(".-")
