"""What the last calls of a model say about the next one."""

from __future__ import annotations

import pytest
from headrace_models.worker.recent_times import FEWEST, FORGOTTEN_SECONDS, KEPT, RecentTimes


def times(*seconds: float, now: float = 0.0) -> RecentTimes:
    made = RecentTimes()
    for one in seconds:
        made.observe(now, one)
    return made


@pytest.mark.parametrize(
    ("seconds", "least"),
    [
        ((), 0.0),
        ((9.0, 1.0, 1.0), 0.0),
        ((9.0, 1.0, 1.0, 1.0), 1.0),
        ((4.0, 3.0, 2.0, 1.0), 2.0),
        (tuple(float(one) for one in range(1, 33)), 9.0),
    ],
)
def test_a_call_takes_at_least_as_long_as_the_fastest_quarter(seconds: tuple[float, ...], least: float) -> None:
    assert times(*seconds).least(0.0) == least


def test_one_slow_call_says_nothing_and_old_calls_are_replaced() -> None:
    assert times(*[60.0] * (FEWEST - 1)).least(0.0) == 0.0
    assert times(*[60.0] * KEPT, *[1.0] * (KEPT * 3 // 4)).least(0.0) == 1.0


def test_what_is_old_is_forgotten_so_that_a_call_is_begun_again() -> None:
    made = times(*[60.0] * KEPT)
    assert made.least(FORGOTTEN_SECONDS - 1) == 60.0
    assert made.least(FORGOTTEN_SECONDS) == 0.0


def test_with_ample_time_nine_of_ten_calls_end() -> None:
    assert times(*[float(one) for one in range(1, 11)]).ample(0.0) == 10.0
    assert times(*[1.0] * 31, 60.0).ample(0.0) == 1.0
    assert times(1.0, 2.0, 3.0).ample(0.0) == 0.0


def test_calls_that_were_cut_off_do_not_make_ever_shorter_times_seem_ample() -> None:
    made = times(*[float(one) for one in range(1, 10)])
    made.cut_off(0.0, 3.0)
    assert (made.ample(0.0), made.least(0.0)) == (18.0, 3.0)
    for _ in range(3):
        made.cut_off(0.0, 12.0)
    assert (made.ample(0.0), made.least(0.0)) == (24.0, 3.0), "what is begun at all follows from answers alone"


def test_a_few_calls_that_were_cut_off_say_nothing_and_old_ones_are_forgotten() -> None:
    made = RecentTimes()
    made.cut_off(0.0, 50.0)
    assert made.ample(0.0) == 0.0
    for _ in range(KEPT):
        made.observe(1.0, 5.0)
    assert made.ample(1.0) == 5.0
    for _ in range(KEPT):
        made.cut_off(2.0, 50.0)
    assert made.ample(2.0) == 100.0
    for _ in range(KEPT):
        made.observe(3.0, 5.0)
    assert made.ample(3.0) == 5.0
