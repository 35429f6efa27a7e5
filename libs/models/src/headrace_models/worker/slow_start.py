"""How many calls an endpoint gets that has just joined or come back.

As Envoy's slow start (envoyproxy.io, "Slow start mode") it gets more with time, and as TCP's one more for each answer:
nobody knows its speed, and what runs there must not be lost if it fails again. Where its operator has told how many
calls it runs at once, it begins with some instead of one; not with all, since it may never answer. Where no other
endpoint could do the work, there is nothing to be careful for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WINDOW_SECONDS: Final = 10.0
"""By then it gets calls for all its slots, however few have ended."""
_MOST_AT_FIRST: Final = 4
"""Calls of one model before the first answer, however many it is told to run."""


def at_first(told: int | None) -> int:
    """Calls that may run before any has ended, at an endpoint that is told to run so many; None if nobody told."""
    return 1 if told is None else max(1, min(told, _MOST_AT_FIRST))


@dataclass(frozen=True, slots=True)
class WarmingUp:
    """Of one model at one endpoint: when its first call began since it joined, and the answers since then."""

    since: float
    answers: int = 0

    def allowed(self, slots: int, now: float, told: int | None = None) -> int:
        """Calls that may run at once; `told` as of `at_first`."""
        in_time = int(slots * max(0.0, now - self.since) / WINDOW_SECONDS)
        return min(slots, max(at_first(told) + self.answers, in_time))
