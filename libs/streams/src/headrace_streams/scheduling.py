"""Which piece of work to start next: lanes by weight, tenants in fairness, keys in order.

- Lanes share starts in proportion to their weights (stride scheduling); what a lane does not need goes to the others,
  and of lanes with equal claims the one listed first goes first. A lane may be limited to a number of running pieces,
  so that slow batch work leaves room for what is urgent.
- Within a lane the tenant with the fewest running pieces is next, by turns among equals: a tenant with a thousand
  waiting, or with pieces that take a hundred times longer, holds no more of the room than another.
- Of each key one piece runs at a time, in the order of arrival, whatever their lanes. A piece that must wait (a retry)
  is parked: its key waits, all others go on. Pieces without a key wait for nobody.

Nothing here reads a clock: times come in as arguments, in seconds of any clock that does not go back.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


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


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    """One piece of work. `lane` is the index of its lane; `key` orders it among others, None does not."""

    item: T
    lane: int
    tenant: str
    key: Hashable | None = None


class Scheduler(Generic[T]):
    """Waiting, running and parked pieces of work; all calls take constant time, but for logarithms and `drop`."""

    def __init__(self, lanes: Sequence[LaneShare], max_in_flight: int) -> None:
        if not lanes:
            raise ValueError("at least one lane is needed")
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight}")
        self._lanes = [_Lane[T](share) for share in lanes]
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._virtual_time = 0.0
        # A key is here while a piece of it is ready, running or parked; the queue holds those behind that one.
        self._keys: dict[Hashable, deque[Entry[T]] | None] = {}
        self._parked: list[tuple[float, int, Entry[T]]] = []
        self._parkings = 0

    @property
    def in_flight(self) -> int:
        """Pieces started and neither finished nor parked."""
        return self._in_flight

    @property
    def parked(self) -> int:
        """Pieces that wait for their time."""
        return len(self._parked)

    def waiting(self, lane: int) -> int:
        """Pieces of a lane that are not running: ready, behind their key, or parked."""
        return self._lanes[lane].waiting

    def lane_in_flight(self, lane: int) -> int:
        """Pieces of a lane that are running."""
        return self._lanes[lane].in_flight

    def add(self, entry: Entry[T]) -> None:
        """Take in a new piece."""
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
        lane.push(entry)

    def start(self) -> Entry[T] | None:
        """The piece to run now, which counts as running from here on; None when there is none or no room."""
        if self._in_flight >= self._max_in_flight:
            return None
        best: _Lane[T] | None = None
        for lane in self._lanes:
            if not lane.ready:
                continue
            # A lane that had nothing to start, or was not allowed to, gathers no claims for later.
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

    def finish(self, entry: Entry[T]) -> None:
        """A running piece is done (or given up): its room and its key are free."""
        self._in_flight -= 1
        self._lanes[entry.lane].ended(entry.tenant)
        self._release(entry.key)

    def park(self, entry: Entry[T], until: float) -> None:
        """A running piece has to wait: its room is free, its key is not."""
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
        """Parked pieces whose time has come become ready, before others of their tenants."""
        due: list[Entry[T]] = []
        while self._parked and self._parked[0][0] <= now:
            due.append(heapq.heappop(self._parked)[2])
        for entry in reversed(due):
            self._lanes[entry.lane].push(entry, first=True)

    def drop(self, unwanted: Callable[[T], bool]) -> list[Entry[T]]:
        """Forget pieces that are not running. Running ones have to be finished by whoever runs them."""
        dropped: list[Entry[T]] = []
        for key, behind in self._keys.items():
            if behind:
                dropped += [entry for entry in behind if unwanted(entry.item)]
                self._keys[key] = deque(entry for entry in behind if not unwanted(entry.item))
        holders = [entry for lane in self._lanes for entry in lane.drop(unwanted)]
        holders += [entry for _, _, entry in self._parked if unwanted(entry.item)]
        self._parked = [parked for parked in self._parked if not unwanted(parked[2].item)]
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


class _Tenant(Generic[T]):
    __slots__ = ("name", "ready", "running")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[Entry[T]] = deque()
        self.running = 0


class _Lane(Generic[T]):
    """Ready pieces of one lane, by tenant; tenants with ready pieces stand in line by how many they have running."""

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
        self._tenants: dict[str, _Tenant[T]] = {}
        self._lines: dict[int, OrderedDict[str, _Tenant[T]]] = {}
        # Heap of the numbers that have a line; an empty line stays until its number comes up.
        self._levels: list[int] = []

    @property
    def has_room(self) -> bool:
        return self._max_in_flight is None or self.in_flight < self._max_in_flight

    def push(self, entry: Entry[T], *, first: bool = False) -> None:
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

    def pop(self) -> Entry[T]:
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

    def drop(self, unwanted: Callable[[T], bool]) -> list[Entry[T]]:
        dropped: list[Entry[T]] = []
        for tenant in list(self._tenants.values()):
            gone = [entry for entry in tenant.ready if unwanted(entry.item)]
            if not gone:
                continue
            dropped += gone
            tenant.ready = deque(entry for entry in tenant.ready if not unwanted(entry.item))
            if not tenant.ready:
                del self._lines[tenant.running][tenant.name]
                if not tenant.running:
                    del self._tenants[tenant.name]
        self.ready -= len(dropped)
        return dropped

    def _line_up(self, tenant: _Tenant[T]) -> None:
        line = self._lines.get(tenant.running)
        if line is None:
            line = self._lines[tenant.running] = OrderedDict()
            heapq.heappush(self._levels, tenant.running)
        line[tenant.name] = tenant
