"""An attempt is a try if a model was asked. One that asked nobody costs none, and its task waits until the deadline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.events import (
    AttemptFinished,
    Failure,
    JournalEntry,
    Outcome,
    Place,
    Privacy,
    TaskPhase,
    TaskState,
    TaskStatus,
    Usage,
)
from headrace_router.decide.model import AttemptEnded, Decision, Disbelieved, Ignored, WakeUp
from headrace_testing import routing_laws
from headrace_testing.routing import ANTHROPIC, CLOUD, EVERYWHERE, GROQ, TASK_ID, Desk, finished, without

GEMMA = "ollama/gemma2:2b"
NOBODY: dict[str, Any] = {"usage": Usage(), "failure": Failure(code="no_capacity", message="it restarts")}


class CheckedDesk(Desk):
    """Checks every decision against the laws of routing."""

    def give(self, event: Any) -> Any:
        before, context = self.state, self.context
        result = super().give(event)
        routing_laws.check(before, event, result, context)
        return result


def sent_to(desk: Desk) -> str:
    last = state_of(desk).attempts[-1]
    return f"{last.provider}/{last.model}"


def state_of(desk: Desk) -> TaskState:
    assert desk.state is not None
    return desk.state


def test_a_sensitive_task_whose_only_node_restarts_waits_and_is_woken_by_it() -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.SENSITIVE)
    # The node is gone, and the router has not heard of it yet.
    for _ in range(5):
        desk.end(Outcome.FAILED_RETRYABLE, **NOBODY)
        assert state_of(desk).phase is TaskPhase.BACKING_OFF
        desk.wake()
        assert state_of(desk).phase is TaskPhase.RUNNING
    desk.end(Outcome.FAILED_RETRYABLE, **NOBODY)
    desk.fleet = without(EVERYWHERE, "ollama")
    desk.wake()
    waiting = state_of(desk)
    assert (waiting.phase, waiting.wake_at) == (TaskPhase.WAITING, waiting.deadline_at)
    desk.now += 600_000
    assert desk.give(WakeUp()) == Ignored("no_capacity")
    desk.fleet = EVERYWHERE
    assert desk.decide(WakeUp()).state.phase is TaskPhase.RUNNING
    # It has all its tries left.
    desk.end(Outcome.FAILED_RETRYABLE)
    desk.wake()
    assert desk.end(Outcome.ANSWERED).state.result is not None


@pytest.mark.parametrize("backing_off", [True, False])
def test_without_capacity_until_its_deadline_it_expires_for_that_reason(backing_off: bool) -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.SENSITIVE)
    desk.end(Outcome.FAILED_RETRYABLE, **NOBODY)
    if not backing_off:
        desk.fleet = ()
        desk.wake()
    assert state_of(desk).deadline_at is not None
    desk.now = state_of(desk).deadline_at or 0
    result = desk.decide(WakeUp()).state.result
    assert result is not None
    assert result.failure is not None
    assert (result.status, result.failure.code) == (
        TaskStatus.EXPIRED, "no_capacity" if backing_off else "no_local_capacity",
    )  # fmt: skip


def test_however_often_it_is_repeated_the_state_stays_small_and_the_delay_reaches_its_cap() -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.SENSITIVE, deadline_at=desk.now + 3_600_000)
    sizes, waits = [], []
    while desk.now < (state_of(desk).deadline_at or 0) - 20_000:
        desk.end(Outcome.FAILED_RETRYABLE, **NOBODY)
        waits.append((state_of(desk).wake_at or 0) - desk.now)
        desk.wake()
        sizes.append(len(repr(state_of(desk))))
        assert len(state_of(desk).attempts) <= 3
    assert len(sizes) > 300
    assert max(sizes[5:]) - min(sizes[5:]) < 20
    assert 125 <= waits[0] <= 250
    assert min(waits[10:]) >= desk.policy.retry.cap // 2
    ended = desk.end(Outcome.ANSWERED).state.result
    assert ended is not None
    assert ended.attempts == len(sizes) + 1
    assert [step.step for step in ended.trail if step.step != "rejected"] == ["not_asked", "dispatched", "finished"]


def test_the_state_outlives_a_restart_of_the_router() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.SENSITIVE)
    for _ in range(3):
        desk.end(Outcome.FAILED_RETRYABLE, **NOBODY)
        desk.wake()
    entry = JournalEntry.from_avro(
        JournalEntry(kind="decision", state=desk.state, decided_at=desk.now).to_avro()  # type: ignore[arg-type]
    )
    assert entry.state == desk.state
    assert [(attempt.number, attempt.asked) for attempt in state_of(desk).attempts] == [
        (2, False),
        (3, False),
        (4, True),
    ]


def test_the_same_again_then_the_next_candidate_and_from_then_on_each_in_turn() -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.PUBLIC)
    asked = [sent_to(desk)]
    for _ in range(9):
        desk.end(Outcome.FAILED_RETRYABLE, **NOBODY)
        if state_of(desk).phase is TaskPhase.BACKING_OFF:
            asked.append("wait")
            desk.wake()
        asked.append(sent_to(desk))
    assert asked[:8] == [GEMMA, "wait", GEMMA, GROQ, "wait", GROQ, ANTHROPIC, "wait"]
    assert asked[8:] == [ANTHROPIC, "wait", GEMMA, "wait", GROQ, "wait", ANTHROPIC, "wait", GEMMA]


def test_tries_are_limited_whatever_else_happens() -> None:
    desk = CheckedDesk(fleet=without(CLOUD, "anthropic"))
    desk.submit(privacy=Privacy.PUBLIC, model=GROQ)
    for fields in (NOBODY, {}, NOBODY, NOBODY):
        desk.end(Outcome.FAILED_RETRYABLE, **fields)
        desk.wake()
    result = desk.end(Outcome.FAILED_RETRYABLE).state.result
    assert result is not None
    assert (result.status, result.attempts) == (TaskStatus.FAILED, 5)


@pytest.mark.parametrize(
    ("outcome", "fields"),
    [
        (Outcome.FAILED_RETRYABLE, {"node": "workstation"}),
        (Outcome.FAILED_RETRYABLE, {"usage": Usage(output_tokens=1)}),
        (Outcome.FAILED_RETRYABLE, {"usage": Usage(output_tokens=-1)}),
        (Outcome.FAILED_RETRYABLE, {"model_ms": 3.0}),
        (Outcome.FAILED_RETRYABLE, {"failure": None}),
        (Outcome.FAILED_RETRYABLE, {"failure": Failure(code="worker_error")}),
        (Outcome.ANSWERED, {"content": None}),
    ],
)
def test_a_report_that_says_otherwise_is_no_proof_that_nobody_was_asked(
    outcome: Outcome, fields: dict[str, Any]
) -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.SENSITIVE)
    for _ in range(2):
        if state_of(desk).phase is TaskPhase.BACKING_OFF:
            desk.wake()
        desk.end(outcome, **{**NOBODY, **fields})
    assert state_of(desk).phase is TaskPhase.FINISHED


def late(**fields: Any) -> AttemptFinished:
    return finished(Outcome.EXPIRED, **{**NOBODY, **fields})


def test_a_late_word_that_nobody_was_asked_gives_the_try_back_and_ends_a_wait_for_nothing() -> None:
    desk = CheckedDesk(fleet=without(CLOUD, "anthropic"))
    desk.submit(privacy=Privacy.PUBLIC)
    for _ in range(3):
        desk.wake()
    assert [attempt.asked for attempt in state_of(desk).attempts] == [True, True]
    # Groq counts as tried twice, and nobody else is there.
    waiting = state_of(desk)
    assert (waiting.phase, waiting.wake_at) == (TaskPhase.WAITING, waiting.deadline_at)
    decision = desk.decide(AttemptEnded(late(number=1)))
    assert decision.commands == ()
    assert state_of(desk).phase is TaskPhase.BACKING_OFF
    desk.wake()
    assert (state_of(desk).phase, sent_to(desk), state_of(desk).attempts[-1].number) == (TaskPhase.RUNNING, GROQ, 3)
    assert desk.give(AttemptEnded(late(number=1))) == Ignored("late_result")
    # While another runs, only the count changes.
    running = state_of(desk)
    desk.decide(AttemptEnded(late(number=2)))
    assert (state_of(desk).phase, state_of(desk).wake_at) == (TaskPhase.RUNNING, running.wake_at)
    assert [attempt.asked for attempt in state_of(desk).attempts] == [False, False, True]


def test_a_late_word_keeps_what_the_attempt_may_have_cost() -> None:
    desk = CheckedDesk(fleet=CLOUD)
    desk.submit(privacy=Privacy.PUBLIC, budget_nanodollars=10_000_000)
    desk.wake()
    first = state_of(desk).attempts[0]
    assert first.worst_case_nanodollars > 0
    desk.decide(AttemptEnded(late(number=1)))
    assert state_of(desk).attempts[0] == replace(first, asked=False)


def test_a_late_word_of_another_tenant_or_worker_changes_nothing() -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.PUBLIC)
    desk.wake()
    assert desk.give(AttemptEnded(late(number=1, tenant="mallory"))) == Ignored("late_result")
    assert isinstance(desk.give(AttemptEnded(late(number=1), Place.CLOUD)), Disbelieved)


def test_an_attempt_that_asked_nobody_and_is_no_longer_held_is_ignored() -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.SENSITIVE)
    for _ in range(3):
        desk.end(Outcome.FAILED_RETRYABLE, **NOBODY)
        desk.wake()
    assert [attempt.number for attempt in state_of(desk).attempts] == [2, 3, 4]
    for outcome in Outcome:
        assert desk.give(AttemptEnded(finished(outcome, 1))) == Ignored("late_result")
    assert isinstance(desk.give(AttemptEnded(finished(Outcome.ANSWERED, 4))), Decision)
    assert state_of(desk).result is not None
    assert TASK_ID in str(state_of(desk).result)


LATE: dict[str, Any] = {"usage": Usage(), "failure": Failure(code="too_little_time", message="2 s are left")}


def test_what_no_candidate_can_end_in_time_expires_early_and_says_why() -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.SENSITIVE, deadline_at=desk.now + 30_000)
    result = desk.end(Outcome.EXPIRED, **LATE).state.result
    assert result is not None
    assert (result.status, result.failure) == (TaskStatus.EXPIRED, LATE["failure"])
    assert result.completed_at < desk.now + 30_000


def test_a_faster_candidate_gets_the_time_that_is_left() -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.PUBLIC, deadline_at=desk.now + 30_000)
    for expected in (GROQ, ANTHROPIC):
        assert desk.end(Outcome.EXPIRED, **LATE).state.phase is TaskPhase.RUNNING
        assert sent_to(desk) == expected
    result = desk.end(Outcome.EXPIRED, **LATE).state.result
    assert result is not None
    assert (result.status, result.attempts) == (TaskStatus.EXPIRED, 3)


def test_a_candidate_that_may_come_back_in_time_is_waited_for() -> None:
    desk = CheckedDesk(fleet=without(EVERYWHERE, "anthropic"))
    desk.submit(privacy=Privacy.PUBLIC, deadline_at=desk.now + 30_000)
    for _ in range(2):
        desk.end(Outcome.EXPIRED, **LATE)
    assert state_of(desk).phase is TaskPhase.WAITING
    desk.fleet = EVERYWHERE
    desk.decide(WakeUp())
    assert sent_to(desk) == ANTHROPIC


def test_too_little_of_an_attempts_time_is_not_too_little_of_the_tasks() -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.SENSITIVE)
    for _ in range(5):
        assert state_of(desk).wake_at != state_of(desk).deadline_at
        assert desk.end(Outcome.EXPIRED, **LATE).state.phase is TaskPhase.BACKING_OFF
        desk.wake()
    assert sent_to(desk) == GEMMA


def test_who_asked_all_the_same_has_not_come_too_late() -> None:
    desk = CheckedDesk()
    desk.submit(privacy=Privacy.SENSITIVE, deadline_at=desk.now + 30_000)
    desk.end(Outcome.EXPIRED, **{**LATE, "node": "workstation"})
    assert state_of(desk).phase is TaskPhase.BACKING_OFF
