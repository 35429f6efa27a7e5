"""Brings generated files up to date, or reports those that are not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def bring_up_to_date(files: Mapping[Path, str], *, check: bool) -> int:
    """Write the files that differ; with `check` only report them. Returns the exit code: 1 if `check` finds any."""
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            sys.stderr.write(f"{path} is not up to date: run `make generate`\n")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        sys.stderr.write(f"wrote {path}\n")
    return 1 if check and stale else 0
