"""Which answers may serve other tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import Content, Outcome, ServedFrom, TaskCompleted, TaskPhase, TaskState, TaskStatus
from headrace_router.decide.model import Equal, LeaderFinished
from headrace_router.decide.policy import CacheLimits
from headrace_router.decide.sharing import may_be_kept, may_serve_followers
from headrace_router.decide.tasks import PartitionTasks
from headrace_testing.routing import NOW, Desk, NoPeers


def ended(task_id: str = "leader", finish_reason: str | None = "stop") -> TaskState:
    desk = Desk()
    desk.submit(task_id=task_id)
    return desk.end(Outcome.ANSWERED, task_id=task_id, finish_reason=finish_reason).state


def end(finish_reason: str | None = "stop", answer: Content | None = None) -> TaskCompleted:
    result = ended(finish_reason=finish_reason).result
    assert result is not None
    return result if answer is None else replace(result, answer=answer)


@pytest.mark.parametrize(
    ("finish_reason", "kept", "shared"),
    [
        ("stop", True, True),
        ("length", False, True),
        (None, False, False),
        ("", False, False),
        ("refusal", False, False),
        ("content_filter", False, False),
        ("STOP", False, False),
    ],
)
def test_only_ends_known_to_be_good_serve_others(finish_reason: str | None, kept: bool, shared: bool) -> None:
    result = end(finish_reason)
    assert result.status is TaskStatus.SUCCEEDED, "its own task gets it"
    assert (may_be_kept(result), may_serve_followers(result)) == (kept, shared)


@pytest.mark.parametrize("text", ["", " ", "\n\t\r\n"])
def test_an_answer_without_a_text_serves_nobody(text: str) -> None:
    # As journals of earlier versions may hold it.
    result = end(answer=plain(text))
    assert (may_be_kept(result), may_serve_followers(result)) == (False, False)
    assert not may_serve_followers(replace(result, answer=None))


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.EXPIRED, TaskStatus.CANCELLED])
def test_no_answer_serves_nobody(status: TaskStatus) -> None:
    result = replace(end(), status=status)
    assert (may_be_kept(result), may_serve_followers(result)) == (False, False)


def test_a_refusal_serves_followers_and_is_not_kept() -> None:
    result = replace(end(), status=TaskStatus.REFUSED, finish_reason="refusal")
    assert (may_be_kept(result), may_serve_followers(result)) == (False, True)


@pytest.mark.parametrize(
    ("finish_reason", "phase"),
    [
        ("stop", TaskPhase.FINISHED),
        ("length", TaskPhase.FINISHED),
        (None, TaskPhase.RUNNING),
        ("odd", TaskPhase.RUNNING),
    ],
)
def test_a_follower_of_an_end_that_may_not_serve_asks_itself(finish_reason: str | None, phase: TaskPhase) -> None:
    desk = Desk(peers=NoPeers(Equal(leader="leader")))
    desk.submit()
    desk.peers.equal = Equal()
    decision = desk.decide(LeaderFinished(end(finish_reason)))
    assert decision.state.phase is phase
    if phase is TaskPhase.FINISHED:
        assert decision.state.result is not None
        assert decision.state.result.served_from is ServedFrom.COALESCED


@pytest.mark.parametrize("finish_reason", ["length", None, "unheard_of"])
def test_what_was_cut_off_is_asked_anew_later(finish_reason: str | None) -> None:
    tasks = PartitionTasks(CacheLimits(), 10)
    state = ended("a", finish_reason)
    tasks.apply("a", state)
    assert tasks.equal_to(state.digest, NOW).answer is None
    whole = ended("b")
    tasks.apply("b", whole)
    assert tasks.equal_to(whole.digest, NOW).answer == whole.result
