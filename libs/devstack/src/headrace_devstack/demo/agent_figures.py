"""How the agents' models used tools, and what they found. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace_devstack.demo.findings import SEVERITIES
from headrace_devstack.demo.outcomes import JobOutcome
from headrace_devstack.demo.spreads import Spread, spread


@dataclass(frozen=True, slots=True)
class ToolRow:
    """Calls of one tool; `failed`: those that got an error as their result."""

    tool: str
    calls: int
    failed: int


@dataclass(frozen=True, slots=True)
class LoopFigures:
    """Jobs whose models could call tools.

    Attributes:
        jobs: All of them.
        loops: Those whose model called some.
        uncalled: Those whose model answered without.
        without_tools: Those that got the file's text instead, since no model could call tools.
        tasks: Tasks of the loops.
        most_tasks: Tasks of the longest.
        latency: Of the loops, from the first submission to the last answer.
        by_way: Loops by API.
        by_tool: Calls by tool.
    """

    jobs: int
    loops: int
    uncalled: int
    without_tools: int
    tasks: int
    most_tasks: int
    latency: Spread
    by_way: Mapping[str, int]
    by_tool: tuple[ToolRow, ...]

    @property
    def calls(self) -> int:
        """All calls of tools."""
        return sum(row.calls for row in self.by_tool)


@dataclass(frozen=True, slots=True)
class FindingsRow:
    """Structured answers to one kind of work.

    Attributes:
        reports: Answers of the form asked for.
        by_severity: Findings in them, the gravest first.
        declined: Where the model declined to answer.
        invalid: Answers that are not of the form.
    """

    kind: str
    reports: int
    by_severity: Mapping[str, int]
    declined: int
    invalid: int


def loop_figures(outcomes: Sequence[JobOutcome]) -> LoopFigures:
    """How tools were used."""
    equipped = [outcome for outcome in outcomes if outcome.job.with_tools]
    loops = [outcome for outcome in equipped if outcome.calls]
    calls = Counter(call.name for outcome in loops for call in outcome.calls)
    failed = Counter(call.name for outcome in loops for call in outcome.calls if call.failed)
    return LoopFigures(
        jobs=len(equipped),
        loops=len(loops),
        uncalled=sum(outcome.answered and not outcome.calls and not outcome.without_tools for outcome in equipped),
        without_tools=sum(outcome.without_tools for outcome in equipped),
        tasks=sum(len(outcome.rounds) for outcome in loops),
        most_tasks=max((len(outcome.rounds) for outcome in loops), default=0),
        latency=spread(outcome.total_ms for outcome in loops if outcome.answered),
        by_way=dict(Counter(outcome.agent.way.value for outcome in loops).most_common()),
        by_tool=tuple(ToolRow(tool, count, failed[tool]) for tool, count in calls.most_common()),
    )


def findings_rows(outcomes: Sequence[JobOutcome]) -> tuple[FindingsRow, ...]:
    """The findings by kind of work; repeats count, as they were answered."""
    by_kind: dict[str, list[JobOutcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.job.structured:
            by_kind[outcome.job.kind].append(outcome)
    rows = []
    for kind, found in by_kind.items():
        reports = [outcome.report for outcome in found if outcome.report is not None]
        severities = Counter(finding.severity for report in reports for finding in report.findings)
        rows.append(
            FindingsRow(
                kind=kind,
                reports=len(reports),
                by_severity={severity: severities[severity] for severity in SEVERITIES},
                declined=sum(outcome.declined for outcome in found),
                invalid=sum(bool(outcome.invalid) for outcome in found),
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.reports))
