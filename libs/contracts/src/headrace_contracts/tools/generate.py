"""Writes the event classes, docs/events.md and the table in docs/privacy.md from schemas, topics and `floors.RIGHTS`.

`--check` writes nothing and exits with 1 if a generated file is not up to date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from headrace_contracts.tools import python_code
from headrace_contracts.tools.files import bring_up_to_date
from headrace_contracts.tools.schemas import SchemaFileInvalid, load, load_released, repository


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m headrace_contracts.tools.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a file is not up to date")
    check = parser.parse_args().check
    root = repository()
    try:
        schemas = load(root / "schemas")
        released = load_released(root / "schemas" / "released")
    except SchemaFileInvalid as error:
        sys.stderr.write(f"{error}\n")
        return 2
    events = Path(__file__).resolve().parents[1] / "events"
    code = {events / name: text for name, text in python_code.modules(schemas, released).items()}
    status = bring_up_to_date(code, check=check)
    # The documents import the generated classes, so these must be in place first.
    from headrace_contracts.tools import documents, rights_table

    privacy = root / "docs" / "privacy.md"
    pages = {
        root / "docs" / "events.md": documents.events_page(schemas),
        privacy: rights_table.put_into(privacy.read_text(encoding="utf-8")),
    }
    return max(status, bring_up_to_date(pages, check=check))


if __name__ == "__main__":
    sys.exit(main())
