"""Who is not taken on: by a model of a platform that answers so many at a time, and forgets nobody who was taken on."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

import pytest
from headrace_contracts.events import Failure, Lane, TaskStatus
from headrace_intake.decide import live_tasks
from headrace_intake.decide.backlogs import (
    FURTHEST_SECONDS,
    KEPT_SECONDS,
    LEAST_LIVE,
    RETRY_IN_VAIN_SECONDS,
    USABLE,
    Backlog,
    asked_for,
    budget_seconds,
    got_its_turn,
    overload,
)
from headrace_intake.decide.live_tasks import LiveTasksHere
from headrace_intake.decide.promises import MOST_PROMISES, Promises
from headrace_intake.decide.refusals import Refusal

ASKED = asked_for("m", None, None, None)


@dataclass
class Platform:
    """Slots that serve tenants in turns, each task for the same time, and cut off what passes its deadline: begun or
    not, it has then cost a slot for nothing.

    Attributes:
        returns: Share of the refused that come back when they were told, some milliseconds late.
    """

    slots: int
    service_ms: int
    deadline_ms: int
    live: LiveTasksHere = field(default_factory=LiveTasksHere)
    admits: bool = True
    returns: float = 0.0
    answered: Counter[str] = field(default_factory=Counter)
    refused: defaultdict[str, list[Refusal]] = field(default_factory=lambda: defaultdict(list))
    came_back: int = 0
    taken_on: int = 0
    answered_at: list[int] = field(default_factory=list)
    _waiting: dict[str, deque[tuple[int, bytes]]] = field(default_factory=dict)
    _free_at: list[int] = field(default_factory=list)
    _ends: list[tuple[int, bytes, str, bool]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self._free_at = [0] * self.slots

    def run(self, arrivals: list[tuple[int, str]]) -> None:
        rng = random.Random(7)
        asking = [(now, number, tenant, False) for number, (now, tenant) in enumerate(arrivals, self._count)]
        heapq.heapify(asking)
        while asking:
            now, who, tenant, again = heapq.heappop(asking)
            self._advance(now)
            refusal = self._ask(now, tenant, who)
            self.came_back += again
            self.taken_on += again and refusal is None
            if refusal is not None and not again and rng.random() < self.returns:
                back = now + 1000 * int(refusal.headers["Retry-After"]) + rng.randrange(50)
                heapq.heappush(asking, (back, who, tenant, True))

    def _ask(self, now: int, tenant: str, who: int) -> Refusal | None:
        budget = budget_seconds(now + self.deadline_ms, None, now, 120.0)
        refusal = self.live.overload(tenant, ASKED, who, budget, now) if self.admits else None
        if refusal is not None:
            self.refused[tenant].append(refusal)
            return refusal
        self._count += 1
        key = b"%d" % self._count
        self.live.add(key, tenant, ASKED, now)
        self._waiting.setdefault(tenant, deque()).append((now, key))
        self._advance(now)
        return None

    def _advance(self, now: int) -> None:
        while True:
            begins = self._free_at[0]
            if self._ends and self._ends[0][0] <= min(now, begins if self._waiting else now):
                at, key, tenant, served = heapq.heappop(self._ends)
                self.live.ended(key, at, served=served)
                self.answered[tenant] += served
                if served:
                    self.answered_at.append(at)
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


@pytest.mark.parametrize(
    ("slots", "service_ms", "deadline_ms"), [(4, 450, 10_000), (64, 2_000, 30_000), (16, 200, 4_000)]
)
@pytest.mark.parametrize("times", [3.0, 10.0])
def test_who_comes_back_when_told_is_taken_on(slots: int, service_ms: int, deadline_ms: int, times: float) -> None:
    """However many come back, and while others go on asking."""
    capacity, seconds = 1000 * slots / service_ms, 30
    before = Platform(slots, service_ms, deadline_ms)
    before.run(poisson({"acme": times * capacity}, seconds))
    for returns in (0.05, 0.3, 1.0):
        platform = Platform(slots, service_ms, deadline_ms, returns=returns)
        platform.run(poisson({"acme": times * capacity}, seconds))

        assert platform.came_back > 10
        assert platform.taken_on > 0.8 * platform.came_back
        in_time = sum(at < 1000 * seconds for at in platform.answered_at)
        assert in_time > 0.97 * sum(at < 1000 * seconds for at in before.answered_at)
        assert in_time > 0.85 * capacity * seconds


def refusing(promised: int) -> Backlog:
    """A backlog of 200 tasks of which ten are answered a second, after so many others were refused at 20 s; so far, all
    of those who were refused have come back."""
    found = busy(200, 2_000, served=True, took_ms=200_000)
    for who in range(1_000):
        found.promises.make(-who - 1, 1)
        found.promises.take_up(-who - 1)
    for who in range(promised):
        assert found.come_back_after(who, 200_000, 15.0) is not None
    return found


def test_those_who_come_back_are_spread_at_the_pace_at_which_they_are_served() -> None:
    found = refusing(0)
    told = [found.come_back_after(who, 200_000, 15.0) for who in range(60)]

    # Ten a second are answered.
    assert max(Counter(told).values()) <= 11
    assert told == sorted(told, key=lambda after: after or 0)
    assert (told[-1] or 0) - (told[0] or 0) == 6


@pytest.mark.parametrize(
    ("after_ms", "taken_on"), [(-500, False), (900 * KEPT_SECONDS, False), (1_100 * KEPT_SECONDS, True)]
)
def test_a_promised_place_is_kept_until_a_little_later_and_then_another_s(after_ms: float, taken_on: bool) -> None:
    found = refusing(1)
    told = found.promises.of(0)
    assert told is not None
    while (found.wait_seconds(told) or 0) > 15.0:
        found.remove(told)

    # There is room for one, which is promised.
    assert (found.come_back_after(1, told + int(after_ms), 15.0) is None) is taken_on


def test_who_comes_too_early_keeps_its_place_and_gets_no_other() -> None:
    found = refusing(3)
    told = found.promises.of(1)
    assert told is not None

    assert found.come_back_after(1, told - 3_000, 15.0) == 3
    assert (found.promises.of(1), len(found.promises)) == (told, 3)
    assert found.come_back_after(1, told + 20, 15.0) is None
    assert (found.promises.of(1), len(found.promises)) == (None, 2)


def test_promises_that_nobody_takes_up_make_nobody_wait() -> None:
    """The more fade, the less is counted for them."""
    found = refusing(300)
    first = found.come_back_after(1_000, 200_000, 15.0)
    assert first is not None
    assert first > 30
    found.promises.fade(10**12)

    assert len(found.promises) == 0
    for who in range(300):
        found.promises.make(2_000 + who, 260_000)
    again = found.come_back_after(3_000, 200_000, 15.0)
    assert again is not None
    assert again < 10
    # As long as nothing is known, few are expected to come back.
    fresh = Backlog()
    assert fresh.promises.make(1, 1)
    assert 0 < fresh.promises.places < 0.5


def test_nothing_is_promised_beyond_its_limits() -> None:
    found = refusing(0)
    told = [found.come_back_after(who, 200_000, 15.0) for who in range(8_000)]
    assert max(after or 0 for after in told) == FURTHEST_SECONDS
    assert 10 * FURTHEST_SECONDS * 0.9 < len(found.promises) < 10 * FURTHEST_SECONDS * 1.1
    before = len(found.promises)
    found.promises.fade(250_000)
    assert found.come_back_after(9_000, 250_000, 15.0, may_promise=False) is not None
    assert len(found.promises) < before

    many = Promises()
    assert all(many.make(who, who) for who in range(MOST_PROMISES))
    assert not many.make(MOST_PROMISES, 1)


def test_all_backlogs_together_keep_so_many_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_tasks, "_MOST_PROMISES", 50)
    platform = Platform(4, 450, 10_000)
    platform.run(poisson({"acme": 40.0, "other": 40.0}, 30))

    kept = sum(len(backlog.promises) for backlog in platform.live._backlogs.values())
    assert 30 <= kept <= 51


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
    refusal = overload(50, 25.0, 7.0, 18, above_share=True)

    assert (refusal.status, refusal.kind) == (429, "backlog-too-long")
    assert "50 such tasks here that have not ended, and they wait about 25 s" in refusal.detail
    assert refusal.headers == {
        "RateLimit-Policy": '"backlog";q=14;qu="concurrent-requests"',
        "RateLimit": '"backlog";r=0;t=18',
        "Retry-After": "18",
    }
    others = overload(9, math.inf, 7.0, RETRY_IN_VAIN_SECONDS, above_share=False)
    assert (others.status, others.kind) == (503, "overloaded")
    assert others.headers["Retry-After"] == str(RETRY_IN_VAIN_SECONDS)


def test_only_what_would_wait_for_too_long_is_told_to_come_back() -> None:
    assert busy(2, 20, served=True, took_ms=10_000).come_back_after(1, 10_000, 0.1) is None
    found = busy(20, 20, served=True, took_ms=10_000)
    wait = found.wait_seconds(10_000)
    assert wait is not None
    assert found.come_back_after(1, 10_000, wait) is None
    assert found.come_back_after(1, 10_000, wait - 0.1) == 1
    assert found.come_back_after(2, 10_000, math.inf) is None
    assert busy(20, 20, served=False, took_ms=10_000).come_back_after(1, 10_000, 7.0) == RETRY_IN_VAIN_SECONDS


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
