"""num_ctx, keep_alive, think and top_k of roles and models reach the attempt, for our own nodes only."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from headrace_contracts.content import plain
from headrace_contracts.events import (
    CommandKind,
    EntryKind,
    JournalEntry,
    ModelSettings,
    Options,
    Privacy,
    TaskPhase,
)
from headrace_router.adapters.policy_file import PolicyInvalid, load_policy, parse_policy
from headrace_router.decide.policy import ModelFacts, Policy
from headrace_router.decide.publications import publication
from headrace_testing.routing import TASK_ID, Desk, node

SHIPPED = yaml.safe_load(load_policy(None).model_dump_json(exclude_none=True))


def policy(role: dict[str, Any] | None = None, model: dict[str, Any] | None = None) -> Policy:
    base = load_policy(None)
    roles = dict(base.roles)
    roles["general"] = base.roles["general"].model_copy(update=role or {})
    return base.model_copy(update={"roles": roles, "models": {**base.models, "gemma2:2b": ModelFacts(**(model or {}))}})


def sent(desk: Desk) -> Any:
    decision = desk.decisions[-1]
    (command,) = [one for one in decision.commands if one.kind is CommandKind.DISPATCH]
    entry = JournalEntry(
        kind=EntryKind.DECISION, task_id=TASK_ID, cause="x", state=decision.state, commands=decision.commands,
        positions=(), decided_at=desk.now,
    )  # fmt: skip
    return publication(entry, command).event


def test_the_role_goes_before_the_model_and_the_attempt_says_so_whatever_the_policy_is_later() -> None:
    role, model = {"num_ctx": 8_192, "think": "off"}, {"num_ctx": 4_096, "keep_alive": "2h"}
    desk = Desk(fleet=(node(),), policy=policy(role, model))
    desk.submit(role="general", privacy=Privacy.SENSITIVE)
    expected = ModelSettings(num_ctx=8_192, keep_alive="2h", think="off")
    desk.policy = policy()
    assert sent(desk).settings == expected
    named = Desk(fleet=(node(),), policy=policy(role, model))
    named.submit(model="gemma2:2b")
    assert sent(named).settings == ModelSettings(num_ctx=4_096, keep_alive="2h")


def test_where_nobody_says_anything_nothing_is_written() -> None:
    desk = Desk(fleet=(node(),), policy=policy())
    desk.submit(role="general")
    assert sent(desk).settings is None


def test_a_cloud_model_is_asked_as_before() -> None:
    desk = Desk(fleet=(node("groq", "groq", ["llama-3.3-70b-versatile"]),), policy=policy({"top_k": 5, "think": "on"}))
    desk.submit(role="general", privacy=Privacy.PUBLIC)
    assert sent(desk).provider == "groq"
    assert sent(desk).settings is None


def test_what_does_not_fit_into_the_named_context_goes_to_the_next_candidate() -> None:
    cloud = node("groq", "groq", ["llama-3.3-70b-versatile"])
    long = "word " * 1_000
    desk = Desk(fleet=(node(), cloud), policy=policy({"num_ctx": 256}))
    desk.submit(role="general", text=long, privacy=Privacy.PUBLIC)
    assert desk.sent_to == ["groq/llama-3.3-70b-versatile"]
    (step,) = [one for one in desk.state.trail if one.step == "rejected"] if desk.state else []
    assert step.reason == "context_too_small: num_ctx is 256 tokens, what is to be read has more"
    own = Options(extra={"options": plain('{"num_ctx": 8192}')})
    asked = Desk(fleet=(node(), cloud), policy=policy({"num_ctx": 256}))
    asked.submit(role="general", text=long, privacy=Privacy.PUBLIC, options=own)
    assert asked.sent_to == ["ollama/gemma2:2b"], "the caller may name another length"
    assert asked.state is not None
    assert asked.state.phase is TaskPhase.RUNNING


@pytest.mark.parametrize(
    ("where", "wrong", "words"),
    [
        ("roles.general", {"num_ctx": "8k"}, "roles.general.num_ctx: "),
        ("models.gemma2:2b", {"keep_alive": "soon"}, "must be a duration such as 30m or 1h30m, or a number of seconds"),
        ("roles.general", {"think": "much"}, "must be one of off, on, low, medium, high, not 'much'"),
        ("models.gemma2:2b", {"top_k": 0}, "must be a whole number from 1 to 100000, not 0"),
        ("roles.general", {"numctx": 8192}, "roles.general.numctx: "),
    ],
)
def test_a_wrong_value_is_named_with_its_place(where: str, wrong: dict[str, Any], words: str) -> None:
    section, _, name = where.partition(".")
    broken = {**SHIPPED, section: {**SHIPPED[section], name: {**SHIPPED[section][name], **wrong}}}
    with pytest.raises(PolicyInvalid) as told:
        parse_policy(yaml.safe_dump(broken), "the policy")
    assert words in str(told.value)
    assert f"{where}.{next(iter(wrong))}" in str(told.value)


def test_yaml_may_say_on_and_off_and_seconds() -> None:
    text = yaml.safe_dump({**SHIPPED, "models": {"gemma2:2b": {"think": "PLACE", "keep_alive": -1}}})
    read = parse_policy(text.replace("PLACE", "off"), "the policy")
    assert read.models["gemma2:2b"] == ModelFacts(think="off", keep_alive="-1")
