"""Figures and checks: each check is shown to fail when its promise is broken."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    AttemptFinished,
    ServedFrom,
    TaskCompleted,
    TaskStatus,
    TrailStep,
)
from headrace_contracts.events import (
    Outcome as AttemptOutcome,
)
from headrace_contracts.events import (
    Privacy as WirePrivacy,
)
from headrace_devstack.demo.answers import write_answers
from headrace_devstack.demo.checks import all_checks
from headrace_devstack.demo.corpus import Agent, Job, JobPrivacy, Way
from headrace_devstack.demo.measure import figures, percentile, spread, task_rows
from headrace_devstack.demo.outcomes import (
    CloudAttempt,
    JobOutcome,
    MarkerSearch,
    RunEvidence,
    SkillDelivery,
    SkillExchange,
)
from headrace_devstack.demo.report import Run, as_document, print_report
from rich.console import Console

AGENT = Agent("agent-1", "acme", Way.HTTP, ("review",), ())


def _job(number: int, *, sensitive: bool = False, twin_of: int | None = None) -> Job:
    return Job(
        number=number, role="code_reviewer", kind="review", subject="a.py", prompt="p", priority="batch",
        privacy=JobPrivacy.SENSITIVE if sensitive else JobPrivacy.PUBLIC, marker="m" if sensitive else None,
        twin_of=twin_of,
    )  # fmt: skip


def _end(task_id: str, *, provider: str = "ollama", privacy: WirePrivacy = WirePrivacy.PUBLIC, cost: int = 10,
         served: ServedFrom = ServedFrom.ATTEMPT, model_ms: float = 400.0) -> TaskCompleted:  # fmt: skip
    return TaskCompleted(
        task_id=task_id, tenant="acme", status=TaskStatus.SUCCEEDED, answer=plain("x"), provider=provider, model="m1",
        node="n1", simulated=True, privacy=privacy, cost_nanodollars=cost, served_from=served, attempts=1,
        model_ms=model_ms, submitted_at=1, completed_at=2,
        trail=(TrailStep(at=1, step="dispatched", provider=provider, model="m1", reason="first choice"),
               TrailStep(at=2, step="finished", reason="stop")),
    )  # fmt: skip


def _attempt(task_id: str, queued_ms: float) -> AttemptFinished:
    return AttemptFinished(
        attempt_id=f"{task_id}/1", task_id=task_id, tenant="acme", number=1, home_partition=0, execution_id="e",
        outcome=AttemptOutcome.ANSWERED, provider="ollama", model="m1", queued_ms=queued_ms, finished_at=1,
    )  # fmt: skip


OUTCOMES = (
    JobOutcome(_job(1), AGENT, "t1", 500.0, True),
    JobOutcome(_job(2, sensitive=True), AGENT, "t2", 700.0, True),
    JobOutcome(_job(3, twin_of=1), AGENT, "t3", 20.0, True),
)
EVIDENCE = RunEvidence(
    submitted=("t1", "t2", "t3"),
    completions=(
        _end("t1", provider="groq", cost=7),
        _end("t2", privacy=WirePrivacy.SENSITIVE, cost=0),
        _end("t3", served=ServedFrom.CACHE, cost=0),
    ),
    attempts=(_attempt("t1", 60.0), _attempt("t2", 90.0)),
    cloud_attempts=(CloudAttempt("work.cloud.batch", "t1", "groq", False),),
    ledger={"acme": 7},
    received=MarkerSearch(True, {"ollama": 1, "groq": 0}),
)
EXCHANGE = SkillExchange(
    publish_ms=(9.0,),
    deliveries=(SkillDelivery("s", "agent-2", "agent-1", 30.0, 12.0),),
    expected=frozenset({("s", "agent-1")}),
)


def test_a_good_run_passes_every_check() -> None:
    checks = all_checks(OUTCOMES, EVIDENCE, EXCHANGE)
    assert [check.promise for check in checks if not check.kept] == []
    assert len(checks) == 11


def _ends(*ends: TaskCompleted) -> RunEvidence:
    return replace(EVIDENCE, completions=ends)


T1, T2, T3 = EVIDENCE.completions

LEAK = CloudAttempt("work.cloud.batch", "t2", "groq", True)
NOT_ACCEPTED = JobOutcome(_job(4), AGENT, None, 1.0, False, "no")
NOT_ANSWERED = replace(OUTCOMES[0], answered=False, problem="failed")


@dataclass(frozen=True)
class Broken:
    """What is seen when a promise, named by its first words, is broken."""

    promise: str
    outcomes: tuple[JobOutcome, ...] = OUTCOMES
    evidence: RunEvidence = EVIDENCE
    exchange: SkillExchange = EXCHANGE
    unread: tuple[str, ...] = ()


BROKEN = (
    Broken("each task has exactly one", evidence=_ends(T1, T2)),
    Broken("each task has exactly one", evidence=_ends(T1, T2, T3, T3)),
    Broken("each task has exactly one", evidence=_ends(T1, T2, T3, _end("t9", cost=0))),
    Broken("each job became one task", evidence=replace(EVIDENCE, submitted=("t1", "t2"))),
    Broken("each job became one task", evidence=replace(EVIDENCE, submitted=("t1", "t2", "t3", "t3"))),
    Broken("each job became one task", outcomes=OUTCOMES[:2]),
    Broken("each job became one task", outcomes=(*OUTCOMES, NOT_ACCEPTED)),
    Broken("agents received", evidence=_ends(replace(T1, answer=None), T2, T3)),
    Broken("every task was answered", outcomes=(NOT_ANSWERED, *OUTCOMES[1:])),
    Broken("no sensitive attempt", evidence=replace(EVIDENCE, cloud_attempts=(LEAK,))),
    Broken("sensitive tasks were answered", evidence=_ends(T1, replace(T2, provider="groq"), T3)),
    Broken("sensitive tasks were answered", evidence=_ends(T1, replace(T2, privacy=WirePrivacy.PUBLIC), T3)),
    Broken("no sensitive byte", evidence=replace(EVIDENCE, received=MarkerSearch(True, {"ollama": 1, "groq": 1}))),
    Broken("no sensitive byte", evidence=replace(EVIDENCE, received=MarkerSearch(False, {"ollama": 1}))),
    Broken("the markers do arrive", evidence=replace(EVIDENCE, received=MarkerSearch(True, {"ollama": 0}))),
    Broken("tasks and ledger agree", evidence=replace(EVIDENCE, ledger={"acme": 8})),
    Broken("tasks and ledger agree", evidence=replace(EVIDENCE, ledger={})),
    Broken("every skill reached", exchange=replace(EXCHANGE, deliveries=())),
    Broken("every skill reached", exchange=replace(EXCHANGE, deliveries=EXCHANGE.deliveries * 2)),
    Broken("every skill reached", exchange=replace(EXCHANGE, expected=frozenset())),
    Broken("every skill reached", exchange=replace(EXCHANGE, problems=("a feed broke",))),
    Broken("every record read", unread=("t[0]@1: garbage",)),
)


@pytest.mark.parametrize("seen", BROKEN, ids=lambda seen: seen.promise)
def test_a_broken_promise_is_found(seen: Broken) -> None:
    checks = all_checks(seen.outcomes, seen.evidence, seen.exchange, seen.unread)
    assert seen.promise in " ".join(check.promise for check in checks if not check.kept)


def test_nothing_submitted_is_no_success() -> None:
    empty = RunEvidence((), (), (), (), {}, MarkerSearch(True, {}))
    assert not all(check.kept for check in all_checks((), empty, SkillExchange()))


def test_real_providers_cannot_be_asked_what_they_received() -> None:
    checks = all_checks(OUTCOMES, replace(EVIDENCE, received=None), EXCHANGE)
    assert all(check.kept for check in checks)
    assert not any("byte" in check.promise for check in checks)


def test_percentiles_by_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [50.0, 99.0, 100.0]
    assert spread([7.0]) == spread([7.0, 7.0]).__class__(1, 7.0, 7.0, 7.0)
    assert spread([]).count == 0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_headraces_share_is_what_the_model_and_the_queue_leave() -> None:
    shares = figures(OUTCOMES, EVIDENCE, EXCHANGE, 10.0).shares
    assert shares.total.count == 2
    assert (shares.own.p50, shares.own.p99) == (40.0, 210.0)
    assert (shares.outside_model.p50, shares.waiting.p99) == (100.0, 90.0)


def test_figures_count_what_was_shared_and_where_tasks_ran() -> None:
    found = figures(OUTCOMES, EVIDENCE, EXCHANGE, 10.0)
    assert (found.repeats, found.shared) == (1, 1)
    assert found.served == {"attempt": 2, "cache": 1}
    assert [(place.provider, place.tasks, place.sensitive, place.reason) for place in found.places] == [
        ("groq", 1, 0, "first choice"), ("ollama", 1, 1, "first choice"),
    ]  # fmt: skip
    (tenant,) = found.tenants
    assert (tenant.tasks, tenant.tasks_nanodollars, tenant.ledger_nanodollars) == (3, 7, 7)


def _run(evidence: RunEvidence) -> Run:
    return Run(
        run="r", folder="/x", files=2, sensitive_files=1, commits=0, agents=1, simulated=("groq",),
        figures=figures(OUTCOMES, evidence, EXCHANGE, 10.0), checks=all_checks(OUTCOMES, evidence, EXCHANGE),
        tasks=task_rows(OUTCOMES, evidence),
    )  # fmt: skip


def test_every_table_says_that_it_is_simulated() -> None:
    text = StringIO()
    print_report(Console(file=text, width=140), _run(EVIDENCE))
    assert text.getvalue().count("simulated: groq") == 6
    assert "All promises kept" in text.getvalue()


def test_a_broken_promise_shows_and_counts() -> None:
    text = StringIO()
    run = _run(replace(EVIDENCE, ledger={"acme": 8}))
    print_report(Console(file=text, width=140), run)
    assert "A promise was broken" in text.getvalue()
    document = json.loads(json.dumps(as_document(run)))
    assert document["passed"] is False
    assert [(task["task_id"], task["served_from"], task["cost_nanodollars"]) for task in document["tasks"]] == [
        ("t1", "attempt", 7), ("t2", "attempt", 0), ("t3", "cache", 0),
    ]  # fmt: skip


def test_a_task_without_an_end_has_a_row_all_the_same() -> None:
    (row,) = task_rows([NOT_ACCEPTED], EVIDENCE)
    assert (row.task_id, row.status, row.problem) == (None, None, "no")


def test_answers_are_files_of_the_user_alone(tmp_path: Path) -> None:
    write_answers(tmp_path / "out", OUTCOMES, EVIDENCE)
    file = tmp_path / "out" / "review.md"
    assert file.read_text().count("## a.py: p") == 1
    assert "simulated" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
