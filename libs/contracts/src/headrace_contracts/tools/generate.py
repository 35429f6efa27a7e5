"""Writes the event classes and docs/events.md from the schemas and the topic specifications.

`--check` writes nothing and exits with 1 if a generated file is not up to date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from headrace_contracts.tools import python_code
from headrace_contracts.tools.schemas import SchemaFileInvalid, load, repository


def _write(files: dict[Path, str], check: bool) -> int:
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if check:
        for path in stale:
            sys.stderr.write(f"{path} is not up to date: run `make generate`\n")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        sys.stderr.write(f"wrote {path}\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m headrace_contracts.tools.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file is not up to date")
    check = parser.parse_args().check
    root = repository()
    try:
        schemas = load(root / "schemas")
    except SchemaFileInvalid as error:
        sys.stderr.write(f"{error}\n")
        return 2
    events = Path(__file__).resolve().parents[1] / "events"
    code = {events / name: text for name, text in python_code.modules(schemas).items()}
    status = _write(code, check)
    # The documents import the generated classes, so these must be written first.
    from headrace_contracts.tools import documents

    return max(status, _write({root / "docs" / "events.md": documents.events_page(schemas)}, check))


if __name__ == "__main__":
    sys.exit(main())
