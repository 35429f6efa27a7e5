"""Reads properties files as Java does, but for its escapes: `name=value` or `name: value`, one in a line."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Property(NamedTuple):
    """One line of a properties file; `name` is empty where the line has none."""

    line: int
    name: str
    value: str


def read_properties(path: Path) -> list[Property]:
    """All properties of a file. `#` and `!` start comments, a trailing `\\` continues a line.

    Raises OSError, UnicodeDecodeError.
    """
    found = []
    for number, line in _logical_lines(path.read_text(encoding="utf-8")):
        at = min((line.index(mark) for mark in "=:" if mark in line), default=-1)
        found.append(Property(number, line[:at].strip() if at > 0 else "", line[at + 1 :].strip()))
    return found


def _logical_lines(text: str) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    pending, started = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not pending:
            if not line or line[0] in "#!":
                continue
            started = number
        if line.endswith("\\"):
            pending += line[:-1]
            continue
        lines.append((started, pending + line))
        pending = ""
    if pending:
        lines.append((started, pending))
    return lines
