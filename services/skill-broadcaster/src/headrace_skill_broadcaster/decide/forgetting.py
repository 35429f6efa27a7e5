"""Which revoked skills a partition of the catalog forgets, and what it has to remember of them.

Versions of a skill must never restart: agents and consumers know a change by its name and version, and would take a new
version 1 for the one that they have seen. So of each tenant one record stays in each partition of the catalog that it
has used, the one with the furthest position. It carries the highest version among the skills that are forgotten
(`forgotten_version`), and new skills of the tenant begin above that. It also keeps the partition's position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from headrace_contracts.events import SkillPublished, SkillStatus

from headrace_skill_broadcaster.decide.catalog import position_in


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to append to a partition, in this order.

    Attributes:
        restated: Records to write in place of their skills' last ones, by key. Only when they are acknowledged may
            anything be forgotten.
        forgotten: Keys of the skills to remove, with their last versions.
    """

    restated: Mapping[str, SkillPublished]
    forgotten: Mapping[str, int]

    def __bool__(self) -> bool:
        return bool(self.restated or self.forgotten)


def sweep(
    entries: Mapping[str, SkillPublished], newest: Callable[[str], SkillPublished | None], now_ms: int, kept_ms: int
) -> Sweep:
    """What is due in a partition.

    Args:
        entries: The partition's skills by key.
        newest: A skill's state in whichever partition has the newest version: partitions may have been added.
        kept_ms: How long a revoked skill stays.
    """
    restated: dict[str, SkillPublished] = {}
    due: dict[str, SkillPublished] = {}
    anchors: dict[str, str] = {}
    for key, entry in entries.items():
        anchor = anchors.get(entry.tenant)
        if anchor is None or (position_in(entry), key) > (position_in(entries[anchor]), anchor):
            anchors[entry.tenant] = key
        elsewhere = newest(key)
        if elsewhere is not None and elsewhere.version > entry.version:
            # Were it left as it is, it would be the newest again when the other partition forgets the skill.
            if elsewhere.status is SkillStatus.REVOKED:
                restated[key] = replace(
                    elsewhere,
                    positions=entry.positions,
                    forgotten_version=max(entry.forgotten_version, elsewhere.forgotten_version),
                )
        elif entry.status is SkillStatus.REVOKED and entry.published_at <= now_ms - kept_ms:
            due[key] = entry
    forgotten = {key: entry for key, entry in due.items() if key != anchors[entry.tenant]}
    for entry in forgotten.values():
        anchor = anchors[entry.tenant]
        last = restated.get(anchor, entries[anchor])
        version = max(entry.version, entry.forgotten_version)
        if version > last.forgotten_version:
            restated[anchor] = replace(last, forgotten_version=version)
    return Sweep(restated, {key: entry.version for key, entry in forgotten.items()})


def forgotten_versions(entries: Mapping[str, SkillPublished]) -> dict[str, int]:
    """Of each tenant, the highest version among its skills that the partition has forgotten."""
    found: dict[str, int] = {}
    for entry in entries.values():
        if entry.forgotten_version > found.get(entry.tenant, 0):
            found[entry.tenant] = entry.forgotten_version
    return found
