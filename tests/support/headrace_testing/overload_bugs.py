"""Bugs to plant into a worker that gets more work than it can do; the oracles of `overload_oracles` must catch them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from headrace_models.worker import runner, waiting_calls
from headrace_models.worker.fair_shares import FairShares
from headrace_models.worker.pool import Pool
from headrace_models.worker.recent_times import RecentTimes
from headrace_streams import handling

from headrace_testing.overload_oracles import violations
from headrace_testing.overload_seeds import draw_world
from headrace_testing.simulation.planted.bugs import Bug, Patches


def _weight_ignored(patches: Patches) -> None:
    for module in (handling, runner):
        patches.put(module, "weight_of", lambda _headers: 1)


def _queue_by_age(patches: Patches) -> None:
    patches.put(waiting_calls, "OLD_SECONDS", math.inf)


def _begun_whatever_is_left(patches: Patches) -> None:
    for name in ("least", "ample"):
        patches.put(RecentTimes, name, lambda *_: 0.0)


def _calls_counted(patches: Patches) -> None:
    """Tenants take turns by calls."""

    def began(self: Any, tenant: str, weight: int, now: float, usual: float) -> None:
        original(self, tenant, weight, now, 0.0)
        self._accounts[tenant].used += 1 / weight
        for call in self._accounts[tenant].running:
            call.weight = 10**9

    original = patches.put(FairShares, "began", began)


def _longest_waiting_first(patches: Patches) -> None:
    patches.put(FairShares, "claim", lambda *_: 0.0)


def _no_room_for_other_nodes(patches: Patches) -> None:
    patches.put(Pool, "useful_calls", lambda *_: 0)


BUGS: Final[Sequence[Bug]] = (
    Bug("weight_ignored", "all tenants get the same", _weight_ignored, hint=2),
    Bug("queue_by_age", "calls are begun by age however old they are", _queue_by_age, hint=3),
    Bug("begun_whatever_is_left", "a call is begun that cannot end in time", _begun_whatever_is_left),
    Bug("calls_counted", "tenants get the same number of calls instead of the same time", _calls_counted, hint=3),
    Bug("longest_waiting_first", "tenants do not share slots at all", _longest_waiting_first, hint=2),
    Bug("no_room_for_other_nodes", "calls that wait for a busy node take all room", _no_room_for_other_nodes, hint=21),
)


def caught(bug: Bug, seeds: Sequence[int]) -> Mapping[int, Sequence[str]]:
    """What the first of these seeds to catch a planted bug says; empty if none does."""
    patches = Patches()
    try:
        bug.plant(patches)
        for seed in seeds:
            found = violations(draw_world(seed))
            if found:
                return {seed: found}
        return {}
    finally:
        patches.undo()
