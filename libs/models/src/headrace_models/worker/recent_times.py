"""How long the calls of one model at one endpoint took lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from headrace_models.worker.estimates import UNSIZED, CallSize

KEPT: Final = 32
"""Most calls that are remembered."""
FEWEST: Final = 4
"""Of fewer calls nothing follows: the first one may have loaded the model."""
FORGOTTEN_SECONDS: Final = 600.0
"""A call counts for so long. Where nothing is begun since it seems to take too long, nothing is learned either: when
the last calls are forgotten, one is begun again."""


Factor = Callable[[CallSize], float]
"""How many times as long as a call of this size the one takes that is asked about."""


def _alike(_size: CallSize) -> float:
    return 1.0


class RecentTimes:
    """The newest calls that ended with an answer, or were cut off. Times are seconds of a monotonic clock.

    Calls differ in size: those that are remembered count with what they would have taken at the size asked about.
    """

    __slots__ = ("_calls", "_cut_off")

    def __init__(self) -> None:
        self._calls: deque[tuple[float, float, CallSize]] = deque(maxlen=KEPT)
        self._cut_off: deque[tuple[float, float, CallSize]] = deque(maxlen=KEPT)

    def observe(self, now: float, seconds: float, size: CallSize = UNSIZED) -> None:
        """A call has ended with an answer."""
        self._calls.append((now, seconds, size))

    def cut_off(self, now: float, seconds: float, size: CallSize = UNSIZED) -> None:
        """A call has been cut off after so long: nobody knows how long it would have taken."""
        self._cut_off.append((now, seconds, size))

    def least(self, now: float, factor: Factor = _alike) -> float:
        """The lower quartile: with less time, three calls out of four would have been cut off. 0 while not known.

        Low on purpose: answers differ in length, and who might make it is not turned away.
        """
        answered, _ = self._known(now, factor)
        return answered[len(answered) // 4] if answered else 0.0

    def ample(self, now: float, factor: Factor = _alike) -> float:
        """With this much time, nine calls out of ten would have ended. 0 while not known.

        If more than one in ten was cut off lately, it is twice what any of them has taken: only short ones have been
        answered, and by these alone ever shorter times would seem ample.
        """
        answered, cut_off = self._known(now, factor)
        if not answered:
            return 0.0
        place = int((len(answered) + len(cut_off)) * 9 / 10)
        return answered[place] if place < len(answered) else 2 * max(answered[-1], cut_off[-1])

    def _known(self, now: float, factor: Factor) -> tuple[Sequence[float], Sequence[float]]:
        for calls in (self._calls, self._cut_off):
            while calls and calls[0][0] <= now - FORGOTTEN_SECONDS:
                calls.popleft()
        if len(self._calls) < FEWEST:
            return (), ()
        # No older than the answers: those that were cut off are fewer, as long as all is well.
        since = self._calls[0][0]
        return (
            sorted(seconds * factor(size) for _, seconds, size in self._calls),
            sorted(seconds * factor(size) for ended, seconds, size in self._cut_off if ended >= since),
        )
