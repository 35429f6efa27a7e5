"""Bugs of sessions that have to stay sensitive."""

from __future__ import annotations

from typing import Any

from headrace_router.decide import machine, routes
from headrace_router.partition_state import PartitionState

from headrace_testing.simulation.planted.bugs import Bug, Patches


def _session_ignored(patches: Patches) -> None:
    patches.put(routes, "session_floor", lambda _task, floor, _sessions, _now: floor)


def _mark_lost(patches: Patches) -> None:
    patches.put(machine, "with_mark", lambda state: state)


def _mark_not_recovered(patches: Patches) -> None:
    def restore(self: Any, recorded: Any, now: int) -> None:
        original(self, recorded._replace(sensitive_session=None), now)

    original = patches.put(PartitionState, "restore", restore)


BUGS = (
    Bug("session_ignored", "a task is not raised by the session that it belongs to", _session_ignored, hint=66),
    Bug("mark_lost", "the journal does not say that a session is sensitive", _mark_lost, hint=19),
    Bug("mark_not_recovered", "a new owner does not know which sessions are sensitive", _mark_not_recovered, hint=352),
)
