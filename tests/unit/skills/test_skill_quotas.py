"""What a tenant may hold in the catalog."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import SkillPublished, SkillStatus
from headrace_skill_broadcaster.adapters.search_index import SearchIndex
from headrace_skill_broadcaster.decide.quotas import Holding, over_quota, size_of
from headrace_skill_broadcaster.decide.rules import SkillLimits
from headrace_skill_broadcaster.view import CatalogView

LIMITS = SkillLimits(skills_per_tenant=3, bytes_per_tenant=10_000)


def skill(number: int = 1, size: int = 100, tenant: str = "acme") -> SkillPublished:
    return SkillPublished(
        tenant=tenant, name=f"skill-{number}", version=1, status=SkillStatus.LIVE, body=plain("x" * size), digest="d",
        submission_id=f"s-{number}", submitted_at=1, published_at=1,
    )  # fmt: skip


def revoked(entry: SkillPublished) -> SkillPublished:
    return replace(entry, version=entry.version + 1, status=SkillStatus.REVOKED, body=None)


@pytest.mark.parametrize(
    ("held", "size", "field"),
    [
        (Holding(0, 0), 100, None),
        (Holding(2, 4_000), 100, None),
        (Holding(3, 4_000), 100, "name"),
        (Holding(2, 9_000), 1_000, "body"),
        (Holding(0, 0), 10_000, "body"),
    ],
    ids=["the first", "the last", "one too many", "too large together", "too large alone"],
)
def test_new_skills_need_room(held: Holding, size: int, field: str | None) -> None:
    flaw = over_quota(held, None, skill(size=size), LIMITS)
    assert (flaw and flaw.field) == field


def test_a_skill_can_change_where_no_new_one_fits() -> None:
    before = skill(size=1_000)
    held = Holding(3, 10_000)
    assert over_quota(held, before, replace(before, body=plain("y" * 900)), LIMITS) is None
    assert over_quota(held, before, replace(before, body=plain("y" * 1_100)), LIMITS) is not None
    assert over_quota(Holding(9, 90_000), before, revoked(before), LIMITS) is None


@pytest.mark.parametrize("order", [[1, 2, 3], [3, 1, 2], [2, 3, 1]])
async def test_the_view_counts_what_each_tenant_has(order: list[int]) -> None:
    view = CatalogView(SearchIndex())
    entries = {number: skill(number, 100 * number) for number in order}
    for number in order:
        view.apply(f"acme/skill-{number}", entries[number])
    view.apply("globex/skill-1", skill(1, 50, "globex"))
    assert view.held_by("acme") == Holding(3, sum(map(size_of, entries.values())))
    assert view.held_by("globex").skills == 1
    view.apply("acme/skill-2", revoked(entries[2]))
    assert view.held_by("acme") == Holding(3, sum(map(size_of, entries.values())) - 200)
    for number in order:
        view.apply(f"acme/skill-{number}", None)
    assert view.held_by("acme") == Holding()
    await view.close()
