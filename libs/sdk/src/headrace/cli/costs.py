"""`headrace costs`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from headrace.cli.output import OUT, JsonOption, dollars, print_json, table
from headrace.cli.running import USAGE, fail, open_client, run
from headrace.cli.timeparse import time_before
from headrace.costs import CostReport, CostSums, SpendWindow

_NUMBERS = ("executions", "tokens in", "tokens out", "cost")
_CACHE_NUMBERS = ("executions", "tokens in", "cache read", "cache written", "tokens out", "cost")
_GROUPS = ("provider", "model")
_SPANS = {60: "this minute", 3600: "this hour", 86_400: "today"}


def costs(
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            "-b",
            help="Up to three of tenant, day, hour, provider, model, role, kind, user, session, batch; "
            "comma-separated, or the option repeated. [default: provider,model]",
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(help="A time (2027-01-01T12:00:00Z) or an age (24h, 30d).")] = None,
    until: Annotated[str | None, typer.Option(help="A time or an age.")] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Another tenant's, or * for all; needs a key with the scope admin.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Cost of the current minute, hour and day so far.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Costs by group. Simulated answers cost what the real model would have cost, and are marked.

    \b
    Examples:
      headrace costs --by role --since 24h
      headrace costs --by day --by tenant --tenant '*' --since 30d
      headrace costs --json | jq .total.cost_usd
    """
    if live and (since or until):
        raise fail("--live shows the current time: omit --since and --until", USAGE)
    if live:
        windows = run(_live(tenant))
        if json_output:
            print_json(windows)
        else:
            _print_windows(windows)
        return
    groups = _groups(by)
    report = run(_costs(groups, time_before(since), time_before(until), tenant))
    if json_output:
        print_json(report)
    else:
        print_report(report, groups)


def _groups(by: list[str] | None) -> list[str]:
    """Each name once, in the order given. `--by ''` asks for the total alone."""
    names = [name.strip() for part in (_GROUPS if by is None else by) for name in part.split(",")]
    return list(dict.fromkeys(name for name in names if name))


async def _costs(by: list[str], since: datetime | None, until: datetime | None, tenant: str | None) -> CostReport:
    async with open_client() as client:
        return await client.costs(by=by, since=since, until=until, tenant=tenant)


async def _live(tenant: str | None) -> tuple[SpendWindow, ...]:
    async with open_client() as client:
        return await client.costs.live(tenant)


def print_report(report: CostReport, by: list[str]) -> None:
    """Print a report that is grouped by these fields as a table."""
    cached = _is_cached(report.total)
    names_of_numbers = _CACHE_NUMBERS if cached else _NUMBERS
    rows = table(*by, "", *names_of_numbers, right=names_of_numbers)
    for group in sorted(report.groups, key=lambda group: group.sums.cost_nanodollars, reverse=True):
        names = [group.key.get(name, "") for name in by]
        rows.add_row(*names, "[bold yellow]SIMULATED[/]" if group.simulated else "", *_numbers(group.sums, cached))
    rows.add_section()
    rows.add_row("total", *[""] * len(by), *_numbers(report.total, cached), style="bold")
    OUT.print(rows)
    if report.simulated.executions:
        OUT.print(
            f"{dollars(report.simulated.cost_nanodollars)} of it is the notional cost of simulated answers",
            style="yellow",
        )
    if lost := report.total.possibly_billed_executions:
        most = report.total.possibly_billed_nanodollars
        OUT.print(
            f"Not in it: {lost} calls whose worker died, which may have been billed"
            f"{f', with up to {dollars(most)} together' if most else ''}",
            style="yellow",
        )


def _print_windows(windows: tuple[SpendWindow, ...]) -> None:
    cached = any(_is_cached(window.sums) for window in windows)
    names_of_numbers = _CACHE_NUMBERS if cached else _NUMBERS
    rows = table("", *names_of_numbers, right=names_of_numbers)
    for window in windows:
        rows.add_row(_SPANS.get(window.seconds, f"{window.seconds} s"), *_numbers(window.sums, cached))
    OUT.print(rows)


def _is_cached(sums: CostSums) -> bool:
    """Whether a prompt cache was used at all; columns that are 0 throughout would only take room."""
    usage = sums.usage
    return bool(usage.cached_input_tokens or usage.cache_write_5m_tokens or usage.cache_write_1h_tokens)


def _numbers(sums: CostSums, cached: bool) -> tuple[str, ...]:
    usage = sums.usage
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    cache = (f"{usage.cached_input_tokens:,}", f"{written:,}") if cached else ()
    return (
        f"{sums.executions:,}", f"{usage.input_tokens:,}", *cache, f"{usage.output_tokens:,}",
        dollars(sums.cost_nanodollars),
    )  # fmt: skip
