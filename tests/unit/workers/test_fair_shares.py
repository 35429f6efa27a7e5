"""Who has had how much of an endpoint, and who is next."""

from __future__ import annotations

import random

import pytest
from headrace_models.worker.fair_shares import CREDIT_CALLS, FairShares


def call(shares: FairShares, tenant: str, began: float, seconds: float, weight: int = 1) -> None:
    shares.began(tenant, weight, began, 1.0)
    shares.ended(tenant, began + seconds)


ALL = frozenset("abc")


def test_a_call_counts_with_what_is_usual_until_it_has_taken_longer() -> None:
    shares = FairShares()
    shares.began("a", 2, 0.0, 4.0)
    assert [shares.claim("a", now) for now in (0.0, 4.0, 6.0)] == [2.0, 2.0, 3.0]
    assert shares.claim("b", 6.0) == 0.0
    shares.ended("a", 8.0)
    assert shares.claim("a", 100.0) == 4.0


def test_a_call_that_was_shorter_than_usual_counts_with_what_it_took() -> None:
    shares = FairShares()
    call(shares, "a", 0.0, 0.5)
    assert shares.claim("a", 1.0) == 0.5


def test_who_comes_or_comes_back_has_a_few_calls_first() -> None:
    shares = FairShares()
    shares.wait(ALL, 0.0)
    call(shares, "b", 0.0, 1.0)
    shares.wait({"a", "c"}, 1.0)
    for number in range(10):
        call(shares, "a", float(number), 1.0)
    shares.wait({"a", "b", "c", "new"}, 10.0)
    # "a" was served last with a claim of 9 s; calls take 1 s.
    assert shares.claim("b", 10.0) == shares.claim("new", 10.0) == 9.0 - CREDIT_CALLS
    assert shares.claim("c", 10.0) == 0.0, "it has waited all the time"


def test_who_comes_back_soon_still_owes_its_last_call() -> None:
    shares = FairShares()
    shares.wait(ALL, 0.0)
    call(shares, "b", 0.0, 7.0)
    shares.wait({"a"}, 7.0)
    call(shares, "a", 7.0, 1.0)
    shares.wait(ALL, 8.0)
    assert (shares.claim("a", 8.0), shares.claim("b", 8.0)) == (1.0, 7.0)


def test_a_call_expected_to_be_long_costs_nobody_its_claim() -> None:
    shares = FairShares()
    shares.wait(ALL, 0.0)
    shares.began("b", 1, 0.0, 100.0)
    shares.began("a", 1, 0.0, 50.0)
    shares.began("a", 1, 0.0, 50.0)
    shares.ended("b", 1.0)
    assert shares.claim("b", 1.0) == 1.0, "others have been served meanwhile"


def test_nobody_owes_for_what_nobody_else_wanted() -> None:
    shares = FairShares()
    for _ in range(4):
        shares.began("a", 1, 0.0, 1.0)
    shares.wait(frozenset(), 100.0)
    assert shares.claim("a", 100.0) == shares.claim("b", 100.0) == 0.0
    shares.wait({"b"}, 100.0)
    assert shares.claim("a", 102.0) == 8.0, "from then on it counts"
    for _ in range(4):
        shares.ended("a", 103.0)
    assert shares.claim("a", 103.0) == 12.0


def test_tenants_that_are_gone_are_forgotten() -> None:
    shares = FairShares()
    for number in range(100):
        shares.wait({"a", f"t{number}"}, float(number))
        call(shares, f"t{number}", float(number), 0.1)
        call(shares, "a", float(number), 0.9)
    assert len(shares._accounts) <= 2
    shares.wait(frozenset(), 100.0)
    assert not shares._accounts


def test_calls_that_come_together_go_before_one_who_always_wants_more() -> None:
    shares = FairShares()
    shares.wait({"greedy"}, 0.0)
    for number in range(20):
        call(shares, "greedy", float(number), 1.0)
    shares.wait({"greedy", "modest"}, 20.0)

    turns = []
    for number in range(CREDIT_CALLS + 4):
        at = 20.0 + number
        turns.append(min(("greedy", "modest"), key=lambda tenant: shares.claim(tenant, at)))
        call(shares, turns[-1], at, 1.0)

    assert turns[:CREDIT_CALLS] == ["modest"] * CREDIT_CALLS
    # Then both have the same.
    assert abs(turns[CREDIT_CALLS:].count("greedy") - 2) <= 1


class _Summed:
    """What a tenant has used, added up call by call."""

    def __init__(self) -> None:
        self.used = 0.0
        self.running: list[list[float]] = []

    def claim(self, now: float) -> float:
        return self.used + sum(max(usual, now - began) / weight for began, usual, weight in self.running)


@pytest.mark.parametrize("seed", range(20))
def test_claims_are_the_sums_of_their_calls(seed: int) -> None:
    rng = random.Random(seed)
    shares, summed = FairShares(), _Summed()
    now: float = 0.0
    weight: float
    shares.began("a", 1, now, 1.0)
    summed.running.append([now, 1.0, 1])
    for _ in range(400):
        now += rng.choice((0.0, 0.1, 1.0, 7.0))
        step = rng.random()
        if step < 0.5:
            usual, weight = rng.choice((0.0, 0.5, 3.0, 1e6)), rng.randint(1, 5)
            shares.began("a", weight, now, usual)
            summed.running.append([now, usual, weight])
        elif step < 0.9 and len(summed.running) > 1:
            shares.ended("a", now)
            began, _, weight = summed.running.pop(0)
            summed.used += (now - began) / weight
        elif step > 0.97:
            shares.wait(frozenset(), now)
            summed.used = 0.0
            summed.running = [[now, 0.0, weight] for _, _, weight in summed.running]
        assert shares.claim("a", now) == pytest.approx(summed.claim(now), rel=1e-9, abs=1e-6)
        assert len(shares._accounts["a"]._ends) <= 2 * len(summed.running) + 1, "what has ended is forgotten"
