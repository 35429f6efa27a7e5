"""Bugs of switches and of changes of the policy."""

from __future__ import annotations

from typing import Any

from headrace_contracts.switches import Switches
from headrace_models.worker.kill_switches import KillSwitches
from headrace_router.partition import PartitionRouter

from headrace_testing.simulation.planted.bugs import Bug, Patches


def _switch_of_model_overlooked(patches: Patches) -> None:
    def against(self: Any, provider: str, model: str, place: Any, now: int) -> Any:
        found = original(self, provider, model, place, now)
        return None if found is not None and found.startswith("model ") else found

    original = patches.put(Switches, "against", against)


def _policy_changes_unannounced(patches: Patches) -> None:
    patches.put(PartitionRouter, "_journal_policy", lambda _self: None)


def _switches_unheeded_by_workers(patches: Patches) -> None:
    patches.put(KillSwitches, "against", lambda _self, _request: None)


BUGS = (
    Bug(
        "switch_of_model_overlooked",
        "switches of models are overlooked",
        _switch_of_model_overlooked,
        hint=17,
    ),
    Bug(
        "policy_changes_unannounced",
        "decisions go over to a new policy without a word in the journal",
        _policy_changes_unannounced,
        hint=42,
    ),
    Bug(
        "switches_unheeded_by_workers",
        "workers call what was switched off after the router had sent it",
        _switches_unheeded_by_workers,
        hint=104,
    ),
)
