"""When more is asked of a worker's nodes than they can do, slots are shared fairly, none is idle, little is wasted."""

from __future__ import annotations

import pytest
from headrace_testing.overload_bugs import BUGS, caught
from headrace_testing.overload_oracles import violations
from headrace_testing.overload_seeds import draw_world
from headrace_testing.simulation.planted.bugs import Bug

SEEDS = range(1, 25)


@pytest.mark.parametrize("seeds", [SEEDS[first : first + 4] for first in range(0, len(SEEDS), 4)], ids=str)
def test_promises_are_kept(seeds: range) -> None:
    assert [what for seed in seeds for what in violations(draw_world(seed))] == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_bug_is_caught(bug: Bug) -> None:
    assert caught(bug, (bug.hint, *SEEDS)), f"{len(SEEDS)} seeds have not caught the bug {bug.name}"


def test_calls_begun_whatever_is_left_are_caught_by_the_first_seed() -> None:
    (bug,) = [one for one in BUGS if one.name == "begun_whatever_is_left"]
    assert caught(bug, SEEDS[:1])


def test_worlds_differ_as_they_should() -> None:
    worlds = [draw_world(seed) for seed in SEEDS]
    nodes = [node for world in worlds for node in world.nodes.values()]
    demands = [demand for world in worlds for demand in world.demands]
    assert any(node.slow for node in nodes)
    assert any(demand.bursts for demand in demands)
    assert any(len(demand.ramp) > 1 for demand in demands)
    assert {1, 2, 3} == {len(world.nodes) for world in worlds}
    assert len({demand.weight for demand in demands}) == 4
