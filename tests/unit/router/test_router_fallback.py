"""Who is asked after a model that took its time and gave nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_contracts.events import Failure, Outcome, Place, Privacy, TaskPhase, TaskState, TaskStatus
from headrace_router.decide.policy import Policy
from headrace_testing.routing import ANTHROPIC, CLOUD, EVERYWHERE, GROQ, LOCAL, NOW, Desk, node, preferences, without

IN_VAIN = ["timeout", "connection_lost", "empty_answer", "unknown_finish"]
PHI, CODER, GEMMA = "ollama/phi3:3.8b", "ollama/qwen2.5-coder:1.5b", "ollama/gemma2:2b"


def state_of(desk: Desk) -> TaskState:
    assert desk.state is not None
    return desk.state


@pytest.mark.parametrize("code", IN_VAIN)
@pytest.mark.parametrize(("fleet", "first", "then"), [(CLOUD, GROQ, ANTHROPIC), (EVERYWHERE, GEMMA, GROQ)])
def test_the_next_candidate_is_asked_at_once(code: str, fleet: tuple[object, ...], first: str, then: str) -> None:
    desk = Desk(fleet=fleet)  # type: ignore[arg-type]
    desk.submit(privacy=Privacy.PUBLIC)
    decision = desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code=code))
    assert desk.sent_to == [first, then]
    assert decision.state.phase is TaskPhase.RUNNING
    assert [step.step for step in decision.state.trail if step.step == "fell_back"] == ["fell_back"]


def test_a_silent_provider_leaves_time_for_the_next_before_the_deadline() -> None:
    desk = Desk(fleet=CLOUD)
    desk.submit(privacy=Privacy.PUBLIC, role="task_router")
    desk.wake()
    assert desk.sent_to == [GROQ, ANTHROPIC]
    state = state_of(desk)
    assert state.deadline_at is not None
    assert state.wake_at is not None
    assert state.wake_at - desk.now == desk.policy.attempts.timeout.interactive
    assert state.wake_at < state.deadline_at


def test_a_worker_that_saw_the_time_out_first_says_the_same() -> None:
    desk = Desk(fleet=CLOUD)
    desk.submit(privacy=Privacy.PUBLIC)
    desk.end(Outcome.EXPIRED, failure=Failure(code="deadline_passed"))
    assert desk.sent_to == [GROQ, ANTHROPIC]


@pytest.mark.parametrize("code", IN_VAIN)
def test_the_same_model_again_only_where_there_is_no_other(code: str) -> None:
    desk = Desk(fleet=without(CLOUD, "anthropic"))
    desk.submit(privacy=Privacy.PUBLIC)
    decision = desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code=code))
    assert decision.state.phase is TaskPhase.BACKING_OFF
    assert {f"{each.provider}/{each.model}": each.code for each in decision.rejected}[GROQ] == "failed_before"
    desk.wake()
    assert desk.sent_to == [GROQ, GROQ]
    desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code=code))
    assert (state_of(desk).phase, len(desk.sent_to)) == (TaskPhase.WAITING, 2)


def test_one_that_comes_back_during_the_backoff_is_asked_first() -> None:
    desk = Desk(fleet=without(CLOUD, "anthropic"))
    desk.submit(privacy=Privacy.PUBLIC)
    desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="timeout"))
    desk.fleet = CLOUD
    desk.wake()
    assert desk.sent_to == [GROQ, ANTHROPIC]


def test_each_candidate_is_asked_once_before_any_is_asked_twice() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC, role="code_reviewer")
    for code in ("timeout", "empty_answer", "unknown_finish", "connection_lost", "timeout", "timeout"):
        desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code=code))
    assert desk.sent_to == [PHI, CODER, GROQ, ANTHROPIC, PHI, CODER]
    assert state_of(desk).phase is TaskPhase.FINISHED


def test_a_lasting_failure_after_a_time_out_goes_on_and_not_back() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="timeout"))
    desk.end(Outcome.FAILED_PERMANENT, failure=Failure(code="request_rejected"))
    assert desk.sent_to == [GEMMA, GROQ, ANTHROPIC]


def test_a_failure_that_took_more_than_half_of_an_attempts_time_counts_as_one() -> None:
    slow, quick = Desk(fleet=CLOUD), Desk(fleet=CLOUD)
    for desk, waited in ((slow, slow.policy.attempts.timeout.batch // 2), (quick, 2_000)):
        desk.submit(privacy=Privacy.PUBLIC)
        desk.now = NOW + waited
        desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="provider_error"))
    assert slow.sent_to == [GROQ, ANTHROPIC]
    assert state_of(quick).phase is TaskPhase.BACKING_OFF


@pytest.mark.parametrize("code", IN_VAIN)
def test_what_must_stay_stays(code: str) -> None:
    desk = Desk()
    desk.submit(role="code_reviewer", privacy=Privacy.SENSITIVE)
    for _ in range(4):
        desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code=code))
        if state_of(desk).phase is TaskPhase.BACKING_OFF:
            desk.wake()
    assert desk.sent_to == [PHI, CODER, PHI, CODER]
    assert state_of(desk).result is not None
    assert state_of(desk).privacy is Privacy.SENSITIVE


def test_no_consent_no_fallback() -> None:
    desk = Desk(tenant=preferences(allowed_providers=("anthropic",)))
    desk.submit(privacy=Privacy.INTERNAL)
    desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="timeout"))
    assert desk.sent_to == [GEMMA, ANTHROPIC]


def test_a_task_that_names_its_model_gets_no_other() -> None:
    desk = Desk()
    desk.submit(model=GROQ, privacy=Privacy.PUBLIC)
    desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="timeout"))
    desk.wake()
    assert desk.sent_to == [GROQ, GROQ]


def test_there_is_no_further_attempt_than_the_limits_allow() -> None:
    policy: Policy = Desk().policy
    desk = Desk(policy=policy.model_copy(update={"retry": policy.retry.model_copy(update={"attempts": 3})}))
    desk.submit(privacy=Privacy.PUBLIC)
    for _ in range(3):
        desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="timeout"))
    result = state_of(desk).result
    assert result is not None
    assert result.failure is not None
    assert (desk.sent_to, result.status, result.failure.code) == (
        [GEMMA, GROQ, ANTHROPIC], TaskStatus.FAILED, "timeout",
    )  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "request_rejected",
        "output_blocked",
        "report_unencodable",
        "answer_too_large",
        "unreadable_work",
        "model_missing",
    ],
)
def test_what_this_model_cannot_do_another_may(code: str) -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    desk.end(Outcome.FAILED_PERMANENT, failure=Failure(code=code))
    desk.end(Outcome.FAILED_PERMANENT, failure=Failure(code=code))
    assert desk.sent_to == [GEMMA, GROQ, ANTHROPIC]


def test_another_node_with_the_same_model_is_no_other_candidate_but_a_good_retry() -> None:
    desk = Desk(fleet=(LOCAL, replace(node("second", models=["gemma2:2b"]), place=Place.LOCAL)))
    desk.submit()
    desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="connection_lost"))
    desk.wake()
    assert desk.sent_to == [GEMMA, GEMMA]
