"""Decides after a failed handling: retry the record, and when, or write it to the dead-letter topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from headrace_contracts.errors import RegistryUnavailable, UnreadableValue

from headrace_streams.errors import AppendUncertain, Overloaded, RetryRecord, SendToDeadLetters, TransientError

OUTAGES: Final = (TransientError, AppendUncertain, Overloaded, RegistryUnavailable)
"""Errors of what a handler depends on. They are no fault of the record, which is retried for as long as they last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often to retry after errors that the handler did not foresee.

    Attributes:
        max_attempts: Number of unforeseen errors of one record after which it becomes a dead letter.
        first_delay_seconds: Delay after the first error; each further error doubles it.
        longest_delay_seconds: Longest delay.
    """

    max_attempts: int = 3
    first_delay_seconds: float = 0.2
    longest_delay_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")
        if not 0 < self.first_delay_seconds <= self.longest_delay_seconds:
            raise ValueError("delays must be above 0, and the first one no longer than the longest one")

    def delay(self, attempts: int) -> float:
        """Seconds to wait after this many attempts."""
        return min(self.longest_delay_seconds, self.first_delay_seconds * 2.0 ** min(attempts - 1, 40))


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Retry the record."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Write the record to the dead-letter topic."""


def is_unforeseen(error: BaseException) -> bool:
    """Whether an error counts against the record's attempts."""
    return not isinstance(error, (RetryRecord, SendToDeadLetters, UnreadableValue, *OUTAGES))


def after_failure(error: BaseException, *, attempts: int, unforeseen: int, policy: RetryPolicy) -> RetryAfter | GiveUp:
    """The reaction to an error of a record tried `attempts` times, `unforeseen` of them with unforeseen errors."""
    if isinstance(error, RetryRecord):
        return RetryAfter(error.delay_seconds)
    if isinstance(error, SendToDeadLetters | UnreadableValue):
        return GiveUp()
    if is_unforeseen(error) and unforeseen >= policy.max_attempts:
        return GiveUp()
    return RetryAfter(policy.delay(attempts))
