"""The transition table: every event in every phase, and the ways through it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import text_of
from headrace_contracts.events import (
    CommandKind,
    Failure,
    Outcome,
    Privacy,
    PrivacyLevel,
    Sampling,
    ServedFrom,
    TaskCompleted,
    TaskPhase,
    TaskStatus,
    Usage,
)
from headrace_router.decide.machine import TRANSITIONS
from headrace_router.decide.model import (
    CAUSES,
    AttemptEnded,
    Cancelled,
    Decision,
    Equal,
    Ignored,
    LeaderFinished,
    Noted,
    RouterEvent,
    Submitted,
    Undeliverable,
    Unrecordable,
    WakeUp,
)
from headrace_router.decide.retry import backoff
from headrace_router.decide.terminal import must_not_be_lost
from headrace_testing.panels import policy_with
from headrace_testing.routing import (
    CLOUD,
    EVERYWHERE,
    GROQ,
    LOCAL,
    NOW,
    SEARCH_WEB,
    TASK_ID,
    Desk,
    NoPeers,
    cancelled,
    finished,
    preferences,
    task,
    without,
)


def new() -> Desk:
    return Desk()


def waiting() -> Desk:
    desk = Desk(fleet=())
    desk.submit()
    return desk


def running() -> Desk:
    desk = Desk()
    desk.submit()
    return desk


def backing_off() -> Desk:
    desk = running()
    desk.end(Outcome.FAILED_RETRYABLE)
    return desk


def searching() -> Desk:
    desk = Desk(fleet=(*EVERYWHERE, SEARCH_WEB))
    desk.submit(role="research", privacy=Privacy.PUBLIC)
    return desk


def consulting() -> Desk:
    desk = Desk(policy=policy_with())
    desk.submit(role="together")
    return desk


def following() -> Desk:
    desk = Desk(peers=NoPeers(Equal(leader="leader")))
    desk.submit()
    desk.peers.equal = Equal()
    return desk


def ended() -> Desk:
    desk = running()
    desk.end(Outcome.ANSWERED)
    return desk


DESKS = {
    None: new,
    TaskPhase.WAITING: waiting,
    TaskPhase.RUNNING: running,
    TaskPhase.BACKING_OFF: backing_off,
    TaskPhase.SEARCHING: searching,
    TaskPhase.CONSULTING: consulting,
    TaskPhase.FOLLOWING: following,
    TaskPhase.FINISHED: ended,
}


def leader_result(status: TaskStatus = TaskStatus.SUCCEEDED) -> TaskCompleted:
    result = ended().state.result  # type: ignore[union-attr]
    assert result is not None
    return replace(result, task_id="leader", status=status)


EVENTS: dict[type[RouterEvent], RouterEvent] = {
    Submitted: Submitted(task(), b"key", 3),
    Cancelled: Cancelled(cancelled()),
    AttemptEnded: AttemptEnded(finished()),
    LeaderFinished: LeaderFinished(leader_result()),
    WakeUp: WakeUp(),
    Unrecordable: Unrecordable(5_000_000, 4_000_000),
    Undeliverable: Undeliverable(1, Failure(code="record_too_large")),
}

# What an event at once leads to, from each phase: a phase, or the reason why it changes nothing.
EXPECTED: dict[tuple[TaskPhase | None, type[RouterEvent]], TaskPhase | str] = {
    (None, Submitted): TaskPhase.RUNNING,
    (None, Cancelled): "noted",
    (None, AttemptEnded): "unknown_task",
    (None, LeaderFinished): "unknown_task",
    (None, WakeUp): "unknown_task",
    (None, Unrecordable): "unknown_task",
    (None, Undeliverable): "unknown_task",
    (TaskPhase.WAITING, Submitted): "duplicate",
    (TaskPhase.WAITING, Cancelled): TaskPhase.FINISHED,
    (TaskPhase.WAITING, AttemptEnded): "late_result",
    (TaskPhase.WAITING, LeaderFinished): "not_following",
    (TaskPhase.WAITING, WakeUp): "no_capacity",
    (TaskPhase.WAITING, Unrecordable): TaskPhase.FINISHED,
    (TaskPhase.WAITING, Undeliverable): "no_attempt",
    (TaskPhase.RUNNING, Submitted): "duplicate",
    (TaskPhase.RUNNING, Cancelled): TaskPhase.FINISHED,
    (TaskPhase.RUNNING, AttemptEnded): TaskPhase.FINISHED,
    (TaskPhase.RUNNING, LeaderFinished): "not_following",
    (TaskPhase.RUNNING, WakeUp): "early",
    (TaskPhase.RUNNING, Unrecordable): TaskPhase.FINISHED,
    (TaskPhase.RUNNING, Undeliverable): TaskPhase.FINISHED,
    (TaskPhase.BACKING_OFF, Submitted): "duplicate",
    (TaskPhase.BACKING_OFF, Cancelled): TaskPhase.FINISHED,
    (TaskPhase.BACKING_OFF, AttemptEnded): "late_result",
    (TaskPhase.BACKING_OFF, LeaderFinished): "not_following",
    (TaskPhase.BACKING_OFF, WakeUp): "early",
    (TaskPhase.BACKING_OFF, Unrecordable): TaskPhase.FINISHED,
    (TaskPhase.BACKING_OFF, Undeliverable): "no_attempt",
    (TaskPhase.SEARCHING, Submitted): "duplicate",
    (TaskPhase.SEARCHING, Cancelled): TaskPhase.FINISHED,
    # Its content is none of a search.
    (TaskPhase.SEARCHING, AttemptEnded): TaskPhase.SEARCHING,
    (TaskPhase.SEARCHING, LeaderFinished): "not_following",
    (TaskPhase.SEARCHING, WakeUp): "early",
    (TaskPhase.SEARCHING, Unrecordable): TaskPhase.FINISHED,
    # No source is left, so that a model answers without.
    (TaskPhase.SEARCHING, Undeliverable): TaskPhase.RUNNING,
    (TaskPhase.CONSULTING, Submitted): "duplicate",
    (TaskPhase.CONSULTING, Cancelled): TaskPhase.FINISHED,
    # Others are still to answer.
    (TaskPhase.CONSULTING, AttemptEnded): TaskPhase.CONSULTING,
    (TaskPhase.CONSULTING, LeaderFinished): "not_following",
    (TaskPhase.CONSULTING, WakeUp): "early",
    (TaskPhase.CONSULTING, Unrecordable): TaskPhase.FINISHED,
    (TaskPhase.CONSULTING, Undeliverable): TaskPhase.CONSULTING,
    (TaskPhase.FOLLOWING, Submitted): "duplicate",
    (TaskPhase.FOLLOWING, Cancelled): TaskPhase.FINISHED,
    (TaskPhase.FOLLOWING, AttemptEnded): "no_attempt",
    (TaskPhase.FOLLOWING, LeaderFinished): TaskPhase.FINISHED,
    (TaskPhase.FOLLOWING, WakeUp): "early",
    (TaskPhase.FOLLOWING, Unrecordable): TaskPhase.FINISHED,
    (TaskPhase.FOLLOWING, Undeliverable): "no_attempt",
    (TaskPhase.FINISHED, Submitted): "finished",
    (TaskPhase.FINISHED, Cancelled): "finished",
    (TaskPhase.FINISHED, AttemptEnded): "finished",
    (TaskPhase.FINISHED, LeaderFinished): "finished",
    (TaskPhase.FINISHED, WakeUp): "finished",
    (TaskPhase.FINISHED, Unrecordable): TaskPhase.FINISHED,
    (TaskPhase.FINISHED, Undeliverable): "finished",
}


def test_every_pair_is_defined_and_expected() -> None:
    pairs = set(itertools.product([None, *TaskPhase], EVENTS))
    assert set(TRANSITIONS) == pairs == set(EXPECTED)
    assert set(CAUSES) == set(EVENTS)


@pytest.mark.parametrize(("phase", "event"), EXPECTED, ids=lambda part: getattr(part, "__name__", str(part)))
def test_every_event_in_every_phase(phase: TaskPhase | None, event: type[RouterEvent]) -> None:
    desk = DESKS[phase]()
    assert (desk.state.phase if desk.state else None) == phase
    result = desk.give(EVENTS[event])
    expected = EXPECTED[phase, event]
    match result:
        case Ignored(reason=reason):
            assert reason == expected
        case Noted(cancellation=cancellation):
            assert expected == "noted"
            assert Cancelled(cancellation) == EVENTS[Cancelled]
        case Decision(state=state):
            assert state.phase == expected


@pytest.mark.parametrize("phase", [phase for phase in DESKS if phase is not None], ids=str)
def test_a_decision_made_again_is_the_same(phase: TaskPhase) -> None:
    for event in EVENTS.values():
        first, second = DESKS[phase](), DESKS[phase]()
        assert first.give(event) == second.give(event)


def kinds(decision: Decision) -> list[CommandKind]:
    return [command.kind for command in decision.commands]


def test_an_answered_task_carries_all_that_was_asked_of_it() -> None:
    desk = Desk()
    desk.submit(labels={"a": "b"}, session="s", subject="p", user="eve", key_id="k", kind="review", reply_partition=2)
    desk.now += 700
    decision = desk.end(Outcome.ANSWERED, node="workstation", model_ms=650.0, simulated=True)
    result = decision.state.result
    assert result is not None
    assert result.answer is not None
    assert text_of(result.answer) == "Deep enough."
    assert (result.status, result.served_from, result.attempts) == (TaskStatus.SUCCEEDED, ServedFrom.ATTEMPT, 1)
    assert (result.provider, result.model, result.node, result.simulated) == (
        "ollama",
        "gemma2:2b",
        "workstation",
        True,
    )
    assert (result.labels, result.session, result.subject, result.user) == ({"a": "b"}, "s", "p", "eve")
    assert (result.key_id, result.kind, result.home_partition) == ("k", "review", 3)
    assert (result.submitted_at, result.completed_at, result.model_ms) == (NOW, NOW + 700, 650.0)
    assert [step.step for step in result.trail] == ["dispatched", "finished"]
    assert kinds(decision) == [CommandKind.REPLY, CommandKind.COMPLETE]
    assert (decision.state.task, decision.state.attempts, decision.state.trail) == (None, (), ())


def test_nobody_waits_nobody_is_replied_to() -> None:
    assert kinds(ended().decisions[-1]) == [CommandKind.COMPLETE]


def test_a_refusal_is_an_answer() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    result = desk.end(Outcome.REFUSED).state.result
    assert result is not None
    assert (result.status, result.attempts, desk.sent_to) == (TaskStatus.REFUSED, 1, ["ollama/gemma2:2b"])


def test_a_retryable_failure_is_tried_again_after_a_while_and_then_elsewhere() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    backing = desk.end(Outcome.FAILED_RETRYABLE)
    assert backing.state.phase is TaskPhase.BACKING_OFF
    assert backing.commands == ()
    assert backing.state.wake_at is not None
    assert 125 <= backing.state.wake_at - NOW <= 250
    desk.wake()
    desk.end(Outcome.FAILED_RETRYABLE)
    assert desk.sent_to == ["ollama/gemma2:2b", "ollama/gemma2:2b", GROQ]
    assert [step.step for step in desk.state.trail] == [  # type: ignore[union-attr]
        "dispatched", "retried", "dispatched", "fell_back", "rejected", "dispatched",
    ]  # fmt: skip


def test_a_permanent_failure_goes_to_the_next_at_once() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    decision = desk.end(Outcome.FAILED_PERMANENT)
    assert desk.sent_to == ["ollama/gemma2:2b", GROQ]
    assert kinds(decision) == [CommandKind.DISPATCH, CommandKind.AUDIT]


def test_a_request_that_is_wrong_everywhere_is_given_up() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    result = desk.end(Outcome.FAILED_PERMANENT, failure=Failure(code="invalid_request")).state.result
    assert result is not None
    assert (result.status, desk.sent_to) == (TaskStatus.FAILED, ["ollama/gemma2:2b"])


def test_when_every_candidate_has_failed_the_last_failure_is_told() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    for code in ("a", "b", "c"):
        desk.end(Outcome.FAILED_PERMANENT, failure=Failure(code=code))
    result = desk.state.result  # type: ignore[union-attr]
    assert result is not None
    assert result.failure is not None
    assert (result.status, result.failure.code, result.attempts) == (TaskStatus.FAILED, "c", 3)


def test_the_number_of_attempts_is_bounded() -> None:
    desk = Desk(
        policy=Desk().policy.model_copy(update={"retry": Desk().policy.retry.model_copy(update={"attempts": 3})})
    )
    desk.submit(privacy=Privacy.PUBLIC)
    while desk.state is not None and desk.state.phase is not TaskPhase.FINISHED:
        if desk.state.phase is TaskPhase.RUNNING:
            desk.end(Outcome.FAILED_RETRYABLE)
        else:
            desk.wake()
    assert len(desk.sent_to) == 3


def test_a_failure_of_an_own_node_with_nobody_else_allowed_waits_for_capacity() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.SENSITIVE)
    desk.end(Outcome.FAILED_RETRYABLE)
    desk.fleet = without(EVERYWHERE, "ollama")
    assert desk.wake().state.phase is TaskPhase.WAITING
    desk.fleet = EVERYWHERE
    desk.now += 100
    assert desk.decide(WakeUp()).state.phase is TaskPhase.RUNNING
    assert desk.sent_to == ["ollama/gemma2:2b"] * 2


def test_a_provider_that_asks_for_a_long_wait_is_left_for_the_next() -> None:
    desk = Desk(fleet=CLOUD)
    desk.submit(privacy=Privacy.PUBLIC)
    desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="rate_limited", retry_after_ms=60_000))
    assert desk.sent_to == [GROQ, "anthropic/claude-haiku-4-5"]


def test_a_provider_that_asks_for_a_long_wait_gets_it_where_there_is_no_other() -> None:
    desk = Desk(fleet=without(CLOUD, "anthropic"))
    desk.submit(privacy=Privacy.PUBLIC)
    decision = desk.end(Outcome.FAILED_RETRYABLE, failure=Failure(code="rate_limited", retry_after_ms=60_000))
    assert (decision.state.phase, decision.state.wake_at) == (TaskPhase.BACKING_OFF, NOW + 60_000)
    desk.wake()
    assert desk.sent_to == [GROQ, GROQ]


def test_there_is_no_retry_past_the_deadline() -> None:
    desk = Desk(fleet=without(CLOUD, "anthropic"))
    desk.submit(privacy=Privacy.PUBLIC, deadline_at=NOW + 100)
    decision = desk.end(Outcome.FAILED_RETRYABLE)
    assert decision.state.result is not None
    assert decision.state.result.status is TaskStatus.FAILED


def test_an_attempt_without_a_result_is_given_up_and_its_late_answer_still_taken() -> None:
    desk = Desk()
    desk.submit()
    assert desk.wake().state.phase is TaskPhase.BACKING_OFF
    assert desk.now == NOW + desk.policy.attempts.timeout.batch
    late = desk.decide(AttemptEnded(finished(Outcome.ANSWERED, 1)))
    assert late.state.result is not None
    assert late.state.result.status is TaskStatus.SUCCEEDED


def test_a_late_failure_or_an_older_attempt_changes_nothing() -> None:
    desk = Desk()
    desk.submit()
    desk.wake()
    assert desk.give(AttemptEnded(finished(Outcome.FAILED_RETRYABLE, 1))) == Ignored("late_result")
    desk.wake()
    assert desk.give(AttemptEnded(finished(Outcome.ANSWERED, 1))) == Ignored("late_result")


def test_nobody_acts_for_another_tenant() -> None:
    desk = running()
    assert desk.give(Cancelled(cancelled(tenant="mallory"))) == Ignored("foreign_tenant")
    assert desk.give(AttemptEnded(finished(tenant="mallory"))) == Ignored("late_result")


def told(decision: Decision) -> list[tuple[str, str]]:
    return [(c.topic, c.event_id) for c in decision.commands if c.kind is CommandKind.CANCEL]


LOCALLY = ("attempts.cancelled.local", f"{TASK_ID}/cancelled/local")
REMOTELY = ("attempts.cancelled.cloud", f"{TASK_ID}/cancelled/cloud")


def in_the_cloud() -> Desk:
    desk = Desk(fleet=CLOUD)
    desk.submit(privacy=Privacy.PUBLIC)
    return desk


def in_both_places() -> Desk:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC)
    desk.end(Outcome.FAILED_PERMANENT)
    return desk


def given_up_and_waiting() -> Desk:
    desk = running()
    desk.fleet = ()
    desk.wake()
    return desk


@pytest.mark.parametrize(
    ("desk", "expected"),
    [
        (waiting, []),
        (following, []),
        (running, [LOCALLY]),
        (in_the_cloud, [REMOTELY]),
        (in_both_places, [LOCALLY, REMOTELY]),
        # The worker may still be at it, or begin it once more.
        (backing_off, [LOCALLY]),
        (given_up_and_waiting, [LOCALLY]),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_the_workers_that_were_sent_attempts_are_told_of_a_cancellation_and_no_others(
    desk: Callable[[], Desk], expected: list[tuple[str, str]]
) -> None:
    decision = desk().decide(Cancelled(cancelled()))
    assert told(decision) == expected
    assert decision.state.result is not None
    assert decision.state.result.status is TaskStatus.CANCELLED


def test_nobody_is_told_of_a_task_that_was_cancelled_before_it_came() -> None:
    decision = Desk().decide(Submitted(task(), b"key", 3, cancelled=cancelled()))
    assert kinds(decision) == [CommandKind.COMPLETE]


@pytest.mark.parametrize("outcome", [Outcome.ANSWERED, Outcome.REFUSED, Outcome.FAILED_PERMANENT, Outcome.EXPIRED])
def test_no_other_end_stops_workers(outcome: Outcome) -> None:
    desk = running()
    assert told(desk.end(outcome)) == []
    ended_late = running()
    assert ended_late.state is not None
    assert ended_late.state.deadline_at is not None
    ended_late.now = ended_late.state.deadline_at
    assert told(ended_late.decide(WakeUp())) == []


@pytest.mark.parametrize(
    "failure", [None, Failure(code="cancelled", message="the task was cancelled"), Failure(code="invalid_request")]
)
def test_a_worker_that_stops_an_attempt_of_its_own_accord_ends_no_task(failure: Failure | None) -> None:
    desk = running()
    decision = desk.end(Outcome.CANCELLED, failure=failure)
    assert decision.state.phase is TaskPhase.BACKING_OFF
    closed = decision.state.attempts[-1]
    assert closed.failure is not None
    assert (closed.outcome, closed.failure.code) == (Outcome.FAILED_RETRYABLE, "unasked_cancellation")
    # A request that comes now is honoured, as always.
    result = desk.decide(Cancelled(cancelled())).state.result
    assert result is not None
    assert result.status is TaskStatus.CANCELLED


def test_workers_are_told_though_the_end_is_too_large_to_be_recorded() -> None:
    desk = running()
    cancelled_first = desk.decide(Cancelled(cancelled()))
    owed = tuple(command for command in cancelled_first.commands if must_not_be_lost(command))
    smaller = desk.decide(Unrecordable(5_000_000, 4_000_000, owed))
    assert told(smaller) == [LOCALLY]
    assert smaller.state.result is not None
    assert smaller.state.result.status is TaskStatus.CANCELLED


@pytest.mark.parametrize("phase", [TaskPhase.WAITING, TaskPhase.RUNNING, TaskPhase.BACKING_OFF, TaskPhase.FOLLOWING])
def test_every_live_task_ends_at_its_deadline(phase: TaskPhase) -> None:
    desk = DESKS[phase]()
    assert desk.state is not None
    assert desk.state.deadline_at is not None
    desk.now = desk.state.deadline_at
    result = desk.decide(WakeUp()).state.result
    assert result is not None
    assert result.status is TaskStatus.EXPIRED


def test_a_task_that_comes_too_late_is_not_begun() -> None:
    result = Desk().submit(deadline_at=NOW).state.result
    assert result is not None
    assert (result.status, result.attempts) == (TaskStatus.EXPIRED, 0)


def test_a_deadline_is_cut_to_the_longest_allowed() -> None:
    desk = Desk()
    desk.submit(deadline_at=NOW + 10**12)
    assert desk.state is not None
    assert desk.state.deadline_at == NOW + desk.policy.deadlines.longest


def test_a_cancellation_to_stop_that_overtook_its_task_stops_it() -> None:
    decision = Desk().decide(Submitted(task(), b"key", 3, None, cancelled()))
    assert decision.state.result is not None
    assert (decision.state.result.status, kinds(decision)) == (TaskStatus.CANCELLED, [CommandKind.COMPLETE])
    foreign = Desk().decide(Submitted(task(), b"key", 3, None, cancelled(tenant="mallory")))
    assert foreign.state.phase is TaskPhase.RUNNING


@pytest.mark.parametrize("status", [TaskStatus.SUCCEEDED, TaskStatus.REFUSED])
def test_followers_end_with_their_leader_at_no_cost(status: TaskStatus) -> None:
    decision = following().decide(LeaderFinished(leader_result(status)))
    result = decision.state.result
    assert result is not None
    assert (result.task_id, result.status, result.served_from) == (TASK_ID, status, ServedFrom.COALESCED)
    assert (result.source_task_id, result.cost_nanodollars, result.attempts) == ("leader", 0, 0)
    assert result.usage == Usage()
    assert result.answer == leader_result().answer
    assert decision.commands[-1].event_id == f"{TASK_ID}/serve_cached"


@pytest.mark.parametrize(
    "result", [None, *(leader_result(s) for s in (TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.EXPIRED))]
)
def test_a_follower_whose_leader_gave_no_answer_goes_its_own_way(result: TaskCompleted | None) -> None:
    decision = following().decide(LeaderFinished(result))
    assert decision.state.phase is TaskPhase.RUNNING
    assert decision.state.leader_task_id is None


def test_an_answer_in_the_cache_serves_at_once() -> None:
    desk = Desk(peers=NoPeers(Equal(answer=leader_result())))
    decision = desk.submit(reply_partition=1)
    result = decision.state.result
    assert result is not None
    assert (result.status, result.served_from, result.source_task_id) == (
        TaskStatus.SUCCEEDED, ServedFrom.CACHE, "leader",
    )  # fmt: skip
    assert (result.provider, result.cost_nanodollars) == ("ollama", 0)
    assert kinds(decision) == [CommandKind.REPLY, CommandKind.COMPLETE, CommandKind.AUDIT]


def test_who_wants_an_answer_of_its_own_gets_one() -> None:
    desk = Desk(peers=NoPeers(Equal(leader="leader", answer=leader_result())))
    decision = desk.submit(allow_cached=False)
    assert decision.state.phase is TaskPhase.RUNNING
    assert decision.state.digest == ""


def test_tasks_are_equal_only_under_the_same_tenant_question_and_rules() -> None:
    def digest(desk: Desk | None = None, **fields: Any) -> str:
        return (desk or Desk()).submit(**fields).state.digest

    base = digest()
    assert base == digest(task_id="other", user="eve", labels={"x": "y"}, deadline_at=NOW + 5000, budget_nanodollars=9)
    different = [
        digest(tenant="other"),
        digest(text="How wide is the lake?"),
        digest(role="documentation"),
        digest(model="phi3:3.8b"),
        digest(privacy=Privacy.PUBLIC),
        digest(privacy=Privacy.SENSITIVE),
        digest(sampling=Sampling(temperature=0.5)),
        digest(preferred_provider="groq"),
        digest(Desk(tenant=preferences(allowed_providers=("groq",)))),
    ]
    assert len({base, *different}) == 1 + len(different)


def test_a_later_stricter_cancellation_holds_for_the_next_attempt() -> None:
    desk = Desk(tenant=preferences(allowed_providers=("groq",)), fleet=CLOUD)
    desk.submit()
    assert desk.sent_to == [GROQ]
    desk.tenant = preferences()
    desk.fleet = EVERYWHERE
    desk.end(Outcome.FAILED_RETRYABLE)
    desk.wake()
    assert desk.sent_to == [GROQ, "ollama/gemma2:2b"]


def test_a_later_laxer_cancellation_does_not_lower_the_level() -> None:
    desk = Desk(fleet=(), tenant=preferences(privacy_level=PrivacyLevel.HIGH))
    desk.submit()
    desk.tenant = preferences(privacy_level=PrivacyLevel.LOW)
    desk.fleet = CLOUD
    desk.now += 10
    assert desk.give(WakeUp()) == Ignored("no_capacity")
    desk.fleet = EVERYWHERE
    assert desk.decide(WakeUp()).state.privacy is Privacy.SENSITIVE
    assert desk.sent_to == ["ollama/gemma2:2b"]


def test_costs_of_all_attempts_are_summed_and_count_against_the_budget() -> None:
    desk = Desk(fleet=without(CLOUD, "anthropic"))
    desk.submit(privacy=Privacy.PUBLIC, budget_nanodollars=10**9, sampling=Sampling(max_output_tokens=100))
    desk.end(Outcome.FAILED_RETRYABLE, usage=Usage(input_tokens=1000))
    desk.wake()
    result = desk.end(Outcome.ANSWERED, usage=Usage(input_tokens=1000, output_tokens=100)).state.result
    assert result is not None
    assert result.cost_nanodollars == 2 * 590_000 + 79_000
    assert result.usage == Usage(input_tokens=2000, output_tokens=100)


def test_an_attempt_nobody_heard_of_counts_with_its_worst_case() -> None:
    desk = Desk(fleet=without(CLOUD, "anthropic"))
    sampling = Sampling(max_output_tokens=100)
    desk.submit(privacy=Privacy.PUBLIC, budget_nanodollars=10**9, sampling=sampling)
    worst = desk.state.attempts[0].worst_case_nanodollars  # type: ignore[union-attr]
    tight = Desk(fleet=without(CLOUD, "anthropic"))
    tight.submit(privacy=Privacy.PUBLIC, budget_nanodollars=2 * worst - 1, sampling=sampling)
    tight.wake()
    tight.wake()
    assert tight.sent_to == [GROQ]
    assert tight.state is not None
    assert tight.state.phase is TaskPhase.WAITING


def test_a_stream_is_told_when_another_attempt_begins() -> None:
    desk = Desk()
    desk.submit(privacy=Privacy.PUBLIC, stream=True, reply_partition=4)
    assert kinds(desk.decisions[-1]) == [CommandKind.DISPATCH, CommandKind.AUDIT]
    decision = desk.end(Outcome.FAILED_PERMANENT)
    assert [(c.kind, c.attempt) for c in decision.commands] == [
        (CommandKind.REPLY, 2), (CommandKind.DISPATCH, 2), (CommandKind.AUDIT, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("phase", [phase for phase in DESKS if phase is not None], ids=str)
def test_what_the_journal_cannot_hold_ends_without_what_made_it_large(phase: TaskPhase) -> None:
    desk = DESKS[phase]()
    decision = desk.decide(Unrecordable(5_000_000, 4_000_000))
    result = decision.state.result
    assert result is not None
    assert result.failure is not None
    assert (result.status, result.failure.code) == (TaskStatus.FAILED, "record_too_large")
    assert (result.answer, result.labels, decision.state.task) == (None, {}, None)
    assert CommandKind.COMPLETE in kinds(decision)


def test_ids_of_commands_follow_from_the_task() -> None:
    desk = Desk()
    desk.submit(reply_partition=0)
    desk.end(Outcome.ANSWERED)
    ids = [command.event_id for decision in desk.decisions for command in decision.commands]
    assert ids == [f"{TASK_ID}/1", f"{TASK_ID}/1/audit", f"{TASK_ID}/reply", f"{TASK_ID}/completed"]


def test_the_backoff_grows_to_its_cap_and_differs_between_tasks() -> None:
    retry = Desk().policy.retry
    waits = [backoff(TASK_ID, number, number, retry) for number in range(1, 40)]
    full = [min(retry.cap, 250 * 2**doublings) for doublings in range(len(waits))]
    assert all(most / 2 <= wait <= most for most, wait in zip(full, waits, strict=True))
    assert len({backoff(f"task-{n}", 1, 1, retry) for n in range(50)}) > 20


def test_a_wake_up_for_new_capacity_sends_a_waiting_task_off() -> None:
    desk = waiting()
    desk.fleet = [LOCAL]
    assert desk.decide(WakeUp()).state.phase is TaskPhase.RUNNING
    assert [step.step for step in desk.state.trail] == ["waited", "dispatched"]  # type: ignore[union-attr]
