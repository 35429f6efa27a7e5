"""The run's tables, and the complete result as one JSON document."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from headrace_devstack.demo.checks import DemoCheck
from headrace_devstack.demo.findings import SEVERITIES
from headrace_devstack.demo.measure import Figures, TaskRow
from headrace_devstack.demo.spreads import Spread


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        simulated: Providers that were simulated.
        files: Number of files, and how many of them are sensitive.
    """

    run: str
    folder: str
    files: int
    sensitive_files: int
    commits: int
    agents: int
    simulated: tuple[str, ...]
    figures: Figures
    checks: tuple[DemoCheck, ...]
    tasks: tuple[TaskRow, ...]

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        return all(check.kept for check in self.checks)


def as_document(run: Run) -> dict[str, Any]:
    """The run as JSON data."""
    return {"passed": run.passed, **_plain(run)}


def print_report(console: Console, run: Run) -> None:
    """All tables, then the checks."""
    figures = run.figures
    for part in (
        _title(run),
        _roles(run),
        _tools(run),
        _findings(run),
        _places(run),
        _latency(run),
        _sharing(run),
        _skills(run),
        _costs(run),
        _checks(run.checks),
    ):
        console.print(part)
        console.print()
    rate = figures.tasks / figures.seconds if figures.seconds else 0.0
    verdict = ("[bold green]All promises kept", "[bold red]A promise was broken")[not run.passed]
    console.print(f"{verdict}[/]: {_jobs_and_tasks(figures)} in {figures.seconds:.1f} s ({rate:.1f} tasks per second)")


def _title(run: Run) -> RenderableType:
    return Text(
        f"{_jobs_and_tasks(run.figures)} by {run.agents} agents over {run.files} files "
        f"({run.sensitive_files} sensitive) and {run.commits} commits of {run.folder}",
        style="bold",
    )


def _jobs_and_tasks(figures: Figures) -> str:
    return f"{figures.jobs} jobs ({figures.tasks} tasks)"


def _roles(run: Run) -> RenderableType:
    table = _table("role", "jobs", "tasks", "answered", "sensitive", "p50 ms", "p99 ms")
    for row in run.figures.roles:
        table.add_row(
            row.role, str(row.jobs), str(row.tasks), str(row.answered), str(row.sensitive), _ms(row.latency.p50),
            _ms(row.latency.p99),
        )  # fmt: skip
    return _titled(run, "Jobs by role", table)


def _tools(run: Run) -> RenderableType:
    loops = run.figures.loops
    if not loops.jobs:
        return _titled(run, "Tool loops", Text("no job had tools: this folder has too little for it", "dim"))
    table = _table("tool", "calls", "failed")
    for row in loops.by_tool:
        table.add_row(escape(row.tool), str(row.calls), str(row.failed))
    lines = [
        f"{loops.loops} of {loops.jobs} jobs with tools called some: {loops.calls} calls in {loops.tasks} rounds, each "
        f"a task, at most {loops.most_tasks} for a job",
        f"a whole loop: p50 {_ms(loops.latency.p50)} ms, p99 {_ms(loops.latency.p99)} ms",
    ]
    if loops.by_way:
        lines.append("loops over " + ", ".join(f"{way}: {count}" for way, count in loops.by_way.items()))
    if loops.uncalled:
        lines.append(f"{loops.uncalled} were answered without a call")
    if loops.without_tools:
        lines.append(f"{loops.without_tools} got the text of the file with the question: no model could call tools")
    return _titled(run, "Tool loops", table, *(Text(line, "dim") for line in lines))


def _findings(run: Run) -> RenderableType:
    table = _table("kind", "reports", *SEVERITIES, "declined", "invalid")
    for row in run.figures.findings:
        counts = (row.reports, *row.by_severity.values(), row.declined, row.invalid)
        table.add_row(escape(row.kind), *map(str, counts))
    return _titled(run, "Findings by severity, in answers of a given form", table)


