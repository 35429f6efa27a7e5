"""Runs many seeds on all cores."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count

import structlog

from headrace_testing.simulation.plan import AT_BOUNDARY, CRASHES, FREEZES, Fault
from headrace_testing.simulation.planted import bug_named, planted
from headrace_testing.simulation.world import Outcome, simulate

_AT_ONCE = 20
"""Seeds that a process takes at a time; garbage is collected in between."""
_OPERATIONS = (
    "append",
    "fetch",
    "join",
    "heartbeat",
    "leave",
    "commit",
    "committed",
    "offsets",
    "metadata",
    "database",
)
_SELDOM = frozenset({"leave", "metadata"})
_FETCH_FAULTS = CRASHES | FREEZES | {Fault.SLOW, Fault.EXPELLED_IN_FLIGHT}


@dataclass(slots=True)
class Tally:
    """The result of a number of seeds."""

    seeds: int = 0
    seconds: float = 0.0
    tasks: int = 0
    records: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    boundaries: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[Outcome] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.seconds += other.seconds
        self.tasks += other.tasks
        self.records += other.records
        self.faults.update(other.faults)
        self.boundaries.update(other.boundaries)
        self.violations += other.violations

    def line(self) -> str:
        """A summary in one line."""
        return (
            f"simulation: {self.seeds:,} seeds, {self.seconds / 3600:,.1f} simulated hours, {self.tasks:,} tasks, "
            f"{self.faults.total():,} faults injected, {len(self.violations)} violations"
        )

    def holes(self, *, seldom: bool = True) -> Sequence[str]:
        """Faults that never occurred, at the boundaries and otherwise: what was not tried was not tested.

        Without `seldom`, boundaries that a process meets once per run are left out.
        """
        never = [fault.value for fault in Fault if fault not in AT_BOUNDARY and not self.faults[fault.value]]
        return never + [
            f"{fault.value} at {operation}"
            for fault in AT_BOUNDARY
            for operation in _OPERATIONS
            if not self.boundaries[fault.value, operation]
            and (operation != "fetch" or fault in _FETCH_FAULTS)
            and (seldom or operation not in _SELDOM)
        ]


def prepare() -> None:
    """Prepare this process for simulations: quiet, and without automatic garbage collection."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    # Killed processes leave unfinished coroutines, which is expected.
    warnings.simplefilter("ignore")
    sys.unraisablehook = _ignore
    gc.disable()


def _ignore(_unraisable: object) -> None:
    return None


def run_seeds(first: int, number: int, bug: str | None = None, *, until_violation: bool = False) -> Tally:
    """Run seeds in this process, with a planted bug if one is named."""
    tally = Tally()
    with nullcontext() if bug is None else planted(bug_named(bug)):
        for seed in range(first, first + number):
            outcome = simulate(seed)
            tally.seeds += 1
            tally.seconds += outcome.seconds
            tally.tasks += outcome.tasks
            tally.records += outcome.records
            tally.faults.update(outcome.faults)
            tally.boundaries.update(outcome.boundaries)
            if outcome.violations:
                tally.violations.append(outcome)
                if until_violation:
                    break
            if seed % _AT_ONCE == 0:
                gc.collect()
    gc.collect()
    return tally


def pool(jobs: int | None = None) -> ProcessPoolExecutor:
    """Worker processes for seeds. Spawned, not forked: the parent may have threads."""
    return ProcessPoolExecutor(
        jobs or os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn"), initializer=prepare
    )


def run_many(
    first: int,
    number: int | None,
    *,
    jobs: int | None = None,
    progress: Callable[[Tally, Tally], None] = lambda *_: None,
) -> Tally:
    """Run seeds on all cores until their number is reached, or without end.

    Args:
        progress: Receives the newest results, and the total so far.
    """
    total = Tally()
    processes = pool(jobs)
    chunks = _chunks(first, number)
    running: set[Future[Tally]] = set()
    try:
        while True:
            while len(running) < 2 * (jobs or os.cpu_count() or 1) and (chunk := next(chunks, None)) is not None:
                running.add(processes.submit(run_seeds, *chunk))
            if not running:
                return total
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                total.add(future.result())
                progress(future.result(), total)
    except KeyboardInterrupt:
        return total
    finally:
        processes.shutdown(wait=False, cancel_futures=True)


def _chunks(first: int, number: int | None) -> Iterator[tuple[int, int]]:
    end = None if number is None else first + number
    for begin in count(first, _AT_ONCE):
        if end is not None and begin >= end:
            return
        yield begin, _AT_ONCE if end is None else min(_AT_ONCE, end - begin)


def search(bug: str, most: int) -> tuple[Outcome | None, int]:
    """The seed that first catches a planted bug, and how many were tried: the hinted seed, then seeds from 1 on."""
    hinted = run_seeds(bug_named(bug).hint, 1, bug)
    if hinted.violations:
        return hinted.violations[0], 1
    found = run_seeds(1, most, bug, until_violation=True)
    return (found.violations[0] if found.violations else None), 1 + found.seeds
