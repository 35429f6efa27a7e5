"""How many calls an endpoint gets that has just joined or come back.

As Envoy's slow start (envoyproxy.io, "Slow start mode") it gets more with time, and as TCP's one more for each answer:
nobody knows its speed, and what runs there must not be lost if it fails again. Where no other endpoint could do the
work, there is nothing to be careful for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WINDOW_SECONDS: Final = 10.0
"""By then it gets calls for all its slots, however few have ended."""


@dataclass(frozen=True, slots=True)
class WarmingUp:
    """Of one model at one endpoint: when its first call began since it joined, and the answers since then."""

    since: float
    answers: int = 0

    def allowed(self, slots: int, now: float) -> int:
        """Calls that may run at once."""
        in_time = int(slots * max(0.0, now - self.since) / WINDOW_SECONDS)
        return min(slots, max(1 + self.answers, in_time))
