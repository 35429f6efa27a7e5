"""Which running batch call gives its slot to an interactive call that waits.

A slot that a batch call has for minutes is of no use to somebody who waits for an answer. So the batch call is
interrupted, waits for another slot, and begins anew: what it has done is lost, so the one that has done least is taken,
and none where a slot is free soon anyway. One attempt is interrupted a few times at most: then it runs to its end,
however many interactive calls come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

SOON_SECONDS: Final = 10.0
"""If a slot is expected to be free within this time, nobody is interrupted for it. As long as batch work waits longer
than interactive work, see `waiting_calls`."""


class Displaceable(NamedTuple):
    """A call that may be interrupted: its endpoint's name, its number there, and for how long it has run."""

    endpoint: str
    number: int
    done_seconds: float


def displaced(
    waiting: int,
    leaving: int,
    soonest_seconds: float,
    running: Sequence[Displaceable],
    *,
    soon_seconds: float = SOON_SECONDS,
) -> Displaceable | None:
    """The call to interrupt for one of the interactive calls that wait; None if none is to be.

    Args:
        waiting: Interactive calls that wait for the same endpoints.
        leaving: Calls that were interrupted there before, and whose slots none of them has taken yet.
        soonest_seconds: Until one of these endpoints is expected to have a free slot.
        running: What may be interrupted there.
        soon_seconds: See `SOON_SECONDS`.
    """
    if leaving >= waiting or soonest_seconds <= soon_seconds:
        return None
    return min(running, key=lambda one: (one.done_seconds, one.endpoint, one.number), default=None)
