"""Whether the topics are as they must be: there, with the settings of their specifications, and enough partitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from headrace_contracts.topics import TOPICS, TopicSpec
from headrace_streams.records import Replication, TopicDescription
from headrace_streams.resizing import uneven
from headrace_streams.topic_settings import SettingDiffers, Weight, differing

from headrace.cli.checkups.findings import Finding, counted, listed, warning, wrong

PROVISION: Final = "python -m headrace_runtime.provision creates what is missing (`headrace up` does so by itself)"
CONFIGURE: Final = "headrace topics configure"


def judge_topics(
    described: Mapping[str, TopicDescription],
    settings: Mapping[str, Mapping[str, str]],
    replication: Replication,
    prefix: str,
    specs: Mapping[str, TopicSpec] = TOPICS,
) -> list[Finding]:
    """What is wrong with the topics; one finding that all is well if nothing is.

    Args:
        described, settings: By name with the prefix; those that are missing, or may not be asked about, are left out.
    """
    missing = [name for name in specs if prefix + name not in described]
    if len(missing) == len(specs):
        detail = f"none of the {len(specs)} topics exists with the prefix {prefix!r}"
        return [wrong("topics", detail, f"correct HEADRACE_TOPIC_PREFIX; or {PROVISION}")]
    found: list[Finding] = []
    if missing:
        detail = f"{len(missing)} of {len(specs)} topics are missing: {listed(missing)}"
        found.append(wrong("topics", detail, PROVISION))
    for each in uneven(described, prefix, specs):
        fewer = listed(f"{name} has {count}" for name, count in each.fewer.items())
        detail = (
            f"topics of the group {each.group} must have equal numbers of partitions: one has {each.most}, but "
            f"{fewer}; what arrives in the partitions beyond is not worked on"
        )
        found.append(wrong(f"topics {each.group}", detail, f"headrace topics resize {each.group} {each.most}"))
    for name, spec in specs.items():
        if (present := settings.get(prefix + name)) is not None:
            found += _of_settings(name, differing(spec, present, replication.replicas_of(prefix + name)))
    unasked = [name for name in specs if prefix + name in described and prefix + name not in settings]
    if unasked:
        detail = f"the settings of {counted(len(unasked), 'topic')} may not be read: {listed(unasked)}"
        found.append(warning("topics", detail, "give this user the right DescribeConfigs on them"))
    return found or [Finding("topics", True, f"{len(specs)}, as specified")]


def _of_settings(name: str, differences: list[SettingDiffers]) -> list[Finding]:
    part = f"topic {name}"
    bad = [each for each in differences if each.weight is Weight.WRONG]
    rest = [each for each in differences if each.weight is Weight.UNUSUAL]
    found = []
    if bad:
        found.append(wrong(part, "; ".join(each.words for each in bad), f"{CONFIGURE} {name}"))
    if rest:
        found.append(
            warning(part, "; ".join(each.words for each in rest), f"{CONFIGURE} {name}, if that was not intended")
        )
    return found
