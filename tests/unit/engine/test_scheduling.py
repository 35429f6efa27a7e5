"""Who goes next: lanes, tenants, keys, parking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

import pytest
from headrace_streams.scheduling import LaneShare, Scheduler

INTERACTIVE, BATCH = 0, 1


@dataclass(slots=True, eq=False)
class Entry:
    item: str
    lane: int
    tenant: str
    key: Hashable | None = None


def entry(item: str, lane: int = 0, tenant: str = "t", key: str | None = None) -> Entry:
    return Entry(item, lane, tenant, key)


def scheduler(*lanes: LaneShare, room: int = 1) -> Scheduler[Entry]:
    return Scheduler(lanes or (LaneShare(),), room)


def run_serially(work: Scheduler[Entry], count: int) -> list[str]:
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
        Scheduler[Entry]((LaneShare(),), 0)
    with pytest.raises(ValueError, match="lane"):
        Scheduler[Entry]((), 1)
