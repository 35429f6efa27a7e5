"""Adds partitions to topics that belong together, in an order that every moment of it is safe in.

Everything about a task stays in the partition that it came in on. So a partition of tasks.submitted may exist only once
all topics that its tasks go through have a partition of the same number: these are extended first, and tasks.submitted
last. Interrupted anywhere, the same command goes on where it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace_contracts.topics import TOPICS, TopicSpec, without_site

from headrace_streams.errors import StreamsError
from headrace_streams.ports import Admin
from headrace_streams.present_topics import expected_topics
from headrace_streams.records import TopicDescription

GROUPS: Final[Mapping[str, Sequence[str]]] = {
    "tasks": (
        "tasks.journal",
        "tasks.completed",
        "tasks.cancelled",
        "attempts.finished",
        "attempts.finished.cloud",
        "attempts.started",
        "work.local.interactive",
        "work.local.batch",
        "work.cloud.interactive",
        "work.cloud.batch",
        "tasks.submitted",
    ),
    "skills": ("skills.catalog", "skills.submitted"),
}
"""Topics that must have the same numbers of partitions, in the order in which they are extended."""


class ResizeRefused(StreamsError):
    """Ask for something else: the topics cannot be given this number of partitions."""


@dataclass(frozen=True, slots=True)
class Extension:
    """One topic (with its prefix) that gets partitions."""

    topic: str
    present: int
    wanted: int


def members_of(group: str, specs: Mapping[str, TopicSpec] = TOPICS) -> Sequence[str]:
    """The topics of a group, in the order in which they are extended: those of sites with those that have none."""
    members = GROUPS[group]
    of_sites = [name for name, spec in specs.items() if spec.site and without_site(spec).name in members]
    return [*members[:-1], *of_sites, members[-1]]


def names_of(what: str, prefix: str, specs: Mapping[str, TopicSpec] = TOPICS) -> Sequence[str]:
    """The topics, with their prefix, that a group or a topic stands for. Raises ResizeRefused."""
    name = what.removeprefix(prefix)
    if name in GROUPS:
        return [prefix + each for each in members_of(name, specs)]
    group = next((group for group in GROUPS if name in members_of(group, specs)), None)
    if group is not None:
        raise ResizeRefused(f"{name} must have as many partitions as the others of its group: resize {group}")
    if name not in specs and name.removesuffix(".dlq") not in specs:
        known = ", ".join([*GROUPS, *sorted(each for each in specs if not any(each in g for g in GROUPS.values()))])
        raise ResizeRefused(f"there is no topic {name}; there are {known}")
    return [prefix + name]


def plan(names: Sequence[str], wanted: int, present: Mapping[str, int]) -> Sequence[Extension]:
    """What has to be done, in order; nothing for topics that have the number already. Raises ResizeRefused."""
    missing = [name for name in names if name not in present]
    if missing:
        raise ResizeRefused(f"{', '.join(missing)} missing on this cluster: provision the topics first")
    larger = [f"{name} has {present[name]}" for name in names if present[name] > wanted]
    if larger:
        raise ResizeRefused(f"Kafka cannot take partitions away: {', '.join(larger)}, which is more than {wanted}")
    return [Extension(name, present[name], wanted) for name in names if present[name] < wanted]


async def resize(
    admin: Admin,
    what: str,
    wanted: int,
    prefix: str,
    *,
    say: Callable[[Extension], None] = lambda extension: None,
    dry_run: bool = False,
) -> Sequence[Extension]:
    """Extend the topics one after another; returns what was (or would be) done.

    Args:
        say: Called before each topic is extended.

    Raises ResizeRefused before anything is changed, TransientError and RecordRefused.
    """
    names = names_of(what, prefix, await expected_topics(admin, prefix))
    steps = plan(names, wanted, await admin.partition_counts(names))
    for step in steps:
        say(step)
        if not dry_run:
            # One by one: the next may have partitions only when this one has.
            await admin.add_partitions({step.topic: step.wanted})
    return steps


@dataclass(frozen=True, slots=True)
class Uneven:
    """Topics of one group that have fewer partitions than another one of it.

    Attributes:
        group: See `GROUPS`.
        most: What all of them must have.
        fewer: Those that have fewer, without the prefix, and how many.
    """

    group: str
    most: int
    fewer: Mapping[str, int]


def uneven(
    described: Mapping[str, TopicDescription], prefix: str, specs: Mapping[str, TopicSpec] = TOPICS
) -> Sequence[Uneven]:
    """The groups whose topics differ in their numbers of partitions; missing topics do not count."""
    found = []
    for group in GROUPS:
        members = members_of(group, specs)
        counts = {name: described[prefix + name].partitions for name in members if prefix + name in described}
        most = max(counts.values(), default=0)
        fewer = {name: count for name, count in counts.items() if count < most}
        if fewer:
            found.append(Uneven(group, most, fewer))
    return found


def differences(
    described: Mapping[str, TopicDescription], prefix: str, specs: Mapping[str, TopicSpec] = TOPICS
) -> Mapping[str, str]:
    """What is wrong with the topics as they are, by name without the prefix; what differs from the specifications."""
    found: dict[str, str] = {}
    for name, spec in specs.items():
        topic = described.get(prefix + name)
        if topic is None:
            found[name] = "missing: provision it"
        elif topic.partitions != spec.partitions:
            found[name] = f"the specification has {spec.partitions}"
    for each in uneven(described, prefix, specs):
        for name in each.fewer:
            found[name] = f"fewer than others of its group: headrace topics resize {each.group} {each.most}"
    return found
