"""What the router makes of executions that were lost: the trail says so, and the budget counts them as spent."""

from __future__ import annotations

import pytest
from headrace_contracts.events import (
    AttemptRequested,
    CommandKind,
    EntryKind,
    JournalEntry,
    LostExecution,
    Outcome,
    Privacy,
    Sampling,
    TrailStep,
    Usage,
)
from headrace_contracts.limits import LONGEST_NAME
from headrace_router.decide.model import Decision
from headrace_router.decide.publications import publication
from headrace_router.decide.reports import MOST_LOST
from headrace_testing.routing import CLOUD, NOW, TASK_ID, Desk

MODEL = "groq/llama-3.1-8b-instant"


def lost(*names: str) -> tuple[LostExecution, ...]:
    return tuple(LostExecution(execution_id=name, worker="cloud-1", started_at=NOW) for name in names)


def desk_with(budget: int | None, model: str | None = MODEL) -> tuple[Desk, Decision]:
    desk = Desk(fleet=CLOUD)
    sent = desk.submit(
        privacy=Privacy.PUBLIC, role=None, model=model, budget_nanodollars=budget,
        sampling=Sampling(max_output_tokens=100),
    )  # fmt: skip
    return desk, sent


def request_of(decision: Decision) -> AttemptRequested:
    entry = JournalEntry(
        kind=EntryKind.DECISION, task_id=TASK_ID, state=decision.state, commands=decision.commands, decided_at=NOW,
        policy_version="v1",
    )  # fmt: skip
    [command] = [command for command in decision.commands if command.kind is CommandKind.DISPATCH]
    request = publication(entry, command).event
    assert isinstance(request, AttemptRequested)
    return request


def lost_steps(decision: Decision) -> list[TrailStep]:
    trail = decision.state.trail if decision.state.result is None else decision.state.result.trail
    return [step for step in trail if step.step == "execution_lost"]


def test_the_trail_names_each_lost_execution_and_what_it_may_have_cost() -> None:
    desk, sent = desk_with(None)
    worst = request_of(sent).worst_case_nanodollars
    ended = desk.end(Outcome.ANSWERED, lost=lost("e-1", "e-2"), usage=Usage(input_tokens=10, output_tokens=5))
    steps = lost_steps(ended)
    assert [step.reason.split()[1] for step in steps] == ["e-1", "e-2"]
    assert all("cloud-1" in step.reason and "may have been billed up to $0.00" in step.reason for step in steps)
    assert ended.state.result is not None
    assert 0 < ended.state.result.cost_nanodollars < worst, "the cost of the task is what is known"


def test_a_lost_execution_counts_as_spent_with_its_worst_case() -> None:
    desk, sent = desk_with(10**9)
    first = request_of(sent)
    assert first.budget_left_nanodollars == 10**9
    desk.end(Outcome.FAILED_RETRYABLE, lost=lost("e-1"), node=None, usage=Usage())
    second = request_of(desk.wake())
    assert second.budget_left_nanodollars == 10**9 - first.worst_case_nanodollars


def test_what_may_have_been_spent_is_not_spent_again() -> None:
    worst = request_of(desk_with(10**9)[1]).worst_case_nanodollars
    desk, sent = desk_with(2 * worst - 1)
    assert request_of(sent).budget_left_nanodollars == 2 * worst - 1
    desk.end(Outcome.FAILED_RETRYABLE, lost=lost("e-1"), node=None, usage=Usage())
    ended = desk.wake()
    assert ended.state.result is not None
    rejected = [step.reason for step in ended.state.result.trail if step.step == "rejected"]
    assert [reason.split(":")[0] for reason in rejected] == ["over_budget"]
    assert desk.sent_to == [MODEL]


def test_an_attempt_that_asked_nobody_is_a_try_if_an_earlier_execution_may_have() -> None:
    desk, _ = desk_with(None)
    ended = desk.end(Outcome.FAILED_RETRYABLE, lost=lost("e-1"), node=None, usage=Usage(), model_ms=0.0)
    assert [attempt.asked for attempt in ended.state.attempts] == [True]


@pytest.mark.parametrize("local", [False, True])
def test_what_a_report_says_of_lost_executions_is_bounded(local: bool) -> None:
    desk = Desk() if local else desk_with(None)[0]
    if local:
        desk.submit()
    said = lost(*["x" * 10_000] * 1_000)
    ended = desk.end(Outcome.FAILED_RETRYABLE, lost=said, node=None, usage=Usage())
    steps = lost_steps(ended)
    assert len(steps) == (0 if local else MOST_LOST)
    assert all(len(step.reason) < LONGEST_NAME + 200 for step in steps)


def test_nobody_reports_an_attempt_as_lost() -> None:
    desk, _ = desk_with(None)
    ended = desk.end(Outcome.LOST)
    assert ended.state.attempts[0].outcome is Outcome.FAILED_RETRYABLE
