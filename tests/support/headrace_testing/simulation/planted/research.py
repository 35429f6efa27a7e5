"""Bugs of searches before an answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace_router.decide import research
from headrace_router.decide.rules import TaskRules

from headrace_testing.simulation.planted.bugs import Bug, Patches


def _findings_lost(patches: Patches) -> None:
    patches.put(research, "merged", lambda kept, _found, _room: kept)


def _answered_too_early(patches: Patches) -> None:
    def resting(step: Any, context: Any) -> Any:
        if not any(search.ended for search in step.research.searches):
            return original(step, context)
        return research._concluded(step, research._policy(step.state, context), "", context)

    original = patches.put(research, "_resting", resting)


def _searched_again(patches: Patches) -> None:
    def take(step: Any, place: int, *rest: Any) -> None:
        original(step, place, *rest)
        search = step.research.searches[place]
        if len(search.attempts) < 2:
            step.change(place, replace(search, ended=False))

    original = patches.put(research, "_take", take)


def _web_is_local(patches: Patches) -> None:
    patches.put(TaskRules, "_reaches_the_web", lambda *_: False)


BUGS = (
    Bug("findings_lost", "what a search has found is forgotten", _findings_lost, hint=29),
    Bug("answered_too_early", "an answer does not wait for all searches", _answered_too_early, hint=8),
    Bug("searched_again", "what is answered is searched for once more", _searched_again, hint=29),
    Bug("web_is_local", "a search of our own counts as local, though it asks the web", _web_is_local, hint=31),
)
