"""One lane of a scheduler: its ready pieces, by kind and tenant."""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class WorkItem(Protocol):
    """One piece of work. `lane` is the index of its lane; pieces of one `key` run in order, None is unordered; `weight`
    is its tenant's, at least 1; pieces of one `kind` need the same thing."""

    lane: int
    tenant: str
    weight: int
    key: Hashable | None
    kind: Hashable | None


P = TypeVar("P", bound=WorkItem)
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


class _Tenant(Generic[P]):
    """A tenant of one lane: its ready pieces by kind, each with its place in the order of arrival.

    `turn` orders those with the same claim: whoever has become ready, or has started or ended a piece, goes last.
    """

    __slots__ = ("claim", "name", "ready", "running", "turn", "weight")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: dict[Hashable | None, deque[tuple[int, P]]] = {}
        self.running = 0
        self.weight = 1
        self.claim = 0.0
        self.turn = 0


class _Lines(Generic[P]):
    """Tenants that have ready pieces of one kind: one line for each claim, and the lowest one is served first."""

    __slots__ = ("_claims", "_lines", "tenants")

    def __init__(self) -> None:
        self.tenants = 0
        self._lines: dict[float, OrderedDict[str, _Tenant[P]]] = {}
        # Heap of the claims that have a line. An empty line stays until `first` meets it: removing it from the middle
        # of the heap would be linear.
        self._claims: list[float] = []

    @property
    def first(self) -> _Tenant[P]:
        line = self._lines[self._claims[0]]
        while not line:
            del self._lines[heapq.heappop(self._claims)]
            line = self._lines[self._claims[0]]
        return next(iter(line.values()))

    def add(self, tenant: _Tenant[P]) -> None:
        line = self._lines.get(tenant.claim)
        if line is None:
            line = self._lines[tenant.claim] = OrderedDict()
            heapq.heappush(self._claims, tenant.claim)
        line[tenant.name] = tenant
        self.tenants += 1

    def remove(self, tenant: _Tenant[P]) -> None:
        del self._lines[tenant.claim][tenant.name]
        self.tenants -= 1


class LaneQueue(Generic[P]):
    """Ready pieces of one lane, by kind and tenant. A tenant is in `_tenants` while it has ready or running pieces, and
    in the lines of each kind of which it has ready ones."""

    __slots__ = (
        "_first",
        "_last",
        "_max_in_flight",
        "_tenants",
        "_turns",
        "claim",
        "in_flight",
        "kinds",
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
        self.kinds: dict[Hashable | None, _Lines[P]] = {}
        self._max_in_flight = share.max_in_flight
        self._tenants: dict[str, _Tenant[P]] = {}
        self._turns = 0
        # Places in the order of arrival: pieces that go first have those before all others.
        self._first = self._last = 0

    @property
    def has_room(self) -> bool:
        return self._max_in_flight is None or self.in_flight < self._max_in_flight

    def push(self, entry: P, *, first: bool = False) -> None:
        self.ready += 1
        tenant = self._tenants.get(entry.tenant)
        if tenant is None:
            tenant = self._tenants[entry.tenant] = _Tenant(entry.tenant)
        if entry.weight != tenant.weight:
            self._leave_lines(tenant)
            tenant.weight = entry.weight
            self._line_up(tenant)
        pieces = tenant.ready.get(entry.kind)
        if pieces is None:
            if not tenant.ready:
                self._turns += 1
                tenant.turn = self._turns
                tenant.claim = tenant.running / tenant.weight
            pieces = tenant.ready[entry.kind] = deque()
            self._lines_of(entry.kind).add(tenant)
        if first:
            self._first -= 1
            pieces.appendleft((self._first, entry))
        else:
            self._last += 1
            pieces.append((self._last, entry))

    def pop(self, kinds: Iterable[Hashable | None]) -> P:
        """The next piece of these kinds, of which each has a ready one."""
        best: tuple[float, int, int] | None = None
        for each in kinds:
            first = self.kinds[each].first
            order = (first.claim, first.turn, first.ready[each][0][0])
            if best is None or order < best:
                best, tenant, kind = order, first, each
        self._leave_lines(tenant)
        _, entry = tenant.ready[kind].popleft()
        if not tenant.ready[kind]:
            del tenant.ready[kind]
        tenant.running += 1
        self._line_up(tenant)
        self.ready -= 1
        self.waiting -= 1
        self.in_flight += 1
        return entry

    def ended(self, name: str) -> None:
        self.in_flight -= 1
        tenant = self._tenants[name]
        self._leave_lines(tenant)
        tenant.running -= 1
        self._line_up(tenant)
        self._forget_if_idle(tenant)

    def drop(self, unwanted: Callable[[P], bool]) -> list[P]:
        dropped: list[P] = []
        for tenant in list(self._tenants.values()):
            for kind in list(tenant.ready):
                gone, kept = parted(tenant.ready[kind], lambda placed: unwanted(placed[1]))
                if not gone:
                    continue
                dropped += [entry for _, entry in gone]
                tenant.ready[kind] = kept
                if not kept:
                    self._leave_line(tenant, kind)
                    del tenant.ready[kind]
            self._forget_if_idle(tenant)
        self.ready -= len(dropped)
        return dropped

    def pieces(self) -> Iterator[P]:
        """The ready pieces."""
        for tenant in self._tenants.values():
            for pieces in tenant.ready.values():
                for _, entry in pieces:
                    yield entry

    def _line_up(self, tenant: _Tenant[P]) -> None:
        self._turns += 1
        tenant.turn = self._turns
        tenant.claim = tenant.running / tenant.weight
        for kind in tenant.ready:
            self._lines_of(kind).add(tenant)

    def _leave_lines(self, tenant: _Tenant[P]) -> None:
        for kind in tenant.ready:
            self._leave_line(tenant, kind)

    def _leave_line(self, tenant: _Tenant[P], kind: Hashable | None) -> None:
        lines = self.kinds[kind]
        lines.remove(tenant)
        if not lines.tenants:
            del self.kinds[kind]

    def _lines_of(self, kind: Hashable | None) -> _Lines[P]:
        lines = self.kinds.get(kind)
        if lines is None:
            lines = self.kinds[kind] = _Lines()
        return lines

    def _forget_if_idle(self, tenant: _Tenant[P]) -> None:
        if not tenant.ready and not tenant.running:
            del self._tenants[tenant.name]


def parted(entries: Iterable[T], unwanted: Callable[[T], bool]) -> tuple[list[T], deque[T]]:
    """The unwanted entries and the others; `unwanted` is called once for each."""
    gone: list[T] = []
    kept: deque[T] = deque()
    for entry in entries:
        (gone if unwanted(entry) else kept).append(entry)
    return gone, kept
