"""What a tenant may hold in the catalog, which every broadcaster has in memory as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from headrace_contracts.events import SkillPublished, SkillStatus

from headrace_skill_broadcaster.decide.rules import Flaw, SkillLimits

_ENTRY_BYTES: Final = 1_000
"""Of a skill beside its texts: names, digests, the entry in the search index."""
_VERSION_BYTES: Final = 300


@dataclass(frozen=True, slots=True)
class Holding:
    """Skills in the catalog, revoked ones included, and their size in bytes."""

    skills: int = 0
    bytes: int = 0

    def with_change(self, before: SkillPublished | None, after: SkillPublished | None) -> Holding:
        """The holding after a skill has changed; None where it is not in the catalog."""
        return Holding(
            self.skills + (after is not None) - (before is not None),
            self.bytes + (0 if after is None else size_of(after)) - (0 if before is None else size_of(before)),
        )


def size_of(entry: SkillPublished) -> int:
    """Bytes that a skill is counted with: about what it takes in memory."""
    body = 0 if entry.body is None else len(entry.body.data)
    texts = len(entry.title) + len(entry.summary) + sum(map(len, entry.interests))
    return body + texts + len(entry.history) * _VERSION_BYTES + _ENTRY_BYTES


def over_quota(held: Holding, before: SkillPublished | None, after: SkillPublished, limits: SkillLimits) -> Flaw | None:
    """Why the tenant may not have the skill as `after`; None if it may. Revoking always makes room."""
    if after.status is SkillStatus.REVOKED:
        return None
    then = held.with_change(before, after)
    if then.skills > limits.skills_per_tenant:
        return Flaw("name", f"this tenant has {held.skills} skills, and may have {limits.skills_per_tenant}")
    if then.bytes > limits.bytes_per_tenant and then.bytes > held.bytes:
        return Flaw(
            "body",
            f"this tenant's skills have {held.bytes} bytes, and may have {limits.bytes_per_tenant} with this one: "
            "revoke some, or shorten them",
        )
    return None
