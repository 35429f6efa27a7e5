"""When a place is left alone."""

from __future__ import annotations

import pytest
from headrace_models.errors import BadRequest, ProviderError, RetryLater, TryAnother
from headrace_models.worker.breaker import CLOSED, Breaker, BreakerPolicy, after_call

POLICY = BreakerPolicy(lasting_failures=2, passing_failures=3, lasting_seconds=60.0, passing_seconds=10.0)
WRONG_KEY = TryAnother("not_authorised", "wrong key", provider="p")
BUSY = RetryLater("overloaded", "busy", provider="p")


def after(*calls: ProviderError | None, now: float = 100.0) -> Breaker:
    breaker = CLOSED
    for error in calls:
        breaker = after_call(breaker, error, now, POLICY)
    return breaker


@pytest.mark.parametrize(
    ("calls", "open_for"),
    [
        ((WRONG_KEY,), 0),
        ((WRONG_KEY, WRONG_KEY), 60),
        ((WRONG_KEY, None, WRONG_KEY), 0),
        ((BUSY, BUSY), 0),
        ((BUSY, BUSY, BUSY), 10),
        ((BUSY, BUSY, RetryLater("rate_limited", "wait", provider="p", after_seconds=25.0)), 25),
        ((BUSY, BUSY, RetryLater("rate_limited", "wait", provider="p", after_seconds=1.0)), 10),
        ((BadRequest("invalid_request", "bad", provider="p"),) * 9, 0),
        ((RetryLater("timeout", "slow", provider="p"),) * 9, 0),
        ((TryAnother("model_missing", "none", provider="p"),) * 9, 0),
    ],
)
def test_failures_in_a_row_open_it(calls: tuple[ProviderError | None, ...], open_for: float) -> None:
    breaker = after(*calls)
    if open_for:
        assert breaker.objection(100.0 + open_for - 0.1) is not None
    assert breaker.objection(100.0 + open_for) is None


def test_after_the_time_alone_one_failure_is_enough_and_one_answer_is_too() -> None:
    breaker = after(BUSY, BUSY, BUSY)
    assert after_call(breaker, BUSY, 111.0, POLICY).objection(120.0) == "busy"
    assert after_call(breaker, None, 111.0, POLICY) == CLOSED
