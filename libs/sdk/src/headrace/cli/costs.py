"""`headrace costs`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from headrace.cli.moments import moment_before
from headrace.cli.output import OUT, dollars, print_json, table
from headrace.cli.running import addresses, run
from headrace.client import Client
from headrace.costs import CostGroup, CostReport


def costs(
    by: Annotated[
        str, typer.Option("--by", "-b", help="What to group by, such as provider, model, role, user.")
    ] = "model",
    since: Annotated[str | None, typer.Option(help="A time (2027-01-01T12:00:00Z) or an age (24h, 30d).")] = None,
    until: Annotated[str | None, typer.Option(help="A time or an age.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Another tenant's; needs a key with the scope admin.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What was spent, by group. What a simulator answered is costed as the real model would be.

    \b
    Examples:
      headrace costs --by role --since 24h
      headrace costs --by model --json | jq .total.cost_usd
    """
    report = run(_costs(by, moment_before(since), moment_before(until), tenant))
    if json_output:
        print_json(report)
        return
    rows = table(
        by, "executions", "tokens in", "tokens out", "cost", right=["executions", "tokens in", "tokens out", "cost"]
    )
    for group in sorted(report.groups, key=lambda group: group.cost_nanodollars, reverse=True):
        rows.add_row(" ".join(group.key.values()) or "(none)", *_numbers(group))
    rows.add_section()
    rows.add_row("total", *_numbers(report.total), style="bold")
    OUT.print(rows)


async def _costs(by: str, since: datetime | None, until: datetime | None, tenant: str | None) -> CostReport:
    async with Client(addresses=addresses()) as client:
        return await client.costs(by=by, since=since, until=until, tenant=tenant)


def _numbers(group: CostGroup) -> tuple[str, str, str, str]:
    usage = group.usage
    return (
        f"{group.executions:,}", f"{usage.input_tokens:,}", f"{usage.output_tokens:,}", dollars(group.cost_nanodollars)
    )  # fmt: skip
