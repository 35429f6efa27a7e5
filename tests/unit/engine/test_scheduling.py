"""Who goes next: lanes, tenants, keys, parking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

import pytest
from headrace_streams.lanes import LaneShare
from headrace_streams.scheduling import Scheduler

INTERACTIVE, BATCH = 0, 1


@dataclass(slots=True, eq=False)
class Entry:
    item: str
    lane: int
    tenant: str
    key: Hashable | None = None
    weight: int = 1
    kind: Hashable | None = None


def entry(
    item: str, lane: int = 0, tenant: str = "t", key: str | None = None, weight: int = 1, kind: str | None = None
) -> Entry:
    return Entry(item, lane, tenant, key, weight, kind)


def scheduler(*lanes: LaneShare, room: int = 1, **rooms: int) -> Scheduler[Entry]:
    return Scheduler(lanes or (LaneShare(),), room, lambda kind: rooms.get(str(kind), 0))


def run_all(work: Scheduler[Entry]) -> list[Entry]:
    """Start until nothing more may start."""
    started = []
    while (one := work.start()) is not None:
        started.append(one)
    assert not work.may_start
    return started


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


def test_room_goes_to_tenants_by_weight() -> None:
    work = scheduler(room=10)
    for number in range(20):
        work.add(entry(f"a{number}", tenant="a"))
        work.add(entry(f"b{number}", tenant="b", weight=4))
    running = run_all(work)
    for _ in range(30):
        assert Counter(one.tenant for one in running) == {"a": 2, "b": 8}
        done = running.pop(0)
        work.finish(done)
        work.add(entry("more", tenant=done.tenant, weight=done.weight))
        running += run_all(work)


def test_a_new_weight_counts_from_the_next_piece_on() -> None:
    work = scheduler(room=12)
    for number in range(20):
        work.add(entry(f"a{number}", tenant="a"))
        work.add(entry(f"b{number}", tenant="b"))
    work.add(entry("b20", tenant="b", weight=3))
    assert Counter(one.tenant for one in run_all(work)) == {"a": 3, "b": 9}


def test_a_kind_has_room_of_its_own_when_another_one_has_taken_all_there_is() -> None:
    work = scheduler(room=64, slow=6, quick=3)
    for number in range(100):
        work.add(entry(f"slow{number}", kind="slow"))
    slow = run_all(work)
    assert len(slow) == 64
    for number in range(5):
        work.add(entry(f"quick{number}", kind="quick"))
    assert work.may_start
    quick = run_all(work)
    assert [one.item for one in quick] == ["quick0", "quick1", "quick2"]
    work.finish(quick[0])
    assert [one.item for one in run_all(work)] == ["quick3"]
    # 66 run, so that nothing but the room of kinds is left until three have ended.
    for one in slow[:2]:
        work.finish(one)
        assert run_all(work) == []
    work.finish(slow[2])
    assert len(run_all(work)) == 0, "64 run"
    work.finish(slow[3])
    assert len(run_all(work)) == 1


def test_pieces_of_other_kinds_keep_their_places_when_they_are_skipped() -> None:
    work = scheduler(room=1, x=1)
    for item, kind in (("a0", None), ("a1", None), ("x0", "x"), ("a2", None)):
        work.add(entry(item, kind=kind))
    started = run_all(work)
    assert [one.item for one in started] == ["a0", "x0"]
    for one in started:
        work.finish(one)
    assert run_serially(work, 2) == ["a1", "a2"]


def test_of_a_tenants_kinds_the_piece_that_came_first_is_next() -> None:
    work = scheduler()
    for number in range(6):
        work.add(entry(str(number), kind="xyz"[number % 3]))
    work.add(entry("first", kind="y"), first=True)
    work.add(entry("very first", kind="x"), first=True)
    assert run_serially(work, 8) == ["very first", "first", "0", "1", "2", "3", "4", "5"]


def test_the_room_of_a_kind_counts_all_lanes_and_may_change() -> None:
    rooms = {"x": 2}
    work = Scheduler[Entry]((LaneShare(), LaneShare(max_in_flight=1)), 1, lambda kind: rooms.get(str(kind), 0))
    for number in range(4):
        work.add(entry(f"b{number}", BATCH, kind="x"))
    work.add(entry("other", INTERACTIVE))
    running = run_all(work)
    assert Counter(one.item for one in running) == {"other": 1, "b0": 1, "b1": 1}
    rooms["x"] = 3
    assert work.may_start
    assert [one.item for one in run_all(work)] == ["b2"]
    rooms["x"] = 1
    for one in running:
        work.finish(one)
    assert run_all(work) == [], "one of it runs, and there is no other room"


def test_among_tenants_of_one_kind_room_is_shared_as_elsewhere() -> None:
    work = scheduler(room=1, x=4)
    work.add(entry("all"))
    for number in range(9):
        work.add(entry(f"big{number}", tenant="big", kind="x"))
    for number in range(9):
        work.add(entry(f"small{number}", tenant="small", kind="x"))
    assert Counter(one.tenant for one in run_all(work)) == {"t": 1, "big": 2, "small": 2}


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
