"""Bugs of sites."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace_router.decide import publications

from headrace_testing.simulation.planted.bugs import Bug, Patches


def _taken_back_with_its_task(patches: Patches) -> None:
    def cancel(entry: Any, state: Any, command: Any) -> Any:
        made = original(entry, state, command)
        return replace(made, event=replace(made.event, number=0))

    original = patches.put(publications, "_cancel", cancel)


BUGS = (
    Bug(
        "taken_back_with_its_task",
        "to take an attempt back cancels its whole task",
        _taken_back_with_its_task,
        hint=42,
    ),
)
