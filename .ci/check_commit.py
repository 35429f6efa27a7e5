"""Checks of a commit for the hooks in .pre-commit-config.yaml: the size of its files, and the length of its subject."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LARGEST_FILE_BYTES: Final = 1024 * 1024
LONGEST_SUBJECT: Final = 72
_SCISSORS: Final = "# ------------------------ >8 ------------------------"


def too_large(paths: Sequence[Path]) -> list[str]:
    """One line for each file above the limit. Files that do not exist are skipped: the commit deletes them."""
    return [
        f"{path}: {path.stat().st_size:,} bytes, more than {LARGEST_FILE_BYTES:,}"
        for path in paths
        if path.is_file() and path.stat().st_size > LARGEST_FILE_BYTES
    ]


def subject_problem(message: str) -> str | None:
    """What is wrong with the subject of a commit message, None if nothing is.

    The subject is the first line that is neither empty nor a comment, before the scissors line of
    `git commit --verbose`.
    """
    text = message.partition(_SCISSORS)[0]
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return "the commit message is empty"
    if len(lines[0]) > LONGEST_SUBJECT:
        return f"the subject has {len(lines[0])} characters, more than {LONGEST_SUBJECT}: {lines[0]}"
    return None


def main(arguments: Sequence[str]) -> int:
    """`files PATH...` or `message FILE`; returns the exit code."""
    match list(arguments):
        case ["files", *paths]:
            problems = too_large([Path(path) for path in paths])
        case ["message", path]:
            problem = subject_problem(Path(path).read_text(encoding="utf-8"))
            problems = [] if problem is None else [problem]
        case _:
            sys.stderr.write("usage: check_commit.py files PATH... | message FILE\n")
            return 2
    for problem in problems:
        sys.stderr.write(f"x {problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
