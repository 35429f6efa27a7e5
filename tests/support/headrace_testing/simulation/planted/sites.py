"""Bugs of sites."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace_contracts.events import AttemptsCancelled
from headrace_models.worker.cancellations import Cancellations
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.decide import publications

from headrace_testing.simulation.planted.bugs import Bug, Patches


def _left_at_the_site(patches: Patches) -> None:
    patches.put(RoutingView, "silent_sites", lambda _self: frozenset())


def _taken_back_and_run(patches: Patches) -> None:
    async def take(self: Any, record: Any, outcome: Any) -> None:
        if not isinstance(outcome, AttemptsCancelled) or not outcome.number:
            await original(self, record, outcome)

    original = patches.put(Cancellations, "_take", take)


def _taken_back_with_its_task(patches: Patches) -> None:
    def cancel(entry: Any, state: Any, command: Any) -> Any:
        made = original(entry, state, command)
        return replace(made, event=replace(made.event, number=0))

    original = patches.put(publications, "_cancel", cancel)


BUGS = (
    Bug("left_at_the_site", "attempts lie at a site that is gone until they time out", _left_at_the_site),
    Bug("taken_back_and_run", "a worker that comes back runs what was taken back", _taken_back_and_run),
    Bug(
        "taken_back_with_its_task", "to take an attempt back cancels its whole task", _taken_back_with_its_task, hint=42
    ),
)
