"""At which site an attempt runs, and what becomes of it when the site is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.events import (
    CommandKind,
    EntryKind,
    Failure,
    JournalEntry,
    Lane,
    ModelStatus,
    NodeStatus,
    Outcome,
    Place,
    Privacy,
    TaskPhase,
    TaskState,
    TaskStatus,
    Usage,
)
from headrace_models.prices import load_price_book
from headrace_router.adapters.policy_file import load_policy
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.decide.attempt_windows import AttemptWindow, OutNow
from headrace_router.decide.model import AttemptEnded, Ignored, WakeUp
from headrace_router.decide.publications import publication
from headrace_router.decide.reports import SITE_SILENT
from headrace_testing.routing import CLOUD, NOW, TASK_ID, Desk, NoPeers, finished, node

MODEL = "gemma2:2b"
LOADED = (ModelStatus(name=MODEL, loaded=True),)


def at(site: str, name: str = "", *, warm: bool = True, **fields: Any) -> NodeStatus:
    models = LOADED if warm else (ModelStatus(name=MODEL),)
    return replace(node(name or f"node-{site}", site=site, slots=2), **{"models": models, **fields})


POLICY = load_policy(None)


def desk(*nodes: NodeStatus, **fields: Any) -> Desk:
    return Desk(fleet=nodes, policy=POLICY, **fields)


def state_of(found: Desk) -> TaskState:
    assert found.state is not None
    return found.state


def site_of(found: Desk, **fields: Any) -> str:
    state = found.submit(model=MODEL, privacy=Privacy.SENSITIVE, **fields).state
    assert state.phase is TaskPhase.RUNNING
    attempt = state.attempts[-1]
    name = f"{attempt.site}." if attempt.site else ""
    assert state.work_topic == f"work.local.{name}{state.lane}"
    return attempt.site


def out(**sites: int) -> NoPeers:
    return NoPeers(places={f"work.local.{site}.batch": number for site, number in sites.items()})


def record_of(found: Desk, kind: CommandKind, at_decision: int = -1) -> Any:
    decision = found.decisions[at_decision]
    (command,) = [command for command in decision.commands if command.kind is kind]
    entry = JournalEntry(
        kind=EntryKind.DECISION, task_id=TASK_ID, cause="x", state=decision.state, commands=decision.commands,
        positions=(), decided_at=found.now,
    )  # fmt: skip
    return publication(entry, command)


def test_an_attempt_goes_to_the_only_site_that_has_its_model_and_says_so_everywhere() -> None:
    found = desk(at("paris", models=(ModelStatus(name="phi3:3.8b"),)), at("berlin"))
    assert site_of(found) == "berlin"
    sent = record_of(found, CommandKind.DISPATCH)
    assert (sent.spec.name, sent.event.site) == ("work.local.berlin.batch", "berlin")
    (step,) = [step for step in state_of(found).trail if step.step == "dispatched"]
    assert step.reason.endswith("; site berlin")


def test_a_fleet_without_sites_is_as_it_was() -> None:
    found = desk(at("", "a"), at("", "b"))
    assert site_of(found) == ""
    assert "site" not in state_of(found).trail[-1].reason


def test_workers_without_a_site_are_one_among_the_others() -> None:
    assert site_of(desk(at("", busy=2), at("berlin"))) == "berlin"
    assert site_of(desk(at(""), at("berlin", busy=2))) == ""


def test_the_site_with_the_least_to_do_for_what_it_can_do_is_chosen() -> None:
    assert site_of(desk(at("a", busy=1), at("b"))) == "b", "what its nodes report"
    assert site_of(desk(at("a"), at("b"), peers=out(a=1))) == "b", "what is out of this partition"
    assert site_of(desk(at("a"), at("b", slots=4), peers=out(a=1, b=1))) == "b", "more slots"
    fast = at("b", tokens_per_second=80.0)
    assert site_of(desk(at("a", tokens_per_second=20.0), fast, peers=out(b=2))) == "b", "four times as fast"
    assert site_of(desk(at("a", tokens_per_second=20.0), fast, peers=out(b=20))) == "a", "but not for everything"
    assert site_of(desk(at("b"), at("a"))) == "a", "ties by name"


def test_attempts_for_other_nodes_of_a_site_count_by_their_share() -> None:
    elsewhere = at("a", "big", models=(ModelStatus(name="llama3:8b"),), slots=98)
    assert site_of(desk(at("a"), elsewhere, at("b"), peers=out(a=40, b=2))) == "a"


def test_a_model_in_memory_is_preferred_until_the_slots_are_taken() -> None:
    assert site_of(desk(at("a", warm=False), at("b", busy=1))) == "b"
    assert site_of(desk(at("a", warm=False), at("b", busy=2, tokens_per_second=None), peers=out(b=1))) == "a"


def test_a_report_that_has_expired_offers_nothing() -> None:
    assert site_of(desk(at("a", valid_for_ms=0), at("b", busy=2))) == "b"


def test_a_site_whose_context_is_too_short_is_none() -> None:
    short = at("a", models=(ModelStatus(name=MODEL, loaded=True, context_tokens=1),))
    long = at("b", models=(ModelStatus(name=MODEL, context_tokens=8192),), busy=2)
    assert site_of(desk(short, long)) == "b"


def test_a_session_stays_where_its_other_attempts_are() -> None:
    busy = at("a", busy=2)
    assert site_of(desk(busy, at("b"), peers=NoPeers(session_site="a")), session="s") == "a"
    assert site_of(desk(replace(busy, healthy=False), at("b"), peers=NoPeers(session_site="a")), session="s") == "b"


def test_sessions_spread_over_sites_by_slots_and_stay() -> None:
    sites = [at("a", slots=10), at("b", slots=10), at("c", slots=20)]
    names = [f"session {number}" for number in range(100)]
    before = {name: site_of(desk(*sites), session=name) for name in names}
    counts = Counter(before.values())
    assert counts["c"] > 35
    assert min(counts.values()) > 12
    again = {name: site_of(desk(*sites), session=name) for name in names}
    assert again == before
    without_a = {name: site_of(desk(*sites[1:]), session=name) for name in names}
    assert all(without_a[name] == site for name, site in before.items() if site != "a")


def test_a_session_leaves_a_site_that_has_much_more_to_do_than_the_others() -> None:
    names = [f"session {number}" for number in range(40)]
    crowded = [at("a"), at("b")], out(a=50)
    assert {site_of(desk(*crowded[0], peers=crowded[1]), session=name) for name in names} == {"b"}


def ended(found: Desk, code: str, outcome: Outcome = Outcome.FAILED_RETRYABLE) -> None:
    """The newest attempt ends without anybody having been asked."""
    found.end(outcome, failure=Failure(code=code, message="x"), usage=Usage(), content=None)


@pytest.mark.parametrize("code", ["no_capacity", "overloaded"])
def test_where_nobody_was_asked_another_site_is_asked_at_once(code: str) -> None:
    found = desk(at("a"), at("b", busy=2), at("c", busy=1))
    assert site_of(found, session="s" if code == "overloaded" else None) in "abc"
    tried = [state_of(found).attempts[-1].site]
    for _ in range(2):
        ended(found, code)
        assert state_of(found).phase is TaskPhase.RUNNING, "at once"
        tried.append(state_of(found).attempts[-1].site)
    assert sorted(tried) == ["a", "b", "c"]
    ended(found, code)
    assert state_of(found).phase is TaskPhase.BACKING_OFF, "all of them have said so"
    found.wake()
    assert state_of(found).attempts[-1].site == tried[0], "the longest ago"


def test_the_state_stays_small_however_many_sites_say_that_nobody_was_asked() -> None:
    found = desk(*[at(f"site-{number}") for number in range(5)])
    site_of(found)
    for _ in range(40):
        if state_of(found).phase is TaskPhase.BACKING_OFF:
            found.wake()
        ended(found, "no_capacity")
        assert len(state_of(found).attempts) <= 5 + found.policy.retry.attempts_per_model


def test_a_try_that_failed_is_repeated_at_another_site() -> None:
    found = desk(at("a"), at("b", busy=2))
    assert site_of(found) == "a"
    found.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="overloaded", message="x"), node="n")
    found.wake()
    assert state_of(found).attempts[-1].site == "b"


class Windows(NoPeers):
    """Peers of whom one tenant's windows are full at some sites."""

    full: Iterable[str] = ()

    def out(self, tenant: str, topic: str) -> OutNow:
        return OutNow(1) if any(f".{site}." in topic for site in self.full) else OutNow()


