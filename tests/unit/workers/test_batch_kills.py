"""A worker with batches is killed at each point of its work, and another one goes on; in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor

import pytest
from headrace_testing.batch_world import BUGS, BatchPlan, BatchRun, run_kills, run_plan
from headrace_testing.simulation.running import pool

PLANS = {
    "answered": BatchPlan(),
    "answered, ids unheard": BatchPlan(named=False),
    "two in three not made": BatchPlan(answered=1),
    "not done in time": BatchPlan(answered=1, seconds=90_000.0, patience_seconds=450.0),
    "all cancelled": BatchPlan(cancel_at=60.0, cancelled=3, answered=1),
    "one cancelled": BatchPlan(cancel_at=60.0, cancelled=1),
}
IN_SECONDS = ("answered, ids unheard", "two in three not made")
"""Plans that are tried where all tests are to take seconds."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Executor]:
    """A process of its own: those that are killed leave what Python would complain about."""
    with pool(1) as executor:
        yield executor


def run(elsewhere: Executor, plan: BatchPlan) -> BatchRun:
    return elsewhere.submit(run_plan, plan).result(60)


@pytest.mark.parametrize(
    ("name", "ends", "of_batch", "calls"),
    [
        ("answered", ["answered"] * 3, 3, 0),
        ("two in three not made", ["answered"] * 3, 1, 2),
        ("not done in time", ["answered"] * 3, 1, 2),
        # What one of them had cost by then is booked, and its result dropped.
        ("all cancelled", ["cancelled"] * 3, 1, 0),
        ("one cancelled", ["cancelled", "answered", "answered"], 3, 0),
    ],
)
def test_what_becomes_of_a_batch(elsewhere: Executor, name: str, ends: list[str], of_batch: int, calls: int) -> None:
    found = run(elsewhere, PLANS[name])
    assert found.violations == ()
    assert [end for _, end in found.ends] == ends
    assert (sum(found.batch_flags), found.calls, found.jobs) == (of_batch, calls, 1)


@pytest.mark.parametrize("name", IN_SECONDS)
def test_a_kill_loses_nothing_and_pays_nothing_twice(elsewhere: Executor, name: str) -> None:
    runs = elsewhere.submit(run_kills, PLANS[name], 3, 13).result(60)
    assert [(one.point, one.violations) for one in runs if one.violations] == []
    assert all(one.point is not None for one in runs)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PLANS)
def test_a_kill_at_any_point(elsewhere: Executor, name: str) -> None:
    runs = elsewhere.submit(run_kills, PLANS[name], 0, 1).result(900)
    assert len(runs) > 30
    assert [(one.point, one.violations) for one in runs if one.violations] == []


@pytest.mark.parametrize(
    ("bug", "plan", "first"),
    [
        ("submits without looking", PLANS["answered"], 7),
        ("gathers again", PLANS["answered"], 4),
        ("random executions", PLANS["answered"], -8),
        ("calls again", PLANS["two in three not made"], -6),
    ],
)
def test_a_planted_bug_is_noticed(elsewhere: Executor, bug: str, plan: BatchPlan, first: int) -> None:
    """`first` is the first point to try, from the end if it is negative."""
    points = elsewhere.submit(run_plan, plan).result(60).points
    runs = elsewhere.submit(run_kills, plan, first % points, 1, bug, until_found=True).result(60)
    assert runs[-1].violations


def test_every_planted_bug_is_tried() -> None:
    assert set(BUGS) == {"submits without looking", "gathers again", "random executions", "calls again"}
