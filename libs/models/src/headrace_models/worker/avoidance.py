"""For how long an endpoint is left alone for a model that it has failed with.

A failure of one endpoint is a reason for the next one. Without a memory of it, an endpoint that fails at once always
has room, and draws the work that the others could do. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from headrace_models.errors import ProviderError, RetrySameProvider

_FIRST_SECONDS: Final[Mapping[str, float]] = {
    # Its queue is full, or its limit reached: room comes back within the time of a call.
    "overloaded": 0.5,
    "rate_limited": 1.0,
    # The next probe tells more.
    "unreachable": 1.0,
    "connection_lost": 1.0,
    "provider_error": 2.0,
    # It has cost a call all its time. The next attempt of the same task comes at once, and must not meet it again.
    "timeout": 30.0,
    # They last until somebody acts, or until other models leave its memory.
    "model_missing": 15.0,
    "model_does_not_fit": 15.0,
    "not_authorised": 60.0,
    "quota_exhausted": 60.0,
    "redirected": 60.0,
    "answered_remotely": 60.0,
}
LONGEST_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Avoided:
    """What is held against an endpoint for one model: its failures in a row, and until when it is left alone."""

    failures: int
    until: float


def is_of_endpoint(error: ProviderError) -> bool:
    """Whether the failure says something of the endpoint and nothing of the request, so that another one may do it.

    Content that has left for another host must be reported (`answered_remotely`), and so ends the attempt.
    """
    return error.code in _FIRST_SECONDS and error.code != "answered_remotely"


def after_failure(before: Avoided | None, error: ProviderError, now: float) -> Avoided | None:
    """What is held against an endpoint after one more call failed; as before, if the endpoint is not to blame.

    Doubles with each failure in a row, up to `LONGEST_SECONDS`. A success clears it.
    """
    first = _FIRST_SECONDS.get(error.code)
    if first is None:
        return before
    failures = 1 if before is None else before.failures + 1
    seconds = first * 2.0 ** min(failures - 1, 20)
    if isinstance(error, RetrySameProvider) and error.after_seconds is not None:
        seconds = max(seconds, error.after_seconds)
    return Avoided(failures, now + min(seconds, LONGEST_SECONDS))
