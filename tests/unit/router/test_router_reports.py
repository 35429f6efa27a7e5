"""What is believed of a worker's report, and what is done when it says that content has left."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    AuditRecorded,
    Command,
    CommandKind,
    Content,
    EntryKind,
    Failure,
    JournalEntry,
    Outcome,
    Place,
    Privacy,
    TaskCompleted,
    TaskPhase,
    TaskState,
    TaskStatus,
    TrailStep,
    Usage,
)
from headrace_contracts.limits import LONGEST_NAME
from headrace_models.upstream.values import MOST_TOKENS
from headrace_router.decide.model import AttemptEnded, Decision, Disbelieved, Ignored, Unrecordable
from headrace_router.decide.publications import publication
from headrace_router.decide.reports import LONGEST_CODE, LONGEST_MESSAGE
from headrace_testing.routing import CLOUD, GROQ, NOW, TASK_ID, Desk, cancelled, finished, without

GEMMA, PHI, CODER = "ollama/gemma2:2b", "ollama/phi3:3.8b", "ollama/qwen2.5-coder:1.5b"
LEFT = Failure(code="answered_remotely", message="https://ollama.com made the answer")


def result_of(decision: Decision) -> TaskCompleted:
    assert decision.state.result is not None
    return decision.state.result


def state_of(desk: Desk) -> TaskState:
    assert desk.state is not None
    return desk.state


def breaches(decision: Decision) -> list[Command]:
    return [command for command in decision.commands if command.event_id.endswith("/breach")]


def audits(decision: Decision, now: int = NOW) -> list[AuditRecorded]:
    entry = JournalEntry(
        kind=EntryKind.DECISION, task_id=TASK_ID, state=decision.state, commands=decision.commands, decided_at=now,
        policy_version="v1",
    )  # fmt: skip
    events = [publication(entry, command).event for command in decision.commands]
    return [event for event in events if isinstance(event, AuditRecorded)]


# A breach


@pytest.mark.parametrize(
    ("privacy", "role", "then"),
    [
        (Privacy.SENSITIVE, "code_reviewer", CODER),
        (Privacy.INTERNAL, "code_reviewer", CODER),
        (Privacy.PUBLIC, None, GROQ),
    ],
)
def test_content_that_left_is_audited_and_the_task_goes_on_where_it_may(
    privacy: Privacy, role: str | None, then: str
) -> None:
    desk = Desk()
    desk.submit(privacy=privacy, role=role, user="eve", key_id="k", subject="p")
    first = desk.sent_to[0]
    decision = desk.end(Outcome.FAILED_PERMANENT, failure=LEFT)
    assert desk.sent_to == [first, then]
    assert [command.event_id for command in breaches(decision)] == [f"{TASK_ID}/1/breach"]
    dispatched, left = audits(decision)
    assert (dispatched.action, dispatched.attempt_id, dispatched.allowed) == ("dispatch", f"{TASK_ID}/2", True)
    assert (left.action, left.attempt_id, left.allowed) == ("breach", f"{TASK_ID}/1", False)
    assert (left.event_id, left.task_id, left.tenant) == (f"{TASK_ID}/1/breach", TASK_ID, "acme")
    assert (left.user, left.key_id, left.subject, left.privacy) == ("eve", "k", "p", privacy)
    assert (f"{left.provider}/{left.model}", left.policy_version) == (first, "v1")
    assert "content left" in left.reason
    assert "https://ollama.com" in left.reason


def test_a_sensitive_task_without_another_local_model_fails_and_the_breach_is_audited_with_its_end() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.SENSITIVE, reply_partition=1)
    decision = desk.end(Outcome.FAILED_PERMANENT, failure=LEFT)
    result = result_of(decision)
    assert result.failure is not None
    assert (result.status, result.failure.code, desk.sent_to) == (TaskStatus.FAILED, "answered_remotely", [GEMMA])
    assert [command.kind for command in decision.commands] == [
        CommandKind.REPLY, CommandKind.COMPLETE, CommandKind.AUDIT,
    ]  # fmt: skip
    (left,) = audits(decision)
    assert (left.action, left.attempt_id, left.privacy) == ("breach", f"{TASK_ID}/1", Privacy.SENSITIVE)
    assert f"{left.provider}/{left.model}" == GEMMA


def test_a_breach_while_no_other_model_is_there_is_audited_before_the_wait() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.SENSITIVE, role="code_reviewer")
    desk.fleet = ()
    decision = desk.end(Outcome.FAILED_PERMANENT, failure=LEFT)
    assert decision.state.phase is TaskPhase.WAITING
    assert [left.action for left in audits(decision)] == ["breach"]


def test_each_breach_is_audited_by_itself() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.SENSITIVE, role="code_reviewer")
    desk.end(Outcome.FAILED_PERMANENT, failure=LEFT)
    decision = desk.end(Outcome.FAILED_PERMANENT, failure=Failure(code="answered_remotely", message="other.example"))
    (left,) = audits(decision)
    assert (left.event_id, f"{left.provider}/{left.model}") == (f"{TASK_ID}/2/breach", CODER)
    assert "other.example" in left.reason


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_breach_is_one_whatever_the_outcome_is_called(outcome: Outcome) -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.SENSITIVE, role="code_reviewer")
    decision = desk.end(outcome, failure=LEFT)
    assert len(breaches(decision)) == 1
    # A refusal stays one: to ask elsewhere would circumvent it.
    assert desk.sent_to == ([PHI] if outcome is Outcome.REFUSED else [PHI, CODER])


@pytest.mark.parametrize("phase", [TaskPhase.RUNNING, TaskPhase.BACKING_OFF, TaskPhase.WAITING])
def test_the_breach_of_an_abandoned_attempt_is_audited_once_and_changes_nothing_else(phase: TaskPhase) -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.SENSITIVE, role="code_reviewer" if phase is TaskPhase.RUNNING else None)
    if phase is TaskPhase.WAITING:
        desk.fleet = ()
    desk.wake()
    if phase is TaskPhase.WAITING:
        desk.wake()
    before = state_of(desk)
    assert before.phase is phase
    late = AttemptEnded(finished(Outcome.FAILED_PERMANENT, 1, failure=LEFT))
    decision = desk.decide(late)
    assert [command.event_id for command in decision.commands] == [f"{TASK_ID}/1/breach"]
    assert (decision.state.phase, decision.state.wake_at) == (before.phase, before.wake_at)
    assert len(decision.state.attempts) == len(before.attempts)
    assert desk.give(late) == Ignored("late_result")


@pytest.mark.parametrize(
    "event",
    [
        finished(Outcome.FAILED_PERMANENT, 1, failure=LEFT, tenant="mallory"),
        finished(Outcome.FAILED_PERMANENT, 2, failure=LEFT),
        finished(Outcome.FAILED_PERMANENT, -1, failure=LEFT),
    ],
)
def test_a_breach_that_cannot_be_is_ignored(event: Any) -> None:
    desk = Desk()
    desk.submit()
    assert desk.give(AttemptEnded(event)) == Ignored("late_result")


def test_a_breach_is_owed_also_by_a_decision_that_outgrew_the_journal() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.SENSITIVE, role="code_reviewer")
    decision = desk.end(Outcome.FAILED_PERMANENT, failure=LEFT)
    # However many candidates were rejected since.
    rejected = [TrailStep(at=NOW, step="rejected", reason=f"reason {number}") for number in range(20)]
    desk.state = replace(decision.state, trail=(*decision.state.trail, *rejected))
    smaller = desk.decide(Unrecordable(9, 8, tuple(breaches(decision))))
    assert smaller.state.phase is TaskPhase.FINISHED
    assert [left.action for left in audits(smaller)] == ["breach"]
    assert len(result_of(smaller).trail) <= 9


# What a report may say


@pytest.mark.parametrize(
    "names", [{"provider": "", "model": ""}, {"provider": "\n", "model": "\x00"}, {"provider": "x" * 10**6}]
)
def test_the_router_knows_itself_who_was_asked(names: dict[str, str]) -> None:
    desk = Desk(fleet=CLOUD)
    desk.submit(privacy=Privacy.PUBLIC)
    result = result_of(desk.decide(AttemptEnded(finished(Outcome.ANSWERED, 1, **{"model": "", **names}))))
    assert f"{result.provider}/{result.model}" == GROQ


@pytest.mark.parametrize("long", ["y" * 10**6, "é" * 5_000, "a\r\nSet-Cookie: b\x00" * 500])
def test_what_a_report_says_is_bounded_and_printable(long: str) -> None:
    desk = Desk()
    desk.submit()
    result = result_of(desk.end(Outcome.ANSWERED, node=long, model=long, finish_reason=long))
    assert max(len(text or "") for text in (result.node, result.model)) <= LONGEST_NAME
    assert len(result.finish_reason or "") <= LONGEST_CODE
    assert all((text or "x").isprintable() for text in (result.node, result.model, result.finish_reason))


@pytest.mark.parametrize("long", ["z" * 10**6, "one\ntwo\x1b[31m" * 300, ""])
def test_a_failure_is_bounded_and_never_without_a_code(long: str) -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.SENSITIVE)
    failure = Failure(code=long, message=long, retry_after_ms=2**62)
    told = result_of(desk.end(Outcome.FAILED_PERMANENT, failure=failure)).failure
    assert told is not None
    assert 0 < len(told.code) <= LONGEST_CODE
    assert len(told.message) <= LONGEST_MESSAGE
    assert (told.code + told.message).isprintable()


@pytest.mark.parametrize("content", [None, plain(""), plain(" \n\t "), Content(cipher="key-1", data=b"")])
def test_an_answer_that_says_nothing_is_a_failure(content: Content | None) -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    desk.end(Outcome.ANSWERED, content=content)
    assert desk.sent_to == [GEMMA, GROQ]
    assert state_of(desk).attempts[0].outcome is Outcome.FAILED_RETRYABLE


def test_an_empty_late_answer_is_no_answer() -> None:
    desk = Desk()
    desk.submit()
    desk.wake()
    assert desk.give(AttemptEnded(finished(Outcome.ANSWERED, 1, content=plain("")))) == Ignored("late_result")


def test_what_is_sealed_counts_as_said() -> None:
    desk = Desk()
    desk.submit()
    assert result_of(desk.end(Outcome.ANSWERED, content=Content(cipher="key-1", data=b" "))).status is (
        TaskStatus.SUCCEEDED
    )


@pytest.mark.parametrize("milliseconds", [-1.0, math.nan, math.inf, -math.inf])
def test_a_time_that_cannot_be_is_unsaid(milliseconds: float) -> None:
    desk = Desk()
    desk.submit()
    assert result_of(desk.end(Outcome.ANSWERED, model_ms=milliseconds)).model_ms == 0.0


@pytest.mark.parametrize("asked", [-1, -(2**62), 2**62])
def test_a_wait_that_cannot_be_ends_no_task_before_its_time(asked: int) -> None:
    desk = Desk(fleet=CLOUD)
    desk.submit(privacy=Privacy.PUBLIC)
    desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="rate_limited", retry_after_ms=asked))
    if state_of(desk).phase is TaskPhase.BACKING_OFF:
        desk.wake()
    assert len(desk.sent_to) == 2


def test_a_call_in_a_batch_is_reckoned_at_the_batch_price() -> None:
    costs = []
    for batch in (False, True):
        desk = Desk(fleet=without(CLOUD, "anthropic"))
        desk.submit(privacy=Privacy.PUBLIC)
        usage = Usage(input_tokens=1_000, output_tokens=100)
        costs.append(result_of(desk.end(Outcome.ANSWERED, usage=usage, batch=batch)).cost_nanodollars)
    ordinary, halved = costs
    assert ordinary == 2 * halved > 0


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens=-1, output_tokens=-(2**62)),
        Usage(input_tokens=MOST_TOKENS + 1),
        Usage(input_tokens=2**62, output_tokens=2**62, cached_input_tokens=2**62, searches=2**62),
        Usage(cached_input_tokens=-5),
        Usage(searches=2**40),
    ],
)
def test_counts_that_cannot_be_cost_the_worst_case_and_count_for_nothing(usage: Usage) -> None:
    desk = Desk(fleet=without(CLOUD, "anthropic"))
    desk.submit(privacy=Privacy.PUBLIC)
    worst = state_of(desk).attempts[0].worst_case_nanodollars
    result = result_of(desk.end(Outcome.ANSWERED, usage=usage))
    assert result.usage == Usage()
    assert result.cost_nanodollars == worst > 0
    assert TaskCompleted.from_avro(result.to_avro()) == result


def test_the_largest_count_that_can_be_is_believed() -> None:
    desk = Desk(fleet=CLOUD)
    desk.submit(privacy=Privacy.PUBLIC)
    assert result_of(desk.end(Outcome.ANSWERED, usage=Usage(input_tokens=MOST_TOKENS))).usage == Usage(
        input_tokens=MOST_TOKENS
    )


def test_a_late_cancellation_of_a_breached_task_still_counts() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.SENSITIVE, role="code_reviewer")
    desk.end(Outcome.FAILED_PERMANENT, failure=LEFT)
    assert cancelled().tenant == "acme"
    assert result_of(desk.cancel()).status is TaskStatus.CANCELLED


# Who may say how an attempt has ended


def forged(number: int, outcome: Outcome, **fields: Any) -> AttemptEnded:
    return AttemptEnded(finished(outcome, number, **fields), worker=Place.CLOUD)


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("failure", [None, LEFT, Failure(code="invalid_request"), Failure(code="overloaded")])
def test_a_cloud_worker_is_not_believed_about_an_attempt_on_our_own_nodes(
    outcome: Outcome, failure: Failure | None
) -> None:
    desk = Desk()
    desk.submit(role="code_reviewer")
    before = state_of(desk)
    result = desk.give(forged(1, outcome, failure=failure))
    assert isinstance(result, Disbelieved)
    assert f"{TASK_ID}/1" in result.reason
    assert desk.state is before
    assert result_of(desk.end(Outcome.ANSWERED)).status is TaskStatus.SUCCEEDED


@pytest.mark.parametrize("outcome", Outcome)
def test_not_even_while_none_of_its_attempts_runs(outcome: Outcome) -> None:
    desk = Desk()
    desk.submit(role="code_reviewer")
    desk.end(Outcome.FAILED_RETRYABLE)
    assert state_of(desk).phase is TaskPhase.BACKING_OFF
    assert isinstance(desk.give(forged(1, outcome)), Disbelieved)
    assert isinstance(desk.give(forged(1, Outcome.FAILED_PERMANENT, failure=LEFT)), Disbelieved)


@pytest.mark.parametrize("worker", Place)
def test_an_attempt_in_the_cloud_is_ended_by_either_topic(worker: Place) -> None:
    desk = Desk(fleet=CLOUD)
    desk.submit(privacy=Privacy.PUBLIC)
    assert state_of(desk).attempts[-1].place is Place.CLOUD
    decision = desk.decide(AttemptEnded(finished(provider="groq"), worker=worker))
    assert result_of(decision).status is TaskStatus.SUCCEEDED


def test_a_cloud_worker_speaks_of_its_own_attempt_and_not_of_the_local_one_before() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    desk.end(Outcome.FAILED_PERMANENT)
    assert [attempt.place for attempt in state_of(desk).attempts] == [Place.LOCAL, Place.CLOUD]
    assert isinstance(desk.give(forged(1, Outcome.FAILED_PERMANENT, failure=LEFT)), Disbelieved)
    assert desk.give(forged(3, Outcome.ANSWERED)) == Ignored("late_result")
    assert result_of(desk.decide(forged(2, Outcome.ANSWERED))).status is TaskStatus.SUCCEEDED
