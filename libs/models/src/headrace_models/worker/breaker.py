"""Circuit breaker of an endpoint whose calls keep failing. Times are seconds of a monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from headrace_models.errors import ProviderError, RetrySameProvider

_LASTING: Final = frozenset({"not_authorised", "quota_exhausted", "redirected"})
"""Codes of failures that last until an operator acts: a further call would fail as well."""
_PASSING: Final = frozenset({"rate_limited", "overloaded", "unreachable", "provider_error"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Thresholds and durations.

    Attributes:
        lasting_failures: Consecutive refusals of the key or for lack of credit that open the breaker.
        passing_failures: Consecutive failures for lack of capacity that open it.
        lasting_seconds, passing_seconds: How long it stays open.
    """

    lasting_failures: int = 2
    passing_failures: int = 5
    lasting_seconds: float = 60.0
    passing_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """State of one endpoint's breaker."""

    failures: int = 0
    open_until: float = 0.0
    reason: str = ""

    def objection(self, now: float) -> str | None:
        """Why the endpoint accepts no call now; None if it does."""
        return self.reason if now < self.open_until else None


CLOSED: Final = Breaker()


def after_call(breaker: Breaker, error: ProviderError | None, now: float, policy: BreakerPolicy) -> Breaker:
    """The state after one more call. Once an open breaker has timed out, a single failure opens it again."""
    if error is None:
        return CLOSED
    if error.code in _LASTING:
        threshold, seconds = policy.lasting_failures, policy.lasting_seconds
    elif error.code in _PASSING:
        threshold, seconds = policy.passing_failures, policy.passing_seconds
    else:
        # The call is at fault (or was slow), not the endpoint.
        return breaker
    failures = breaker.failures + 1
    if failures < threshold:
        return Breaker(failures, breaker.open_until, breaker.reason)
    if isinstance(error, RetrySameProvider) and error.after_seconds is not None:
        seconds = max(seconds, error.after_seconds)
    return Breaker(threshold - 1, now + seconds, error.message)
