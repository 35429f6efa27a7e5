"""The scheduler against a model without any cleverness: every step of any history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from headrace_streams.lanes import LaneShare
from headrace_streams.scheduling import Scheduler
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

LANES = (0, 1)
WEIGHTS = {"a": 1, "b": 1, "c": 3}
TENANTS = st.sampled_from(sorted(WEIGHTS))
KINDS = st.sampled_from([None, "x", "y"])
ROOMS = st.fixed_dictionaries({None: st.just(0), "x": st.integers(0, 3), "y": st.integers(0, 1)})
KEYS = st.sampled_from(["k", "l", "m", None, None])


@dataclass(slots=True, eq=False)
class Piece:
    number: int
    lane: int
    tenant: str
    key: Hashable | None
    weight: int
    kind: Hashable | None
    parked_until: float | None = None


class SchedulerMachine(RuleBasedStateMachine):
    """All pieces there are, and what has become of each."""

    @initialize(
        weights=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        limit=st.sampled_from([None, 1, 2, 3]),
        room=st.integers(1, 5),
        rooms=ROOMS,
    )
    def begin(self, weights: tuple[int, int], limit: int | None, room: int, rooms: dict[Hashable | None, int]) -> None:
        lanes = LaneShare(weights[0]), LaneShare(weights[1], limit)
        self.rooms = rooms
        self.work: Scheduler[Piece] = Scheduler(lanes, room, lambda kind: self.rooms[kind])
        self.weights, self.limits, self.room = weights, (None, limit), room
        self.waiting: list[Piece] = []
        self.running: list[Piece] = []
        self.now = 0.0
        self.added = self.ended = 0
        # Starts of each lane since both could have started something at every start.
        self.shared = Counter[int]()

    @rule(rooms=ROOMS)
    def change(self, rooms: dict[Hashable | None, int]) -> None:
        self.rooms = rooms

    @rule(lane=st.sampled_from(LANES), tenant=TENANTS, key=KEYS, kind=KINDS)
    def add(self, lane: int, tenant: str, key: str | None, kind: str | None) -> None:
        piece = Piece(self.added, lane, tenant, key, WEIGHTS[tenant], kind)
        self.added += 1
        self.waiting.append(piece)
        self.work.add(piece)

    @rule(times=st.integers(1, 4))
    def start(self, times: int) -> None:
        for _ in range(times):
            self.start_one()

    def start_one(self) -> None:
        possible = [piece for piece in self.waiting if self.may_start(piece)]
        assert self.work.may_start == bool(possible)
        started = self.work.start()
        if started is None:
            assert not possible, "there was room for one that nothing held back"
            return
        assert started in possible
        self.holds_to_shares(started, {piece.lane for piece in possible})
        in_lane = Counter(piece.tenant for piece in self.running if piece.lane == started.lane)
        others = {piece.tenant for piece in possible if piece.lane == started.lane}
        claims = {tenant: in_lane[tenant] / WEIGHTS[tenant] for tenant in others}
        assert claims[started.tenant] == min(claims.values()), "another tenant had fewer running for its weight"
        self.waiting.remove(started)
        self.running.append(started)

    def may_start(self, piece: Piece) -> bool:
        limit = self.limits[piece.lane]
        of_lane = sum(one.lane == piece.lane for one in self.running)
        of_kind = sum(one.kind == piece.kind for one in self.running)
        return (
            piece.parked_until is None
            and (
                of_kind < self.rooms[piece.kind]
                or (len(self.running) < self.room and (limit is None or of_lane < limit))
            )
            and not any(self.goes_before(one, piece) for one in (*self.running, *self.waiting))
        )

    @staticmethod
    def goes_before(one: Piece, piece: Piece) -> bool:
        return piece.key is not None and one.key == piece.key and one.number < piece.number

    def holds_to_shares(self, started: Piece, lanes: set[int]) -> None:
        if len(lanes) < 2:
            self.shared.clear()
            return
        self.shared[started.lane] += 1
        served = [self.shared[lane] / self.weights[lane] for lane in LANES]
        assert abs(served[0] - served[1]) <= sum(1 / weight for weight in self.weights), "a lane got too much"

    @precondition(lambda self: self.running)
    @rule(choice=st.integers(0, 10))
    def finish(self, choice: int) -> None:
        self.work.finish(self.running.pop(choice % len(self.running)))
        self.ended += 1

    @precondition(lambda self: self.running)
    @rule(choice=st.integers(0, 10), delay=st.integers(1, 5))
    def park(self, choice: int, delay: int) -> None:
        piece = self.running.pop(choice % len(self.running))
        piece.parked_until = self.now + delay
        self.waiting.append(piece)
        self.work.park(piece, piece.parked_until)

    @rule(seconds=st.integers(1, 3))
    def wake(self, seconds: int) -> None:
        self.now += seconds
        for piece in self.waiting:
            if piece.parked_until is not None and piece.parked_until <= self.now:
                piece.parked_until = None
        self.work.wake(self.now)

    @rule(divisor=st.integers(1, 4))
    def drop(self, divisor: int) -> None:
        expected = [piece for piece in self.waiting if piece.number % divisor == 0]
        assert set(self.work.drop(lambda piece: piece.number % divisor == 0)) == set(expected)
        self.waiting = [piece for piece in self.waiting if piece not in expected]
        self.ended += len(expected)

    @rule(divisor=st.integers(2, 4))
    def cancel(self, divisor: int) -> None:
        """As the engine does: out, and in again without a key, before others."""
        for piece in self.work.drop(lambda piece: piece.number % divisor == 0):
            piece.key = None
            piece.parked_until = None
            self.work.add(piece, first=True)

    @precondition(lambda self: self.added > self.ended)
    @rule()
    def work_off(self) -> None:
        """Whatever has happened, everything can be done."""
        while self.added > self.ended:
            self.wake(10)
            before = self.ended
            while self.work.may_start:
                self.start_one()
            while self.running:
                self.finish(0)
            assert self.ended > before, "work is stuck"
        assert self.work.idle

    @invariant()
    def all_are_counted(self) -> None:
        if not hasattr(self, "work"):
            return
        parked = [piece.parked_until for piece in self.waiting if piece.parked_until is not None]
        assert self.work.in_flight == len(self.running)
        assert self.work.parked == len(parked)
        assert self.work.wake_at() == min(parked, default=None)
        assert set(self.work.waiting_pieces()) == set(self.waiting)
        for lane in LANES:
            assert self.work.waiting(lane) == sum(piece.lane == lane for piece in self.waiting)
            assert self.work.lane_in_flight(lane) == sum(piece.lane == lane for piece in self.running)
        assert self.work.idle == (not self.waiting and not self.running)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
