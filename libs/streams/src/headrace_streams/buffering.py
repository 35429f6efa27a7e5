"""How many bytes of values the parallel engine may hold, from the receipt of records until they are finished.

Records differ in size by orders of magnitude, and the memory of a process does not follow from their number: 4,096
records of 52 KiB are 208 MiB. Each lane has an equal share of the limit, so that waiting batch work never takes the
room of interactive work. What a record costs besides, about 1 KiB, follows from the limit on their number.
"""

from __future__ import annotations

from typing import Final

from headrace_streams.work import Work

_RESUMED_AT: Final = 3 / 4
"""Share of its limit at which a full lane goes on: at the limit itself it would pause again with the next record."""


class HeldBytes:
    """Bytes of held records, by lane. Every piece that is taken must be given back exactly once.

    Args:
        lanes: Number of lanes.
        limit: Most bytes of all lanes together.
    """

    def __init__(self, lanes: int, limit: int) -> None:
        self.lane_limit = max(1, limit // lanes)
        self._resumed_at = int(self.lane_limit * _RESUMED_AT)
        self._held = [0] * lanes
        self._full = [False] * lanes

    def held(self, lane: int) -> int:
        """Bytes of a lane."""
        return self._held[lane]

    def is_full(self, lane: int) -> bool:
        """Whether a lane has reached its limit, and not fallen to three quarters of it since."""
        return self._full[lane]

    @property
    def room(self) -> int:
        """Bytes to ask for with the next poll: what the fullest lane has left, as they may all be of that one; at least
        1, which is one record, since partitions that have none may always receive one."""
        return max(1, self.lane_limit - max(self._held))

    def take(self, work: Work) -> None:
        """A record is held from now on."""
        self._held[work.lane] += work.size
        work.partition.held += 1

    def give_back(self, work: Work) -> None:
        """It is held no more."""
        self._held[work.lane] -= work.size
        work.partition.held -= 1

    def changed(self, lane: int) -> bool:
        """Whether the lane has become full, or may go on, since this was last asked."""
        held, before = self._held[lane], self._full[lane]
        self._full[lane] = held > self._resumed_at if before else held >= self.lane_limit
        return self._full[lane] is not before
