"""Bugs to plant into a worker with nodes that come and go; the promises of a day must catch them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.watched_call import WatchedCalls

from headrace_testing.fleet_day.plan import draw_half_hour
from headrace_testing.fleet_day.promises import violations
from headrace_testing.fleet_day.world import FleetDay
from headrace_testing.simulation.planted.bugs import Bug, Patches

_LOAD: Final = 0.15
"""Of the half hours that are to catch them, as a share of what the machines can do: a little is enough."""


def _gone_is_chosen(patches: Patches) -> None:
    def objection(self: Any, now: float) -> str | None:
        return None if self.status.models else original(self, now)

    original = patches.put(Endpoint, "objection", objection)


def _silent_calls_go_on(patches: Patches) -> None:
    patches.put(WatchedCalls, "probed", lambda *_, **__: None)


BUGS: Final[Mapping[str, Bug]] = {
    bug.name: bug
    for bug in (
        Bug("gone_is_chosen", "a machine that has left goes on being chosen", _gone_is_chosen),
        Bug(
            "silent_calls_go_on",
            "calls at machines that have left wait until their limits",
            _silent_calls_go_on,
            hint=7,
        ),
    )
}


def caught(bug: Bug, seeds: Sequence[int]) -> Sequence[str]:
    """What the first of these seeds to catch a planted bug says; empty if none does."""
    patches = Patches()
    try:
        bug.plant(patches)
        runs = (FleetDay(draw_half_hour(seed, load=_LOAD)).run() for seed in seeds)
        return next((found for result in runs if (found := violations(result))), ())
    finally:
        patches.undo()
