"""Bugs to plant into the services. The simulation must catch them, or its silence means nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from headrace_testing.simulation.planted import (
    engine,
    journal,
    lasting,
    ledger,
    operators,
    research,
    router,
    sessions,
    several_models,
    sites,
    workers,
)
from headrace_testing.simulation.planted.bugs import Bug, Patches

BUGS: Sequence[Bug] = (
    *journal.BUGS, *router.BUGS, *engine.BUGS, *workers.BUGS, *ledger.BUGS, *lasting.BUGS, *sites.BUGS,
    *operators.BUGS, *research.BUGS, *several_models.BUGS, *sessions.BUGS,
)  # fmt: skip


def bug_named(name: str) -> Bug:
    """Raises KeyError."""
    return {bug.name: bug for bug in BUGS}[name]


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The services with a bug planted. Raises AttributeError when the code it patches is gone."""
    patches = Patches()
    try:
        bug.plant(patches)
        yield
    finally:
        patches.undo()
