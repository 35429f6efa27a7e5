"""When an endpoint is left alone for a while because its calls keep failing. Times are seconds of a monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from headrace_models.errors import ProviderError, RetrySameProvider

_LASTING: Final = frozenset({"not_authorised", "quota_exhausted"})
"""Of these the next call would be one more: somebody has to do something first."""
_PASSING: Final = frozenset({"rate_limited", "overloaded", "unreachable", "provider_error"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """How soon and for how long.

    Attributes:
        lasting_failures: Refusals of the key or of credit, one after the other, after which an endpoint is left alone.
        passing_failures: Failures of capacity, one after the other, after which it is.
        lasting_seconds, passing_seconds: For how long.
    """

    lasting_failures: int = 2
    passing_failures: int = 5
    lasting_seconds: float = 60.0
    passing_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """What the calls of one endpoint have shown so far."""

    failures: int = 0
    open_until: float = 0.0
    reason: str = ""

    def objection(self, now: float) -> str | None:
        """Why the endpoint takes no call now; None when it does."""
        return self.reason if now < self.open_until else None


CLOSED: Final = Breaker()


def after_call(breaker: Breaker, error: ProviderError | None, now: float, policy: BreakerPolicy) -> Breaker:
    """What one more call has shown. After the time alone a single failure is enough for another such time."""
    if error is None:
        return CLOSED
    if error.code in _LASTING:
        threshold, seconds = policy.lasting_failures, policy.lasting_seconds
    elif error.code in _PASSING:
        threshold, seconds = policy.passing_failures, policy.passing_seconds
    else:
        # The call was at fault (or slow), not the endpoint.
        return breaker
    failures = breaker.failures + 1
    if failures < threshold:
        return Breaker(failures, breaker.open_until, breaker.reason)
    if isinstance(error, RetrySameProvider) and error.after_seconds is not None:
        seconds = max(seconds, error.after_seconds)
    return Breaker(threshold - 1, now + seconds, error.message)
