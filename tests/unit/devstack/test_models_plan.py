"""Plans of which models go where: every role that can be is served, memory is used and never exceeded."""

from __future__ import annotations

from headrace.costs import ExpectedDemand
from headrace_contracts.events import Gpu, ModelSettings, ModelStatus, NodeAnnounced, NodeDrained, NodeStatus, Place
from headrace_devstack.models.plan import PlacementNode, PlacementPlan, PlanStep, RoleDemand, plan
from headrace_devstack.models.state import (
    demands,
    expected_demands,
    load_settings,
    memory_for_models,
    placement_nodes,
)
from headrace_router.adapters.policy_file import load_policy
from hypothesis import given
from hypothesis import strategies as st

GB = 10**9
SIZES = {"small:2b": 2 * GB, "middle:8b": 5 * GB, "large:70b": 40 * GB}


def node(name: str, memory: int | None, *, disk: tuple[str, ...] = (), loaded: tuple[str, ...] = ()) -> PlacementNode:
    return PlacementNode(
        name, None if memory is None else memory * GB, {model: SIZES[model] for model in disk}, frozenset(loaded)
    )


def short(made: PlacementPlan) -> list[tuple[str, str, str]]:
    return [(step.action, step.node, step.model) for step in made.changes]


ROLES = (RoleDemand("scribe", ("small:2b",), 0.7), RoleDemand("reviewer", ("middle:8b", "small:2b"), 0.3))


def test_each_role_gets_its_best_model_where_there_is_room() -> None:
    made = plan([node("laptop", 4), node("box", 8)], ROLES, SIZES)
    assert short(made) == [
        ("pull", "box", "middle:8b"), ("pull", "box", "small:2b"), ("load", "box", "middle:8b"),
        ("load", "box", "small:2b"),
    ]  # fmt: skip
    assert made.unserved == ()


def test_what_is_there_already_stays_where_it_is() -> None:
    nodes = [node("laptop", 4, disk=("small:2b",), loaded=("small:2b",)), node("box", 8, disk=("middle:8b",))]
    made = plan(nodes, ROLES, SIZES)
    assert short(made) == [("load", "box", "middle:8b")]
    assert PlanStep("laptop", "small:2b", "keep", "for scribe", 2 * GB) in made.steps


def test_a_role_whose_best_model_fits_nowhere_gets_the_next_one() -> None:
    made = plan([node("laptop", 4)], [RoleDemand("thinker", ("large:70b", "small:2b"))], SIZES)
    assert short(made) == [("pull", "laptop", "small:2b"), ("load", "laptop", "small:2b")]
    assert plan([node("laptop", 4)], [RoleDemand("thinker", ("large:70b",))], SIZES).unserved == ("thinker",)


def test_memory_is_made_only_where_it_is_needed() -> None:
    full = node("box", 8, disk=("small:2b", "middle:8b"), loaded=("middle:8b",))
    assert short(plan([full], [RoleDemand("scribe", ("small:2b",))], SIZES)) == [("load", "box", "small:2b")]
    tight = node("box", 6, disk=("small:2b", "middle:8b"), loaded=("middle:8b",))
    assert short(plan([tight], [RoleDemand("scribe", ("small:2b",))], SIZES)) == [
        ("unload", "box", "middle:8b"), ("load", "box", "small:2b"),
    ]  # fmt: skip


def test_copies_use_the_memory_that_is_left() -> None:
    nodes = [node("a", 4, disk=("small:2b",), loaded=("small:2b",)), node("b", 4, disk=("small:2b",)), node("c", 4)]
    assert short(plan(nodes, ROLES[:1], SIZES)) == [("load", "b", "small:2b")]
    with_pulls = plan(nodes, ROLES[:1], SIZES, pull_copies=True)
    assert ("pull", "c", "small:2b") in short(with_pulls)


