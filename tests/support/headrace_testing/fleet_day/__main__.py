"""`make fleet-day`: a day of a fleet of 50 machines in virtual time; tables, JSON and plots of what it came to."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from headrace_testing.fleet_day.figures import DayFigures
from headrace_testing.fleet_day.running import WantedDay, run_day
from headrace_testing.fleet_day.tables import plots, table


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(prog="make fleet-day ARGS=...", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first day (default: a new one)")
    parser.add_argument("--days", type=int, default=1, help="how many days, each of another seed (1)")
    parser.add_argument("--machines", type=int, default=50, help="machines of the fleet (50)")
    parser.add_argument(
        "--load",
        type=float,
        default=0.75,
        help="what is asked at the busiest time, as a share of what all can do (0.75)",
    )
    parser.add_argument("--restarts", type=int, default=16, help="rolling restarts of all machines (16)")
    parser.add_argument("--short", action="store_true", help="half an hour of 8 to 12 machines instead")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="days at once (all cores)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plots", type=Path, help="write plots of the first day to this folder")
    arguments = parser.parse_args(argv)
    first = arguments.seed if arguments.seed is not None else int(time.time())
    wanted = [
        WantedDay(first + day, arguments.machines, arguments.load, arguments.restarts, arguments.short)
        for day in range(arguments.days)
    ]
    found: list[DayFigures] = []
    broken = 0
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for day, wrong, seconds in pool.map(run_day, wanted):
            found.append(day)
            broken += bool(wrong)
            sys.stderr.write(f"seed {day.seed}: {day.tasks} tasks, {day.in_time:.2%} in time, {seconds:.0f} s\n")
            for line in wrong[:10]:
                sys.stderr.write(f"  {line}\n")
    sys.stdout.write(table(found))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([day.document() for day in found], indent=1) + "\n", encoding="utf-8")
    if arguments.plots is not None:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        for name, drawn in plots(found[0]).items():
            (arguments.plots / f"fleet-day-{name}.svg").write_text(drawn, encoding="utf-8")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
