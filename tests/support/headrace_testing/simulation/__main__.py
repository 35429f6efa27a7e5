"""`python -m headrace_testing.simulation`: what `make simulate` runs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from headrace_testing.simulation.running import Tally, prepare, run_many
from headrace_testing.simulation.world import Outcome, simulate

_LAST_EVENTS = 80
_REPORT_SECONDS = 5.0


def main(arguments: Sequence[str]) -> int:
    """Exit status: 1 after any violation."""
    parser = argparse.ArgumentParser(
        prog="simulate", description="Run the services through seeded schedules of faults, in virtual time."
    )
    parser.add_argument("--seeds", type=int, help="number of seeds; default: until interrupted")
    parser.add_argument("--seed", type=int, default=1, help="first seed (default 1)")
    parser.add_argument("--jobs", type=int, help="processes (default: one per core)")
    parser.add_argument("--verbose", action="store_true", help="print how often each fault was injected")
    parser.add_argument("--trace", action="store_true", help="run one seed and print every event")
    parser.add_argument("--digest", action="store_true", help="run the seeds in this process and print each digest")
    chosen = parser.parse_args(arguments)
    if chosen.trace or chosen.digest:
        return _here(chosen.seed, 1 if chosen.trace else chosen.seeds or 1, trace=chosen.trace)
    reporter = _Reporter()
    total = run_many(chosen.seed, chosen.seeds, jobs=chosen.jobs, progress=reporter.progress)
    if chosen.verbose:
        for kind, number in sorted(total.faults.items()):
            print(f"  {kind:24}{number:>10,}", file=sys.stderr)
        print(f"  never: {', '.join(total.holes()) or 'nothing'}", file=sys.stderr)
    print(total.line())
    return 1 if total.violations else 0


class _Reporter:
    def __init__(self) -> None:
        self._next = time.monotonic() + _REPORT_SECONDS

    def progress(self, new: Tally, total: Tally) -> None:
        for outcome in new.violations:
            print(explain(outcome), file=sys.stderr, flush=True)
        if time.monotonic() >= self._next:
            print(total.line(), file=sys.stderr, flush=True)
            self._next = time.monotonic() + _REPORT_SECONDS


def explain(outcome: Outcome) -> str:
    """A violation as text: what, after which events, and how to reproduce it."""
    return "\n".join([
        *(f"    {line}" for line in outcome.last[-_LAST_EVENTS:]),
        f"seed {outcome.seed} shows {len(outcome.violations)} violations:",
        *(f"  - {violation}" for violation in outcome.violations),
        f"  replay:       make simulate SEEDS=1 SEED={outcome.seed}",
        f"  every event:  make simulate SEED={outcome.seed} ARGS=--trace",
    ])  # fmt: skip


def _here(first: int, number: int, *, trace: bool) -> int:
    prepare()
    violated = False
    for seed in range(first, first + number):
        outcome = simulate(seed, keep_all=trace)
        violated |= bool(outcome.violations)
        if trace:
            print("\n".join(outcome.last))
            print("\n".join(outcome.violations))
        print(f"seed {seed}: {outcome.digest}")
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
