"""Which published revision counts, and what becomes of one that cannot be used."""

from __future__ import annotations

from dataclasses import replace

from headrace_contracts.events import PolicyPublished
from headrace_router.adapters.policy_file import load_policy, policy_text
from headrace_router.adapters.published_policies import PublishedPolicies
from headrace_router.decide.revisions import INSTALLATION, KEPT, Revisions, revision_key
from headrace_testing.routing import NOW

BASE = load_policy(None)
SHIPPED = policy_text(None)[0]


def revision(number: int, text: str, *, scope: str = INSTALLATION, version: str | None = None) -> PolicyPublished:
    version = f"v{number}" if version is None else version
    return PolicyPublished(scope=scope, revision=number, version=version, text=text, published_at=NOW)


def tokens(most: int) -> str:
    assert "max_output_tokens: 4096" in SHIPPED
    return SHIPPED.replace("max_output_tokens: 4096", f"max_output_tokens: {most}")


def applied(*revisions: PolicyPublished) -> PublishedPolicies:
    found = PublishedPolicies(BASE)
    for each in revisions:
        found.apply(revision_key(each), each)
    return found


def most(policies: PublishedPolicies, tenant: str = "acme") -> int:
    return policies.of(tenant).attempts.max_output_tokens


def test_the_highest_revision_counts_in_whichever_order_they_come() -> None:
    first, second = revision(1, tokens(1)), revision(2, tokens(2))
    for order in ((first, second), (second, first)):
        policies = applied(*order)
        assert (most(policies), policies.revision) == (2, 2)
        assert policies.problem() is None


def test_of_two_at_the_same_time_the_first_counts() -> None:
    won, lost = revision(1, tokens(1), version="a"), revision(1, tokens(2), version="b")
    assert most(applied(won, lost)) == 1
    # Also if the first one's record is repeated later.
    assert most(applied(won, lost, won)) == 1


def test_a_bad_revision_is_passed_over_and_told() -> None:
    policies = applied(revision(1, tokens(1)), revision(2, "roles: []"))
    assert (most(policies), policies.revision) == (1, 1)
    assert "policy revision 2" in (policies.problem() or "")
    assert policies.apply(revision_key(last := revision(3, tokens(3))), last)
    assert (most(policies), policies.problem()) == (3, None)


def test_an_empty_text_returns_to_the_file() -> None:
    policies = applied(revision(1, tokens(1)), revision(2, "", version=""))
    assert policies.policy == BASE
    assert policies.revision == 2


def test_a_tombstone_takes_a_revision_away() -> None:
    newest = revision(2, tokens(2))
    policies = applied(revision(1, tokens(1)), newest)
    assert policies.apply(revision_key(newest), None)
    assert most(policies) == 1
    assert not policies.apply(revision_key(newest), None)


def test_a_tenants_policy_follows_the_installations() -> None:
    policies = applied(revision(1, "max_output_tokens: 100", scope="tenant/acme"))
    assert (most(policies), most(policies, "other")) == (100, 4096)
    before = policies.in_use
    low = revision(1, tokens(50))
    assert policies.apply(revision_key(low), low)
    assert (most(policies), most(policies, "other")) == (50, 50)
    assert "100 is more than the installation's 50" in (policies.problem() or "")
    assert policies.in_use != before


def test_what_changes_nothing_is_not_a_change() -> None:
    policies = applied(revision(1, tokens(1)))
    again = revision(2, tokens(1))
    assert not policies.apply(revision_key(again), again)


def test_records_that_are_none_are_as_if_not_there() -> None:
    good = revision(1, tokens(1))
    for bad in (replace(good, scope="tenant/no such"), replace(good, scope="all"), replace(good, revision=0)):
        assert not PublishedPolicies(BASE).apply(revision_key(bad), bad)
    assert not PublishedPolicies(BASE).apply("installation/2/x", good)


def test_only_so_many_are_kept() -> None:
    revisions = Revisions()
    for number in range(1, KEPT + 4):
        revisions.apply(revision_key(each := revision(number, "x")), each)
    assert list(revisions.outdated(INSTALLATION)) == [f"installation/{n}/v{n}" for n in (1, 2, 3)]
    assert list(revisions.outdated("tenant/acme")) == []
