"""Reads a folder and its history."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from headrace_devstack.demo.corpus import TEXT_SUFFIXES, Commit, Corpus, SourceFile, is_sensitive
from headrace_devstack.errors import CorrectTheSetting

_NOT_OURS: Final = frozenset({"node_modules", "__pycache__", "venv", "dist", "build", "target"})
_SMALLEST_BYTES: Final = 200
_LARGEST_BYTES: Final = 64_000
_MOST_FILES: Final = 2_000
_MOST_COMMITS: Final = 400
_GIT_SECONDS: Final = 20


def read_folder(folder: Path, sensitive: Sequence[str]) -> Corpus:
    """Text files of a folder (without hidden folders, dependencies and very large files), and its commits, if any.

    Raises CorrectTheSetting for a path that is not a readable folder.
    """
    root = folder.absolute()
    if not root.is_dir():
        raise CorrectTheSetting(f"{root} is not a folder.", "choose a folder of files to work on with --folder.")
    files = []
    for path in _paths(root):
        text = _text(path)
        if text is not None:
            name = path.relative_to(root).as_posix()
            files.append(SourceFile(name, text, is_sensitive(name, sensitive)))
        if len(files) == _MOST_FILES:
            break
    return Corpus(str(root), tuple(files), tuple(_commits(root)))


def _paths(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NOT_OURS)
        for name in sorted(names):
            if name.endswith(TEXT_SUFFIXES) or name.startswith(".env"):
                yield Path(place) / name


def _text(path: Path) -> str | None:
    try:
        if not _SMALLEST_BYTES <= path.stat().st_size <= _LARGEST_BYTES:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None  # a broken link, or not text: nothing to work on


def _commits(root: Path) -> Iterator[Commit]:
    command = ["git", "-C", str(root), "log", f"--max-count={_MOST_COMMITS}", "--no-merges", "--format=%h%x09%s"]
    try:
        log = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return  # no git: the demo continues without a changelog
    if log.returncode != 0:
        return  # not a checkout
    for line in log.stdout.splitlines():
        id_, _, subject = line.partition("\t")
        if subject:
            yield Commit(id_, subject)
