"""The simulation can fail: each planted bug is caught, and the seeds that catch it are clean without it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor

import pytest
from headrace_testing.simulation.planted import BUGS
from headrace_testing.simulation.running import pool, run_seeds, search
from headrace_testing.simulation.world import Outcome

MOST_SEEDS = 1_500

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with pool() as executor:
        yield executor


@pytest.fixture(scope="module")
def caught(processes: Executor) -> Mapping[str, tuple[Outcome | None, int]]:
    """For each bug what has caught it, and after how many seeds; looked for on all cores."""
    searches = {bug.name: processes.submit(search, bug.name, MOST_SEEDS) for bug in BUGS}
    return {name: future.result() for name, future in searches.items()}


def test_there_are_bugs_enough() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 45


@pytest.mark.parametrize("name", [bug.name for bug in BUGS])
def test_bug_is_caught(name: str, caught: Mapping[str, tuple[Outcome | None, int]]) -> None:
    outcome, seeds = caught[name]
    assert outcome is not None, f"{seeds} seeds have not caught the bug {name}"
    assert outcome.violations
    if seeds > 1:
        # A search takes seconds, the hinted seed a fraction of one.
        warnings.warn(f"the hint of {name} has gone stale: seed {outcome.seed} catches it", stacklevel=1)


def test_without_bugs_the_same_seeds_are_clean(
    caught: Mapping[str, tuple[Outcome | None, int]], processes: Executor
) -> None:
    seeds = sorted({outcome.seed for outcome, _ in caught.values() if outcome is not None})
    tallies = list(processes.map(run_seeds, seeds, [1] * len(seeds)))
    assert [outcome.violations for tally in tallies for outcome in tally.violations] == []
