"""Freezes the current schemas of all topics as released versions, if they have changed since the last one.

From then on `python -m headrace_contracts.tools.compatibility` checks every change against them. Run `make generate`
afterwards: `headrace schemas` knows all released versions. Exits with 1, freezing
nothing, if the current schemas break a rule.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from headrace_contracts.tools.compatibility import Released, report, violations
from headrace_contracts.tools.schemas import SchemaFileInvalid, SchemaSet, load, load_released, repository, without_docs


def to_release(current: SchemaSet, released: Released, names: frozenset[str]) -> dict[str, tuple[int, dict[str, Any]]]:
    """The versions to add: number and schema by full name. A change of doc strings alone makes no version."""
    added: dict[str, tuple[int, dict[str, Any]]] = {}
    for name in sorted(names):
        schema = current.resolved(name)
        versions = released.get(name, {})
        last = max(versions, default=0)
        if last == 0 or without_docs(versions[last]) != without_docs(schema):
            added[name] = (last + 1, schema)
    return added


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m headrace_contracts.tools.release", description=__doc__)
    parser.add_argument("--schemas", type=Path, help="folder of the schemas; by default that of this checkout")
    folder: Path = parser.parse_args().schemas or repository() / "schemas"
    try:
        current, released = load(folder), load_released(folder / "released")
        found = violations(current, released)
    except SchemaFileInvalid as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if found:
        return report(found)
    # The topics import the generated classes, which the other tools must not depend on.
    from headrace_contracts.topics import TOPICS

    added = to_release(current, released, frozenset(spec.record.FULL_NAME for spec in TOPICS.values()))
    for name, (number, schema) in added.items():
        path = folder / "released" / name / f"{number}.avsc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        sys.stderr.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
