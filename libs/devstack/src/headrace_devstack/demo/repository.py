"""The tools of the demo's agents: they read and search the files of the folder that were read at the start.

Nothing is read from disk, so that no path leads out of the folder. A job sees the files whose level is no stricter than
its own, and does not learn that there are others: a sensitive file is given only to sensitive jobs.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Final

from headrace import Tool

from headrace_devstack.demo.corpus import MOST_READ, Corpus, JobPrivacy, SourceFile, marker_of, notice_of, privacy_of

_MOST_LINES: Final = 12
_MOST_LINES_OF_A_FILE: Final = 2
_LONGEST_LINE: Final = 160
_STRICTEST_FIRST: Final = list(JobPrivacy)


class Repository:
    """The files of a run.

    Args:
        run: Name of the run, which the markers of sensitive files contain.
    """

    def __init__(self, corpus: Corpus, run: str) -> None:
        self._run = run
        self._files: dict[JobPrivacy, dict[str, SourceFile]] = {
            level: {file.path: file for file in corpus.files if _may_see(level, privacy_of(file))}
            for level in JobPrivacy
        }

    def tools(self, level: JobPrivacy) -> tuple[Tool, ...]:
        """The tools of a job of this level."""
        shelf = FileShelf(self._files[level], self._run)
        return (Tool.of(shelf.read_file), Tool.of(shelf.search_repository))


class FileShelf:
    """The files that a job may see."""

    def __init__(self, files: Mapping[str, SourceFile], run: str) -> None:
        self._files = files
        self._run = run

    async def read_file(self, path: str) -> str:
        """Read a text file of the repository.

        Args:
            path: Path of the file below the root of the repository, such as src/app.py.
        """
        # However models write paths; a path out of the folder names no file in it.
        file = self._files.get(path) or self._files.get(posixpath.normpath(path.strip()).lstrip("/"))
        if file is None:
            raise LookupError(f"there is no file {path} here; search_repository finds paths")
        rest = len(file.text) - MOST_READ
        more = f"\n[{rest} more characters]" if rest > 0 else ""
        return f"{notice_of(self._marker(file))}{file.text[:MOST_READ]}{more}"

    async def search_repository(self, text: str) -> str:
        """Search the files of the repository for a text.

        Args:
            text: What to look for, as it is written there: a name or a few words.
        """
        if not text.strip():
            raise ValueError("give the text to look for")
        found: list[str] = []
        for file in self._files.values():
            if len(found) >= _MOST_LINES:
                break
            if text in file.text or text in file.path:
                found += self._lines(file, text)
        return "\n".join(found[:_MOST_LINES]) or "No file contains it."

    def _lines(self, file: SourceFile, text: str) -> list[str]:
        marker = self._marker(file)
        reference = f" [confidential, reference {marker}]" if marker else ""
        hits = [
            f"{file.path}:{number}:{reference} {line.strip()[:_LONGEST_LINE]}"
            for number, line in enumerate(file.text.splitlines(), start=1)
            if text in line
        ]
        return hits[:_MOST_LINES_OF_A_FILE] or [f"{file.path}:{reference}"]

    def _marker(self, file: SourceFile) -> str | None:
        return marker_of(self._run, file.path) if file.sensitive else None


def _may_see(level: JobPrivacy, of_file: JobPrivacy) -> bool:
    return _STRICTEST_FIRST.index(level) <= _STRICTEST_FIRST.index(of_file)