def _places(run: Run) -> RenderableType:
    table = _table("model", "tasks", "sensitive")
    table.add_column("node")
    table.add_column("why (most often)", overflow="fold")
    for row in run.figures.places:
        mark = " [bold yellow]SIMULATED[/]" if row.simulated else ""
        table.add_row(
            f"{escape(row.provider)}/{escape(row.model)}{mark}", str(row.tasks), str(row.sensitive), escape(row.node),
            escape(row.reason),
        )  # fmt: skip
    return _titled(run, "Where they ran, and why", table)


def _latency(run: Run) -> RenderableType:
    table = _table("", "tasks", "p50 ms", "p99 ms")
    shares = run.figures.shares
    for name, spread in (
        ("from submission to answer", shares.total),
        ("  the model", shares.model),
        ("  waiting for a free slot at a worker", shares.waiting),
        ("  Headrace itself", shares.own),
    ):
        table.add_row(name, str(spread.count), _ms(spread.p50), _ms(spread.p99))
    return _titled(run, "Where the time went, for tasks that a model answered", table)


def _sharing(run: Run) -> RenderableType:
    table = _table("answered by", "tasks", "p50 ms", "p99 ms")
    names = {"attempt": "an attempt of their own", "cache": "the cache", "coalesced": "an equal task in flight"}
    for source, spread in run.figures.served_latency.items():
        table.add_row(names.get(source, source), str(spread.count), _ms(spread.p50), _ms(spread.p99))
    shared = Text(
        f"{run.figures.shared} tasks cost nothing: an equal task had the answer ({run.figures.repeats} were repeats)",
        "dim",
    )
    return _titled(run, "Equal tasks", table, shared)


def _skills(run: Run) -> RenderableType:
    figures = run.figures.skills
    table = _table("", "count", "p50 ms", "p99 ms", "longest ms")
    for name, count, spread in (
        ("published (the author's call)", str(figures.published), figures.publish_call),
        ("pushed, from the author's call", f"{figures.deliveries} of {figures.expected}", figures.after_call),
        ("pushed, from publication", f"{figures.deliveries} of {figures.expected}", figures.after_publishing),
    ):
        table.add_row(name, count, *_three(spread))
    return _titled(run, "Skills", table)


def _costs(run: Run) -> RenderableType:
    table = _table("tenant", "tasks", "tokens in", "tokens out", "by its tasks", "by the ledger")
    for row in run.figures.tenants:
        ledger = "?" if row.ledger_nanodollars is None else _dollars(row.ledger_nanodollars)
        table.add_row(
            escape(row.tenant), str(row.tasks), f"{row.input_tokens:,}", f"{row.output_tokens:,}",
            _dollars(row.tasks_nanodollars), ledger,
        )  # fmt: skip
    return _titled(run, "Cost by tenant", table)


def _checks(checks: Sequence[DemoCheck]) -> RenderableType:
    lines = Text("Checks\n", style="bold")
    for check in checks:
        lines.append("  ✓ " if check.kept else "  ✗ ", "green" if check.kept else "bold red")
        lines.append(check.promise, "not bold")
        lines.append(f": {check.found}\n", "not bold dim" if check.kept else "not bold red")
    lines.rstrip()
    return lines


def _titled(run: Run, title: str, *parts: RenderableType) -> RenderableType:
    notice = f" · [yellow]simulated: {', '.join(run.simulated)}[/]" if run.simulated else ""
    return Group(Text.from_markup(f"[bold]{title}[/]{notice}", overflow="fold"), *parts)


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _three(spread: Spread) -> tuple[str, str, str]:
    return _ms(spread.p50), _ms(spread.p99), _ms(spread.longest)


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _dollars(nanodollars: int) -> str:
    return f"${Decimal(nanodollars) / 1_000_000_000:.9f}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | frozenset | set):
        return [_plain(item) for item in value]
    return value
