"""Which answers are stored, and which tasks a stored one may serve: every condition by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import Privacy, ServedFrom, SwitchedOff, SwitchKind, TaskCompleted, TaskStatus
from headrace_contracts.switches import Switches
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.answer_policy import answer_version
from headrace_router.decide.model import Equal, StoredAnswer, Submitted
from headrace_router.decide.stored_answers import digest_to_look_up, for_storing, may_be_stored
from headrace_testing.routing import NOW, Desk, NoPeers, preferences, task

DAY = 86_400_000


def end(**fields: Any) -> TaskCompleted:
    return TaskCompleted(
        **{
            "task_id": "earlier", "tenant": "acme", "privacy": Privacy.INTERNAL, "status": TaskStatus.SUCCEEDED,
            "answer": plain("Deep."), "finish_reason": "stop", "provider": "ollama", "model": "gemma2:2b",
            "served_from": ServedFrom.ATTEMPT, "submitted_at": NOW - DAY, "completed_at": NOW - DAY, **fields,
        }
    )  # fmt: skip


def served(stored: StoredAnswer | None, desk: Desk | None = None, **fields: Any) -> bool:
    desk = desk or Desk()
    decision = desk.decide(Submitted(task(**fields), b"key", 3, stored=stored))
    result = decision.state.result
    return result is not None and result.served_from is ServedFrom.CACHE


def looked_up(desk: Desk | None = None, **fields: Any) -> str:
    return digest_to_look_up(task(**fields), (desk or Desk()).context)


def test_a_stored_answer_serves_the_task_that_it_was_found_for() -> None:
    stored = StoredAnswer(looked_up(), end())
    assert served(stored)
    assert not served(None)


@pytest.mark.parametrize(
    "different",
    [
        {"tenant": "other"},
        {"privacy": Privacy.SENSITIVE},
        {"privacy": Privacy.PUBLIC},
        {"completed_at": NOW - 30 * DAY},
        {"completed_at": NOW + 1},
        {"status": TaskStatus.FAILED},
        {"finish_reason": "length"},
        {"answer": plain("")},
        {"served_from": ServedFrom.CACHE},
    ],
    ids=str,
)
def test_a_row_that_says_otherwise_serves_nobody(different: dict[str, Any]) -> None:
    assert not served(StoredAnswer(looked_up(), end(**different)))


def test_it_serves_no_task_with_another_digest() -> None:
    assert not served(StoredAnswer(looked_up(text="What else?"), end()))
    assert not served(StoredAnswer("", end()), allow_cached=False)


def test_rules_that_changed_since_the_lookup_are_those_that_count() -> None:
    stored = StoredAnswer(looked_up(), end())
    assert not served(stored, Desk(tenant=preferences(privacy_level="high")))
    assert not served(stored, Desk(tenant=preferences(allowed_providers=("groq",))))


def test_a_partitions_own_answer_goes_before_and_a_leader_after() -> None:
    own = end(task_id="own")
    desk = Desk(peers=NoPeers(equal=Equal(answer=own)))
    assert served(StoredAnswer(looked_up(), end()), desk)
    assert desk.state is not None
    assert desk.state.result is not None
    assert desk.state.result.source_task_id == "own"
    assert served(StoredAnswer(looked_up(), end()), Desk(peers=NoPeers(equal=Equal(leader="another"))))


def test_nothing_is_asked_for_what_cannot_be_served() -> None:
    assert looked_up()
    policy = load_policy(None)
    none = policy.model_copy(update={"cache": policy.cache.model_copy(update={"stored_ttl": 0})})
    off = SwitchedOff(kind=SwitchKind.FEATURE, name="cache", reason="test", switched_at=NOW, switched_by="test")
    assert not looked_up(Desk(policy=none))
    assert not looked_up(Desk(switches=Switches({(SwitchKind.FEATURE, "cache"): off})))
    assert not looked_up(allow_cached=False)
    assert not looked_up(privacy=Privacy.SENSITIVE)
    assert not looked_up(role="security_reviewer"), "always local, so sensitive"
    assert not looked_up(Desk(tenant=preferences(privacy_level="high")))
    assert not looked_up(Desk(tenant=preferences(privacy_level="high")), privacy=Privacy.PUBLIC), "refused"
    assert not looked_up(Desk(peers=NoPeers(equal=Equal(leader="another"))))
    assert not looked_up(Desk(peers=NoPeers(equal=Equal(answer=end()))))


def test_what_may_be_stored() -> None:
    assert may_be_stored(end(), "digest")
    assert not may_be_stored(end(), "")
    assert not may_be_stored(end(privacy=Privacy.SENSITIVE), "digest")
    assert not may_be_stored(end(finish_reason="length"), "digest")
    assert not may_be_stored(end(served_from=ServedFrom.CACHE), "digest")
    kept = for_storing(end(user="carol", key_id="k", session="s", subject="carol", labels={"a": "b"}, role="r"))
    assert kept == replace(end(), role=None)


def test_an_answer_outlives_changes_of_a_policy_that_cannot_change_it() -> None:
    shipped = load_policy(None)
    version = answer_version(shipped, "general")
    other_role = {**shipped.roles, "planner": shipped.roles["general"]}
    harmless: tuple[dict[str, Any], ...] = (
        {"retry": shipped.retry.model_copy(update={"attempts": 3})},
        {"cache": shipped.cache.model_copy(update={"entries": 5})},
        {"deadlines": shipped.deadlines.model_copy(update={"longest": 400_000_000})},
        {"roles": other_role},
    )
    for update in harmless:
        changed = shipped.model_copy(update=update)
        changed.__dict__.pop("version", None)
        assert changed.version != shipped.version
        assert answer_version(changed, "general") == version, update.keys()
    general = shipped.roles["general"]
    telling: tuple[dict[str, Any], ...] = (
        {"strategy": "cheapest"},
        {"data": shipped.data.model_copy(update={"regions": frozenset({"eu", "us", "jp"})})},
        {"ladder": ()},
        {"roles": {**shipped.roles, "general": general.model_copy(update={"system_prompt": "Be brief."})}},
    )
    for update in telling:
        changed = shipped.model_copy(update=update)
        changed.__dict__.pop("version", None)
        assert answer_version(changed, "general") != version, update.keys()
    assert answer_version(shipped, None) != version
