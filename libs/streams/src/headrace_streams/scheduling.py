"""Which piece of work to start next: lanes and tenants by weight, keys in order, room for each kind.

- Lanes share starts in proportion to their weights (stride scheduling: Waldspurger and Weihl, 1995). What one lane does
  not use goes to the others; between equal claims the lane listed first wins. A lane may be limited to a number of
  running pieces, so that slow batch work leaves room for interactive work.
- Within a lane, the tenant with the fewest running pieces for its weight is next, in turns among equals. A tenant with
  a thousand waiting pieces, or with pieces that take a hundred times longer, gets no more room than any other.
- One piece of each key runs at a time, in order of arrival, across lanes. A piece that must wait (a retry) is parked:
  its key waits with it, all others continue. Pieces without a key are independent.
- Pieces of one kind need the same thing, and each kind has room of its own for as many as can have it at once. That
  room is there when everything else is taken, by pieces that wait for what they need. Those of other kinds are skipped
  meanwhile, and keep their places.

Nothing here reads a clock. Times are arguments, in seconds of any monotonic clock.

Invariants: a piece is in exactly one of these states: behind its key (`_keys`), ready (in its lane), running
(`_in_flight`), parked. A key is in `_keys` exactly as long as one of its pieces is ready, running or parked; only that
piece may start. A lane's `waiting` counts its pieces in all states but running.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic

from headrace_streams.lanes import LaneQueue, LaneShare, P, parted


def no_room(_kind: Hashable | None) -> int:
    """No kind has room of its own."""
    return 0


class Scheduler(Generic[P]):
    """Waiting, running and parked pieces of work. Calls take logarithmic time, and `start` and `may_start` look at
    every kind that has a ready piece; `drop` and `waiting_pieces` are linear.

    Args:
        max_in_flight: Most running pieces, but for the room of kinds.
        room_of: How many pieces of a kind may run whatever else does. It may change at any time.
    """

    def __init__(
        self,
        lanes: Sequence[LaneShare],
        max_in_flight: int,
        room_of: Callable[[Hashable | None], int] = no_room,
    ) -> None:
        if not lanes:
            raise ValueError("at least one lane is needed")
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight}")
        self._lanes = [LaneQueue[P](share) for share in lanes]
        self._max_in_flight = max_in_flight
        self._room_of = room_of
        self._in_flight = 0
        self._running_of: dict[Hashable | None, int] = {}
        # Stride scheduling: a lane's `claim` grows by 1 / weight with each start, and the lowest claim is next. This is
        # the claim of the last start.
        self._virtual_time = 0.0
        # The queue holds the pieces behind the one that is ready, running or parked; None instead of an empty queue, as
        # most keys have one piece only.
        self._keys: dict[Hashable, deque[P] | None] = {}
        self._parked: list[tuple[float, int, P]] = []
        self._parkings = 0

    @property
    def in_flight(self) -> int:
        """Pieces started and neither finished nor parked."""
        return self._in_flight

    @property
    def parked(self) -> int:
        """Pieces that wait for their retry."""
        return len(self._parked)

    def waiting(self, lane: int) -> int:
        """Pieces of a lane that are not running: ready, behind their key, or parked."""
        return self._lanes[lane].waiting

    def waiting_pieces(self) -> Iterator[P]:
        """All pieces that are not running, in no particular order."""
        for lane in self._lanes:
            yield from lane.pieces()
        for behind in self._keys.values():
            yield from behind or ()
        for _, _, entry in self._parked:
            yield entry

    def lane_in_flight(self, lane: int) -> int:
        """Pieces of a lane that are running."""
        return self._lanes[lane].in_flight

    @property
    def may_start(self) -> bool:
        """Whether `start` has a piece."""
        if self._in_flight < self._max_in_flight:
            for lane in self._lanes:  # asked at every step, and a generator costs
                if lane.ready and lane.has_room:
                    return True
        for lane in self._lanes:
            for kind in lane.kinds:
                if self._has_room(kind):
                    return True
        return False

    @property
    def idle(self) -> bool:
        """Whether it has no piece at all."""
        return not self._in_flight and not any(lane.waiting for lane in self._lanes)

    def add(self, entry: P, *, first: bool = False) -> None:
        """Add a piece; `first` puts it before the other ready pieces of its tenant."""
        lane = self._lanes[entry.lane]
        lane.waiting += 1
        key = entry.key
        if key is not None:
            if key in self._keys:
                behind = self._keys[key]
                if behind is None:
                    behind = self._keys[key] = deque()
                behind.append(entry)
                return
            self._keys[key] = None
        lane.push(entry, first=first)

    def add_running(self, entry: P) -> P:
        """Add a piece that is running already. Raises ValueError if there is any other piece."""
        if not self.idle:
            raise ValueError("pieces are waiting or running: a new one has to queue")
        self.add(entry)
        self.start()
        return entry

    def start(self) -> P | None:
        """The piece to run now, which counts as running from here on; None if there is none or no room."""
        room = self._in_flight < self._max_in_flight
        best: LaneQueue[P] | None = None
        best_kinds: Iterable[Hashable | None] = ()
        for lane in self._lanes:
            if not lane.ready:
                continue
            # A lane that was empty or full does not save up its turns: it would then starve the others.
            if lane.claim < self._virtual_time:
                lane.claim = self._virtual_time
            if best is not None and lane.claim >= best.claim:
                continue
            kinds = lane.kinds if room and lane.has_room else [kind for kind in lane.kinds if self._has_room(kind)]
            if kinds:
                best, best_kinds = lane, kinds
        if best is None:
            return None
        self._virtual_time = best.claim
        best.claim += best.stride
        entry = best.pop(best_kinds)
        self._in_flight += 1
        self._running_of[entry.kind] = self._running_of.get(entry.kind, 0) + 1
        return entry

    def _has_room(self, kind: Hashable | None) -> bool:
        """Whether a kind has room of its own left."""
        return self._running_of.get(kind, 0) < self._room_of(kind)

    def finish(self, entry: P) -> None:
        """A running piece has ended for good: its slot and its key are free."""
        self._ended(entry)
        self._release(entry.key)

    def park(self, entry: P, until: float) -> None:
        """A running piece has to wait: its slot is free, its key is not."""
        self._ended(entry)
        self._lanes[entry.lane].waiting += 1
        self._parkings += 1
        heapq.heappush(self._parked, (until, self._parkings, entry))

    def wake_at(self) -> float | None:
        """When the next parked piece becomes ready."""
        return self._parked[0][0] if self._parked else None

    def wake(self, now: float) -> None:
        """Parked pieces that are due become ready, before the others of their tenants."""
        due: list[P] = []
        while self._parked and self._parked[0][0] <= now:
            due.append(heapq.heappop(self._parked)[2])
        # Each is put first, so the one due earliest must be put last.
        for entry in reversed(due):
            self._lanes[entry.lane].push(entry, first=True)

    def drop(self, unwanted: Callable[[P], bool]) -> list[P]:
        """Remove pieces that are not running and return them; the caller must `finish` running ones itself."""
        # Pieces behind their key first. Removing a holder of a key (ready or parked) releases the key, which makes the
        # next piece behind it ready: that one must already have been checked.
        dropped: list[P] = []
        for key, behind in self._keys.items():
            if behind:
                gone, self._keys[key] = parted(behind, unwanted)
                dropped += gone
        holders = [entry for lane in self._lanes for entry in lane.drop(unwanted)]
        kept = []
        for parked in self._parked:
            if unwanted(parked[2]):
                holders.append(parked[2])
            else:
                kept.append(parked)
        self._parked = kept
        heapq.heapify(self._parked)
        for entry in dropped + holders:
            self._lanes[entry.lane].waiting -= 1
        for entry in holders:
            self._release(entry.key)
        return dropped + holders

    def _ended(self, entry: P) -> None:
        self._in_flight -= 1
        self._running_of[entry.kind] -= 1
        if not self._running_of[entry.kind]:
            del self._running_of[entry.kind]
        self._lanes[entry.lane].ended(entry.tenant)

    def _release(self, key: Hashable | None) -> None:
        if key is None:
            return
        behind = self._keys[key]
        if behind:
            entry = behind.popleft()
            self._lanes[entry.lane].push(entry)
        else:
            del self._keys[key]
