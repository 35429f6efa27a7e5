"""Topics and users of Kafka, derived from the topic specifications.

Permissions follow from the writers and readers of each topic. "anyone" is not a user: such readers become the user
`observer`, such writers the user `agent`. No service has these permissions, so that the cloud worker, for example,
cannot read topics that are open to anyone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from headrace_contracts.events import DeadLetter
from headrace_contracts.groups import LIVE_WINDOWS
from headrace_contracts.topics import TOPICS, TopicSpec
from headrace_streams.kafka.properties import READER_GROUP
from headrace_streams.provisioning import topic_of

from headrace_devstack.services import NAMES

DEFAULT_PREFIX: Final = "headrace."
CLUSTER: Final = "headrace"
OBSERVER: Final = "observer"
"""Reads topics open to anyone: analytics, audit, `headrace tail`."""
AGENT: Final = "agent"
"""Writes to topics open to anyone: other teams' agents that produce to Kafka themselves."""
OPERATOR: Final = "operator"
"""An operator who handles failures (`headrace dlq`, `headrace tasks why`): reads all dead letters, including sensitive
ones, and topics open to anyone, and writes records back to their topics."""
PROVISIONER: Final = "provisioner"
"""Creates topics; neither reads nor writes."""
CLIENTS: Final = (*NAMES, OBSERVER, AGENT, OPERATOR)
"""All users that read or write."""
USERS: Final = (*CLIENTS, PROVISIONER)

_ANYONE: Final = "anyone"
_LIVE_WINDOWS: Final = f"{LIVE_WINDOWS.name}-"
_REPLICATION: Final = 3


@dataclass(frozen=True, slots=True)
class Right:
    """Operations that a user may perform on topics or groups with a name, or with a prefix.

    Attributes:
        kind: Kind of the resource; a cluster has no name.
        name: With the installation's prefix.
        is_prefix: Whether it applies to all names with this prefix.
        operations: Kafka's names, such as Read.
    """

    kind: Literal["topic", "group"]
    name: str
    operations: tuple[str, ...]
    is_prefix: bool = False


def rights(prefix: str = DEFAULT_PREFIX, topics: Iterable[TopicSpec] | None = None) -> Mapping[str, Sequence[Right]]:
    """All permissions of each user. Raises ValueError if a topic names an unknown user."""
    specs = list(TOPICS.values() if topics is None else topics)
    unknown = {name for spec in specs for name in (*spec.writers, *spec.readers)} - {*NAMES, OPERATOR, _ANYONE}
    if unknown:
        raise ValueError(f"topics name unknown writers or readers: {', '.join(sorted(unknown))}")
    found: dict[str, list[Right]] = {}
    for user in USERS:
        found[user] = [
            Right("topic", prefix + spec.name, operations)
            for spec in sorted(specs, key=lambda spec: spec.name)
            if (operations := _operations(user, spec))
        ]
    for user in CLIENTS:
        # Group names start with their owner's name. Readers of chosen partitions join no group, but their client still
        # looks up its coordinator.
        found[user].append(Right("group", READER_GROUP, ("Describe",)))
        found[user].append(Right("group", prefix + user, ("Read",), is_prefix=True))
    changelogs = ("Create", "Describe", "DescribeConfigs", "Read", "Write")
    found["cost-accountant"].append(Right("topic", prefix + _LIVE_WINDOWS, changelogs, is_prefix=True))
    # `headrace doctor` compares all topics and groups with what they must be.
    found[OPERATOR].append(Right("topic", prefix, ("Describe", "DescribeConfigs"), is_prefix=True))
    found[OPERATOR].append(Right("group", prefix, ("Describe",), is_prefix=True))
    found[PROVISIONER] = [Right("topic", prefix, ("Create", "Describe", "DescribeConfigs"), is_prefix=True)]
    return found


_MEASURES = "router"


def _operations(user: str, spec: TopicSpec) -> tuple[str, ...]:
    readers = {OBSERVER: {_ANYONE}, OPERATOR: {OPERATOR, _ANYONE}}.get(user, {user})
    writers = {AGENT: {_ANYONE}}.get(user, {user})
    is_dead_letters = spec.record is DeadLetter
    operations = []
    if readers & set(spec.readers) or (user == OPERATOR and is_dead_letters):
        operations.append("Read")
    if writers & set(spec.writers) or (user == OPERATOR and spec.dead_letters):
        operations.append("Write")
        if user == _MEASURES:
            # It looks up how large the topic's records may be.
            operations.append("DescribeConfigs")
    return ("Describe", *operations) if operations else ()


def topics_data() -> dict[str, Any]:
    """What the chart's templates need to create KafkaTopics with any prefix and replication."""
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
    """KafkaTopics for a cluster with three or more brokers."""
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
    """KafkaUsers with passwords (SCRAM-SHA-512) and permissions; their Secrets have the same names."""
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
