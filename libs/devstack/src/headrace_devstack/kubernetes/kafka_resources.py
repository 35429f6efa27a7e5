"""Topics and users of Kafka as resources of Strimzi, derived from the topic specifications and `rights`."""

from __future__ import annotations

from typing import Any, Final

from headrace_contracts.topics import TOPICS, TopicSpec
from headrace_contracts.users import principal
from headrace_streams.provisioning import topic_of
from headrace_streams.rights import DEFAULT_PREFIX, Right, rights

CLUSTER: Final = "headrace"

_REPLICATION: Final = 3


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
            "metadata": {"name": principal(user), "labels": {"strimzi.io/cluster": cluster}},
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