def test_windows_count_by_site_and_a_site_with_room_comes_first() -> None:
    peers = Windows()
    peers.full = ["a"]
    found = desk(at("a"), at("b", busy=2), window=AttemptWindow.of(1), peers=peers)
    assert site_of(found) == "b"


def test_who_waits_for_a_turn_waits_at_one_site_and_goes_where_there_is_room() -> None:
    peers = Windows()
    peers.full = ["a", "b"]
    found = desk(at("a"), at("b", busy=1), window=AttemptWindow.of(1), peers=peers)
    state = found.submit(model=MODEL, privacy=Privacy.SENSITIVE).state
    assert (state.phase, state.work_topic) == (TaskPhase.WAITING, "work.local.a.batch")
    found.fleet = (at("a", busy=2), at("b"))
    assert found.give(WakeUp()) == Ignored("behind_others"), "it does not go to and fro"
    peers.full = ["a"]
    assert found.decide(WakeUp()).state.attempts[-1].site == "b"


SILENT: dict[str, Any] = {"valid_for_ms": 10_000}


def gone(found: Desk, seconds: float = 20) -> None:
    found.now += round(seconds * 1000)


def test_an_attempt_at_a_site_that_is_gone_is_taken_back_where_another_site_can_run_it() -> None:
    found = desk(at("a", **SILENT), at("b", busy=2))
    assert site_of(found) == "a"
    assert found.give(WakeUp()) == Ignored("early"), "its worker reports"
    gone(found)
    state = found.decide(WakeUp()).state
    assert state.phase is TaskPhase.RUNNING
    first, second = state.attempts
    assert first.failure is not None
    assert (first.outcome, first.failure.code, first.asked) == (Outcome.EXPIRED, SITE_SILENT, False)
    assert (second.number, second.site, second.outcome) == (2, "b", None)
    stop = record_of(found, CommandKind.CANCEL)
    assert stop.spec.name == "attempts.cancelled.local"
    assert (stop.event.task_id, stop.event.tenant, stop.event.number) == (TASK_ID, "acme", 1)
    assert [step.reason for step in state.trail if step.step == "not_asked"] == [SITE_SILENT]


