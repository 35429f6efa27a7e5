"""Who may do what in Kafka follows from the topic specifications, and no user may do more."""

from __future__ import annotations

import dataclasses

import pytest
from headrace_contracts.topics import (
    TASKS_SUBMITTED,
    TOPICS,
    WORK_LOCAL,
    TopicSpec,
    dead_letters_of,
    site_topics,
)
from headrace_devstack.descriptions import ServiceDescription
from headrace_devstack.kubernetes import kafka_resources
from headrace_devstack.services import NAMES, SERVICES
from headrace_streams.rights import SERVICES as SERVICE_USERS
from headrace_streams.rights import USERS, allows, rights
from headrace_testing.described_services import wiring_of

PREFIX = "x."
RIGHTS = rights(PREFIX)
WITHOUT_CONTENT = {"usage.recorded", "spend.windows", "fleet.status", "audit.recorded", "attempts.started"}
"""Topics that anyone may read and that hold no text of people or models: usage, money, health, access, calls."""


def may(user: str, operation: str, topic: str) -> bool:
    return allows(RIGHTS[user], "topic", topic, operation)


@pytest.mark.parametrize(
    "topic",
    ["work.local.interactive", "work.local.batch", "work.local.berlin.batch", "tasks.journal", "tasks.completed"],
)
def test_the_cloud_worker_reads_nothing_that_may_be_sensitive(topic: str) -> None:
    assert not may("cloud-worker", "Read", PREFIX + topic)
    assert not may("cloud-worker", "Read", f"{PREFIX}{topic}.dlq")


def test_of_a_site_that_nobody_has_named_yet_the_router_writes_and_local_workers_read() -> None:
    for spec in site_topics(["berlin", "gpu-1"]):
        assert {user for user in USERS if may(user, "Write", PREFIX + spec.name)} == {"router", "operator"}
        assert {user for user in USERS if may(user, "Read", PREFIX + spec.name)} == {"local-worker"}
        assert may("local-worker", "Write", PREFIX + dead_letters_of(spec).name)
    assert allows(RIGHTS["local-worker"], "group", f"{PREFIX}local-worker.berlin", "Read")


def test_every_service_may_do_what_the_specifications_say_and_no_other_user_may() -> None:
    for spec in TOPICS.values():
        for operation, names in (("Read", spec.readers), ("Write", spec.writers)):
            expected = {name for name in names if name != "anyone"}
            if "anyone" in names:
                expected |= {"content-reader", "operator"} if operation == "Read" else {"agent"}
                if operation == "Read" and spec.name in WITHOUT_CONTENT:
                    expected.add("observer")
            if spec.name.endswith(".dlq") if operation == "Read" else spec.dead_letters:
                expected.add("operator")
            if spec.name.startswith(WORK_LOCAL) and operation == "Write":
                # Kafka knows prefixes only: who writes to the topics of any site writes to these dead letters too.
                expected |= {"router", "operator"}
            assert {user for user in USERS if may(user, operation, PREFIX + spec.name)} == expected, spec.name


@pytest.mark.parametrize("described", SERVICES, ids=NAMES)
def test_what_a_service_is_wired_to_stands_in_the_specifications(described: ServiceDescription) -> None:
    service = described.name
    wiring = wiring_of(described)
    reads: tuple[TopicSpec, ...] = wiring.READS
    writes: tuple[TopicSpec, ...] = wiring.WRITES
    for spec in reads:
        assert may(service, "Read", PREFIX + spec.name), f"{service} reads {spec.name}"
        if spec.dead_letters:
            assert may(service, "Write", PREFIX + dead_letters_of(spec).name), f"{service} writes {spec.name}.dlq"
    for spec in writes:
        assert may(service, "Write", PREFIX + spec.name), f"{service} writes {spec.name}"


def test_who_makes_topics_reads_and_writes_none() -> None:
    operations = {operation for right in rights(PREFIX)["provisioner"] for operation in right.operations}
    assert operations == {"Alter", "AlterConfigs", "Create", "Describe", "DescribeConfigs"}


def test_only_who_makes_topics_and_the_changelogs_of_live_windows_may_create_any() -> None:
    creators = {
        (user, right.name)
        for user, granted in rights(PREFIX).items()
        for right in granted
        if "Create" in right.operations
    }
    assert creators == {("provisioner", PREFIX), ("cost-accountant", f"{PREFIX}cost-accountant.windows-")}


def test_the_users_that_are_services_are_the_services() -> None:
    assert set(SERVICE_USERS) == set(NAMES)


def test_groups_belong_to_their_users() -> None:
    for user, granted in rights(PREFIX).items():
        for right in granted:
            if right.kind == "group" and "Read" in right.operations:
                assert right.name == PREFIX + user


def test_a_topic_of_an_unknown_service_is_refused() -> None:
    stranger = dataclasses.replace(TASKS_SUBMITTED, readers=("accountant",))
    with pytest.raises(ValueError, match="unknown writers or readers: accountant"):
        rights(PREFIX, [stranger])


def test_resources_carry_prefix_and_cluster() -> None:
    topics = kafka_resources.topic_resources("team_a.", "east")
    journal = next(topic for topic in topics if topic["spec"]["topicName"] == "team_a.tasks.journal")
    assert journal["metadata"] == {"name": "team-a.tasks.journal", "labels": {"strimzi.io/cluster": "east"}}
    assert journal["spec"]["replicas"] == 3
    assert journal["spec"]["config"]["min.insync.replicas"] == 2
    assert {user["metadata"]["name"] for user in kafka_resources.user_resources()} == {f"headrace-{u}" for u in USERS}
