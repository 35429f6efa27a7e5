"""The services keep their promises through thousands of schedules."""

from __future__ import annotations

import pytest
from headrace_testing.simulation.__main__ import explain
from headrace_testing.simulation.running import run_many

SEEDS = 2_000


@pytest.mark.timeout(900)
def test_promises_hold_whatever_goes_wrong() -> None:
    total = run_many(1, SEEDS)
    print(total.line())
    assert not total.violations, "\n\n".join(explain(outcome) for outcome in total.violations[:3])
    assert total.seeds == SEEDS
    # A fault that is never injected is a promise that is never tried.
    assert not total.holes(seldom=False)
