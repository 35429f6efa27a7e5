"""Who goes next: lanes, tenants, keys, parking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import pytest
from headrace_streams.scheduling import LaneShare, Scheduler
from hypothesis import given, settings
from hypothesis import strategies as st

T = TypeVar("T")

INTERACTIVE, BATCH = 0, 1


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    item: T
    lane: int
    tenant: str
    key: Hashable | None = None


def entry(item: str, lane: int = 0, tenant: str = "t", key: str | None = None) -> Entry[str]:
    return Entry(item, lane, tenant, key)


def scheduler(*lanes: LaneShare, room: int = 1) -> Scheduler[Entry[str]]:
    return Scheduler(lanes or (LaneShare(),), room)


def run_serially(work: Scheduler[Entry[str]], count: int) -> list[str]:
    order = []
    for _ in range(count):
        started = work.start()
        assert started is not None
        order.append(started.item)
        work.finish(started)
    return order


def test_order_of_arrival_where_nothing_else_decides() -> None:
    work = scheduler()
    for item in "abc":
        work.add(entry(item))
    assert run_serially(work, 3) == ["a", "b", "c"]
    assert work.start() is None


def test_no_more_run_than_there_is_room_for() -> None:
    work = scheduler(room=2)
    for item in "abc":
        work.add(entry(item))
    first = work.start()
    assert first is not None
    assert work.start() is not None
    assert work.start() is None
    assert work.in_flight == 2
    work.finish(first)
    third = work.start()
    assert third is not None
    assert third.item == "c"


def test_lanes_share_starts_by_weight_and_the_first_goes_first() -> None:
    work = scheduler(LaneShare(weight=4), LaneShare(weight=1))
    for number in range(100):
        work.add(entry(f"b{number}", BATCH))
        work.add(entry(f"i{number}", INTERACTIVE))
    order = run_serially(work, 100)
    assert order[0] == "i0"
    for begin in range(0, 100, 5):
        assert Counter(item[0] for item in order[begin : begin + 5]) == {"i": 4, "b": 1}


def test_an_idle_lane_gathers_no_claims() -> None:
    work = scheduler(LaneShare(weight=4), LaneShare(weight=1))
    for number in range(50):
        work.add(entry(f"i{number}", INTERACTIVE))
    run_serially(work, 50)
    for number in range(20):
        work.add(entry(f"b{number}", BATCH))
        work.add(entry(f"i{number}", INTERACTIVE))
    assert Counter(item[0] for item in run_serially(work, 10)) == {"i": 8, "b": 2}


def test_the_urgent_one_goes_next_after_a_time_of_batch_only() -> None:
    work = scheduler(LaneShare(weight=4), LaneShare(weight=1))
    for number in range(100):
        work.add(entry(f"b{number}", BATCH))
    run_serially(work, 50)
    work.add(entry("urgent", INTERACTIVE))
    assert run_serially(work, 1) == ["urgent"]


def test_a_limited_lane_leaves_room_and_claims_nothing_for_the_time_it_was_full() -> None:
    work = scheduler(LaneShare(weight=1), LaneShare(weight=1, max_in_flight=1), room=4)
    for number in range(8):
        work.add(entry(f"b{number}", BATCH))
    started = work.start()
    assert started is not None
    assert work.start() is None
    for number in range(8):
        work.add(entry(f"i{number}", INTERACTIVE))
    ran = []
    for _ in range(3):
        one = work.start()
        assert one is not None
        ran.append(one)
    assert [one.item[0] for one in ran] == ["i", "i", "i"]
    work.finish(started)
    for one in ran:
        work.finish(one)
    assert Counter(item[0] for item in run_serially(work, 4)) == {"i": 2, "b": 2}


def test_tenants_take_turns_however_many_each_has_waiting() -> None:
    work = scheduler()
    for number in range(100):
        work.add(entry(f"big{number}", tenant="big"))
    for number in range(3):
        work.add(entry(f"small{number}", tenant="small"))
    assert [item.rstrip("0123456789") for item in run_serially(work, 6)] == ["big", "small"] * 3


def test_a_tenant_with_slow_work_holds_no_more_room_than_others() -> None:
    work = scheduler(room=4)
    for number in range(20):
        work.add(entry(f"slow{number}", tenant="slow"))
        work.add(entry(f"fast{number}", tenant="fast"))
    running = []
    for _ in range(18):
        while (started := work.start()) is not None:
            running.append(started)
        assert Counter(one.tenant for one in running) == {"slow": 2, "fast": 2}
        done = next(one for one in running if one.tenant == "fast")
        running.remove(done)
        work.finish(done)


def test_of_a_key_one_runs_at_a_time_in_order_across_lanes() -> None:
    work = scheduler(LaneShare(weight=4), LaneShare(weight=1), room=10)
    work.add(entry("k1", BATCH, key="k"))
    work.add(entry("k2", INTERACTIVE, key="k"))
    work.add(entry("other", INTERACTIVE, key="o"))
    first = work.start()
    second = work.start()
    assert first is not None
    assert second is not None
    assert {first.item, second.item} == {"k1", "other"}
    assert work.start() is None
    work.finish(first if first.item == "k1" else second)
    third = work.start()
    assert third is not None
    assert third.item == "k2"


def test_a_parked_key_waits_alone_and_comes_back_first() -> None:
    work = scheduler(room=1)
    for item, key in (("k1", "k"), ("k2", "k"), ("a", "a"), ("b", "b")):
        work.add(entry(item, key=key))
    started = work.start()
    assert started is not None
    work.park(started, until=10.0)
    assert (work.in_flight, work.parked, work.wake_at()) == (0, 1, 10.0)
    assert run_serially(work, 1) == ["a"]
    work.wake(9.9)
    assert work.parked == 1
    work.wake(10.0)
    assert run_serially(work, 3) == ["k1", "b", "k2"]
    assert work.wake_at() is None


def test_dropping_forgets_what_waits_and_promotes_what_stays() -> None:
    work = scheduler(room=2)
    for item, key in (("x1", "k"), ("y1", "k"), ("x2", "k"), ("x3", None), ("y2", "q")):
        work.add(entry(item, key=key))
    parked = work.start()
    assert parked is not None
    work.park(parked, 5.0)
    dropped = work.drop(lambda one: one.item.startswith("x"))
    assert sorted(one.item for one in dropped) == ["x1", "x2", "x3"]
    assert (work.parked, work.waiting(0)) == (0, 2)
    assert sorted(run_serially(work, 2)) == ["y1", "y2"]
    assert work.start() is None


def test_claims_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        LaneShare(weight=0)
    with pytest.raises(ValueError, match="in flight"):
        LaneShare(max_in_flight=0)
    with pytest.raises(ValueError, match="max_in_flight"):
        Scheduler[Entry[str]]((LaneShare(),), 0)
    with pytest.raises(ValueError, match="lane"):
        Scheduler[Entry[str]]((), 1)


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"), st.integers(0, 1), st.sampled_from(["t1", "t2", "t3"]), st.sampled_from([None, "a", "b"])
        ),
        st.tuples(st.just("start")),
        st.tuples(st.just("finish"), st.integers(0, 50)),
        st.tuples(st.just("park"), st.integers(0, 50), st.integers(1, 5)),
        st.tuples(st.just("tick")),
        st.tuples(st.just("drop"), st.integers(2, 4)),
    ),
    max_size=150,
)


class _Oracle:
    """Every piece, and what has become of it, without any cleverness."""

    def __init__(self, room: int, limit: int | None) -> None:
        self.work = Scheduler[Entry[int]]((LaneShare(3), LaneShare(1, limit)), room)
        self.room = room
        self.limit = limit
        self.entries: list[Entry[int]] = []
        self.running: list[Entry[int]] = []
        self.parked: dict[int, float] = {}
        self.ended: set[int] = set()
        self.now = 0.0

    def add(self, lane: int, tenant: str, key: object) -> None:
        self.entries.append(Entry(len(self.entries), lane, tenant, key if isinstance(key, str) else None))
        self.work.add(self.entries[-1])

    def may_start(self, entry: Entry[int]) -> bool:
        taken = entry in self.running or entry.item in self.ended or entry.item in self.parked
        behind = any(
            one.item < entry.item and one.key == entry.key and one.item not in self.ended
            for one in self.entries
            if entry.key is not None
        )
        full = entry.lane == 1 and self.limit is not None and sum(one.lane for one in self.running) >= self.limit
        return not taken and not behind and not full and len(self.running) < self.room

    def start(self) -> bool:
        possible = [entry for entry in self.entries if self.may_start(entry)]
        started = self.work.start()
        if started is None:
            assert not possible, "there was room for one that nobody held back"
            return False
        assert started in possible
        self.running.append(started)
        return True

    def finish(self, choice: int) -> None:
        done = self.running.pop(choice % len(self.running))
        self.work.finish(done)
        self.ended.add(done.item)

    def park(self, choice: int, delay: int) -> None:
        entry = self.running.pop(choice % len(self.running))
        self.parked[entry.item] = self.now + delay
        self.work.park(entry, self.now + delay)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.parked = {item: until for item, until in self.parked.items() if until > self.now}
        self.work.wake(self.now)

    def drop(self, divisor: int) -> None:
        idle = {one.item for one in self.entries} - self.ended - {one.item for one in self.running}
        gone = {one.item for one in self.work.drop(lambda one: one.item % divisor == 0)}
        assert gone == {item for item in idle if item % divisor == 0}
        self.ended |= gone
        self.parked = {item: until for item, until in self.parked.items() if item not in gone}

    def check(self) -> None:
        assert self.work.in_flight == len(self.running)
        assert self.work.parked == len(self.parked)
        assert self.work.wake_at() == min(self.parked.values(), default=None)
        waiting = self.work.waiting(0) + self.work.waiting(1)
        assert waiting + len(self.running) + len(self.ended) == len(self.entries)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 4), st.sampled_from([None, 1, 2]))
def test_whatever_happens_nothing_is_lost_doubled_or_out_of_order(
    steps: list[tuple[object, ...]], room: int, limit: int | None
) -> None:
    oracle = _Oracle(room, limit)
    for step in steps:
        match step:
            case ("add", int(lane), str(tenant), key):
                oracle.add(lane, tenant, key)
            case ("start",):
                oracle.start()
            case ("finish", int(choice)) if oracle.running:
                oracle.finish(choice)
            case ("park", int(choice), int(delay)) if oracle.running:
                oracle.park(choice, delay)
            case ("tick",):
                oracle.tick(1.0)
            case ("drop", int(divisor)):
                oracle.drop(divisor)
            case _:
                continue
        oracle.check()
    while len(oracle.ended) < len(oracle.entries):
        oracle.tick(10.0)
        while oracle.start():
            pass
        assert oracle.running, "work is stuck"
        while oracle.running:
            oracle.finish(0)
        oracle.check()
