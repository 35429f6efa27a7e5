"""Kafka's users, and what each may do: derived from the topic specifications, for every way of running Headrace.

Permissions follow from the writers and readers of each topic. "anyone" is not a user: such writers become the user
`agent`; such readers become `content-reader`, and `observer` where the records hold no text of people or models. No
service has these permissions, so that the cloud worker, for example, cannot read topics that are open to anyone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from headrace_contracts.content_topics import holds_content
from headrace_contracts.events import DeadLetter
from headrace_contracts.groups import LIVE_WINDOWS
from headrace_contracts.topics import TOPICS, WORK_LOCAL, WORK_LOCAL_INTERACTIVE, TopicSpec
from headrace_contracts.users import AGENT, CONTENT_READER, NO_SERVICES, NODE_AGENT, OBSERVER, OPERATOR, PROVISIONER

from headrace_streams.kafka.properties import READER_GROUP

DEFAULT_PREFIX: Final = "headrace."
_ANYONE: Final = "anyone"
SERVICES: Final = tuple(
    dict.fromkeys(
        name
        for spec in TOPICS.values()
        for name in (*spec.writers, *spec.readers)
        if name not in (NODE_AGENT, OPERATOR, _ANYONE)
    )
)
"""All services that read or write a topic."""
USERS: Final = (*SERVICES, *NO_SERVICES)
READERS: Final = (OBSERVER, CONTENT_READER, OPERATOR)
"""Users that read but are no services, the least of them first."""

_LIVE_WINDOWS: Final = f"{LIVE_WINDOWS.name}-"
_MEASURES: Final = "router"
_IMPLIED: Final[Mapping[str, frozenset[str]]] = {
    "Describe": frozenset({"Read", "Write", "Delete", "Alter"}),
    "DescribeConfigs": frozenset({"AlterConfigs"}),
}
"""Operations that Kafka allows to whom it allows one of these."""


@dataclass(frozen=True, slots=True)
class Right:
    """Operations that a user may perform on topics or groups with a name, or with a prefix.

    Attributes:
        kind: Kind of the resource.
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
    unknown = {name for spec in specs for name in (*spec.writers, *spec.readers)} - {
        *SERVICES, NODE_AGENT, OPERATOR, _ANYONE,
    }  # fmt: skip
    if unknown:
        raise ValueError(f"topics name unknown writers or readers: {', '.join(sorted(unknown))}")
    found: dict[str, list[Right]] = {}
    for user in USERS:
        found[user] = [
            Right("topic", prefix + spec.name, operations)
            for spec in sorted(specs, key=lambda spec: spec.name)
            if (operations := _operations(user, spec))
        ]
    for user in set(USERS) - {PROVISIONER}:
        # Group names start with their owner's name. Readers of chosen partitions join no group, but their client still
        # looks up its coordinator.
        found[user].append(Right("group", READER_GROUP, ("Describe",)))
        found[user].append(Right("group", prefix + user, ("Read",), is_prefix=True))
    if WORK_LOCAL_INTERACTIVE in specs:
        # Sites are named by operators, so their topics are covered by how all names of topics of local attempts begin.
        for user in USERS:
            if operations := _operations(user, WORK_LOCAL_INTERACTIVE):
                found[user].append(Right("topic", prefix + WORK_LOCAL, operations, is_prefix=True))
    changelogs = ("Create", "Describe", "DescribeConfigs", "Read", "Write")
    found["cost-accountant"].append(Right("topic", prefix + _LIVE_WINDOWS, changelogs, is_prefix=True))
    # `headrace doctor` compares all topics and groups with what they must be.
    found[OPERATOR].append(Right("topic", prefix, ("Describe", "DescribeConfigs"), is_prefix=True))
    found[OPERATOR].append(Right("group", prefix, ("Describe",), is_prefix=True))
    # `headrace topics resize` and `configure` alter them.
    managing = ("Alter", "AlterConfigs", "Create", "Describe", "DescribeConfigs")
    found[PROVISIONER] = [Right("topic", prefix, managing, is_prefix=True)]
    return found


def allows(granted: Iterable[Right], kind: Literal["topic", "group"], name: str, operation: str) -> bool:
    """Whether one of these permissions covers an operation, as Kafka decides it."""
    wanted = {operation} | _IMPLIED.get(operation, frozenset())
    return any(
        right.kind == kind
        and not wanted.isdisjoint(right.operations)
        and (name.startswith(right.name) if right.is_prefix else name == right.name)
        for right in granted
    )


def reader_of(spec: TopicSpec) -> str | None:
    """The user with the fewest permissions that reads a topic without being a service; None if only services do."""
    return next((user for user in READERS if "Read" in _operations(user, spec)), None)


def _operations(user: str, spec: TopicSpec) -> tuple[str, ...]:
    is_dead_letters = spec.record is DeadLetter
    operations = []
    if _reads(user, spec) or (user == OPERATOR and is_dead_letters):
        operations.append("Read")
    writers = {AGENT: {_ANYONE}}.get(user, {user})
    if writers & set(spec.writers) or (user == OPERATOR and spec.dead_letters):
        operations.append("Write")
        if user == _MEASURES:
            # It looks up how large the topic's records may be.
            operations.append("DescribeConfigs")
    return ("Describe", *operations) if operations else ()


def _reads(user: str, spec: TopicSpec) -> bool:
    if user == OBSERVER:
        return _ANYONE in spec.readers and not holds_content(spec)
    if user == CONTENT_READER:
        return _ANYONE in spec.readers
    return user in spec.readers or (user == OPERATOR and _ANYONE in spec.readers)
