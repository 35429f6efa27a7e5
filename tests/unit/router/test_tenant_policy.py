"""A tenant narrows the installation's policy, and never widens it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from headrace_contracts.events import Lane, Mode, Privacy
from headrace_contracts.floors import is_below
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.policy import Policy
from headrace_router.decide.tenant_policy import TenantPolicy, narrowed
from headrace_testing.routing import GROQ, Desk
from hypothesis import given
from hypothesis import strategies as st

BASE = load_policy(None)


def narrow(**said: Any) -> tuple[Policy, tuple[str, ...]]:
    return narrowed(BASE, TenantPolicy.model_validate(said))


def test_a_list_of_models_is_what_both_have_in_the_tenants_order() -> None:
    ladder = [f"{ref.provider}/{ref.model}" for ref in BASE.ladder]
    assert len(ladder) >= 2
    policy, problems = narrow(ladder=[*reversed(ladder), "groq/huge"])
    assert [f"{ref.provider}/{ref.model}" for ref in policy.ladder] == ladder[::-1]
    assert problems == (f"ladder.{len(ladder)}: groq/huge is not in the installation's list there",)
    policy, problems = narrow(roles={"general": {"models": ["groq/huge", "ollama/gemma2:2b"]}})
    assert [f"{ref.provider}/{ref.model}" for ref in policy.roles["general"].models] == ["ollama/gemma2:2b"]
    assert problems == ("roles.general.models.0: groq/huge is not in the installation's list there",)


def test_nothing_left_means_nothing_runs() -> None:
    policy, _ = narrow(roles={"general": {"models": ["groq/huge"], "ladder": []}})
    desk = Desk(policy=policy)
    desk.submit(role="general")
    assert desk.sent_to == []
    assert desk.state is not None
    assert desk.state.result is not None
    assert desk.state.result.failure is not None


def test_privacy_and_mode_only_get_stricter() -> None:
    policy, problems = narrow(
        defaults={"mode": "local", "privacy_level": "high"}, roles={"general": {"privacy": "sensitive"}}
    )
    assert problems == ()
    assert policy.defaults.mode is Mode.LOCAL
    assert policy.roles["general"].privacy is Privacy.SENSITIVE
    strict, _ = narrowed(BASE, TenantPolicy.model_validate({"defaults": {"mode": "local", "privacy_level": "high"}}))
    looser, problems = narrowed(
        strict, TenantPolicy.model_validate({"defaults": {"mode": "cloud", "privacy_level": "low"}})
    )
    assert looser == strict
    assert len(problems) == 2


def test_limits_only_get_lower() -> None:
    policy, problems = narrow(longest_deadline=60_000, max_output_tokens=100)
    assert (policy.deadlines.longest, policy.attempts.max_output_tokens, problems) == (60_000, 100, ())
    policy, problems = narrow(longest_deadline=10**12, max_output_tokens=10**6)
    assert (policy.deadlines, policy.attempts) == (BASE.deadlines, BASE.attempts)
    assert len(problems) == 2


def test_the_version_is_of_what_is_left() -> None:
    assert BASE.version == narrow()[0].version
    assert narrow(max_output_tokens=7)[0].version != BASE.version


@pytest.mark.parametrize("wrong", [{"providers": {}}, {"roles": {"general": {"models": []}}}, {"ladder": ["groq"]}])
def test_what_a_tenant_has_no_say_in_is_refused(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        TenantPolicy.model_validate(wrong)


REFS = [f"{r.provider}/{r.model}" for role in BASE.roles.values() for r in (*role.models, *(role.ladder or ()))]
ROLE = st.fixed_dictionaries(
    {},
    optional={
        "models": st.lists(st.sampled_from([*REFS, GROQ, "groq/huge"]), min_size=1, max_size=4),
        "ladder": st.lists(st.sampled_from([*REFS, GROQ, "groq/huge"]), max_size=4),
        "privacy": st.sampled_from([each.value for each in Privacy]),
        "always_local": st.booleans(),
        "lane": st.sampled_from([each.value for each in Lane]),
    },
)
SAID = st.fixed_dictionaries(
    {},
    optional={
        "roles": st.dictionaries(st.sampled_from([*BASE.roles, "nobody"]), ROLE, max_size=3),
        "ladder": st.lists(st.sampled_from([*REFS, GROQ, "groq/huge"]), max_size=4),
        "defaults": st.fixed_dictionaries(
            {},
            optional={
                "mode": st.sampled_from([each.value for each in Mode]),
                "privacy_level": st.sampled_from(["high", "standard", "low"]),
                "role": st.sampled_from([*BASE.roles, "nobody"]),
            },
        ),
    },
)


@given(SAID)
def test_whatever_a_tenant_says_nothing_more_is_possible(said: dict[str, Any]) -> None:
    policy, _ = narrowed(BASE, TenantPolicy.model_validate(said))
    assert policy.providers == BASE.providers
    assert set(policy.ladder) <= set(BASE.ladder)
    assert policy.roles.keys() == BASE.roles.keys()
    assert policy.defaults.role in policy.roles
    for name, role in policy.roles.items():
        was = BASE.roles[name]
        assert set(role.models) <= set(was.models)
        reachable = policy.ladder if role.ladder is None else role.ladder
        assert set(reachable) <= set(BASE.ladder if was.ladder is None else was.ladder)
        assert role.always_local or not was.always_local
        assert not is_below(role.privacy or Privacy.PUBLIC, was.privacy or Privacy.PUBLIC)
