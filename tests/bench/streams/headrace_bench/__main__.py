"""`make bench-streams`: all comparisons side by side, as a table, as Markdown and as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from headrace_devstack.errors import DevstackError

from headrace_bench import hop, overhead, parallel_work
from headrace_bench.broker import running_kafka
from headrace_bench.report import Section

Measure = Callable[[str, Path, int, int], Awaitable[Section]]

COMPARISONS: dict[str, tuple[Measure, int]] = {
    "work": (parallel_work.measure, 10_000),
    "hop": (hop.measure, 20_000),
    "overhead": (overhead.measure, 200_000),
}
"""By name: how to measure it, and its usual number of records."""


async def run(options: argparse.Namespace) -> list[Section]:
    """The chosen comparisons, one after another on one broker."""
    sections: list[Section] = []
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        async with running_kafka(folder / "kafka") as bootstrap:
            for chosen in options.only or COMPARISONS:
                measure, usual = COMPARISONS[chosen]
                sys.stderr.write(f"{chosen}\n")
                sections.append(await measure(bootstrap, folder, options.rounds, options.records or usual))
                sys.stderr.write(f"\n{sections[-1].text()}\n\n")
    return sections


def main() -> int:
    """Print tables to standard error, JSON (or Markdown) to standard output, and write the JSON to bench-results/."""
    parser = argparse.ArgumentParser(prog="make bench-streams", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one to warm up (default 5)")
    parser.add_argument(
        "--only", action="append", choices=list(COMPARISONS), help="measure only this; may be given more than once"
    )
    usual = ", ".join(f"{name} {records:,}" for name, (_, records) in COMPARISONS.items())
    parser.add_argument("--records", type=int, help=f"records of a round (default: {usual})")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables instead of JSON")
    parser.add_argument("--output", type=Path, default=Path("bench-results/streams.json"), help="where the JSON goes")
    options = parser.parse_args()
    if options.rounds < 1 or (options.records is not None and options.records < 1):
        parser.error("--rounds and --records must be at least 1")
    # As Ctrl-C, so that Kafka and the contestants are ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = round(os.getloadavg()[0], 1)
    try:
        sections = asyncio.run(run(options))
    except DevstackError as error:
        sys.stderr.write(f"x {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    machine = {
        "date": time.strftime("%Y-%m-%d"),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "load_before": before,
    }
    report = {"machine": machine, "rounds": options.rounds, **{one.title: one.document() for one in sections}}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    if options.markdown:
        sys.stdout.write("\n\n".join(section.markdown() for section in sections) + "\n\n")
        sys.stdout.write(
            f"({machine['date']}, {machine['processors']} processors, Python {machine['python']}, medians of "
            f"{options.rounds} rounds, smallest to largest in brackets; load average before: {before:.1f})\n"
        )
    else:
        sys.stdout.write(json.dumps(report) + "\n")
    return 0 if all(one.failure is None for section in sections for one in section.outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
