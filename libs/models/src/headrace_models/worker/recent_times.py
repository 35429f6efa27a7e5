"""How long the calls of one model at one endpoint took lately."""

from __future__ import annotations

from collections import deque
from typing import Final

KEPT: Final = 32
"""Most calls that are remembered."""
FEWEST: Final = 4
"""Of fewer calls nothing follows: the first one may have loaded the model."""
FORGOTTEN_SECONDS: Final = 600.0
"""A call counts for so long. Where nothing is begun since it seems to take too long, nothing is learned either: when
the last calls are forgotten, one is begun again."""


class RecentTimes:
    """The newest calls that ended with an answer. Times are seconds of a monotonic clock."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: deque[tuple[float, float]] = deque(maxlen=KEPT)

    def observe(self, now: float, seconds: float) -> None:
        """A call has ended."""
        self._calls.append((now, seconds))

    def least(self, now: float) -> float:
        """The lower quartile: with less time, three calls out of four would have been cut off. 0 while not known.

        Low on purpose: answers differ in length, and who might make it is not turned away.
        """
        return self._quantile(now, 1 / 4)

    def ample(self, now: float) -> float:
        """With this much time, nine calls out of ten would have ended. 0 while not known."""
        return self._quantile(now, 9 / 10)

    def _quantile(self, now: float, share: float) -> float:
        while self._calls and self._calls[0][0] <= now - FORGOTTEN_SECONDS:
            self._calls.popleft()
        if len(self._calls) < FEWEST:
            return 0.0
        return sorted(seconds for _, seconds in self._calls)[int(len(self._calls) * share)]
