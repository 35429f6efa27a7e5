"""Rates of keys and tenants in one process, and over several that tell each other what they let through."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass

import pytest
from headrace_runtime.rate_limit import Bucket, RequestRates, taken_elsewhere
from headrace_runtime.settings import ApiSettings
from headrace_runtime.shared_rates import FORGOTTEN_MS, ProcessesHeard
from headrace_runtime.tenants import parse_tenants, request_rates
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr


@dataclass(frozen=True)
class Key:
    key_id: str = "a"
    tenant: str = "acme"
    requests_per_minute: int | None = None


def allowed(rates: RequestRates, key: Key, now: float) -> bool:
    decision = rates.take(key, now)
    return decision is None or decision.allowed


def test_keys_have_buckets_of_their_own() -> None:
    rates = RequestRates(1, most_buckets=2)
    assert allowed(rates, Key("a"), 0.0)
    assert allowed(rates, Key("b"), 0.0)
    assert not allowed(rates, Key("a"), 0.0)
    assert allowed(rates, Key("c"), 0.0)
    # b was used least recently and is forgotten, so it starts anew.
    assert allowed(rates, Key("b"), 0.0) is True


def test_a_key_without_any_rate_is_not_limited() -> None:
    assert RequestRates().take(Key(), 0.0) is None


def test_the_keys_of_a_tenant_share_its_rate() -> None:
    rates = RequestRates(10, {"acme": 3, "other": 3}.get)
    for key_id in "abc":
        decision = rates.take(Key(key_id), 0.0)
        assert decision is not None
        assert decision.allowed
        # The stricter one is told.
        assert decision.policy == "tenant"

    refused = rates.take(Key("d"), 0.0)

    assert refused is not None
    assert not refused.allowed
    assert refused.headers() == {
        "RateLimit-Policy": '"tenant";q=3;w=60',
        "RateLimit": '"tenant";r=0;t=60',
        "Retry-After": "20",
    }
    assert allowed(rates, Key("d", "other"), 0.0)


def test_the_rate_of_the_key_is_told_where_it_is_stricter() -> None:
    rates = RequestRates(None, lambda tenant: 100)
    key = Key(requests_per_minute=2)
    first = rates.take(key, 0.0)
    assert first is not None
    assert (first.policy, first.remaining) == ("key", 1)
    assert allowed(rates, key, 0.0)
    refused = rates.take(key, 0.0)
    assert refused is not None
    assert (refused.policy, refused.allowed) == ("key", False)


def test_what_one_of_the_two_refuses_takes_nothing_from_the_other() -> None:
    rates = RequestRates(None, lambda tenant: 5)
    for _ in range(50):
        allowed(rates, Key("a", requests_per_minute=1), 0.0)

    assert [allowed(rates, Key("b"), 0.0) for _ in range(5)] == [True] * 4 + [False]
    assert rates.newly_let_through(10) == {"a": 1, "b": 4}


def test_the_file_of_tenants_goes_before_the_setting() -> None:
    settings = ApiSettings(key_pepper=SecretStr("p" * 16), requests_per_minute=100, tenant_requests_per_minute=3)
    rates = request_rates(settings, parse_tenants("tenants: {acme: {requests_per_minute: 2}}", "tenants"))

    assert [allowed(rates, Key("a", "acme"), 0.0) for _ in range(3)] == [True, True, False]
    assert [allowed(rates, Key("b", "new"), 0.0) for _ in range(4)] == [True, True, True, False]


def test_the_busiest_keys_are_told_first_and_each_request_once() -> None:
    rates = RequestRates(100)
    for key_id in "aaabbc":
        rates.take(Key(key_id), 0.0)

    assert rates.newly_let_through(2) == {"a": 3, "b": 2}
    rates.take(Key("a"), 0.0)
    assert rates.newly_let_through(2) == {"a": 1, "c": 1}
    assert rates.newly_let_through(2) == {}


def test_what_others_took_is_owed_but_no_more_than_they_can_have_taken() -> None:
    assert taken_elsewhere(None, 60, 45, age_seconds=0, others=1, now=5.0) == Bucket(15.0, 5.0)
    assert taken_elsewhere(Bucket(10.0, 5.0), 60, 45, age_seconds=9, others=1, now=6.0) == Bucket(-34.0, 6.0)
    # A bucket from which nothing was taken has filled up since.
    assert taken_elsewhere(None, 60, 45, age_seconds=30, others=1, now=5.0) == Bucket(45.0, 5.0)
    assert taken_elsewhere(None, 60, 10**9, age_seconds=0, others=1, now=5.0) == Bucket(-60.0, 5.0)
    for others in (1, 3):
        owing = Bucket(0.0, 0.0)
        for _ in range(20):
            owing = taken_elsewhere(owing, 60, 10**9, age_seconds=0, others=others, now=0.0)
        assert owing.tokens == -120 * others


def test_a_record_is_news_once() -> None:
    heard = ProcessesHeard()
    assert heard.is_news("p", 1, 1_000, 2_000)
    assert not heard.is_news("p", 1, 1_000, 2_000)
    assert heard.is_news("p", 3, 3_000, 3_000)
    assert not heard.is_news("p", 2, 2_000, 3_000), "an older one, read again"
    assert heard.is_news("q", 1, 3_000, 3_000), "a restarted process is another one"
    assert heard.others(3_000) == 2
    assert not heard.is_news("q", 2, 3_000, 3_000 + FORGOTTEN_MS), "nothing of it matters any more"
    # Who is gone is not counted for long.
    assert heard.others(2_999 + FORGOTTEN_MS) == 2
    assert heard.others(3_000 + FORGOTTEN_MS) == 0


@dataclass
class Processes:
    """Several processes that each let through what their own buckets allow, and hear of the others later."""

    rate: int
    count: int
    clock: float = 0.0

    def __post_init__(self) -> None:
        self.rates = [RequestRates(self.rate) for _ in range(self.count)]
        self.let_through: list[tuple[float, int]] = []
        self._in_flight: list[tuple[float, int, int, int, float]] = []
        self._order = itertools.count()

    def request(self, process: int, now: float) -> bool:
        self._deliver(now)
        took = allowed(self.rates[process], Key(), now)
        if took:
            self.let_through.append((now, process))
        return took

    def tell(self, process: int, now: float, delay: float) -> None:
        self._deliver(now)
        told = self.rates[process].newly_let_through(10).get("a", 0)
        if told:
            heapq.heappush(self._in_flight, (now + delay, next(self._order), process, told, now))

    def _deliver(self, now: float) -> None:
        while self._in_flight and self._in_flight[0][0] <= now:
            at, _, origin, told, counted_at = heapq.heappop(self._in_flight)
            for process, rates in enumerate(self.rates):
                if process != origin:
                    rates.taken_elsewhere(
                        Key(), told, age_seconds=at - counted_at, others=self.count - 1, now=at
                    )  # fmt: skip

    def unheard(self, within: float) -> int:
        """The most that any N - 1 of them let through within so many seconds."""
        worst = 0
        for start, _ in self.let_through:
            by_process = Counter(process for at, process in self.let_through if start <= at <= start + within)
            worst = max(worst, by_process.total() - min(by_process[number] for number in range(self.count)))
        return worst


@given(
    rate=st.integers(1, 120),
    count=st.integers(1, 5),
    steps=st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(0, 4), st.integers(1, 60)), min_size=1, max_size=60),
    delays=st.lists(st.floats(0.0, 1.5), min_size=1, max_size=10),
)
def test_together_they_let_through_what_one_would_and_what_they_had_not_heard_of(
    rate: int, count: int, steps: list[tuple[float, int, int]], delays: list[float]
) -> None:
    processes = Processes(rate, count)
    now, next_tell = 0.0, 1.0
    delay = itertools.cycle(delays)
    for gap, process, requests in steps:
        now += gap
        while next_tell <= now:
            for number in range(count):
                processes.tell(number, next_tell, next(delay))
            next_tell += 1.0
        for _ in range(requests):
            processes.request(process % count, now)

    # A record a second, and up to 1.5 s until it is heard.
    assert len(processes.let_through) <= rate + now * rate / 60 + processes.unheard(2.5) + 1e-6


@pytest.mark.parametrize("count", [1, 2, 5])
def test_over_minutes_the_rate_holds_however_many_there_are(count: int) -> None:
    rate, seconds = 600, 600
    processes = Processes(rate, count)
    for second in range(seconds):
        for process in range(count):
            for part in range(30):
                processes.request(process, second + part / 30)
        for process in range(count):
            processes.tell(process, second + 0.99, 0.2)

    one_would = rate + seconds * rate / 60
    # The burst with which each of them begins is owed, and what is let through unheard.
    assert len(processes.let_through) == pytest.approx(one_would, abs=(count - 1) * 60 + 10)


def test_who_keeps_to_its_rate_is_refused_by_none_of_them() -> None:
    processes = Processes(600, 4)
    for number in range(6_000):
        now = number / 10
        assert processes.request(number % 4, now)
        if number % 10 == 9:
            for process in range(4):
                processes.tell(process, now, 1.0)