def test_nothing_is_added_to_a_node_of_unknown_memory() -> None:
    bare, runs = node("a", None), node("b", None, disk=("small:2b", "middle:8b"), loaded=("small:2b",))
    made = plan([bare, runs], ROLES, SIZES)
    assert short(made) == []
    assert made.unserved == ()
    assert plan([bare], ROLES, SIZES).unserved == ("scribe", "reviewer")


def test_a_disk_that_is_full_takes_nothing() -> None:
    full = PlacementNode("a", 8 * GB, {}, frozenset(), disk_free_bytes=GB)
    assert plan([full], ROLES[:1], SIZES).unserved == ("scribe",)


_NODES = st.lists(
    st.builds(
        node,
        st.sampled_from("abcdef"),
        st.one_of(st.none(), st.integers(0, 60)),
        disk=st.lists(st.sampled_from(sorted(SIZES)), unique=True).map(tuple),
    ),
    unique_by=lambda one: one.name,
    max_size=6,
)
_ROLES = st.lists(
    st.builds(
        RoleDemand,
        st.sampled_from("uvwxyz"),
        st.lists(st.sampled_from([*SIZES, "unheard:1b"]), min_size=1, unique=True).map(tuple),
        st.floats(0.01, 1),
    ),
    unique_by=lambda one: one.role,
    max_size=6,
)


@given(_NODES, _ROLES, st.booleans())
def test_no_plan_exceeds_a_nodes_memory_or_leaves_out_a_role_that_fits(
    nodes: list[PlacementNode], roles: list[RoleDemand], pull_copies: bool
) -> None:
    made = plan(nodes, roles, SIZES, pull_copies=pull_copies)
    for one in nodes:
        planned = [step.model for step in made.steps if step.node == one.name and step.action in ("load", "keep")]
        assert len(planned) == len(set(planned))
        if one.memory_bytes is not None:
            assert sum(SIZES[model] for model in planned) <= one.memory_bytes
    alone = {role.role for role in roles if any(model in SIZES for model in role.models)}
    if all(one.memory_bytes is not None and one.memory_bytes >= sum(SIZES.values()) for one in nodes) and nodes:
        assert set(made.unserved) == {role.role for role in roles} - alone
    assert made == plan(list(reversed(nodes)), roles, SIZES, pull_copies=pull_copies)


def report(name: str, **changes: object) -> NodeStatus:
    fields: dict[str, object] = {
        "node": name, "place": Place.LOCAL, "provider": "ollama", "worker": "w", "healthy": True, "slots": 1, "busy": 0,
        "models": (ModelStatus(name="small", size_bytes=2 * GB, loaded=True),), "valid_for_ms": 1000, "reported_at": 0,
        **changes,
    }  # fmt: skip
    return NodeStatus(**fields)  # type: ignore[arg-type]


def said(**changes: object) -> NodeAnnounced:
    fields: dict[str, object] = {
        "node": "a", "url": "http://a:11434", "slots": 1, "agent": "x", "valid_for_ms": 1000, "announced_at": 0,
        "started_at": 0, **changes,
    }  # fmt: skip
    return NodeAnnounced(**fields)  # type: ignore[arg-type]


def test_nodes_are_those_that_get_calls() -> None:
    reports = [
        report("a"), report("sick", healthy=False), report("late", valid_for_ms=1), report("out"),
        report("groq", place=Place.CLOUD, provider="groq"), report("gpu", provider="vllm"),
    ]  # fmt: skip
    drained = {"out": NodeDrained(node="out", drained_at=0)}
    (found,) = placement_nodes(reports, {}, drained, now_ms=500)
    assert found == PlacementNode("a", None, {"small:latest": 2 * GB}, frozenset({"small:latest"}))


