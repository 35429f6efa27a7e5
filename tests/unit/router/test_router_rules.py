"""Which rules a task runs under, and which candidates they leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts import floors
from headrace_contracts.events import (
    Lane,
    Mode,
    ModelStatus,
    NodeStatus,
    Outcome,
    Place,
    Privacy,
    PrivacyLevel,
    Sampling,
    TaskPhase,
    TaskStatus,
)
from headrace_router.adapters.policy_file import PolicyInvalid, load_policy, parse_policy
from headrace_router.decide.fleet import Fleet, gained
from headrace_router.decide.model import WakeUp
from headrace_router.decide.rules import rules_for
from headrace_testing.routing import (
    ANTHROPIC,
    CLOUD,
    EVERYWHERE,
    GROQ,
    GROQ_NODE,
    LOCAL,
    NOW,
    Desk,
    node,
    preferences,
    task,
    without,
)

POLICY = load_policy(None)


@pytest.mark.parametrize(
    ("named", "role", "level", "effective"),
    [
        (None, "general", None, Privacy.INTERNAL),
        (None, "general", PrivacyLevel.LOW, Privacy.PUBLIC),
        (None, "general", PrivacyLevel.HIGH, Privacy.SENSITIVE),
        (None, "devops", PrivacyLevel.LOW, Privacy.INTERNAL),
        (None, "devops", PrivacyLevel.HIGH, Privacy.SENSITIVE),
        (None, "security_reviewer", PrivacyLevel.LOW, Privacy.SENSITIVE),
        (Privacy.SENSITIVE, "general", PrivacyLevel.LOW, Privacy.SENSITIVE),
        (Privacy.SENSITIVE, "devops", PrivacyLevel.STANDARD, Privacy.SENSITIVE),
        # Nobody demands anything: the policy's default is no floor.
        (Privacy.PUBLIC, "general", None, Privacy.PUBLIC),
        (Privacy.PUBLIC, "general", PrivacyLevel.LOW, Privacy.PUBLIC),
    ],
)
def test_privacy_is_the_strictest_of_task_role_and_preferences(
    named: Privacy | None, role: str, level: PrivacyLevel | None, effective: Privacy
) -> None:
    rules = rules_for(
        task(privacy=named, role=role), POLICY.roles[role], POLICY, None, preferences(privacy_level=level)
    )
    assert (rules.privacy, rules.objection) == (effective, None)


@pytest.mark.parametrize(
    ("asked", "role", "tenant", "field", "message"),
    [
        (
            {"privacy": Privacy.PUBLIC},
            "general",
            {"privacy_level": PrivacyLevel.STANDARD},
            "privacy",
            "lower than internal",
        ),
        (
            {"privacy": Privacy.PUBLIC},
            "general",
            {"privacy_level": PrivacyLevel.HIGH},
            "privacy",
            "tenant's preferences",
        ),
        (
            {"privacy": Privacy.INTERNAL},
            "general",
            {"privacy_level": PrivacyLevel.HIGH},
            "privacy",
            "lower than sensitive",
        ),
        ({"privacy": Privacy.PUBLIC}, "devops", {}, "privacy", "the role in the routing policy demands"),
        ({"privacy": Privacy.INTERNAL}, "security_reviewer", {"privacy_level": PrivacyLevel.LOW}, "privacy", "role"),
        ({"mode": Mode.CLOUD}, "general", {"ai_mode": Mode.HYBRID}, "mode", "lower than hybrid"),
        ({"mode": Mode.HYBRID}, "general", {"ai_mode": Mode.LOCAL}, "mode", "lower than local"),
        ({"mode": Mode.CLOUD}, "general", {"privacy_level": PrivacyLevel.HIGH}, "mode", "sensitive"),
        ({"mode": Mode.CLOUD}, "security_reviewer", {}, "mode", "the role in the routing policy demands"),
    ],
)
def test_a_task_that_asks_for_less_than_is_demanded_is_refused_and_audited(
    asked: dict[str, Any], role: str, tenant: dict[str, Any], field: str, message: str
) -> None:
    desk = Desk(tenant=preferences(**tenant))
    decision = desk.submit(role=role, **asked)
    result = decision.state.result
    assert result is not None
    assert result.failure is not None
    assert (result.status, result.failure.code) == (TaskStatus.FAILED, "below_floor")
    assert message in result.failure.message
    assert field in result.failure.message
    assert desk.sent_to == []
    assert [command.event_id.rpartition("/")[2] for command in decision.commands] == ["completed", "refuse"]


@pytest.mark.parametrize(
    "asked",
    [
        {"privacy": Privacy.SENSITIVE, "mode": Mode.CLOUD},
        {"privacy": Privacy.SENSITIVE, "model": GROQ},
        {"privacy": Privacy.SENSITIVE, "preferred_provider": "groq"},
        {"mode": Mode.LOCAL, "model": ANTHROPIC},
        {"mode": Mode.LOCAL, "preferred_provider": "anthropic"},
        {"mode": Mode.CLOUD, "model": "ollama/gemma2:2b"},
        {"mode": Mode.CLOUD, "preferred_provider": "ollama"},
        {"model": GROQ, "preferred_provider": "anthropic"},
    ],
)
def test_a_record_that_contradicts_itself_is_refused_with_both_fields(asked: dict[str, Any]) -> None:
    desk = Desk()
    result = desk.submit(**asked).state.result
    assert result is not None
    assert result.failure is not None
    assert (result.status, result.failure.code) == (TaskStatus.FAILED, "contradiction")
    assert all(f"`{field}`" in result.failure.message for field in asked)
    assert desk.sent_to == []


@pytest.mark.parametrize("step", ["retry", "fallback", "wait"])
def test_a_task_in_flight_is_refused_once_its_tenant_demands_more(step: str) -> None:
    desk = Desk(fleet=CLOUD, tenant=preferences(privacy_level=PrivacyLevel.LOW))
    if step == "wait":
        desk.fleet = ()
    desk.submit(privacy=Privacy.PUBLIC)
    sent = len(desk.sent_to)
    desk.tenant, desk.fleet = preferences(privacy_level=PrivacyLevel.STANDARD), EVERYWHERE
    match step:
        case "retry":
            desk.end(Outcome.FAILED_RETRYABLE)
            decision = desk.wake()
        case "fallback":
            decision = desk.end(Outcome.FAILED_PERMANENT)
        case _:
            decision = desk.decide(WakeUp())
    result = decision.state.result
    assert result is not None
    assert result.failure is not None
    assert (result.failure.code, len(desk.sent_to)) == ("below_floor", sent)


@pytest.mark.parametrize("level", [PrivacyLevel.STANDARD, PrivacyLevel.HIGH])
def test_a_task_without_a_level_is_raised_by_its_tenant_while_it_waits(level: PrivacyLevel) -> None:
    desk = Desk(fleet=(), tenant=preferences(privacy_level=PrivacyLevel.LOW))
    desk.submit()
    desk.tenant, desk.fleet = preferences(privacy_level=level), EVERYWHERE
    desk.decide(WakeUp())
    assert desk.state is not None
    assert (desk.state.privacy, desk.sent_to) == (floors.PRIVACY_OF_LEVEL[level], ["ollama/gemma2:2b"])


@pytest.mark.parametrize(
    "user",
    [
        {"privacy_level": PrivacyLevel.LOW, "ai_mode": Mode.CLOUD, "allowed_providers": ("groq", "anthropic")},
        {"privacy_level": PrivacyLevel.STANDARD, "preferred_provider": "anthropic"},
        {"ai_mode": Mode.CLOUD},
        {"allowed_providers": ("anthropic", "groq"), "preferred_provider": "anthropic"},
    ],
)
def test_a_users_record_below_the_tenants_has_no_effect(user: dict[str, Any]) -> None:
    tenant = preferences(privacy_level=PrivacyLevel.HIGH, ai_mode=Mode.LOCAL, allowed_providers=("groq",))
    rules = rules_for(task(), None, POLICY, preferences(user="eve", **user), tenant)
    assert (rules.privacy, rules.mode, rules.consented) == (Privacy.SENSITIVE, Mode.LOCAL, frozenset({"groq"}))


@pytest.mark.parametrize(
    ("of_user", "of_tenant", "both"),
    [
        (("groq",), ("groq", "anthropic"), {"groq"}),
        (("groq", "anthropic"), ("groq",), {"groq"}),
        (("anthropic",), ("groq",), set()),
        (("groq",), (), set()),
        ((), ("groq",), {"groq"}),
        (("groq",), None, set()),
    ],
)
def test_a_users_providers_only_narrow_the_tenants(
    of_user: tuple[str, ...], of_tenant: tuple[str, ...] | None, both: set[str]
) -> None:
    tenant = None if of_tenant is None else preferences(allowed_providers=of_tenant)
    rules = rules_for(task(), None, POLICY, preferences(user="eve", allowed_providers=of_user), tenant)
    assert rules.consented == both


@pytest.mark.parametrize("floor", list(Privacy))
@pytest.mark.parametrize("named", [None, *Privacy])
def test_a_level_is_never_lowered(floor: Privacy, named: Privacy | None) -> None:
    order = [Privacy.PUBLIC, Privacy.INTERNAL, Privacy.SENSITIVE]
    rules = rules_for(task(privacy=named), None, POLICY, None, preferences(privacy_level=PrivacyLevel.LOW), floor)
    assert order.index(rules.privacy) >= order.index(floor)


def test_a_users_preferences_raise_the_tenants_field_by_field() -> None:
    tenant = preferences(ai_mode=Mode.HYBRID, preferred_provider="anthropic", allowed_providers=("anthropic",))
    user = preferences(user="eve", ai_mode=Mode.LOCAL)
    rules = rules_for(task(privacy=Privacy.INTERNAL), None, POLICY, user, tenant)
    assert (rules.mode, rules.preferred, rules.consented) == (Mode.LOCAL, "anthropic", frozenset({"anthropic"}))


def test_what_a_task_prefers_is_no_consent() -> None:
    rules = rules_for(task(preferred_provider="groq"), None, POLICY, None, None)
    assert rules.preferred == "groq"
    assert rules.consented == frozenset()


@pytest.mark.parametrize(
    ("privacy", "fleet", "prefs", "expected"),
    [
        (Privacy.PUBLIC, EVERYWHERE, preferences(), "ollama/gemma2:2b"),
        (Privacy.PUBLIC, CLOUD, preferences(), GROQ),
        (Privacy.PUBLIC, without(CLOUD, "groq"), preferences(), ANTHROPIC),
        (Privacy.PUBLIC, EVERYWHERE, preferences(preferred_provider="anthropic"), ANTHROPIC),
        (Privacy.PUBLIC, EVERYWHERE, preferences(ai_mode=Mode.CLOUD), GROQ),
        (Privacy.PUBLIC, EVERYWHERE, preferences(ai_mode=Mode.LOCAL), "ollama/gemma2:2b"),
        (Privacy.INTERNAL, EVERYWHERE, preferences(ai_mode=Mode.CLOUD, allowed_providers=("anthropic",)), ANTHROPIC),
        (Privacy.INTERNAL, CLOUD, preferences(preferred_provider="groq"), GROQ),
        (Privacy.INTERNAL, CLOUD, preferences(allowed_providers=("anthropic",)), ANTHROPIC),
        (Privacy.SENSITIVE, EVERYWHERE, preferences(ai_mode=Mode.CLOUD, preferred_provider="groq"), "ollama/gemma2:2b"),
    ],
)
def test_the_first_candidate_that_the_rules_allow_is_chosen(
    privacy: Privacy, fleet: tuple[object, ...], prefs: object, expected: str
) -> None:
    desk = Desk(fleet=fleet, tenant=prefs)  # type: ignore[arg-type]
    desk.submit(privacy=privacy)
    assert desk.sent_to == [expected]


@pytest.mark.parametrize("privacy", [Privacy.SENSITIVE, Privacy.INTERNAL])
def test_without_own_nodes_what_must_stay_waits(privacy: Privacy) -> None:
    desk = Desk(fleet=CLOUD)
    decision = desk.submit(privacy=privacy)
    assert decision.state.phase is TaskPhase.WAITING
    assert decision.commands == ()
    assert {r.code for r in decision.rejected} == {
        "no_local_capacity",
        "privacy" if privacy is Privacy.SENSITIVE else "no_consent",
    }
    desk.now = desk.state.deadline_at  # type: ignore[union-attr, assignment]
    ended = desk.wake().state.result
    assert ended is not None
    assert ended.status is TaskStatus.EXPIRED
    assert ended.failure is not None
    assert ended.failure.code == "no_local_capacity"


def test_cloud_mode_without_consent_is_refused_and_audited() -> None:
    decision = Desk(tenant=preferences(ai_mode=Mode.CLOUD)).submit()
    result = decision.state.result
    assert result is not None
    assert result.failure is not None
    assert (result.status, result.failure.code) == (TaskStatus.FAILED, "no_consent")
    assert [command.event_id.rpartition("/")[2] for command in decision.commands] == ["completed", "refuse"]


def test_role_models_are_tried_in_their_order_as_far_as_they_are_there() -> None:
    weak = node(models=["gemma2:2b"])
    desk = Desk(fleet=[weak])
    decision = desk.submit(role="documentation")
    assert desk.sent_to == ["ollama/gemma2:2b"]
    assert [(r.model, r.code) for r in decision.rejected] == [("qwen2.5-coder:1.5b", "no_local_capacity")]
    assert any(step.step == "rejected" and "no_local_capacity" in step.reason for step in decision.state.trail)


def test_a_node_counts_only_with_the_hardware_the_model_needs() -> None:
    text = """
    defaults: {role: r}
    deadlines: {default: {interactive: 3000, batch: 3000}}
    attempts: {timeout: {interactive: 1000, batch: 1000}}
    providers: {ollama: {place: local}}
    models: {"big:70b": {size_gb: 40, hardware: {gpu: a100}}}
    roles: {r: {models: ["ollama/big:70b", "ollama/small:1b"]}}
    """
    policy = parse_policy(text, "test")
    plain_node = node(models=["big:70b", "small:1b"])
    gpu_node = node("gpu", models=["big:70b"], hardware={"gpu": "a100", "ram": "512"})
    without_gpu, with_gpu = Desk(fleet=[plain_node], policy=policy), Desk(fleet=[plain_node, gpu_node], policy=policy)
    without_gpu.submit()
    with_gpu.submit()
    assert (without_gpu.sent_to, with_gpu.sent_to) == (["ollama/small:1b"], ["ollama/big:70b"])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("phi3:3.8b", "ollama/phi3:3.8b"),
        ("ollama/llama3:8b", "ollama/llama3:8b"),
        ("anthropic/claude-haiku-4-5", ANTHROPIC),
        ("claude-haiku-4-5", ANTHROPIC),
        ("llama-3.1-8b-instant", "groq/llama-3.1-8b-instant"),
    ],
)
def test_a_named_model_is_found_with_or_without_its_provider(model: str, expected: str) -> None:
    desk = Desk()
    desk.submit(model=model, privacy=Privacy.PUBLIC)
    assert desk.sent_to == [expected]


def test_a_name_with_a_slash_is_a_provider_only_where_there_is_one() -> None:
    hugging = node(models=["hf.co/acme/tiny:latest"])
    desk = Desk(fleet=[hugging])
    desk.submit(model="hf.co/acme/tiny")
    assert desk.sent_to == ["ollama/hf.co/acme/tiny"]


@pytest.mark.parametrize("model", ["gpt-9", "groq/gpt-9", "ollama/gpt:9b"])
def test_a_model_that_nobody_has_fails_at_once(model: str) -> None:
    result = Desk().submit(model=model, privacy=Privacy.PUBLIC).state.result
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == "unknown_model"


def test_with_no_node_about_nobody_can_say_that_a_model_does_not_exist() -> None:
    assert Desk(fleet=()).submit(model="gpt:9b").state.phase is TaskPhase.WAITING


def test_a_listed_model_whose_nodes_are_away_is_waited_for() -> None:
    assert Desk(fleet=[node(models=["phi3:3.8b"])]).submit(model="ollama/llama3:8b").state.phase is TaskPhase.WAITING


def test_an_unknown_role_fails_at_once() -> None:
    result = Desk().submit(role="poet").state.result
    assert result is not None
    assert result.failure is not None
    assert (result.failure.code, "poet" in result.failure.message) == ("unknown_role", True)


def test_what_costs_more_than_the_budget_leaves_is_passed_over() -> None:
    desk = Desk(tenant=preferences(ai_mode=Mode.CLOUD))
    decision = desk.submit(privacy=Privacy.PUBLIC, budget_nanodollars=1, sampling=Sampling(max_output_tokens=100))
    assert [r.code for r in decision.rejected] == ["mode", "over_budget", "over_budget"]
    assert decision.state.result is not None
    assert decision.state.result.failure is not None
    assert decision.state.result.failure.code == "over_budget"
    assert "$0.000000001 is left" in decision.state.result.failure.message
    assert "nano" not in decision.state.result.failure.message


def test_a_budget_for_the_cheaper_of_two_leaves_the_cheaper() -> None:
    sampling = Sampling(max_output_tokens=100)
    generous, tight = (
        Desk(fleet=CLOUD, tenant=preferences(preferred_provider="anthropic")),
        Desk(fleet=CLOUD, tenant=preferences(preferred_provider="anthropic")),
    )
    generous.submit(privacy=Privacy.PUBLIC, budget_nanodollars=10**9, sampling=sampling)
    worst = generous.state.attempts[0].worst_case_nanodollars  # type: ignore[union-attr]
    tight.submit(privacy=Privacy.PUBLIC, budget_nanodollars=worst - 1, sampling=sampling)
    assert (generous.sent_to, tight.sent_to) == ([ANTHROPIC], [GROQ])


def test_own_nodes_cost_nothing() -> None:
    desk = Desk()
    desk.submit(budget_nanodollars=0)
    assert desk.sent_to == ["ollama/gemma2:2b"]


def test_a_conversation_too_long_for_a_model_goes_to_another() -> None:
    short = replace(LOCAL, models=(ModelStatus(name="gemma2:2b", context_tokens=10),))
    desk = Desk(fleet=[short, GROQ_NODE])
    decision = desk.submit(text="x" * 400, privacy=Privacy.PUBLIC)
    assert desk.sent_to == [GROQ]
    assert decision.rejected[0].code == "context_too_small"


@pytest.mark.parametrize("privacy", [None, Privacy.SENSITIVE, Privacy.INTERNAL])
@pytest.mark.parametrize("role", ["general", "devops"])
@pytest.mark.parametrize("cloud", [(), (GROQ_NODE,), tuple(CLOUD)])
def test_a_conversation_too_long_for_all_that_may_have_it_fails_with_that_reason(
    privacy: Privacy | None, role: str, cloud: tuple[NodeStatus, ...]
) -> None:
    short = replace(LOCAL, models=tuple(replace(model, context_tokens=10) for model in LOCAL.models))
    decision = Desk(fleet=[short, *cloud]).submit(text="x" * 400, privacy=privacy, role=role)
    assert {rejection.code for rejection in decision.rejected} > {"context_too_small"}, "others may not have it at all"
    assert decision.state.result is not None
    assert decision.state.result.failure is not None
    assert decision.state.result.failure.code == "context_too_small"


@pytest.mark.parametrize(
    ("own", "role", "expected"),
    [
        (None, "general", Lane.BATCH),
        (None, "task_router", Lane.INTERACTIVE),
        (Lane.BATCH, "task_router", Lane.BATCH),
        (Lane.INTERACTIVE, "general", Lane.INTERACTIVE),
    ],
)
def test_the_lane_is_the_tasks_or_the_roles_or_the_policys(own: Lane | None, role: str, expected: Lane) -> None:
    decision = Desk().submit(role=role, lane=own)
    assert decision.state.lane is expected
    assert decision.commands[0].topic == f"work.local.{expected}"


def test_a_stale_or_sick_node_offers_nothing() -> None:
    stale = replace(LOCAL, reported_at=NOW - 20_000, valid_for_ms=15_000)
    sick = replace(LOCAL, healthy=False)
    for lost in (stale, sick):
        assert Fleet([lost]).offering("ollama", "gemma2:2b", Place.LOCAL, NOW) == []
    assert len(Fleet([LOCAL]).offering("ollama", "gemma2:2b", Place.LOCAL, NOW)) == 1


def test_a_fleet_gains_by_a_new_node_a_recovery_or_a_new_model_only() -> None:
    fresh = replace(LOCAL, valid_for_ms=15_000)
    assert gained(None, fresh, NOW)
    assert not gained(fresh, replace(fresh, reported_at=NOW + 5000, busy=1), NOW + 5000)
    assert gained(fresh, replace(fresh, reported_at=NOW + 20_000), NOW + 20_000)
    assert gained(replace(fresh, healthy=False), fresh, NOW)
    assert gained(fresh, replace(fresh, models=(*fresh.models, ModelStatus(name="new:1b"))), NOW)
    assert gained(fresh, replace(fresh, hardware={"gpu": "a100"}), NOW)
    assert not gained(fresh, replace(fresh, models=fresh.models[:1]), NOW)
    assert not gained(None, replace(fresh, healthy=False), NOW)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("roles: [", "not YAML"),
        ("defaults: {role: x}", "roles: "),
        ("defaults: {role: general, surprise: 1}", "defaults.surprise: "),
    ],
)
def test_a_bad_policy_is_named_by_place(text: str, place: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        parse_policy(text, "my.yaml")
    assert "my.yaml: " in str(caught.value)
    assert place in str(caught.value)


def test_a_policy_may_only_name_providers_it_has() -> None:
    good = load_policy(None).model_dump(mode="json")
    good["ladder"] = [{"provider": "ollama", "model": "x"}]
    good["roles"]["general"]["models"] = [{"provider": "nobody", "model": "x"}]
    with pytest.raises(ValueError, match=r"roles\.general\.models\.0: there is no provider 'nobody'") as caught:
        type(POLICY).model_validate(good)
    assert "ladder.0: 'ollama' is not a cloud provider" in str(caught.value)


def test_the_version_follows_from_the_values() -> None:
    changed = POLICY.model_copy(update={"cache": POLICY.cache.model_copy(update={"ttl": 1})})
    assert load_policy(None).version == POLICY.version != type(POLICY).model_validate(changed.model_dump()).version
