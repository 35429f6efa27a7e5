"""Whatever happens to a task that several models work on: what is sensitive stays on our nodes, it ends once, within
its budget, and nobody is asked because of a refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace_contracts.events import (
    CommandKind,
    Failure,
    Lane,
    Mode,
    Outcome,
    Privacy,
    PrivacyLevel,
    Routing,
    TaskPhase,
    TaskStatus,
    Usage,
)
from headrace_router.decide.model import Decision, WakeUp
from headrace_router.decide.policy import Policy
from headrace_router.decide.retry import all_attempts, running_numbers
from headrace_testing.panels import policy_with, published, report, state_of
from headrace_testing.routing import CLOUD, EVERYWHERE, LOCAL, Desk, preferences
from hypothesis import given, settings
from hypothesis import strategies as st

CLOUDY = """
  outward:
    models: [groq/llama-3.3-70b-versatile]
    cascade:
      use: always
      rungs: [groq/llama-3.1-8b-instant, ollama/gemma2:2b, groq/llama-3.3-70b-versatile]
      validator: {models: [anthropic/claude-haiku-4-5, ollama/phi3:3.8b]}
  outside:
    models: [groq/llama-3.3-70b-versatile]
    ensemble:
      use: always
      quorum: 1
      members:
        - {part: primary, models: [groq/llama-3.3-70b-versatile, ollama/gemma2:2b]}
        - {part: validation, models: [anthropic/claude-haiku-4-5, ollama/phi3:3.8b]}
        - {part: technical, models: [ollama/llama3:8b, groq/llama-3.1-8b-instant]}
      combine: judge
      judge: [anthropic/claude-haiku-4-5, ollama/qwen2.5-coder:7b]
"""
"""Roles that would rather ask others than our own nodes."""
STRICTNESS = (Privacy.PUBLIC, Privacy.INTERNAL, Privacy.SENSITIVE)
FLEETS = (EVERYWHERE, (LOCAL,), CLOUD, (), (replace(LOCAL, node="a"), replace(LOCAL, node="b", site="b"), *CLOUD))
REPLIES = ('{"confidence": 0.9}', '{"confidence": 0.1}', '{"best": 2}', "Because.", "")


def without_plans(policy: Policy) -> Policy:
    bare = {"cascade": None, "ensemble": None}
    return policy.model_copy(
        update={"roles": {name: role.model_copy(update=bare) for name, role in policy.roles.items()}}
    )


@settings(max_examples=30)
@given(data=st.data())
def test_what_is_sensitive_never_leaves_whatever_happens(data: st.DataObject) -> None:
    draw = data.draw
    policy = policy_with(roles=CLOUDY)
    user = draw(st.sampled_from([None, preferences(user="eve", privacy_level=PrivacyLevel.HIGH)]))
    desk = Desk(fleet=draw(st.sampled_from(FLEETS)), policy=policy, user=user)
    privacy = draw(st.sampled_from([Privacy.SENSITIVE, Privacy.SENSITIVE, Privacy.INTERNAL, None]))
    budget = draw(st.sampled_from([None, 0, 5_000_000]))
    role = draw(st.sampled_from(["outward", "outside", "together", "stepwise"]))
    desk.submit(
        role=role, privacy=privacy, budget_nanodollars=budget, user="eve", stream=True, reply_partition=1,
        lane=draw(st.sampled_from(list(Lane))), mode=draw(st.sampled_from([None, *Mode])),
        routing=draw(st.sampled_from([None, Routing(ignore=("groq",)), Routing(order=("groq", "anthropic"))])),
    )  # fmt: skip
    if privacy is Privacy.SENSITIVE or user is not None:
        assert state_of(desk).privacy is Privacy.SENSITIVE or state_of(desk).phase is TaskPhase.FINISHED
    ends = seen = 0
    refused = False
    sent: set[str] = set()
    for _ in range(draw(st.integers(1, 25))):
        for decision in desk.decisions[seen:]:
            ends += _check(desk, decision, sent, budget, refused=refused)
        seen = len(desk.decisions)
        if state_of(desk).phase is TaskPhase.FINISHED:
            break
        refused = _event(draw, desk, policy) or refused
    for decision in desk.decisions[seen:]:
        ends += _check(desk, decision, sent, budget, refused=False)
    assert ends == (state_of(desk).phase is TaskPhase.FINISHED)
    result = state_of(desk).result
    if refused:
        assert result is not None
        assert result.status is TaskStatus.REFUSED


def _check(desk: Desk, decision: Decision, sent: set[str], budget: int | None, *, refused: bool) -> int:
    state = decision.state
    floor = desk.decisions[0].state.privacy
    assert STRICTNESS.index(state.privacy) >= STRICTNESS.index(floor), "the level was lowered"
    stays = floor is Privacy.SENSITIVE
    for command in decision.commands:
        assert command.event_id not in sent or "/waiting/" in command.event_id
        sent.add(command.event_id)
        if command.kind is CommandKind.DISPATCH:
            assert not refused
            assert not (stays and command.topic.startswith("work.cloud"))
    if decision is desk.decisions[-1]:
        for command in decision.commands:
            made = published(desk, command)
            if command.kind is CommandKind.DISPATCH:
                assert made.event.privacy is state.privacy
                assert made.event.provider == "ollama" or state.privacy is Privacy.PUBLIC
    if budget is not None and state.phase is not TaskPhase.FINISHED:
        assert sum(one.worst_case_nanodollars for one in all_attempts(state) if one.outcome is None) <= budget
    return sum(command.kind is CommandKind.COMPLETE for command in decision.commands)


def _event(draw: Any, desk: Desk, policy: Policy) -> bool:
    """Give one event; returns whether it was a refusal that counts."""
    state = state_of(desk)
    running = sorted(running_numbers(state))
    number = draw(st.sampled_from(running or [1, 2, 9]))
    what = draw(st.sampled_from(["says", "says", "says", "fails", "ends", "asks nobody", "time", "fleet", "policy"]))
    if what == "says":
        desk.give(report(desk, number, text=draw(st.sampled_from(REPLIES))))
    elif what == "fails":
        desk.give(report(desk, number, draw(st.sampled_from([Outcome.FAILED_PERMANENT, Outcome.FAILED_RETRYABLE]))))
    elif what == "ends":
        outcome = draw(st.sampled_from(list(Outcome)))
        result = desk.give(report(desk, number, outcome, failure=None))
        return outcome is Outcome.REFUSED and number in running and isinstance(result, Decision)
    elif what == "asks nobody":
        nothing: dict[str, Any] = {"usage": Usage(), "failure": Failure(code="no_capacity")}
        desk.give(report(desk, number, Outcome.FAILED_RETRYABLE, **nothing))
    elif what == "time":
        due = desk.now if state.wake_at is None else state.wake_at
        desk.now = max(desk.now, due + draw(st.sampled_from([-1, 0, 0, 2_000])))
        desk.give(WakeUp())
    elif what == "fleet":
        desk.fleet = draw(st.sampled_from(FLEETS))
        desk.give(WakeUp())
    else:
        desk.policy = draw(st.sampled_from([policy, without_plans(policy)]))
    return False
