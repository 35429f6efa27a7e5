"""The roles of the team, and what each is asked to do with a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FORM_OF_FINDINGS: Final = (
    "Answer in JSON: a summary in one sentence, and at most five findings with severity, file, place and title.\n"
)
_NAME_IN_CODE: Final = re.compile(
    r"^[ \t]*(?:class|struct|interface|(?:async )?(?:def|func|function|fn))[ \t]+(\w{4,})", re.M
)


@dataclass(frozen=True, slots=True)
class TeamRole:
    """A role of the routing policy, and its share of the jobs.

    Attributes:
        angles: Different jobs that it can do with the same material.
        tools: Whether its models may read files by themselves. The default policy's local models for audits cannot.
        searches: Whether they are asked to search as well.
        structured: Whether it answers with a list of findings.
    """

    role: str
    kind: str
    share: float
    priority: str
    angles: tuple[str, ...]
    tools: bool = False
    searches: bool = False
    structured: bool = False


ROLES: Final = (
    TeamRole("documentation", "documentation", 0.30, "batch", (
        "Document this module for the people who will use it.",
        "Write the paragraph of a README that introduces this module.",
        "Explain this module to a programmer who joins the team today.",
    ), tools=True, searches=True),
    TeamRole("code_reviewer", "review", 0.25, "interactive", (
        "Review this code. Look for defects first.",
        "Review how this code handles errors.",
        "Review the names and the structure of this code.",
    ), tools=True, searches=True, structured=True),
    TeamRole("testing", "test ideas", 0.20, "batch", (
        "List test ideas for this code, edges first.",
        "List the properties of this code that a test over random input could hold.",
        "List the failures of its environment that this code should be tested against.",
    ), tools=True),
    TeamRole("security_reviewer", "security audit", 0.15, "interactive", (
        "Audit this confidential file for security.",
        "Audit what this confidential file does with what it is given from outside.",
        "Audit what this confidential file might tell in logs and errors.",
    ), structured=True),
    TeamRole("changelog_writer", "changelog", 0.10, "batch", (
        "Write a changelog for users from this git history.",
        "Write release notes for operators from this git history.",
    )),
)  # fmt: skip


def asks_to_use_tools(role: TeamRole, path: str, text: str) -> str:
    """What a prompt says of a file that it does not contain."""
    if not role.searches:
        return "Its text is not here: read it with read_file first.\n"
    found = _NAME_IN_CODE.search(text)
    name = found[1] if found else path.rsplit("/", 1)[-1].split(".")[0] or path
    return f'Its text is not here: read it with read_file, and look with search_repository where "{name}" is used.\n'
