"""Places in a backlog that were promised to those who were refused, so that coming back when told is worth it.

Each refusal promises the next place that is free by then, so that those who come back are spread at the pace at which
the tenant is served. A promised place is kept from others from a little before its time until a little after, then it
fades. Who comes back is recognised by what it asks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import Final

MOST_PROMISES: Final = 32_768
"""Of one backlog, about 200 bytes each."""
_AT_FIRST: Final = 1 / 4
"""Share of promises that are taken up, as long as nothing is known."""
_LEARNT: Final = 1 / 64
"""How much one promise that was taken up, or not, says of the next one."""
_MARGIN: Final = 1.5
"""How many more may come back than did lately. The place of one who does not is another's, so that it costs little."""
_LEAST_SHARE: Final = 1 / 16


class Promises:
    """The promised places of one backlog, each in milliseconds since the epoch.

    A promise takes as much of a place as promises were taken up lately, and a little more: most callers do not come
    back, and what is promised to them must not make others wait.
    """

    __slots__ = ("_at", "_taken_up", "_times")

    def __init__(self) -> None:
        self._at: dict[int, int] = {}
        self._times: list[tuple[int, int]] = []
        self._taken_up = _AT_FIRST

    def __len__(self) -> int:
        return len(self._times)

    @property
    def places(self) -> float:
        """How many places all of them take."""
        return len(self) * self._weight

    def places_until(self, at_ms: int) -> float:
        """How many places those take whose time is up to this one."""
        return bisect_right(self._times, (at_ms + 1,)) * self._weight

    def of(self, who: int) -> int | None:
        """When a place is promised to somebody; None if none is."""
        return self._at.get(who)

    def make(self, who: int, at_ms: int) -> bool:
        """Promise a place to somebody to whom none is promised; False if there are too many promises."""
        if len(self) >= MOST_PROMISES or who in self._at:
            return False
        self._at[who] = at_ms
        insort(self._times, (at_ms, who))
        return True

    def take_up(self, who: int) -> None:
        """Somebody has come back for its place."""
        entry = (self._at.pop(who), who)
        del self._times[bisect_left(self._times, entry)]
        self._taken_up += (1 - self._taken_up) * _LEARNT

    def fade(self, before_ms: int) -> None:
        """Forget the promises whose time was before: nobody has come."""
        count = bisect_left(self._times, (before_ms,))
        for _, who in self._times[:count]:
            del self._at[who]
            self._taken_up = max(self._taken_up * (1 - _LEARNT), _LEAST_SHARE)
        del self._times[:count]

    @property
    def _weight(self) -> float:
        return min(_MARGIN * self._taken_up, 1.0)
