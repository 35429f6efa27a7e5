"""Figures and checks: each check is shown to fail when its promise is broken."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
from headrace import Message, ToolCall, ToolResult
from headrace.kafka_tasks import conversation_events
from headrace_contracts.content import plain
from headrace_contracts.events import (
    AnswerChoice,
    AttemptFinished,
    MessagePart,
    PartKind,
    ServedFrom,
    TaskCompleted,
    TaskStatus,
    TaskSubmitted,
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
from headrace_devstack.demo.findings import CodeFinding, FindingsReport
from headrace_devstack.demo.measure import figures, task_rows
from headrace_devstack.demo.outcomes import (
    CloudAttempt,
    JobOutcome,
    MarkerSearch,
    RunEvidence,
    SkillDelivery,
    SkillExchange,
    SubmittedRound,
    TaskRound,
    ToolUse,
)
from headrace_devstack.demo.report import Run, as_document, print_report
from headrace_devstack.demo.spreads import percentile, spread
from headrace_devstack.demo.tool_loops import round_of
from rich.console import Console

AGENT = Agent("agent-1", "acme", Way.HTTP, ("review",), ())


def _job(number: int, *, sensitive: bool = False, twin_of: int | None = None, with_tools: bool = False,
         structured: bool = False) -> Job:  # fmt: skip
    return Job(
        number=number, role="code_reviewer", kind="review", subject="a.py", prompt="p", priority="batch",
        privacy=JobPrivacy.SENSITIVE if sensitive else JobPrivacy.PUBLIC, marker="m" if sensitive else None,
        twin_of=twin_of, with_tools=with_tools, structured=structured,
    )  # fmt: skip


def _end(task_id: str, *, provider: str = "ollama", privacy: WirePrivacy = WirePrivacy.PUBLIC, cost: int = 10,
         served: ServedFrom = ServedFrom.ATTEMPT, model_ms: float = 400.0,
         calls: tuple[str, ...] = ()) -> TaskCompleted:  # fmt: skip
    made = tuple(MessagePart(kind=PartKind.TOOL_CALL, content=plain("{}"), call_id=one, name="f") for one in calls)
    return TaskCompleted(
        choices=(AnswerChoice(parts=made),) if made else (),
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


def _outcome(job: Job, total_ms: float, *task_ids: str) -> JobOutcome:
    each = total_ms / len(task_ids)
    return JobOutcome(job, AGENT, tuple(TaskRound(task_id, each, True) for task_id in task_ids), total_ms, True)


def _report(*severities: str) -> FindingsReport:
    findings = [{"severity": one, "file": "a.py", "place": "line 3", "title": "a title"} for one in severities]
    return FindingsReport(summary="s", findings=[CodeFinding.model_validate(one) for one in findings])


def _submitted(*task_ids: str) -> tuple[SubmittedRound, ...]:
    return tuple(SubmittedRound(task_id, 0, offset) for offset, task_id in enumerate(task_ids))


OUTCOMES = (
    _outcome(_job(1), 500.0, "t1"),
    _outcome(_job(2, sensitive=True), 700.0, "t2"),
    _outcome(_job(3, twin_of=1), 20.0, "t3"),
)
EVIDENCE = RunEvidence(
    submitted=_submitted("t1", "t2", "t3"),
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
    assert len(checks) == 13


def _ends(*ends: TaskCompleted) -> RunEvidence:
    return replace(EVIDENCE, completions=ends)


T1, T2, T3 = EVIDENCE.completions

LEAK = CloudAttempt("work.cloud.batch", "t2", "groq", True)
NOT_ACCEPTED = JobOutcome(_job(4), AGENT, (TaskRound(None, 1.0, False, "no"),), 1.0, False, "no")
NOT_ANSWERED = replace(OUTCOMES[0], answered=False, problem="failed")

LOOP_JOB = _job(5, with_tools=True, structured=True, sensitive=True)
LOOP = replace(
    _outcome(LOOP_JOB, 900.0, "r1", "r2", "r3", "r4"), report=_report("high", "low", "low"),
    calls=(ToolUse("read_file", False), ToolUse("search_repository", False), ToolUse("read_file", True)),
)  # fmt: skip
LOOP_ENDS = (
    _end("r1", calls=("a", "b"), privacy=WirePrivacy.SENSITIVE, cost=0),
    _end("r2", calls=("c",), privacy=WirePrivacy.SENSITIVE, cost=0),
    _end("r3", privacy=WirePrivacy.SENSITIVE, cost=0),
    _end("r4", privacy=WirePrivacy.SENSITIVE, cost=0),
)
LOOP_ROUNDS = (
    SubmittedRound("r1", 2, 10, "s"),
    SubmittedRound("r2", 2, 11, "s", ("a", "b")),
    SubmittedRound("r3", 2, 15, "s", ("c",)),
    SubmittedRound("r4", 2, 16, "s"),
)
WITH_LOOP = (*OUTCOMES, LOOP)


def _loop(*ends: TaskCompleted, rounds: tuple[SubmittedRound, ...] = LOOP_ROUNDS, arrived: int = 5) -> RunEvidence:
    return replace(
        EVIDENCE, completions=(*EVIDENCE.completions, *(ends or LOOP_ENDS)), submitted=(*EVIDENCE.submitted, *rounds),
        received=MarkerSearch(True, {"ollama": arrived, "groq": 0}),
    )  # fmt: skip


def _rounds(place: int, **changed: object) -> tuple[SubmittedRound, ...]:
    rounds = list(LOOP_ROUNDS)
    rounds[place] = replace(rounds[place], **changed)  # type: ignore[arg-type]
    return tuple(rounds)


R1, R2, R3, R4 = LOOP_ENDS
R3_OF_R2 = replace(R3, task_id="r2")


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
    Broken("each job became one task", evidence=replace(EVIDENCE, submitted=_submitted("t1", "t2"))),
    Broken("each job became one task", evidence=replace(EVIDENCE, submitted=_submitted("t1", "t2", "t3", "t3"))),
    Broken("each job became one task", outcomes=OUTCOMES[:2]),
    Broken("each job became one task", outcomes=(*OUTCOMES, NOT_ACCEPTED)),
    Broken("agents received", evidence=_ends(replace(T1, answer=None), T2, T3)),
    Broken("every job was answered", outcomes=(NOT_ANSWERED, *OUTCOMES[1:])),
    Broken("each job became one task", WITH_LOOP, _loop(rounds=LOOP_ROUNDS[:3])),
    Broken("each job became one task", outcomes=(*OUTCOMES, replace(NOT_ACCEPTED, rounds=()))),
    Broken("each task has exactly one", WITH_LOOP, _loop(R1, R2, R4)),
    Broken("every tool call", WITH_LOOP, _loop(rounds=_rounds(1, results=("a",)))),
    Broken("every tool call", WITH_LOOP, _loop(rounds=_rounds(1, results=("a", "b", "b")))),
    Broken("every tool call", WITH_LOOP, _loop(rounds=_rounds(2, results=("x",)))),
    Broken("every tool call", WITH_LOOP, _loop(rounds=_rounds(3, results=("c",)))),
    Broken("every tool call", WITH_LOOP, _loop(rounds=_rounds(1, session="other"))),
    Broken("every tool call", WITH_LOOP, _loop(rounds=_rounds(1, partition=3))),
    Broken("every tool call", WITH_LOOP, _loop(rounds=_rounds(1, offset=9))),
    Broken("every tool call", WITH_LOOP, _loop(R1, R2, R3, replace(R4, choices=R1.choices))),
    Broken("every tool call", WITH_LOOP, _loop(replace(R1, choices=()), R2, R3, R4)),
    Broken("every tool call", evidence=_ends(replace(T1, choices=R1.choices), T2, T3)),
    Broken("agents received", WITH_LOOP, _loop(replace(R1, answer=None), R2, R3, R4)),
    Broken("sensitive tasks were answered", WITH_LOOP, _loop(R1, replace(R2, provider="groq"), R3, R4)),
    Broken("sensitive tasks were answered", WITH_LOOP, _loop(R1, R2, replace(R3, privacy=WirePrivacy.INTERNAL), R4)),
    Broken("the markers do arrive", WITH_LOOP, _loop(arrived=4)),
    Broken("every structured answer", (*OUTCOMES, replace(LOOP, report=None)), _loop()),
    Broken(
        "every structured answer", (*OUTCOMES, replace(LOOP, report=None, invalid="no JSON", answered=False)), _loop()
    ),
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


@pytest.mark.parametrize(
    "loop",
    [LOOP, replace(LOOP, report=None, declined=True), replace(LOOP, report=_report())],
    ids=["findings", "declined", "no findings"],
)
def test_a_good_loop_passes_every_check(loop: JobOutcome) -> None:
    checks = all_checks((*OUTCOMES, loop), _loop(), EXCHANGE)
    assert [check.promise for check in checks if not check.kept] == []


def test_a_job_begun_anew_without_tools_is_no_broken_loop() -> None:
    first, *_ = LOOP_ROUNDS
    rounds = (first, SubmittedRound("r2", 1, 3))
    failed = replace(R1, choices=(), answer=None, status=TaskStatus.FAILED)
    outcome = replace(
        LOOP, rounds=(TaskRound("r1", 1.0, False, "incapable"), TaskRound("r2", 1.0, True)), calls=(),
        without_tools=True,
    )  # fmt: skip
    checks = all_checks((*OUTCOMES, outcome), _loop(failed, R3_OF_R2, rounds=rounds), EXCHANGE)
    assert [check.promise for check in checks if not check.kept] == []
    found = figures((*OUTCOMES, outcome), _loop(failed, R3_OF_R2, rounds=rounds), EXCHANGE, 1.0).loops
    assert (found.jobs, found.loops, found.uncalled, found.without_tools) == (1, 0, 0, 1)


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


def test_tasks_of_loops_and_their_calls_and_findings_are_counted() -> None:
    uncalled = _outcome(_job(6, with_tools=True), 100.0, "u1")
    found = figures((*WITH_LOOP, uncalled), _loop(), EXCHANGE, 10.0)
    assert (found.jobs, found.tasks) == (5, 8)
    loops = found.loops
    assert (loops.jobs, loops.loops, loops.uncalled, loops.tasks, loops.most_tasks) == (2, 1, 1, 4, 4)
    assert (loops.calls, loops.latency.p50) == (3, 900.0)
    assert [(row.tool, row.calls, row.failed) for row in loops.by_tool] == [
        ("read_file", 2, 1), ("search_repository", 1, 0),
    ]  # fmt: skip
    (findings,) = found.findings
    assert (findings.kind, findings.reports, findings.invalid) == ("review", 1, 0)
    assert findings.by_severity == {"high": 1, "medium": 0, "low": 2}
    (tenant,) = found.tenants
    assert tenant.tasks == 8
    assert found.served == {"attempt": 6, "cache": 1}


CALLS = Message.assistant(ToolCall("a", "f"), ToolCall("b", "f"))
RESULTS = [Message.tool(ToolResult("a", "1")), Message.tool(ToolResult("b", "2"))]


@pytest.mark.parametrize(
    ("conversation", "results"),
    [
        (["Read it."], ()),
        (["Read it.", CALLS, *RESULTS], ("a", "b")),
        (["Read it.", CALLS, *RESULTS[:1]], ("a",)),
        (["Read it.", CALLS, *RESULTS, "Answer now."], ("a", "b")),
        (["Read it.", CALLS, *RESULTS, Message.assistant(ToolCall("c", "f")), Message.tool(ToolResult("c"))], ("c",)),
        (["Read it.", CALLS, *RESULTS, Message.assistant("Done."), "Report."], ()),
    ],
    ids=["none", "both", "one", "and a question", "of the last round", "none since the answer"],
)
def test_the_results_of_a_round_are_those_since_the_model_last_spoke(
    conversation: list[str | Message], results: tuple[str, ...]
) -> None:
    task = TaskSubmitted(
        task_id="t", tenant="a", messages=conversation_events(conversation), session="s", submitted_at=1
    )
    assert round_of(task, 3, 4) == SubmittedRound("t", 3, 4, "s", results)


def test_each_task_of_a_job_has_a_row() -> None:
    rows = [row for row in task_rows(WITH_LOOP, _loop()) if row.job == LOOP_JOB.number]
    assert [(row.task_id, row.round, row.tool_calls, row.privacy) for row in rows] == [
        ("r1", 1, 2, "sensitive"), ("r2", 2, 1, "sensitive"), ("r3", 3, 0, "sensitive"), ("r4", 4, 0, "sensitive"),
    ]  # fmt: skip


def _run(evidence: RunEvidence, outcomes: tuple[JobOutcome, ...] = OUTCOMES) -> Run:
    return Run(
        run="r", folder="/x", files=2, sensitive_files=1, commits=0, agents=1, simulated=("groq",),
        figures=figures(outcomes, evidence, EXCHANGE, 10.0), checks=all_checks(outcomes, evidence, EXCHANGE),
        tasks=task_rows(outcomes, evidence),
    )  # fmt: skip


def test_the_tables_show_loops_and_findings() -> None:
    text = StringIO()
    run = _run(_loop(), WITH_LOOP)
    print_report(Console(file=text, width=140), run)
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert "4 jobs (7 tasks) by 1 agents over 2 files (1 sensitive) and 0 commits of /x" in lines
    assert "read_file 2 1" in lines
    assert "1 of 1 jobs with tools called some: 3 calls in 4 rounds, each a task, at most 4 for a job" in lines
    assert "a whole loop: p50 900 ms, p99 900 ms" in lines
    assert "loops over HTTP: 1" in lines
    assert "review 1 1 0 2 0 0" in lines
    document = json.loads(json.dumps(as_document(run)))
    assert document["figures"]["loops"]["by_tool"][0] == {"tool": "read_file", "calls": 2, "failed": 1}
    assert document["figures"]["findings"][0]["by_severity"] == {"high": 1, "medium": 0, "low": 2}
    assert (document["figures"]["jobs"], document["figures"]["tasks"]) == (4, 7)


def test_every_table_says_that_it_is_simulated() -> None:
    text = StringIO()
    print_report(Console(file=text, width=140), _run(EVIDENCE))
    assert text.getvalue().count("simulated: groq") == 8
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


def test_findings_are_written_in_words(tmp_path: Path) -> None:
    write_answers(tmp_path, WITH_LOOP, _loop())
    assert "- **high** a.py, line 3: a title" in (tmp_path / "review.md").read_text()
