"""What reviews and audits answer: a list of findings."""

from __future__ import annotations

from typing import Final, Literal, get_args

from pydantic import BaseModel

Severity = Literal["high", "medium", "low"]
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)


class CodeFinding(BaseModel):
    """Something to mend. `place` is a line or a name in the file."""

    severity: Severity
    file: str
    place: str
    title: str


class FindingsReport(BaseModel):
    """The answer of a review or an audit."""

    summary: str
    findings: list[CodeFinding]
