"""`headrace doctor`."""

from __future__ import annotations

import asyncio

import typer
from rich.text import Text

from headrace.cli.checkups import Finding, examine
from headrace.cli.output import OUT, JsonOption, print_json
from headrace.cli.running import FAILED, OK, UNREACHABLE, addresses


def doctor(json_output: JsonOption = False) -> None:
    """Check every part of the installation, and suggest how to fix problems.

    Exit code 0 if all is well, 3 if a part cannot be reached, 1 for other problems.
    """
    findings = asyncio.run(examine(addresses()))
    if json_output:
        print_json(findings)
    else:
        width = max(len(finding.part) for finding in findings) + 2
        for finding in findings:
            OUT.print(_line(finding, width), soft_wrap=True)
    raise typer.Exit(_exit_code(findings))


def _exit_code(findings: list[Finding]) -> int:
    if all(finding.ok for finding in findings):
        return OK
    return UNREACHABLE if any(finding.unreachable for finding in findings) else FAILED


def _line(finding: Finding, width: int) -> Text:
    mark = ("✓ ", "green") if finding.ok else ("✗ ", "bold red")
    line = Text.assemble(mark, finding.part.ljust(width), finding.detail)
    if not finding.ok and finding.remedy:
        line.append(f"\n  {'':{width}}what to do: {finding.remedy}", "yellow")
    return line
