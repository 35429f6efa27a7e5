"""What is switched off is not used, and whoever may run elsewhere does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.events import (
    Failure,
    Outcome,
    Privacy,
    SwitchedOff,
    SwitchKind,
    TaskPhase,
    TaskStatus,
    Usage,
)
from headrace_contracts.switches import SWITCHED_OFF, Switches, SwitchInvalid, switch_key, switch_of
from headrace_models.prices import load_price_book
from headrace_router.adapters.policy_file import load_policy
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.decide.model import Equal, WakeUp
from headrace_testing.routing import GROQ, NOW, Desk, NoPeers, task

HOUR = 3_600_000


def off(text: str, until: int | None = None) -> SwitchedOff:
    kind, name = switch_of(text)
    return SwitchedOff(kind=kind, name=name, reason="it burns", until=until, switched_at=NOW)


def switches(*texts: str, until: int | None = None) -> Switches:
    return Switches({(each.kind, each.name): each for each in (off(text, until) for text in texts)})


PUBLIC: dict[str, Any] = {"role": "general", "privacy": Privacy.PUBLIC}


def sent(*texts: str, until: int | None = None, **fields: Any) -> Desk:
    desk = Desk(switches=switches(*texts, until=until))
    desk.submit(**{**PUBLIC, **fields})
    return desk


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), "ollama/"),
        (("provider/ollama",), "groq/"),
        (("feature/cloud",), "ollama/"),
        (("provider/ollama", "provider/groq"), "anthropic/"),
        (("provider/ollama", f"model/{GROQ}"), "anthropic/"),
        (("provider/ollama", "model/llama-3.3-70b-versatile"), "anthropic/"),
        (("provider/ollama", "model/anthropic/llama-3.3-70b-versatile"), "groq/"),
        (("tenant/other",), "ollama/"),
    ],
)
def test_the_next_candidate_is_asked(texts: tuple[str, ...], expected: str) -> None:
    desk = sent(*texts)
    assert desk.sent_to[0].startswith(expected)
    codes = {rejection.code for rejection in desk.decisions[-1].rejected}
    assert ("switched_off" in codes) == (expected != "ollama/")


def test_a_task_that_nothing_else_may_run_waits_until_it_is_on_again() -> None:
    desk = sent("provider/ollama", privacy=Privacy.SENSITIVE)
    assert desk.state is not None
    assert desk.state.phase is TaskPhase.WAITING
    assert "provider ollama is switched off: it burns" in desk.state.trail[-1].reason
    desk.switches = Switches()
    desk.state = replace(desk.state, wake_at=desk.now)
    desk.wake()
    assert desk.sent_to[0].startswith("ollama/")


def test_a_switch_ends_by_itself() -> None:
    assert sent("provider/ollama", until=NOW + 1).sent_to[0].startswith("groq/")
    assert sent("provider/ollama", until=NOW).sent_to[0].startswith("ollama/")


def test_tasks_of_a_tenant_that_is_off_end_and_those_that_run_finish() -> None:
    desk = sent("tenant/acme")
    assert desk.state is not None
    assert desk.state.result is not None
    assert desk.state.result.status is TaskStatus.FAILED
    assert desk.state.result.failure is not None
    assert desk.state.result.failure.code == "tenant_switched_off"
    running = Desk()
    running.submit(**PUBLIC)
    running.switches = switches("tenant/acme")
    running.end(Outcome.ANSWERED)
    assert running.state is not None
    assert running.state.result is not None
    assert running.state.result.status is TaskStatus.SUCCEEDED
    retried = Desk()
    retried.submit(**PUBLIC)
    retried.switches = switches("tenant/acme")
    retried.end(Outcome.FAILED_PERMANENT)
    assert retried.state is not None
    assert retried.state.phase is TaskPhase.FINISHED
    assert retried.state.result is not None
    assert retried.state.result.failure is not None
    assert retried.state.result.failure.code == "tenant_switched_off"


@pytest.mark.parametrize(("feature", "phase"), [("cache", TaskPhase.RUNNING), ("coalescing", TaskPhase.RUNNING)])
def test_features_are_not_used(feature: str, phase: TaskPhase) -> None:
    answered = Desk()
    answered.submit(**PUBLIC)
    answered.end(Outcome.ANSWERED)
    assert answered.state is not None
    equal = Equal(answer=answered.state.result) if feature == "cache" else Equal(leader="another")
    with_it, without_it = Desk(peers=NoPeers(equal=equal)), Desk(peers=NoPeers(equal=equal))
    with_it.submit(**PUBLIC)
    assert with_it.state is not None
    assert with_it.state.phase is not phase
    without_it.switches = switches(f"feature/{feature}")
    without_it.submit(**PUBLIC)
    assert without_it.state is not None
    assert without_it.state.phase is phase


@pytest.mark.parametrize(
    "text", ["groq", "provider/", "feature/nothing", "unknown/x", "tenant/no such", "provider/\x00", "", "model"]
)
def test_switches_that_there_are_not_are_refused(text: str) -> None:
    with pytest.raises(SwitchInvalid):
        switch_of(text)


class TestView:
    def view(self) -> tuple[RoutingView, list[int]]:
        view = RoutingView(load_policy(None), load_price_book(), lambda: self.now)
        gains: list[int] = []
        view.on_gain(lambda: gains.append(view.gains))
        return view, gains

    now = NOW

    def test_waiting_tasks_are_looked_at_when_a_switch_is_on_again(self) -> None:
        view, gains = self.view()
        one = off("provider/groq", until=NOW + HOUR)
        view.switch_changed(switch_key(one), one)
        view.look_at_switches()
        before = len(gains)
        self.now = NOW + HOUR
        view.look_at_switches()
        view.look_at_switches()
        assert len(gains) == before + 1

    def test_a_switch_under_another_key_is_none(self) -> None:
        view, _ = self.view()
        view.switch_changed("provider/other", off("provider/groq"))
        strange = SwitchedOff(kind=SwitchKind.UNKNOWN, name="x", switched_at=NOW)
        view.switch_changed("unknown/x", strange)
        assert view.context(NoPeers(), "acme", "").switches.off == {}

    def test_a_tombstone_switches_on(self) -> None:
        view, _ = self.view()
        view.switch_changed("provider/groq", off("provider/groq"))
        assert view.context(NoPeers(), "acme", "").switches.off
        view.switch_changed("provider/groq", None)
        assert not view.context(NoPeers(), "acme", "").switches.off


def test_a_task_is_told_what_it_waits_for() -> None:
    desk = Desk(switches=switches("provider/ollama"))
    decision = desk.submit(task(role="general", privacy=Privacy.SENSITIVE, reply_partition=1))
    assert [command.kind.value for command in decision.commands] == ["reply"]


@pytest.mark.parametrize("local_only", [False, True], ids=["may go elsewhere", "may not"])
def test_what_a_worker_gives_back_goes_elsewhere_at_no_cost_of_tries_or_waits(local_only: bool) -> None:
    desk = Desk()
    desk.submit(role="general", privacy=Privacy.SENSITIVE if local_only else Privacy.PUBLIC)
    desk.switches = switches("provider/ollama")
    given_back = Failure(code=SWITCHED_OFF, message="provider ollama is switched off")
    desk.end(Outcome.FAILED_RETRYABLE, failure=given_back, node=None, usage=Usage())
    assert desk.state is not None
    if local_only:
        assert desk.state.phase is TaskPhase.WAITING
        desk.switches = Switches()
        desk.decide(WakeUp())
        assert desk.sent_to[-1].startswith("ollama/")
    else:
        assert desk.sent_to[-1].startswith("groq/")
    assert [attempt.asked for attempt in desk.state.attempts if attempt.outcome is not None] in ([False], [])
