"""Which piece of work to start next: lanes by weight, tenants fairly, keys in order.

- Lanes share starts in proportion to their weights (stride scheduling: Waldspurger and Weihl, 1995). What one lane does
  not use goes to the others; between equal claims the lane listed first wins. A lane may be limited to a number of
  running pieces, so that slow batch work leaves room for interactive work.
- Within a lane, the tenant with the fewest running pieces is next, in turns among equals. A tenant with a thousand
  waiting pieces, or with pieces that take a hundred times longer, gets no more room than any other.
- One piece of each key runs at a time, in order of arrival, across lanes. A piece that must wait (a retry) is parked:
  its key waits with it, all others continue. Pieces without a key are independent.

Nothing here reads a clock. Times are arguments, in seconds of any monotonic clock.

Invariants: a piece is in exactly one of these states: behind its key (`_keys`), ready (in its lane), running
(`_in_flight`), parked. A key is in `_keys` exactly as long as one of its pieces is ready, running or parked; only that
piece may start. A lane's `waiting` counts its pieces in all states but running.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class WorkItem(Protocol):
    """One piece of work. `lane` is the index of its lane; pieces of one `key` run in order, None is unordered."""

    lane: int
    tenant: str
    key: Hashable | None


P = TypeVar("P", bound=WorkItem)


@dataclass(frozen=True, slots=True)
class LaneShare:
    """A lane's claim.

    Attributes:
        weight: Starts relative to other lanes while both have work.
        max_in_flight: Most pieces of this lane that run at once; None for no limit of its own.
    """

    weight: int = 1
    max_in_flight: int | None = None

    def __post_init__(self) -> None:
        if self.weight < 1:
            raise ValueError(f"a lane's weight must be at least 1, not {self.weight}: it would starve")
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise ValueError(f"a lane must be allowed at least 1 piece in flight, not {self.max_in_flight}")


class Scheduler(Generic[P]):
    """Waiting, running and parked pieces of work. Calls take constant or logarithmic time; `drop` and `waiting_pieces`
    are linear."""

    def __init__(self, lanes: Sequence[LaneShare], max_in_flight: int) -> None:
        if not lanes:
            raise ValueError("at least one lane is needed")
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight}")
        self._lanes = [_Lane[P](share) for share in lanes]
        self._max_in_flight = max_in_flight
        self._in_flight = 0
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
        if self._in_flight >= self._max_in_flight:
            return False
        for lane in self._lanes:  # noqa: SIM110 - asked at every step, and a generator costs
            if lane.ready and lane.has_room:
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
        if self._in_flight >= self._max_in_flight:
            return None
        best: _Lane[P] | None = None
        for lane in self._lanes:
            if not lane.ready:
                continue
            # A lane that was empty or full does not save up its turns: it would then starve the others.
            if lane.claim < self._virtual_time:
                lane.claim = self._virtual_time
            if lane.has_room and (best is None or lane.claim < best.claim):
                best = lane
        if best is None:
            return None
        self._virtual_time = best.claim
        best.claim += best.stride
        self._in_flight += 1
        return best.pop()

    def finish(self, entry: P) -> None:
        """A running piece has ended for good: its slot and its key are free."""
        self._in_flight -= 1
        self._lanes[entry.lane].ended(entry.tenant)
        self._release(entry.key)

    def park(self, entry: P, until: float) -> None:
        """A running piece has to wait: its slot is free, its key is not."""
        self._in_flight -= 1
        lane = self._lanes[entry.lane]
        lane.ended(entry.tenant)
        lane.waiting += 1
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
                gone, self._keys[key] = _parted(behind, unwanted)
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

    def _release(self, key: Hashable | None) -> None:
        if key is None:
            return
        behind = self._keys[key]
        if behind:
            entry = behind.popleft()
            self._lanes[entry.lane].push(entry)
        else:
            del self._keys[key]


class _Tenant(Generic[P]):
    __slots__ = ("name", "ready", "running")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[P] = deque()
        self.running = 0


class _Lane(Generic[P]):
    """Ready pieces of one lane, by tenant. Tenants with ready pieces stand in one line for each number of running
    pieces; the lowest line is served first. A tenant is in `_tenants` while it has ready or running pieces."""

    __slots__ = (
        "_levels",
        "_lines",
        "_max_in_flight",
        "_tenants",
        "claim",
        "in_flight",
        "ready",
        "stride",
        "waiting",
    )

    def __init__(self, share: LaneShare) -> None:
        self.stride = 1.0 / share.weight
        self.claim = 0.0
        self.ready = 0
        self.waiting = 0
        self.in_flight = 0
        self._max_in_flight = share.max_in_flight
        self._tenants: dict[str, _Tenant[P]] = {}
        self._lines: dict[int, OrderedDict[str, _Tenant[P]]] = {}
        # Heap of the numbers that have a line. An empty line stays until `pop` meets it: removing it from the middle of
        # the heap would be linear.
        self._levels: list[int] = []

    @property
    def has_room(self) -> bool:
        return self._max_in_flight is None or self.in_flight < self._max_in_flight

    def push(self, entry: P, *, first: bool = False) -> None:
        self.ready += 1
        tenant = self._tenants.get(entry.tenant)
        if tenant is None:
            tenant = self._tenants[entry.tenant] = _Tenant(entry.tenant)
        if not tenant.ready:
            self._line_up(tenant)
        if first:
            tenant.ready.appendleft(entry)
        else:
            tenant.ready.append(entry)

    def pop(self) -> P:
        line = self._lines[self._levels[0]]
        while not line:
            del self._lines[heapq.heappop(self._levels)]
            line = self._lines[self._levels[0]]
        _, tenant = line.popitem(last=False)
        entry = tenant.ready.popleft()
        tenant.running += 1
        if tenant.ready:
            self._line_up(tenant)
        self.ready -= 1
        self.waiting -= 1
        self.in_flight += 1
        return entry

    def ended(self, name: str) -> None:
        self.in_flight -= 1
        tenant = self._tenants[name]
        if tenant.ready:
            del self._lines[tenant.running][name]
            tenant.running -= 1
            self._line_up(tenant)
        else:
            tenant.running -= 1
            if not tenant.running:
                del self._tenants[name]

    def drop(self, unwanted: Callable[[P], bool]) -> list[P]:
        dropped: list[P] = []
        for tenant in list(self._tenants.values()):
            gone, kept = _parted(tenant.ready, unwanted)
            if not gone:
                continue
            dropped += gone
            tenant.ready = kept
            if not tenant.ready:
                del self._lines[tenant.running][tenant.name]
                if not tenant.running:
                    del self._tenants[tenant.name]
        self.ready -= len(dropped)
        return dropped

    def pieces(self) -> Iterator[P]:
        """The ready pieces."""
        for tenant in self._tenants.values():
            yield from tenant.ready

    def _line_up(self, tenant: _Tenant[P]) -> None:
        line = self._lines.get(tenant.running)
        if line is None:
            line = self._lines[tenant.running] = OrderedDict()
            heapq.heappush(self._levels, tenant.running)
        line[tenant.name] = tenant


def _parted(entries: Iterable[P], unwanted: Callable[[P], bool]) -> tuple[list[P], deque[P]]:
    """The unwanted entries and the others; `unwanted` is called once for each."""
    gone: list[P] = []
    kept: deque[P] = deque()
    for entry in entries:
        (gone if unwanted(entry) else kept).append(entry)
    return gone, kept