def test_memory_is_what_the_label_says_else_what_the_agent_sees() -> None:
    gpu = (Gpu(name="rtx", memory_bytes=8 * GB), Gpu(name="rtx", memory_bytes=8 * GB))
    assert memory_for_models(report("a"), None) is None
    assert memory_for_models(report("a"), said(memory_bytes=10 * GB)) == 7 * GB
    assert memory_for_models(report("a"), said(memory_bytes=10 * GB, gpus=gpu)) == int(14.4 * GB)
    for label, expected in (("6.5", int(6.5 * GB)), ("many", None), ("nan", None), ("-1", None), ("inf", None)):
        assert memory_for_models(report("a", hardware={"memory_gb": label}), None) == expected


def test_demand_follows_use_and_every_role_counts_a_little() -> None:
    found = {one.role: one for one in demands(load_policy(None), {"code_reviewer": 900, "general": 100})}
    assert found["code_reviewer"].weight == 0.9
    assert found["code_reviewer"].models[0] == "phi3:3.8b"
    assert found["testing"].weight == 0.01


def test_a_model_is_loaded_with_the_longest_context_that_its_roles_need() -> None:
    policy = load_policy(None)
    roles = {**policy.roles, "general": policy.roles["general"].model_copy(update={"num_ctx": 8_192})}
    facts = {**policy.models, "gemma2:2b": policy.models["gemma2:2b"].model_copy(update={"num_ctx": 4_096})}
    found = policy.model_copy(update={"roles": roles, "models": facts})
    assert load_settings(found, "gemma2:2b") == ModelSettings(num_ctx=8_192)
    facts["phi3:3.8b"] = policy.models["phi3:3.8b"].model_copy(update={"keep_alive": "2h"})
    assert load_settings(policy.model_copy(update={"models": facts}), "phi3:3.8b") == ModelSettings(keep_alive="2h")
    assert load_settings(found, "unheard-of") == ModelSettings()


def expected(role: str, *busy: float, history_hours: int = 500) -> ExpectedDemand:
    return ExpectedDemand(key={"role": role}, history_hours=history_hours, busy_calls=busy)


def test_what_is_expected_is_loaded_before_it_comes_and_unloaded_after_it() -> None:
    policy = load_policy(None)
    sizes = {"phi3:3.8b": 2 * GB, "gemma2:2b": 2 * GB}
    before = PlacementNode("box", 8 * GB, sizes, frozenset({"gemma2:2b"}))
    wanted = expected_demands(policy, [expected("code_reviewer", 0.0, 1.5), expected("general", 0.001, 0.0)])
    assert [(one.role, one.weight) for one in wanted] == [("code_reviewer", 1.5)]
    made = plan([before], wanted, sizes, unload_unasked=True)
    assert short(made) == [("unload", "box", "gemma2:2b"), ("load", "box", "phi3:3.8b")]
    after = PlacementNode("box", 8 * GB, sizes, frozenset({"phi3:3.8b"}))
    made = plan([after], expected_demands(policy, [expected("code_reviewer", 0.0, 0.0)]), sizes, unload_unasked=True)
    assert short(made) == [("unload", "box", "phi3:3.8b")]


def test_a_further_copy_of_what_is_expected_stays() -> None:
    nodes = [
        node("a", None, disk=("small:2b",), loaded=("small:2b",)),
        node("b", None, disk=("small:2b",), loaded=("small:2b",)),
    ]
    assert short(plan(nodes, [RoleDemand("scribe", ("small:2b",))], SIZES, unload_unasked=True)) == []
    assert len(short(plan(nodes, [], SIZES, unload_unasked=True))) == 2


def test_what_is_not_known_yet_is_not_taken_for_unused() -> None:
    policy = load_policy(None)
    every = {one.role for one in expected_demands(policy, [])}
    assert every == set(policy.roles)
    assert {one.role for one in expected_demands(policy, [expected("general", 0.0, history_hours=5)])} == every
    known = [expected("testing", 3.0), expected("research", 0.0, history_hours=5)]
    assert {one.role for one in expected_demands(policy, known)} == {"testing", "research"}
    by_default = expected_demands(policy, [expected("", 2.0)])
    assert [one.role for one in by_default] == [policy.defaults.role], "tasks without a role are the default role's"