def test_the_attempt_that_was_taken_back_gives_no_second_answer() -> None:
    found = desk(at("a", **SILENT), at("b", busy=2))
    site_of(found)
    gone(found)
    found.decide(WakeUp())
    assert found.give(AttemptEnded(finished(number=1))) == Ignored("late_result")
    done = found.end(Outcome.ANSWERED).state
    assert done.result is not None
    assert (done.result.status, done.result.attempts) == (TaskStatus.SUCCEEDED, 2)
    assert found.give(AttemptEnded(finished(number=1))) == Ignored("finished")


def test_its_answer_counts_while_no_other_attempt_is_out() -> None:
    peers = Windows()
    found = desk(at("a", **SILENT), at("b"), window=AttemptWindow.of(1), peers=peers)
    site_of(found)
    gone(found)
    peers.full = ["b"]
    waiting = found.decide(WakeUp())
    assert (waiting.state.phase, waiting.state.work_topic) == (TaskPhase.WAITING, "work.local.b.batch")
    assert [command.kind for command in waiting.commands] == [CommandKind.CANCEL]
    result = found.decide(AttemptEnded(finished(number=1))).state.result
    assert result is not None
    assert result.status is TaskStatus.SUCCEEDED


def test_it_stays_where_no_other_site_can_run_it() -> None:
    found = desk(at("a", **SILENT), *CLOUD)
    found.submit(role="general", privacy=Privacy.PUBLIC)
    assert state_of(found).attempts[-1].site == "a"
    gone(found)
    assert found.give(WakeUp()) == Ignored("early"), "nobody has agreed to what the cloud costs"
    found.fleet = (replace(at("a"), healthy=False), at("b"))
    assert found.give(WakeUp()) == Ignored("early"), "its worker is there, and says itself what it cannot run"


def test_tasks_that_wait_for_their_turn_at_a_site_that_is_gone_go_elsewhere() -> None:
    peers = Windows()
    peers.full = ["a", "b"]
    found = desk(at("a", **SILENT), at("b", busy=2), window=AttemptWindow.of(1), peers=peers)
    assert found.submit(model=MODEL, privacy=Privacy.SENSITIVE).state.work_topic == "work.local.a.batch"
    peers.full = ["a"]
    gone(found)
    assert found.decide(WakeUp()).state.attempts[-1].site == "b"


def view(*sites: str) -> RoutingView:
    return RoutingView(load_policy(None), load_price_book(), lambda: now[0], sites=sites)


now = [NOW]


def test_a_site_is_silent_when_none_of_its_workers_report_and_another_has_usable_nodes() -> None:
    now[0] = NOW
    found = view("a", "b")
    found.node_changed("n/a", at("a", valid_for_ms=10_000))
    found.node_changed("n/b", at("b", valid_for_ms=30_000))
    assert found.silent_sites() == {""}
    now[0] += 10_000
    assert found.silent_sites() == {"", "a"}
    found.node_changed("n/a", replace(at("a"), healthy=False, reported_at=now[0]))
    assert found.silent_sites() == {""}, "an unhealthy node is reported by a worker that is there"
    now[0] += 30_000
    assert found.silent_sites() == frozenset(), "there is nowhere to go"


def test_nothing_is_silent_while_nobody_reports_at_all() -> None:
    now[0] = NOW
    found = view("a", "b")
    assert found.silent_sites() == frozenset()


def test_nodes_of_sites_that_are_not_declared_get_no_work_and_that_is_said() -> None:
    now[0] = NOW
    found = view("a")
    found.node_changed("n/x", at("x", valid_for_ms=10_000))
    context = found.context(NoPeers(), "acme", "")
    assert not context.fleet.offering("ollama", MODEL, Place.LOCAL, NOW)
    problem = found.undeclared_sites()
    assert problem is not None
    assert "x" in problem
    assert "HEADRACE_SITES" in problem
    now[0] += 10_000
    assert found.undeclared_sites() is None
    found.node_changed("n/x", at("a"))
    assert found.context(NoPeers(), "acme", "").fleet.offering("ollama", MODEL, Place.LOCAL, NOW)


def test_interactive_attempts_and_batches_of_a_site_count_together() -> None:
    peers = NoPeers(places={"work.local.a.interactive": 1})
    assert site_of(desk(at("a"), at("b"), peers=peers), lane=Lane.BATCH) == "b"
