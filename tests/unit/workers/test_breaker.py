"""When an endpoint is left alone."""

from __future__ import annotations

from typing import get_args

import pytest
from headrace_models.errors import (
    OtherCode,
    ProviderError,
    RetryCode,
    RetrySameProvider,
    TryAnotherProvider,
)
from headrace_models.worker.breaker import CLOSED, Breaker, BreakerPolicy, after_call

POLICY = BreakerPolicy(lasting_failures=2, passing_failures=3, lasting_seconds=60.0, passing_seconds=10.0)
WRONG_KEY = TryAnotherProvider("not_authorised", "wrong key", provider="p")
BUSY = RetrySameProvider("overloaded", "busy", provider="p")


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
        ((BUSY, BUSY, RetrySameProvider("rate_limited", "wait", provider="p", after_seconds=25.0)), 25),
        ((BUSY, BUSY, RetrySameProvider("rate_limited", "wait", provider="p", after_seconds=1.0)), 10),
        ((TryAnotherProvider("request_rejected", "bad", provider="p"),) * 9, 0),
        ((RetrySameProvider("timeout", "slow", provider="p"),) * 9, 0),
        ((TryAnotherProvider("model_missing", "none", provider="p"),) * 9, 0),
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


NOW = 1000.0
STATES = {
    "closed": CLOSED,
    "one failure": Breaker(failures=1),
    "two failures": Breaker(failures=2),
    "open": Breaker(failures=2, open_until=NOW + 5, reason="before"),
    "after the time alone": Breaker(failures=2, open_until=NOW - 5, reason="before"),
}
_PASSING = ("rate_limited", "overloaded", "unreachable", "provider_error")
_LASTING = ("not_authorised", "quota_exhausted", "redirected")
_OF_THE_CALL = (
    "timeout", "connection_lost", "model_missing", "model_does_not_fit", "context_too_long", "request_rejected",
    "output_blocked", "output_repeats", "answered_remotely", "answer_too_large", "empty_answer", "unknown_finish",
    "worker_error",
    "invalid_tool_call", "tool_call_missing", "answer_does_not_fit", "unsupported_operation", "output_limit",
    "invalid_vectors",
)  # fmt: skip
EVENTS = {"answered": None} | {
    code: ProviderError(code, f"because {code}", provider="p") for code in (*_PASSING, *_LASTING, *_OF_THE_CALL)
}


def test_every_code_that_clients_report_is_known_here() -> None:
    codes = {code for literal in (RetryCode, OtherCode) for code in get_args(literal)}
    assert codes == EVENTS.keys() - {"answered"}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_every_event_in_every_state(state: str, event: str) -> None:
    before, after_it = STATES[state], after_call(STATES[state], EVENTS[event], NOW, POLICY)
    if event == "answered":
        assert after_it == CLOSED
        return
    if event in _OF_THE_CALL:
        assert after_it == before, "the place is not at fault"
        return
    threshold, seconds = (2, 60.0) if event in _LASTING else (3, 10.0)
    if before.failures + 1 < threshold:
        assert after_it == Breaker(before.failures + 1, before.open_until, before.reason)
        assert after_it.objection(NOW) == before.objection(NOW), "one more failure closes nothing"
    else:
        assert after_it.objection(NOW + seconds - 0.1) == f"because {event}"
        assert after_it.objection(NOW + seconds) is None
        again = after_call(after_it, EVENTS[event], NOW + seconds + 1, POLICY)
        assert again.objection(NOW + seconds + 2) is not None, "a single failure is enough after that"
