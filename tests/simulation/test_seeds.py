"""The services keep their promises through thousands of schedules."""

from __future__ import annotations

import pytest
from headrace_testing.simulation.__main__ import explain
from headrace_testing.simulation.running import Tally, run_many

FIXED, MANY = 400, 2_000


def prove(first: int, seeds: int) -> Tally:
    total = run_many(first, seeds)
    print(total.line())
    assert not total.violations, "\n\n".join(explain(outcome) for outcome in total.violations[:3])
    assert total.seeds == seeds
    return total


def test_promises_hold_whatever_goes_wrong() -> None:
    # A fault that is never injected is a promise that is never tried.
    assert not prove(1, FIXED).holes(seldom=False)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_promises_hold_through_many_more() -> None:
    prove(FIXED + 1, MANY - FIXED)
