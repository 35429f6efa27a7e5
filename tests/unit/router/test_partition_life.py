"""The life of a partition: every event in every phase; waits; shares of the in-flight limit."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from headrace_router.decide.partition_life import (
    TRANSITIONS,
    ImpossibleTransition,
    PartitionEvent,
    PartitionPhase,
    after,
)
from headrace_router.in_flight_limiter import InFlightLimiter
from headrace_streams.retries import RetryPolicy

PAIRS = list(itertools.product(PartitionPhase, PartitionEvent))


@pytest.mark.parametrize(("phase", "event"), PAIRS, ids=[f"{phase}-{event}" for phase, event in PAIRS])
def test_every_event_in_every_phase_has_one_outcome(phase: PartitionPhase, event: PartitionEvent) -> None:
    if (phase, event) in TRANSITIONS:
        assert after(phase, event) is TRANSITIONS[phase, event]
    else:
        with pytest.raises(ImpossibleTransition, match=str(phase)):
            after(phase, event)


def test_a_released_partition_stays_released_and_all_can_be_released() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] is PartitionPhase.RELEASED]
    for phase in set(PartitionPhase) - {PartitionPhase.RELEASED}:
        assert TRANSITIONS[phase, PartitionEvent.LOST] is PartitionPhase.RELEASED
        reached = {phase}
        while more := {to for (start, _), to in TRANSITIONS.items() if start in reached} - reached:
            reached |= more
        assert PartitionPhase.RELEASED in reached


def test_nothing_is_routed_again_but_by_a_recovery() -> None:
    assert [pair for pair, to in TRANSITIONS.items() if to is PartitionPhase.ROUTING] == [
        (PartitionPhase.RECOVERING, PartitionEvent.RECOVERED)
    ]


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.2), (2, 0.4), (5, 3.2), (9, 30.0), (10_000, 30.0)])
def test_waits_double_up_to_a_limit(failures: int, seconds: float) -> None:
    retries = RetryPolicy(first_delay_seconds=0.2, longest_delay_seconds=30.0)
    assert retries.delay(failures) == pytest.approx(seconds)


def _filled(limiter: InFlightLimiter) -> int:
    share = limiter.share()
    count = 0
    while not share.full:
        share.enter()
        count += 1
    return count


def test_each_partition_in_trouble_leaves_room_for_the_others() -> None:
    limiter = InFlightLimiter(1000)
    assert [_filled(limiter) for _ in range(4)] == [500, 250, 125, 63]
    assert limiter.free == 62


def test_a_limit_of_one_lets_one_in() -> None:
    limiter = InFlightLimiter(1)
    one, other = limiter.share(), limiter.share()
    assert [one.full, other.full] == [False, False]
    one.enter()
    assert [one.full, other.full] == [True, True]
    one.leave()
    assert [one.full, other.full] == [False, False]


async def test_room_comes_when_enough_have_left() -> None:
    limiter = InFlightLimiter(4)
    share, other = limiter.share(), limiter.share()
    for _ in range(3):
        share.enter()
    other.enter()
    waiting = [asyncio.create_task(share.room()), asyncio.create_task(other.room())]
    await asyncio.sleep(0)
    share.leave()
    await asyncio.sleep(0.01)
    # One place is free: the other holds one already, so it is not enough for either.
    assert not any(task.done() for task in waiting)
    share.leave(2)
    await asyncio.wait_for(asyncio.gather(*waiting), 1)
    assert limiter.free == 3
