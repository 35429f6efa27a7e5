"""Bugs to plant into a worker with nodes that come and go; the promises of a day must catch them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from headrace_contracts.events import Lane
from headrace_models.errors import TryAnotherProvider
from headrace_models.worker import runner
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.watched_call import WatchedCalls

from headrace_testing.fleet_day.machines import MachineSpec
from headrace_testing.fleet_day.plan import Burst, DayPlan, Kind, draw_half_hour
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


def _interrupted_without_end(patches: Patches) -> None:
    async def asked(endpoint: Any, call: Any, on_text: Any, on_piece: Any, may_be_displaced: bool) -> Any:
        return await original(endpoint, call, on_text, on_piece, may_be_displaced or call.batch)

    original = patches.put(runner, "_asked", asked)


def _interrupted_and_lost(patches: Patches) -> None:
    async def asked(*given: Any) -> Any:
        told = await original(*given)
        if isinstance(told, runner._Displaced):
            return TryAnotherProvider("request_rejected", "another call has its slot", provider="ollama")
        return told

    original = patches.put(runner, "_asked", asked)


def contended() -> DayPlan:
    """A machine that does one call at a time, a batch task of several minutes, and somebody who asks once a minute."""
    model = "gemma2:2b"
    batch = Kind(share=1, model=model, lane=Lane.BATCH, answer=(9_000, 9_000))
    talk = Kind(
        share=1, role="conversation_scribe", model=model, lane=Lane.INTERACTIVE, answer=(110, 115), prompt=(200, 210)
    )
    return DayPlan(
        seed=1, seconds=900.0, machines=[MachineSpec(name="only", speed=1.0, slots=1, memory_gb=8.0, models=(model,))],
        bursts=[Burst(at=10.0, kind=batch), *(Burst(at=70.0 + 60.0 * number, kind=talk) for number in range(6))],
    )  # fmt: skip


OF_INTERRUPTIONS: Final[Mapping[str, Bug]] = {
    bug.name: bug
    for bug in (
        Bug("interrupted_without_end", "batch work starves while others ask", _interrupted_without_end),
        Bug("interrupted_and_lost", "a task fails because its call was interrupted", _interrupted_and_lost),
    )
}
"""Caught where there is `contended` work."""

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
    return caught_by(bug, (draw_half_hour(seed, load=_LOAD) for seed in seeds))


def caught_by(bug: Bug, plans: Iterable[DayPlan]) -> Sequence[str]:
    """The same for days of which the plans are given."""
    patches = Patches()
    try:
        bug.plant(patches)
        runs = (FleetDay(plan).run() for plan in plans)
        return next((found for result in runs if (found := violations(result))), ())
    finally:
        patches.undo()
