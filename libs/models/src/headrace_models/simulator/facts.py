"""Facts extracted from a prompt without understanding it: names, lines, habits, commits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_FILE: Final = re.compile(r"\b[\w./-]*\w\.(?:py|pyi|ts|js|tsx|go|rs|java|c|h|sql|sh|md|toml|ya?ml|json|avsc)\b")
_FUNCTION: Final = re.compile(r"^[ \t]*(?:async[ \t]+)?(?:def|func|function|fn)[ \t]+(\w+)[ \t]*\(([^)\n]*)", re.M)
_CLASS: Final = re.compile(r"^[ \t]*(?:class|struct|interface)[ \t]+(\w+)", re.M)
_IMPORT: Final = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import|import[ \t]+([\w.]+))", re.M)
_COMMIT: Final = re.compile(r"^(?:commit )?([0-9a-f]{7,40})[ \t]+(\S.*)$", re.M)

_HABITS: Final = (
    (re.compile(r"\beval\("), "evaluates text as code", "high"),
    (re.compile(r"\bexec\("), "executes text as code", "high"),
    (re.compile(r"shell\s*=\s*True"), "passes a command through the shell", "high"),
    (re.compile(r"\bpickle\.loads?\("), "unpickles data, which runs what the data says", "high"),
    (re.compile(r"verify\s*=\s*False"), "does not verify certificates", "high"),
    (
        re.compile(r"(?i)(?:password|secret|token|api_key)\s*=\s*[\"'][^\"']+[\"']"),
        "holds a secret in the source",
        "high",
    ),
    (re.compile(r"\byaml\.load\("), "loads YAML with arbitrary types", "medium"),
    (re.compile(r"\b(?:md5|sha1)\("), "uses a weak hash", "medium"),
    (re.compile(r"^\s*except\s*:", re.M), "catches everything, interrupts included", "medium"),
    (re.compile(r"except Exception"), "catches every error alike", "low"),
    (re.compile(r"\b0\.0\.0\.0\b"), "listens on every address", "low"),
    (re.compile(r"\bassert\b"), "relies on assert, which -O removes", "low"),
)


@dataclass(frozen=True, slots=True)
class Habit:
    """A code smell that a reviewer would point out."""

    line: int
    what: str
    severity: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts extracted from a prompt's text."""

    lines: int
    words: int
    file: str | None
    functions: tuple[tuple[str, str], ...]
    """Names with their parameters."""
    classes: tuple[str, ...]
    imports: tuple[str, ...]
    habits: tuple[Habit, ...]
    commits: tuple[tuple[str, str], ...]
    """Short ids with subjects."""


def read_off(text: str) -> Facts:
    """The facts in `text`, each list in order of appearance without duplicates."""
    file = _FILE.search(text)
    habits = [
        Habit(text.count("\n", 0, match.start()) + 1, what, severity)
        for pattern, what, severity in _HABITS
        for match in pattern.finditer(text)
    ]
    return Facts(
        lines=text.count("\n") + 1 if text else 0,
        words=len(text.split()),
        file=file[0] if file else None,
        functions=tuple(dict.fromkeys((match[1], _parameters(match[2])) for match in _FUNCTION.finditer(text))),
        classes=_unique([match[1] for match in _CLASS.finditer(text)]),
        imports=_unique([(match[1] or match[2]).split(".")[0] for match in _IMPORT.finditer(text)]),
        habits=tuple(sorted(habits, key=lambda habit: (_SEVERITIES.index(habit.severity), habit.line))),
        commits=tuple((match[1][:7], match[2].strip()) for match in _COMMIT.finditer(text)),
    )


_SEVERITIES: Final = ("high", "medium", "low")


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _parameters(text: str) -> str:
    names = [part.split(":")[0].split("=")[0].strip() for part in text.split(",")]
    return ", ".join(name for name in names if name and name not in ("self", "cls", "*", "/"))
