"""How many calls a node is sent at once, when it joins, when it queues inside, and when it stands out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.outliers import CLEAN, CallRecord, after_end, ejected
from headrace_models.worker.parallel_limit import UNLIMITED, ParallelLimit, after_answer, after_refusal, waited_inside
from headrace_models.worker.slow_start import WINDOW_SECONDS, WarmingUp, at_first
from headrace_testing.workers import ScriptedProvider


def sent(limit: ParallelLimit, at_once: int, calls: int, *, runs: int, now: float = 0.0) -> ParallelLimit:
    """After so many calls of a second each, of which a server runs `runs` at once."""
    for _ in range(calls):
        number = int(min(at_once, limit.at(now)))
        total = max(1.0, number / runs)
        limit = after_answer(limit, number, waited_inside(0.1 + total - 1.0, 0.1, total), now)
    return limit


def test_a_server_that_runs_one_at_a_time_is_sent_one() -> None:
    assert sent(UNLIMITED, 4, 3, runs=1).most == 1
    assert sent(UNLIMITED, 8, 3, runs=2).most == 2


def test_a_server_that_runs_all_at_once_is_sent_all() -> None:
    assert sent(UNLIMITED, 4, 100, runs=4).most == math.inf
    assert sent(UNLIMITED, 4, 100, runs=3).most == math.inf, "a little waiting is no queue"


def test_prompts_that_take_longer_than_usual_are_no_queue() -> None:
    limit = UNLIMITED
    for number in range(100):
        first = (0.2, 0.5, 3.0)[number % 3]
        limit = after_answer(limit, 4, waited_inside(first, 0.6, first / 0.3), float(number))
    assert limit.most == math.inf


def test_one_more_is_tried_now_and_then_and_kept_if_it_helps() -> None:
    low = sent(UNLIMITED, 4, 3, runs=1)
    assert (low.at(29.0), low.at(31.0)) == (1, 2)
    again = sent(low, 4, 3, runs=1, now=31.0)
    assert (again.most, again.at(31.0 + 59.0), again.at(31.0 + 61.0)) == (1, 1, 2), "later each time in vain"
    now, limit = 31.0, low
    for _ in range(5):
        limit = sent(limit, 4, 4, runs=4, now=now)
        now += 31.0
    assert limit.at(now) >= 4


def test_a_refusal_for_want_of_room_halves_at_once() -> None:
    assert after_refusal(UNLIMITED, 8, 0.0).most == 4
    assert after_refusal(ParallelLimit(most=2.0), 2, 0.0).most == 1
    assert after_refusal(ParallelLimit(most=1.0), 1, 0.0).most == 1


def test_who_joins_gets_one_call_and_one_more_for_each_answer_and_all_with_time() -> None:
    assert WarmingUp(100.0).allowed(8, 100.0) == 1
    assert WarmingUp(100.0, answers=3).allowed(8, 100.0) == 4
    assert WarmingUp(100.0, answers=30).allowed(8, 100.0) == 8
    assert WarmingUp(100.0).allowed(8, 100.0 + WINDOW_SECONDS / 2) == 4
    assert WarmingUp(100.0).allowed(8, 99.0) == 1


@pytest.mark.parametrize(("told", "first"), [(None, 1), (0, 1), (1, 1), (2, 2), (4, 4), (64, 4)])
def test_where_somebody_told_how_many_it_runs_it_begins_with_some_and_not_with_all(
    told: int | None, first: int
) -> None:
    assert at_first(told) == first
    assert WarmingUp(100.0).allowed(64, 100.0, told) == first
    assert WarmingUp(100.0, answers=3).allowed(64, 100.0, told) == first + 3


@pytest.mark.parametrize(("more", "first"), [({}, 1), ({"slots_told": True}, 4), ({"parallel": {"m": 2}}, 2)])
def test_an_endpoint_begins_with_as_many_calls_as_is_known_to_be_well(more: dict[str, Any], first: int) -> None:
    node = ScriptedProvider(models=("m", "other"))
    endpoint = Endpoint(node, 8, **more)
    endpoint.seen(node.current)
    assert endpoint.room("m", 100.0, alone=False) == first
    for _ in range(first):
        endpoint.take("acme", 1, "m", 100.0)
    assert endpoint.room("m", 100.0, alone=False) == 0, "it has never answered"
    assert endpoint.room("m", 100.0, alone=True) == more.get("parallel", {"m": 8})["m"] - first


def records(**failing: float) -> dict[str, CallRecord]:
    return {name: CallRecord(8.0, 8.0 * share) for name, share in failing.items()}


def test_who_fails_far_more_often_than_the_others_is_left_out_longer_each_time() -> None:
    found = ejected("a", records(a=0.5, b=0.0, c=0.1), {}, 100.0)
    assert found is not None
    assert (found.ejected_until, found.calls) == (130.0, 0.0)
    again = ejected("a", {**records(b=0.0, c=0.1), "a": CallRecord(8.0, 4.0, found.ejections)}, {}, 200.0)
    assert again is not None
    assert again.ejected_until == 260.0
    assert ejected("a", records(a=0.5, b=0.4, c=0.5), {}, 100.0) is None, "they all fail"
    assert ejected("a", {**records(b=0.0, c=0.0), "a": CallRecord(2.0, 2.0)}, {}, 100.0) is None, "too few calls"


def test_never_all_are_left_out_nor_more_than_a_share() -> None:
    assert ejected("a", records(a=1.0), {}, 0.0) is None
    two = {**records(a=1.0), "b": CallRecord(ejected_until=50.0)}
    assert ejected("a", two, {}, 0.0) is None
    six = {**records(a=1.0, c=0.0, d=0.0, e=0.0, f=0.0), "b": CallRecord(ejected_until=50.0)}
    assert ejected("a", six, {}, 0.0) is not None
    six["c"] = CallRecord(ejected_until=50.0)
    assert ejected("a", six, {}, 0.0) is None


def test_who_is_so_slow_that_it_looks_broken_is_left_out_and_an_old_machine_is_not() -> None:
    assert ejected("a", records(a=0.0, b=0.0, c=0.0), {"a": 100.0, "b": 1.0, "c": 1.0}, 0.0) is not None
    assert ejected("a", records(a=0.0, b=0.0, c=0.0), {"a": 25.0, "b": 1.0, "c": 1.0}, 0.0) is None
    assert ejected("a", records(a=0.0, b=0.0), {"a": 100.0}, 0.0) is None


def test_failures_are_forgotten_with_what_goes_well() -> None:
    record = CLEAN
    for number in range(20):
        record = after_end(record, failed=number % 2 == 0)
    assert 0.4 < record.failing < 0.6
    for _ in range(40):
        record = after_end(CallRecord(record.calls, record.failures, 3), failed=False)
    assert record.failing < 0.01
    assert record.ejections == 0
