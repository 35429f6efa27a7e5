"""Who is not taken on: by a model of a platform that answers so many at a time, and forgets nobody who was taken on."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

import pytest
from headrace_contracts.events import Failure, Lane, TaskStatus
from headrace_intake.decide.backlogs import (
    LEAST_LIVE,
    LONGEST_RETRY_SECONDS,
    USABLE,
    Backlog,
    asked_for,
    budget_seconds,
    got_its_turn,
    overload,
)
from headrace_intake.decide.live_tasks import LiveTasksHere
from headrace_intake.decide.refusals import Refusal

ASKED = asked_for("m", None, None, None)


@dataclass
class Platform:
    """Slots that serve tenants in turns, each task for the same time, and cut off what passes its deadline: begun or
    not, it has then cost a slot for nothing."""

    slots: int
    service_ms: int
    deadline_ms: int
    live: LiveTasksHere = field(default_factory=LiveTasksHere)
    admits: bool = True
    answered: Counter[str] = field(default_factory=Counter)
    refused: defaultdict[str, list[Refusal]] = field(default_factory=lambda: defaultdict(list))
    _waiting: dict[str, deque[tuple[int, bytes]]] = field(default_factory=dict)
    _free_at: list[int] = field(default_factory=list)
    _ends: list[tuple[int, bytes, str, bool]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self._free_at = [0] * self.slots

    def run(self, arrivals: list[tuple[int, str]]) -> None:
        for now, tenant in arrivals:
            self._advance(now)
            live, wait = self.live.backlog(tenant, ASKED, now)
            budget = budget_seconds(now + self.deadline_ms, None, now, 120.0)
            refusal = overload(live, wait, budget, self.live.average) if self.admits else None
            if refusal is not None:
                self.refused[tenant].append(refusal)
                self.live.refused(tenant, ASKED, now)
                continue
            self._count += 1
            key = b"%d" % self._count
            self.live.add(key, tenant, ASKED, now)
            self._waiting.setdefault(tenant, deque()).append((now, key))
            self._advance(now)

    def _advance(self, now: int) -> None:
        while True:
            begins = self._free_at[0]
            if self._ends and self._ends[0][0] <= min(now, begins if self._waiting else now):
                at, key, tenant, served = heapq.heappop(self._ends)
                self.live.ended(key, at, served=served)
                self.answered[tenant] += served
            elif self._waiting and begins <= now:
                self._begin(heapq.heappop(self._free_at))
            else:
                return

    def _begin(self, free_at: int) -> None:
        tenant = next(iter(self._waiting))
        since, key = self._waiting[tenant].popleft()
        # To the end of the line.
        queue = self._waiting.pop(tenant)
        if queue:
            self._waiting[tenant] = queue
        begins = max(free_at, since)
        ends = min(begins + self.service_ms, max(begins, since + self.deadline_ms))
        heapq.heappush(self._free_at, ends)
        heapq.heappush(self._ends, (ends, key, tenant, ends == begins + self.service_ms))


def poisson(rates: dict[str, float], seconds: int) -> list[tuple[int, str]]:
    """Arrivals in milliseconds."""
    found: list[tuple[int, str]] = []
    for tenant, rate in rates.items():
        rng, at = random.Random(tenant), 0.0
        while (at := at + rng.expovariate(rate)) < seconds:
            found.append((int(at * 1000), tenant))
    return sorted(found)


def crowd(times: float, capacity: float) -> dict[str, float]:
    """Nine tenants that ask for a twentieth of the capacity each, and one that asks for the rest."""
    return {f"t{number}": capacity / 20 for number in range(9)} | {"greedy": capacity * (times - 0.45)}


@pytest.mark.parametrize(("slots", "service_ms"), [(4, 450), (64, 2_000), (16, 200)])
@pytest.mark.parametrize("times", [1.5, 3.0, 10.0])
def test_as_much_is_answered_in_time_however_much_is_asked(slots: int, service_ms: int, times: float) -> None:
    capacity = 1000 * slots / service_ms
    at_most_possible, seconds = capacity * 120, 120

    platform = Platform(slots, service_ms, 10_000)
    platform.run(poisson(crowd(times, capacity), seconds))
    unchecked = Platform(slots, service_ms, 10_000, admits=False)
    unchecked.run(poisson(crowd(times, capacity), seconds))

    assert platform.answered.total() > 0.9 * at_most_possible
    assert platform.answered.total() >= unchecked.answered.total()
    assert set(platform.refused) == {"greedy"}
    assert {refusal.status for refusal in platform.refused["greedy"]} == {429}


def test_without_it_more_asked_is_less_answered() -> None:
    platform = Platform(4, 450, 10_000, admits=False)
    platform.run(poisson(crowd(3.0, 8.9), 120))

    assert platform.answered.total() < 0.6 * 8.9 * 120


@pytest.mark.parametrize(("slots", "service_ms", "rate"), [(64, 45_000, 1.2), (4, 450, 8.0), (1, 100, 9.0)])
def test_nobody_is_refused_while_there_is_room(slots: int, service_ms: int, rate: float) -> None:
    platform = Platform(slots, service_ms, 100_000)
    platform.run(poisson({"acme": rate}, 600))

    assert not platform.refused


def test_a_burst_after_quiet_is_taken_on() -> None:
    platform = Platform(4, 450, 60_000)
    quiet = poisson({"acme": 0.4}, 60)

    platform.run([*quiet, *[(61_000, "acme")] * 200])

    assert not platform.refused


def test_who_comes_back_when_told_is_taken_on() -> None:
    platform = Platform(4, 450, 10_000)
    platform.run(poisson({"acme": 40.0}, 30))
    last = platform.refused["acme"][-1]
    refusals = len(platform.refused["acme"])

    platform.run([(30_000 + 1000 * int(last.headers["Retry-After"]), "acme")])

    assert len(platform.refused["acme"]) == refusals


def test_with_others_gone_it_is_taken_on_at_once() -> None:
    """What was measured during an overload does not outlast it."""
    platform = Platform(4, 450, 10_000)
    platform.run(poisson({"acme": 40.0}, 30))
    before = len(platform.refused["acme"])

    platform.run([(60_000 + 500 * number, "acme") for number in range(100)])

    assert before
    assert len(platform.refused["acme"]) == before


def busy(live: int, ended: int, *, served: bool, took_ms: int) -> Backlog:
    """So many are live after so many have ended within a time."""
    found = Backlog()
    for _ in range(live + ended):
        found.add()
    for number in range(ended):
        found.ended(took_ms * (number + 1) // ended, served=served)
    return found


def test_the_wait_is_what_is_live_over_what_is_answered() -> None:
    found = busy(20, 20, served=True, took_ms=10_000)

    assert found.live == 20
    # What few ends say is uncertain: it may well be less.
    assert 10.0 > (found.wait_seconds(10_000) or 0) > 6.0
    assert busy(200, 20_000, served=True, took_ms=100_000).wait_seconds(100_000) == pytest.approx(1.0, rel=0.05)


def test_what_waits_in_vain_waits_for_ever() -> None:
    assert busy(20, 20, served=False, took_ms=10_000).wait_seconds(10_000) == math.inf


def test_few_tasks_and_old_measurements_say_nothing() -> None:
    assert busy(LEAST_LIVE - 1, 20, served=False, took_ms=1_000).wait_seconds(1_000) is None
    assert busy(20, 8, served=False, took_ms=1_000).wait_seconds(1_000) is None
    found = busy(20, 20, served=False, took_ms=1_000)
    assert found.wait_seconds(60_000) == math.inf
    assert found.wait_seconds(62_000) is None


def test_a_refusal_says_why_and_when_to_come_back() -> None:
    refusal = overload(50, 25.0, 7.0, 10.0)

    assert refusal is not None
    assert (refusal.status, refusal.kind) == (429, "backlog-too-long")
    assert "50 such tasks here that have not ended, and they wait about 25 s" in refusal.detail
    assert refusal.headers == {
        "RateLimit-Policy": '"backlog";q=14;qu="concurrent-requests"',
        "RateLimit": '"backlog";r=0;t=18',
        "Retry-After": "18",
    }
    others = overload(9, math.inf, 7.0, 10.0)
    assert others is not None
    assert (others.status, others.kind) == (503, "overloaded")
    assert others.headers["Retry-After"] == str(LONGEST_RETRY_SECONDS)
    assert overload(50, None, 7.0, 10.0) is None
    assert overload(50, 7.0, 7.0, 10.0) is None
    assert overload(50, math.inf, math.inf, 10.0) is None


def test_a_task_may_wait_for_most_of_its_time() -> None:
    assert budget_seconds(11_000, Lane.BATCH, 1_000, 120.0) == pytest.approx(10 * USABLE)
    assert budget_seconds(500, None, 1_000, 120.0) == 0
    assert budget_seconds(None, Lane.INTERACTIVE, 1_000, 120.0) == pytest.approx(120 * USABLE)
    assert budget_seconds(None, Lane.BATCH, 1_000, 120.0) == math.inf


@pytest.mark.parametrize(
    ("status", "code", "served"),
    [
        (TaskStatus.SUCCEEDED, None, True), (TaskStatus.REFUSED, None, True), (TaskStatus.CANCELLED, None, True),
        (TaskStatus.EXPIRED, None, False), (TaskStatus.EXPIRED, "expired", False),
        (TaskStatus.FAILED, "unknown_model", True), (TaskStatus.FAILED, "no_local_capacity", False),
        (TaskStatus.FAILED, "overloaded", False), (TaskStatus.FAILED, None, True),
    ],
)  # fmt: skip
def test_an_end_without_a_turn_is_no_service(status: TaskStatus, code: str | None, served: bool) -> None:
    assert got_its_turn(status, None if code is None else Failure(code=code)) is served
