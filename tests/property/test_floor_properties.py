"""Nobody gets less privacy than is demanded: all that tenant, user, role and task can say, at intake and at the router.

What is right is stated here once more, by numbers, and shares nothing with `headrace_contracts.floors`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts import floors
from headrace_contracts.events import Mode, Place, Preferences, Privacy, PrivacyLevel, TaskPhase, TaskStatus
from headrace_contracts.floors import Demands, Party, Target
from headrace_intake.decide.drafts import refusal_of
from headrace_intake.decide.preferences import change_refused
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.tasks import TaskRequest, draft_of_task
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.policy import Policy, RolePolicy
from headrace_router.decide.rules import rules_for
from headrace_testing.routing import EVERYWHERE, Desk, preferences, task
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

LEVELS = {"low": 0, "standard": 1, "high": 2, "public": 0, "internal": 1, "sensitive": 2}
MODES = {"cloud": 0, "hybrid": 1, "local": 2}
PLACES = {"ollama": Place.LOCAL, "groq": Place.CLOUD, "anthropic": Place.CLOUD}
MODELS = {
    "ollama": "ollama/gemma2:2b",
    "groq": "groq/llama-3.3-70b-versatile",
    "anthropic": "anthropic/claude-haiku-4-5",
}
SHIPPED = load_policy(None)

levels = st.none() | st.sampled_from(PrivacyLevel)
modes = st.none() | st.sampled_from(Mode)
providers = st.lists(st.sampled_from(["groq", "anthropic"]), unique=True).map(tuple)
preferred = st.none() | st.sampled_from(["groq", "anthropic"])


def records(user: str) -> st.SearchStrategy[Preferences]:
    return st.builds(
        Preferences, tenant=st.just("acme"), user=st.just(user), ai_mode=modes, privacy_level=levels,
        preferred_provider=preferred, allowed_providers=providers, updated_at=st.just(1),
    )  # fmt: skip


def policy(role_level: Privacy | None, always_local: bool) -> Policy:
    roles: dict[str, RolePolicy] = dict(SHIPPED.roles)
    roles["general"] = roles["general"].model_copy(update={"privacy": role_level, "always_local": always_local})
    return SHIPPED.model_copy(update={"roles": roles})


def number(order: dict[str, int], value: object) -> int:
    return 0 if value is None else order[str(value)]


def consent(record: Preferences | None) -> set[str]:
    return (
        set()
        if record is None
        else {*record.allowed_providers, *([record.preferred_provider] if record.preferred_provider else [])}
    )


@settings(max_examples=600, deadline=None)
@given(
    tenant=st.none() | records(""),
    user=st.none() | records("eve"),
    role_level=st.none() | st.sampled_from(Privacy),
    always_local=st.sampled_from([False, False, True]),
    privacy=st.none() | st.sampled_from(Privacy),
    mode=modes,
    provider=st.none() | st.sampled_from(sorted(MODELS)),
    prefers=st.none() | st.sampled_from(sorted(MODELS)),
    over_http=st.booleans(),
)
@example(
    tenant=preferences(privacy_level=PrivacyLevel.HIGH), user=None, role_level=None, always_local=False,
    privacy=Privacy.PUBLIC, mode=None, provider=None, prefers=None, over_http=False,
)  # fmt: skip
@example(
    tenant=preferences(privacy_level=PrivacyLevel.HIGH), user=preferences(user="eve", privacy_level=PrivacyLevel.LOW),
    role_level=None, always_local=False, privacy=None, mode=None, provider=None, prefers=None, over_http=True,
)  # fmt: skip
def test_nothing_runs_below_what_anybody_demands_and_intake_and_router_agree(
    tenant: Preferences | None, user: Preferences | None, role_level: Privacy | None, always_local: bool,
    privacy: Privacy | None, mode: Mode | None, provider: str | None, prefers: str | None, over_http: bool,
) -> None:  # fmt: skip
    asked: dict[str, Any] = {"privacy": privacy, "mode": mode, "preferred_provider": prefers, "user": "eve"}
    if provider is not None:
        # A named model has no role, so that no role demands anything.
        asked["model"], role_level, always_local = MODELS[provider], None, False
    of_role = 2 if always_local else number(LEVELS, role_level)
    least = max(of_role, *(number(LEVELS, p.privacy_level) for p in (tenant, user) if p is not None), 0)
    least_mode = max([0, *(number(MODES, p.ai_mode) for p in (tenant, user) if p is not None)])
    named = consent(tenant) & (consent(user) if user is not None and user.allowed_providers else set(PLACES))

    too_low = privacy is not None and number(LEVELS, privacy) < least
    too_far = mode is not None and number(MODES, mode) < least_mode
    place = None if provider is None else PLACES[provider]
    clashes = (
        (privacy is Privacy.SENSITIVE and (mode is Mode.CLOUD or Place.CLOUD in (place, PLACES.get(prefers or ""))))
        or (mode is Mode.LOCAL and Place.CLOUD in (place, PLACES.get(prefers or "")))
        or (mode is Mode.CLOUD and Place.LOCAL in (place, PLACES.get(prefers or "")))
        or (provider is not None and prefers is not None and provider != prefers)
    )

    # The router, which knows everything, whoever wrote the record.
    desk = Desk(fleet=EVERYWHERE, policy=policy(role_level, always_local), user=user, tenant=tenant)
    submitted = task(key_id="k" if over_http else None, **asked)
    decision = desk.submit(submitted)
    role = None if provider is not None else desk.policy.roles["general"]
    rules = rules_for(submitted, role, desk.policy, user, tenant, providers=PLACES)
    assert LEVELS[rules.privacy] >= max(least, number(LEVELS, privacy))
    assert MODES[rules.mode] >= max(least_mode, number(MODES, mode))
    assert rules.consented == named
    result = decision.state.result
    code = None if result is None or result.failure is None else result.failure.code
    refused = code in ("below_floor", "contradiction")
    in_vain = mode is Mode.CLOUD and max(least, of_role) == 2
    assert refused == (too_low or too_far or clashes or in_vain), code
    if result is not None:
        assert (result.status, desk.sent_to) == (TaskStatus.FAILED, [])
    else:
        assert decision.state.phase in (TaskPhase.RUNNING, TaskPhase.WAITING)
        for attempt in decision.state.attempts:
            if attempt.place is Place.CLOUD:
                assert LEVELS[rules.privacy] < 2
                assert MODES[rules.mode] < 2
                assert LEVELS[rules.privacy] == 0 or attempt.provider in named
        assert decision.state.privacy is rules.privacy
        if privacy is not None:
            assert rules.privacy is privacy, "a level that was asked for was changed"

    # Intake does not know the policy: what it refuses the router refuses, and without a role the other way round, too.
    draft = draft_of_task(TaskRequest(prompt="x", **asked))
    demands = {Party.TENANT: floors.demands_of_tenant(tenant), Party.USER: floors.demands_of_user(user)}
    refusal: Refusal | None = refusal_of(draft, demands, PLACES)
    if refusal is not None:
        assert result is not None, refusal
        assert {400: "contradiction"}.get(refusal.status, refusal.kind.replace("-", "_")) == code
    elif refused:
        assert of_role > 0, "only what a role demands is unknown to intake"
    elif code is not None:
        # All candidates are excluded, or the policy's default excludes the model: intake knows neither.
        assert code in ("privacy", "mode", "no_consent")
        assert provider is None or privacy is None or mode is None


class Hands(RuleBasedStateMachine):
    """What keys of all scopes do to the preferences, in any order, with and without the right to."""

    def __init__(self) -> None:
        super().__init__()
        self.tenant: Preferences | None = None
        self.user: Preferences | None = None
        self.before: tuple[int, int, set[str]] = (0, 0, set(PLACES))

    @rule(wanted=records(""))
    def change_the_tenants_with_tasks(self, wanted: Preferences) -> None:
        assert change_refused(Party.TASKS_KEY, self.tenant, wanted) is not None

    @rule(wanted=records("eve"))
    def change_a_users_with_tasks(self, wanted: Preferences) -> None:
        before = self._own()
        if change_refused(Party.TASKS_KEY, self.user, wanted) is not None:
            return
        self.user = wanted
        after = self._own()
        assert after[0] >= before[0]
        assert after[1] >= before[1]
        assert after[2] <= before[2]

    @rule(wanted=records("eve"), by=st.sampled_from([Party.PREFERENCES_KEY, Party.ADMIN_KEY]))
    def change_a_users_with_the_scope(self, wanted: Preferences, by: Party) -> None:
        assert change_refused(by, self.user, wanted) is None
        self.user = wanted

    @rule(wanted=records(""), by=st.sampled_from([Party.PREFERENCES_KEY, Party.ADMIN_KEY]))
    def change_the_tenants_with_the_scope(self, wanted: Preferences, by: Party) -> None:
        assert change_refused(by, self.tenant, wanted) is None
        self.tenant = wanted

    def _own(self) -> tuple[int, int, set[str]]:
        """What the user's record demands by itself."""
        if self.user is None:
            return 0, 0, set(PLACES)
        narrowed = consent(self.user) if self.user.allowed_providers else set(PLACES)
        return number(LEVELS, self.user.privacy_level), number(MODES, self.user.ai_mode), narrowed

    @invariant()
    def what_applies_is_never_below_the_tenants(self) -> None:
        rules = rules_for(task(user="eve"), None, SHIPPED, self.user, self.tenant, providers=PLACES)
        own = self._own()
        for record_level, record_mode in (
            (own[0], own[1]),
            (
                number(LEVELS, self.tenant and self.tenant.privacy_level),
                number(MODES, self.tenant and self.tenant.ai_mode),
            ),
        ):
            assert LEVELS[rules.privacy] >= record_level
            assert MODES[rules.mode] >= record_mode
        assert rules.consented <= consent(self.tenant)
        assert rules.consented <= own[2]


