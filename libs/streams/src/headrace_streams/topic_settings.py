"""Compares the settings of a topic with its specification.

What matters is what a setting does to the guarantees. One that keeps less than specified, or loses what was
acknowledged, is wrong. One that keeps more costs disk, and may be meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headrace_contracts.limits import MOST_REQUEST_BYTES, record_bytes
from headrace_contracts.topics import TopicSpec

from headrace_streams.provisioning import LARGEST_RECORD, topic_of

CLEANUP: Final = "cleanup.policy"
IN_SYNC: Final = "min.insync.replicas"
RETENTION: Final = "retention.ms"
RETENTION_BYTES: Final = "retention.bytes"
UNCLEAN: Final = "unclean.leader.election.enable"

_FOREVER: Final = -1
_AT_LEAST: Final[Mapping[str, tuple[str, str]]] = {
    LARGEST_RECORD: ("records that Headrace writes do not fit", "larger than specified"),
    RETENTION: ("records are deleted before their time", "records are kept longer than specified"),
    "min.compaction.lag.ms": ("records are compacted before their readers had time", "compaction waits longer"),
}
"""Settings that may be larger: what a smaller value does, and a larger one."""


class Weight(StrEnum):
    """WRONG breaks a guarantee; UNUSUAL differs, and breaks none."""

    WRONG = "wrong"
    UNUSUAL = "unusual"


@dataclass(frozen=True, slots=True)
class SettingDiffers:
    """A setting that is not as specified.

    Attributes:
        wanted: The value that the specification asks for.
        effect: What the present value does.
    """

    key: str
    present: str
    wanted: str
    weight: Weight
    effect: str

    @property
    def words(self) -> str:
        """For an operator."""
        return f"{self.key} is {self.present}, not {self.wanted}: {self.effect}"


def differing(spec: TopicSpec, present: Mapping[str, str], replicas: int) -> list[SettingDiffers]:
    """What differs, in the order of the settings' names.

    Args:
        present: Settings in force, defaults included; those that are absent are not compared.
        replicas: Replicas of each partition.
    """
    wanted = {RETENTION: str(_FOREVER), RETENTION_BYTES: str(_FOREVER), **dict(topic_of(spec, "", replicas).config)}
    found = [_cleanup(present, wanted[CLEANUP]), _unclean(present), _in_sync(present, wanted.get(IN_SYNC), replicas)]
    deletes = "delete" in _policies(wanted[CLEANUP])
    for key, (smaller, larger) in _AT_LEAST.items():
        # How long a topic is kept that is only compacted is no question.
        if key in wanted and (deletes or key != RETENTION):
            found.append(_at_least(key, present, wanted[key], smaller, larger))
    if deletes:
        found.append(_at_least(RETENTION_BYTES, present, wanted[RETENTION_BYTES], _AT_LEAST[RETENTION][0], ""))
    return sorted((each for each in found if each is not None), key=lambda each: each.key)


def _policies(value: str) -> frozenset[str]:
    return frozenset(part.strip() for part in value.split(","))


def _cleanup(present: Mapping[str, str], wanted: str) -> SettingDiffers | None:
    value = present.get(CLEANUP, wanted)
    if _policies(value) == _policies(wanted):
        return None
    extra, lacking = _policies(value) - _policies(wanted), _policies(wanted) - _policies(value)
    if "compact" in extra:
        effect = "only the newest record of each key is kept, the others are lost"
    elif "delete" in extra:
        effect = "the newest records of keys are deleted with their age"
    elif "compact" in lacking:
        effect = "what newer records replace is kept as well, and read by every start"
    else:
        effect = "it grows without end"
    return SettingDiffers(CLEANUP, value, wanted, Weight.WRONG, effect)


def _unclean(present: Mapping[str, str]) -> SettingDiffers | None:
    value = present.get(UNCLEAN, "false")
    if value.lower() != "true":
        return None
    effect = "a replica that lacks acknowledged records may become the leader"
    return SettingDiffers(UNCLEAN, value, "false", Weight.WRONG, effect)


def _in_sync(present: Mapping[str, str], wanted: str | None, replicas: int) -> SettingDiffers | None:
    value = _number(present.get(IN_SYNC, wanted))
    if value is None:
        return None
    least = _number(wanted) or 1
    if value > replicas:
        effect = f"with {replicas} replicas nothing can be written"
        return SettingDiffers(IN_SYNC, str(value), str(least), Weight.WRONG, effect)
    if value < least:
        effect = "a record counts as written that too few brokers have"
        return SettingDiffers(IN_SYNC, str(value), str(least), Weight.WRONG, effect)
    if value > least:
        effect = "nothing can be written while one broker is away"
        return SettingDiffers(IN_SYNC, str(value), str(least), Weight.UNUSUAL, effect)
    return None


def _at_least(key: str, present: Mapping[str, str], wanted: str, smaller: str, larger: str) -> SettingDiffers | None:
    value, least = _number(present.get(key, wanted)), _number(wanted)
    if value is None or least is None or value == least:
        return None
    if key == LARGEST_RECORD and least < value <= record_bytes(MOST_REQUEST_BYTES):
        # As provisioned where larger requests are allowed.
        return None
    less = least == _FOREVER or (value != _FOREVER and value < least)
    weight, effect = (Weight.WRONG, smaller) if less else (Weight.UNUSUAL, larger)
    return SettingDiffers(key, str(value), wanted, weight, effect)


def _number(value: str | None) -> int | None:
    try:
        return None if value is None else int(value)
    except ValueError:
        return None
