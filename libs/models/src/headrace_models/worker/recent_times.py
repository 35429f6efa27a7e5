"""How long the calls of one model at one endpoint took lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

KEPT: Final = 32
"""Most calls that are remembered."""
FEWEST: Final = 4
"""Of fewer calls nothing follows: the first one may have loaded the model."""
FORGOTTEN_SECONDS: Final = 600.0
"""A call counts for so long. Where nothing is begun since it seems to take too long, nothing is learned either: when
the last calls are forgotten, one is begun again."""


class RecentTimes:
    """The newest calls that ended with an answer, or were cut off. Times are seconds of a monotonic clock."""

    __slots__ = ("_calls", "_cut_off")

    def __init__(self) -> None:
        self._calls: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._cut_off: deque[tuple[float, float]] = deque(maxlen=KEPT)

    def observe(self, now: float, seconds: float) -> None:
        """A call has ended with an answer."""
        self._calls.append((now, seconds))

    def cut_off(self, now: float, seconds: float) -> None:
        """A call has been cut off after so long: nobody knows how long it would have taken."""
        self._cut_off.append((now, seconds))

    def least(self, now: float) -> float:
        """The lower quartile: with less time, three calls out of four would have been cut off. 0 while not known.

        Low on purpose: answers differ in length, and who might make it is not turned away.
        """
        answered, _ = self._known(now)
        return answered[len(answered) // 4] if answered else 0.0

    def ample(self, now: float) -> float:
        """With this much time, nine calls out of ten would have ended. 0 while not known.

        If more than one in ten was cut off lately, it is twice what any of them has taken: only short ones have been
        answered, and by these alone ever shorter times would seem ample.
        """
        answered, cut_off = self._known(now)
        if not answered:
            return 0.0
        place = int((len(answered) + len(cut_off)) * 9 / 10)
        return answered[place] if place < len(answered) else 2 * max(answered[-1], cut_off[-1])

    def _known(self, now: float) -> tuple[Sequence[float], Sequence[float]]:
        for calls in (self._calls, self._cut_off):
            while calls and calls[0][0] <= now - FORGOTTEN_SECONDS:
                calls.popleft()
        if len(self._calls) < FEWEST:
            return (), ()
        # No older than the answers: those that were cut off are fewer, as long as all is well.
        since = self._calls[0][0]
        return (
            sorted(seconds for _, seconds in self._calls),
            sorted(seconds for ended, seconds in self._cut_off if ended >= since),
        )
