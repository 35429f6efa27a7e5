"""`headrace doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer
from headrace_contracts.users import OPERATOR
from rich.text import Text

from headrace.cli.output import OUT, JsonOption, print_json
from headrace.cli.running import FAILED, OK, UNREACHABLE, addresses

if TYPE_CHECKING:
    from headrace.cli.checkups import Finding


def doctor(json_output: JsonOption = False) -> None:
    """Compare the installation with what it must be, and name what mends each difference.

    Topics (settings, partitions, replicas), consumer groups (members, assignments, positions, lag), schema ids, dead
    letters, services and their partitions, clocks, disk. It changes nothing. Kafka is asked directly, subject to its
    ACLs: Describe and DescribeConfigs on topics, Describe on groups. Ollama nodes are those of the running stack, or of
    HEADRACE_OLLAMA_NODES; needs the package headrace-devstack.

    Exit code 0 if all is well or there are only warnings, 3 if a part cannot be reached, 1 for other problems.

    \b
    Examples:
      headrace doctor
      headrace doctor --json | jq '.[] | select(.ok | not)'
    """
    from headrace.cli.checkups import examine, installed_checkups

    findings = asyncio.run(examine(addresses(OPERATOR), installed_checkups()))
    if json_output:
        print_json(findings)
    else:
        width = max(len(finding.part) for finding in findings) + 2
        for finding in findings:
            OUT.print(line(finding, width), soft_wrap=True)
    raise typer.Exit(exit_code(findings))


def exit_code(findings: Sequence[Finding]) -> int:
    """Warnings count as in order."""
    if all(finding.ok for finding in findings):
        return OK
    return UNREACHABLE if any(finding.unreachable for finding in findings) else FAILED


def line(finding: Finding, width: int) -> Text:
    """A finding in one line, and what to do about it in another. `width`: of the column of names."""
    mark = ("✗ ", "bold red") if not finding.ok else ("! ", "bold yellow") if finding.warning else ("✓ ", "green")
    line = Text.assemble(mark, finding.part.ljust(width), finding.detail)
    if (finding.warning or not finding.ok) and finding.remedy:
        line.append(f"\n  {'':{width}}what to do: {finding.remedy}", "yellow")
    return line
