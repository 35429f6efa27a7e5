"""Bugs of sites."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace_contracts import topics
from headrace_contracts.events import Place
from headrace_contracts.sites import NO_SITE
from headrace_router.decide import publications, routes

from headrace_testing.simulation.planted.bugs import Bug, Patches


def _taken_back_with_its_task(patches: Patches) -> None:
    def cancel(entry: Any, state: Any, command: Any) -> Any:
        made = original(entry, state, command)
        return replace(made, event=replace(made.event, number=0))

    original = patches.put(publications, "_cancel", cancel)


def _topic_of_no_site(patches: Patches) -> None:
    def topic(place: Any, lane: Any, _site: str) -> Any:
        return original(place, lane, NO_SITE)

    original = patches.put(routes, "work_topic", topic)


def _topic_of_another_site(patches: Patches) -> None:
    def topic(place: Any, lane: Any, site: str = NO_SITE) -> Any:
        return original(place, lane, "a" if site == NO_SITE and place is Place.LOCAL else site)

    original = patches.put(topics, "work_topic", topic)


BUGS = (
    Bug(
        "taken_back_with_its_task",
        "to take an attempt back cancels its whole task",
        _taken_back_with_its_task,
        hint=42,
    ),
    Bug("topic_of_no_site", "attempts of all sites are written for the workers without one", _topic_of_no_site, hint=3),
    Bug("topic_of_another_site", "a worker reads what is for another site", _topic_of_another_site, hint=3),
)