TestHands = Hands.TestCase
TestHands.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@given(
    rights=st.sampled_from(sorted(floors.RIGHTS, key=str)),
    demanded=st.builds(Demands, st.none() | st.sampled_from(Privacy), modes),
    asked=st.builds(floors.Asked, st.none() | st.sampled_from(Privacy), modes),
)
def test_whoever_asks_gets_what_the_table_says(
    rights: tuple[Party, Target], demanded: Demands, asked: floors.Asked
) -> None:
    party, target = rights
    if target is not Target.TASK or party in (Party.TENANT, Party.USER, Party.ROLE):
        return
    found = floors.terms(asked, {Party.TENANT: demanded}, PLACES.get, by=party)
    allowed = floors.RIGHTS[rights]
    for matter, order in ((floors.Matter.PRIVACY, LEVELS), (floors.Matter.MODE, MODES)):
        wanted, least = asked.of(matter), demanded.of(matter)
        if wanted is None:
            continue
        if number(order, wanted) < number(order, least) and not allowed[matter].lowers:
            assert found.objection is not None
        if number(order, wanted) > number(order, least) and not allowed[matter].raises:
            assert found.objection is not None


def test_one_that_may_lower_is_believed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The table decides: with another entry there is another decision."""
    request.addfinalizer(floors._agreed.cache_clear)
    tenant = {Party.TENANT: Demands(Privacy.SENSITIVE, Mode.LOCAL)}
    asked = floors.Asked(Privacy.PUBLIC, Mode.CLOUD)
    assert floors.terms(asked, tenant, PLACES.get).objection is not None
    changed = {**floors.RIGHTS, (Party.TASKS_KEY, Target.TASK): dict.fromkeys(floors.Matter, floors.Permission.ALL)}
    monkeypatch.setattr(floors, "RIGHTS", changed)
    floors._agreed.cache_clear()
    assert floors.terms(asked, tenant, PLACES.get) == floors.Terms(Privacy.PUBLIC, Mode.CLOUD, frozenset())
    nobody = {**floors.RIGHTS, (Party.USER, Target.TASK): dict.fromkeys(floors.Matter, floors.Permission.NONE)}
    monkeypatch.setattr(floors, "RIGHTS", nobody)
    floors._agreed.cache_clear()
    raised = {Party.USER: Demands(Privacy.SENSITIVE)}
    assert floors.terms(replace(asked, privacy=None), raised, PLACES.get).privacy is Privacy.PUBLIC
