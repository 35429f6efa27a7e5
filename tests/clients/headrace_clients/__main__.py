"""`make test-clients`: agent frameworks, unmodified, against a platform with simulated models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from headrace_testing.up import open_folder, running_up

from headrace_clients import table
from headrace_clients.catalog import COLUMNS, CORE, FRAMEWORKS, Framework
from headrace_clients.environments import CannotInstall, prepare
from headrace_clients.running import Ran, run


def main() -> int:
    """Exit code 1 if a cell is otherwise than in docs/clients.md, or an environment cannot be had."""
    parser = argparse.ArgumentParser(prog="make test-clients", description=__doc__)
    keys = [framework.key for framework in FRAMEWORKS]
    parser.add_argument("--only", action="append", choices=keys, metavar="NAME", help=f"one of: {', '.join(keys)}")
    parser.add_argument("--write", action="store_true", help="write the table into docs/clients.md (all frameworks)")
    parser.add_argument("--install-core", action="store_true", help="only install what `make test` runs")
    parser.add_argument("--verbose", action="store_true", help="show what the scripts write to standard error")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--write needs a run of all frameworks")
    if options.install_core:
        return _installed([framework for framework in FRAMEWORKS if framework.key in CORE])
    chosen = [framework for framework in FRAMEWORKS if framework.key in (options.only or keys)]
    missing = _installed(chosen)
    results = _results(chosen, verbose=options.verbose)
    if options.write:
        table.write(results)
    found = table.differences(results, table.Results.parse(table.RESULTS.read_text(encoding="utf-8")))
    for line in found:
        sys.stderr.write(f"x {line}\n")
    works = sum(cell.mark == "works" for row in results.cells.values() for cell in row.values())
    fails = sum(cell.mark == "fails" for row in results.cells.values() for cell in row.values())
    print(f"{len(chosen)} frameworks: {works} cells work, {fails} do not; {len(found)} differ from docs/clients.md")
    return 1 if found or missing else 0


def _installed(frameworks: Sequence[Framework]) -> int:
    """Install, one after another; the exit code."""
    code = 0
    for environment in dict.fromkeys(framework.environment for framework in frameworks):
        try:
            prepare(environment)
        except CannotInstall as problem:
            sys.stderr.write(f"x The frameworks in {environment!r} cannot be installed: {problem}\n")
            code = 1
    return code


def _results(frameworks: Sequence[Framework], *, verbose: bool) -> table.Results:
    ran: dict[str, Ran] = {}
    with open_folder("clients") as folder, running_up(Path(folder), "--port-base", "0", "--simulate") as platform:
        for framework in frameworks:
            ran[framework.key] = one = run(framework, platform, platform.api_key)
            sys.stderr.write(f"{framework.title}\n")
            for column in COLUMNS:
                cell = one.cells[column]
                sys.stderr.write(f"  {column:<12}{cell.mark:<8}{cell.note}\n")
            if verbose:
                sys.stderr.write(one.log + "\n")
    return table.Results(
        f"{datetime.now(UTC):%Y-%m-%d}",
        {framework.key: framework.versions() for framework in frameworks},
        {key: one.cells for key, one in ran.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
