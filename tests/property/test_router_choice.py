"""Choosing with what was remembered is choosing anew: whatever policies, fleets, tasks and times come."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.cargo import asked_in, said_in
from headrace_contracts.content import plain
from headrace_contracts.events import (
    AttemptState,
    Failure,
    Message,
    Mode,
    ModelObserved,
    ModelStatus,
    NodeStatus,
    Options,
    Outcome,
    Place,
    Preferences,
    Privacy,
    PrivacyLevel,
    Routing,
    Sampling,
    SwitchedOff,
    SwitchKind,
    TaskSubmitted,
    Tool,
)
from headrace_contracts.ids import digest
from headrace_contracts.switches import Switches
from headrace_models.prices import load_price_book
from headrace_router.adapters.policy_file import parse_policy
from headrace_router.decide.candidates import NotNow, choose
from headrace_router.decide.equality import equality_digest
from headrace_router.decide.fleet import Fleet
from headrace_router.decide.machine import decide
from headrace_router.decide.model import DecisionContext, Submitted
from headrace_router.decide.policy import Policy
from headrace_router.decide.routes import role_of, rules_of
from headrace_router.decide.strategies import _KEYS
from headrace_testing.plain_choice import plainly_chosen
from headrace_testing.routing import NOW, NoPeers

BOOK = load_price_book()
LOCAL_MODELS = ("small:1b", "big:70b", "plain")
CLOUD_MODELS = (
    *(f"groq/{model}" for model in sorted(BOOK.providers["groq"])[:5]),
    *(f"anthropic/{model}" for model in sorted(BOOK.providers["anthropic"])[:5] if model != "*"),
    "unpriced/one",
    "groq/no-such-price",
)
STRATEGIES = sorted(_KEYS)


def policies(rng: random.Random) -> Policy:
    some: Callable[..., Any] = rng.choice
    local = [f"ollama/{model}" for model in LOCAL_MODELS]

    def role() -> dict[str, Any]:
        found: dict[str, Any] = {"models": rng.sample([*local, *CLOUD_MODELS], rng.randint(1, 5))}
        if rng.random() < 0.3:
            found["ladder"] = rng.sample(CLOUD_MODELS, rng.randint(0, 4))
        found |= {"strategy": some(STRATEGIES)} if rng.random() < 0.4 else {}
        found |= {"num_ctx": some([512, 4096])} if rng.random() < 0.3 else {}
        return found | ({"always_local": True} if rng.random() < 0.1 else {})

    providers: dict[str, Any] = {"ollama": {"place": "local"}, "unpriced": {"place": "cloud"}}
    for name in ("groq", "anthropic"):
        providers[name] = {"place": "cloud"}
        if rng.random() < 0.7:
            providers[name]["data"] = {
                "collects": some([True, False]), "retention_days": some([0, 30]), "region": some(["eu", "us"]),
            }  # fmt: skip
        if rng.random() < 0.5:
            ref = some([one for one in CLOUD_MODELS if one.startswith(name)]).partition("/")[2]
            providers[name]["models"] = {ref: {"capabilities": some([["tools"], []]), "quality": rng.random()}}
    return parse_policy(json.dumps({
        "defaults": {"role": "a", "privacy_level": some(["low", "low", "standard"])},
        "deadlines": {"default": {"interactive": 120_000, "batch": 3_600_000}},
        "attempts": {"timeout": {"interactive": 45_000, "batch": 1_500_000}},
        "strategy": some(STRATEGIES),
        "data": {"regions": ["eu"]} if rng.random() < 0.2 else {},
        "providers": providers,
        "models": {"big:70b": {"size_gb": 40, "hardware": {"gpu": "a100"}}} if rng.random() < 0.5 else {},
        "ladder": rng.sample(CLOUD_MODELS, rng.randint(0, 6)),
        "roles": {name: role() for name in "ab"},
    }), "random")  # fmt: skip


def report(rng: random.Random, name: str, now: int) -> NodeStatus:
    is_local = not name.startswith(("groq", "anthropic", "unpriced"))
    models = LOCAL_MODELS if is_local else [m.partition("/")[2] for m in CLOUD_MODELS if m.startswith(name)]
    offered = [
        ModelStatus(
            name=model if rng.random() < 0.9 or ":" in model else f"{model}:latest",
            context_tokens=rng.choice([None, 1_000, 100_000]),
            capabilities=rng.choice([None, (), ("tools",)]),
            observed=None if rng.random() < 0.5 else ModelObserved(
                calls=3, first_output_p50_ms=rng.choice([50.0, 500.0]), first_output_p95_ms=900.0,
                tokens_per_second_p50=rng.choice([None, 10.0, 200.0]), tokens_per_second_p5=1.0,
            ),
        )
        for model in rng.sample(list(models), rng.randint(0, len(models)))
    ]  # fmt: skip
    return NodeStatus(
        node=name, place=Place.LOCAL if is_local else Place.CLOUD, provider="ollama" if is_local else name,
        healthy=rng.random() < 0.9, models=tuple(offered), slots=rng.choice([1, 8]), busy=rng.choice([0, 4]),
        site=rng.choice(["", "west"]) if is_local else "", hardware={"gpu": "a100"} if rng.random() < 0.5 else {},
        tokens_per_second=rng.choice([None, 30.0]), reported_at=now - rng.choice([0, 900]),
        valid_for_ms=rng.choice([1_000, 60_000]),
    )  # fmt: skip


def routings(rng: random.Random) -> Routing | None:
    if rng.random() < 0.4:
        return None
    names = ["ollama", "groq", "anthropic", *CLOUD_MODELS]

    def perhaps(value: Any, share: float = 0.2, otherwise: Any = None) -> Any:
        return value if rng.random() < share else otherwise

    return Routing(
        order=perhaps(tuple(rng.sample(names, 2)), 0.2, ()), only=perhaps(tuple(rng.sample(names, 4)), 0.2, ()),
        ignore=perhaps((rng.choice(names),), 0.3, ()), strategy=perhaps(rng.choice(STRATEGIES), 0.3),
        max_input_price=perhaps(rng.choice([100_000_000, 10**10])), max_output_price=perhaps(10**9),
        min_throughput=perhaps(rng.choice([20.0, 100.0]), 0.3), allow_fallbacks=rng.random() < 0.8,
        require_parameters=rng.random() < 0.3, deny_data_collection=rng.random() < 0.2,
        zero_retention=rng.random() < 0.2,
    )  # fmt: skip


def tasks(rng: random.Random, number: int) -> TaskSubmitted:
    words = "x" * rng.choice([10, 3_000, 9_000])
    options = Options(tools=(Tool(name="f"),)) if rng.random() < 0.2 else None
    model = rng.choice([None, None, None, "small:1b", "plain", rng.choice(CLOUD_MODELS), "nobody/has-it"])
    return TaskSubmitted(
        task_id=f"0199b9d0-0000-7000-8000-{number:012}", tenant=rng.choice(["acme", "100%"]),
        role=rng.choice(["a", "b", None]), model=model,
        messages=(Message(role="user", content=plain(words)),), options=options,
        sampling=Sampling(
            max_output_tokens=rng.choice([None, 1, 5_000]), temperature=rng.choice([None, 0.0, 1.0]),
            stop=rng.choice([(), ("%s",)]), seed=rng.choice([None, 7]),
        ),
        privacy=rng.choice([None, None, Privacy.PUBLIC, Privacy.PUBLIC, Privacy.INTERNAL, Privacy.SENSITIVE]),
        mode=rng.choice([None, None, None, Mode.LOCAL, Mode.HYBRID]), routing=routings(rng),
        preferred_provider=rng.choice([None, None, "groq", "ollama"]),
        budget_nanodollars=rng.choice([None, None, 100_000, 10**10]), submitted_at=NOW,
    )  # fmt: skip


def attempts(rng: random.Random, policy: Policy) -> tuple[AttemptState, ...]:
    refs = [ref for role in policy.roles.values() for ref in role.models]
    return tuple([
        AttemptState(
            number=number, provider=ref.provider, model=ref.model, place=policy.place(ref.provider), dispatched_at=NOW,
            outcome=rng.choice([Outcome.FAILED_RETRYABLE, Outcome.FAILED_PERMANENT, Outcome.EXPIRED]),
            failure=Failure(code="timeout"), asked=rng.random() < 0.6,
        )
        for number, ref in enumerate(rng.choices(refs, k=rng.choice([0, 0, 0, 1, 3])), start=1)
    ])  # fmt: skip


def switches(rng: random.Random, now: int) -> Switches:
    kinds = [(SwitchKind.PROVIDER, "groq"), (SwitchKind.MODEL, "small:1b"), (SwitchKind.FEATURE, "cloud")]
    off = rng.sample(kinds, rng.choice([0, 0, 0, 1]))
    return Switches({
        key: SwitchedOff(kind=key[0], name=key[1], until=rng.choice([None, now + 500]), switched_at=now) for key in off
    })  # fmt: skip


def preferences(rng: random.Random) -> Preferences | None:
    return rng.choice([
        None, None, None, None,
        Preferences(tenant="acme", allowed_providers=("groq",), updated_at=NOW),
        Preferences(tenant="acme", privacy_level=PrivacyLevel.HIGH, preferred_provider="anthropic", updated_at=NOW),
    ])  # fmt: skip


class World:
    """A fleet whose nodes report, one after another, while time goes on, and back at times."""

    NAMES = ("n1", "n2", "n3", "groq", "anthropic", "unpriced")

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.policies = [policies(self.rng), policies(self.rng)]
        self.now = NOW
        self.nodes = {name: report(self.rng, name, NOW) for name in self.NAMES}
        self.fleet = Fleet(self.nodes.values())

    def contexts(self) -> tuple[DecisionContext, DecisionContext]:
        """What is known now, with all that was remembered, and the same with nothing."""
        rng = self.rng
        if rng.random() < 0.4:
            name = rng.choice(self.NAMES)
            self.nodes.pop(name, None)
            if rng.random() < 0.9:
                self.nodes[name] = report(rng, name, self.now)
            self.fleet = Fleet(self.nodes.values(), self.fleet)
        self.now += rng.choice([0, 1, 300, 900, -900, 5_000])
        kept = DecisionContext(
            now=max(NOW, self.now), policy=rng.choice(self.policies), prices=BOOK, fleet=self.fleet, peers=NoPeers(),
            switches=switches(rng, self.now), tenant_preferences=preferences(rng), user_preferences=preferences(rng),
        )  # fmt: skip
        return kept, replace(kept, fleet=Fleet(self.nodes.values()))


@pytest.mark.parametrize("seed", range(30))
def test_the_choice_is_that_of_looking_at_each_candidate_anew(seed: int) -> None:
    world = World(seed)
    for number in range(60):
        kept, fresh = world.contexts()
        task, rng = tasks(world.rng, number), world.rng
        rules = rules_of(task, kept)
        assert rules == rules_of(task, fresh)
        if rules.objection is not None:
            continue
        role, before = role_of(task, kept), attempts(world.rng, kept.policy)
        not_now = NotNow(rng.choice(CLOUD_MODELS), "it failed") if rng.random() < 0.1 else None
        chosen = choose(task, role, "Be brief.", rules, before, kept, not_now)
        plainly = plainly_chosen(task, role, "Be brief.", rules, before, fresh, not_now)
        assert chosen == replace(plainly, nodes=chosen.nodes)
        assert list(chosen.nodes) == list(plainly.nodes)


@pytest.mark.parametrize("seed", range(100, 115))
def test_the_decision_is_that_of_a_router_which_remembers_nothing(seed: int) -> None:
    world = World(seed)
    for number in range(40):
        kept, fresh = world.contexts()
        event = Submitted(tasks(world.rng, number), b"key", 0)
        assert decide(None, event, kept) == decide(None, event, fresh)


@pytest.mark.parametrize("seed", range(3))
def test_the_digest_of_equal_tasks_is_that_of_all_of_their_frame(seed: int) -> None:
    world = World(seed)
    for number in range(40):
        kept, _ = world.contexts()
        task = tasks(world.rng, number)
        rules = rules_of(task, kept)
        frame = {
            "tenant": task.tenant, "role": task.role, "model": task.model, "sampling": task.sampling.to_avro(),
            "privacy": rules.privacy, "mode": rules.mode, "consented": sorted(rules.consented),
            "preferred": rules.preferred, "policy": kept.policy.version,
            "routing": None if task.routing is None else task.routing.to_avro(),
        }  # fmt: skip
        said = [one for message in task.messages for one in said_in(message)]
        whole = digest([json.dumps(frame, sort_keys=True), *said, *asked_in(task)])
        assert equality_digest(task, rules, kept.policy.version) == whole
