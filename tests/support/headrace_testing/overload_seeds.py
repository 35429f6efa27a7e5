"""Random worlds with more work than the nodes of a worker can do, each drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace_contracts.events import Lane

from headrace_testing.overload import Answers, Demand, NodePlan, Overloaded, SlowTime

SECONDS = 150.0
"""How long a world lasts."""
FEW = 8
"""Attempts in flight, besides the room of nodes."""


@dataclass(frozen=True, slots=True)
class OverloadedWorld:
    """The nodes and who wants what of them. Where few attempts may be in flight, all room is always taken."""

    seed: int
    nodes: Mapping[str, NodePlan]
    demands: Sequence[Demand]
    max_in_flight: int

    def run(self) -> Answers:
        """What becomes of it."""
        return Overloaded(self.nodes, self.demands, max_in_flight=self.max_in_flight, seed=self.seed).run(SECONDS)

    def changes(self, node: str) -> Sequence[float]:
        """When the speed of a node changes, after its start."""
        return [at for one in self.nodes[node].slow for at in (one.since, one.until)]


def draw_world(seed: int) -> OverloadedWorld:
    """The world of a seed: one to three nodes with a model each, of which one at least is asked for more than it can do
    by tenants whose weights and calls differ; ramps, bursts and slow nodes in some of them."""
    rng = random.Random(f"{seed} overload")
    nodes: dict[str, NodePlan] = {}
    demands: list[Demand] = []
    loads = [
        rng.choice((1.3, 1.6, 2.0, 2.5)),
        *(rng.choice((0.3, 0.6, 1.2, 2.0)) for _ in range(rng.choice((0, 1, 2)))),
    ]
    for number, load in enumerate(loads):
        model, slots = f"m{number}", rng.randint(1, 5)
        slow = []
        if rng.random() < 0.25:
            since = rng.uniform(40.0, 80.0)
            slow.append(SlowTime(since=since, until=since + rng.uniform(10.0, 40.0), factor=rng.choice((1.5, 3.0))))
        nodes[f"node-{number}"] = NodePlan(slots=slots, models=(model,), slow=slow)
        demands += _demands_of(rng, number, model, slots, load)
    return OverloadedWorld(seed, nodes, demands, FEW if rng.random() < 0.25 else 256)


def _demands_of(rng: random.Random, number: int, model: str, slots: int, load: float) -> Sequence[Demand]:
    tenants = rng.randint(1, 4)
    alike = rng.random() < 0.4
    usual = rng.choice((1.0, 2.0))
    found = []
    for tenant in range(tenants):
        seconds = usual if alike else usual * rng.choice((0.5, 1.0, 3.0))
        # Of one who is alone there is more than enough; of several, each would be enough for the node in some seeds.
        share = load if rng.random() < 0.5 else load / tenants
        found.append(
            Demand(
                model=model,
                rate=share * slots / seconds,
                seconds=seconds,
                spread=rng.choice((0.0, 0.5)),
                deadline=rng.choice((20.0, 40.0)),
                tenant=f"t{number}-{tenant}",
                weight=rng.choice((1, 1, 2, 4, 8)),
                lane=Lane.BATCH if rng.random() < 0.15 else Lane.INTERACTIVE,
                until=SECONDS,
                ramp=_ramp(rng),
                bursts=[(rng.uniform(10.0, 100.0), rng.randint(10, 40))] if rng.random() < 0.2 else [],
            )
        )
    return found


def _ramp(rng: random.Random) -> Sequence[tuple[float, float]]:
    if rng.random() < 0.7:
        return ((0.0, 1.0),)
    return tuple((number * 20.0, factor) for number, factor in enumerate((0.2, 0.6, 1.0, 1.0, 1.0, 0.5)))
