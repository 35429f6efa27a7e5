"""How many records of a partition may be given up because of errors that nobody foresaw.

One such record is probably to blame itself, and goes to the dead letters. Many within a minute are a defect of the
handler or of what it depends on: to give up record after record would empty the topic into the dead letters. So the
partition rests for a while, and then tries again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from headrace_streams.records import TopicPartition

PER_MINUTE: Final = 20
_WINDOW_SECONDS: Final = 60.0

OnSuspension = Callable[[TopicPartition, str | None], None]
"""Called with the reason when a partition is suspended, and with None when it goes on."""


class ErrorBudget:
    """The records of one partition that may be given up. Times are seconds of any monotonic clock.

    Args:
        per_minute: Records that may be given up within a minute.
        first_rest_seconds: The first rest; each further one is twice as long, until a minute passes without an error.
    """

    def __init__(
        self, per_minute: int = PER_MINUTE, first_rest_seconds: float = 10.0, longest_rest_seconds: float = 300.0
    ) -> None:
        self._per_minute = per_minute
        self._first = first_rest_seconds
        self._longest = longest_rest_seconds
        self._given_up: deque[float] = deque()
        self._rest = first_rest_seconds
        self._until: float | None = None

    def rests_until(self, now: float) -> float | None:
        """When the rest ends; None if the partition does not rest."""
        return self._until if self._until is not None and now < self._until else None

    def spend(self, now: float) -> float | None:
        """A record is to be given up: None if it may be, else when to try it again."""
        resting = self.rests_until(now)
        if resting is not None:
            return resting
        while self._given_up and self._given_up[0] <= now - _WINDOW_SECONDS:
            self._given_up.popleft()
        if not self._given_up:
            self._rest = self._first
        if len(self._given_up) < self._per_minute:
            self._given_up.append(now)
            return None
        self._until = now + self._rest
        self._rest = min(self._longest, 2 * self._rest)
        return self._until

    def reason(self, error: str, seconds: float) -> str:
        """Why the partition rests, in words for an operator."""
        return (
            f"{self._per_minute} records were given up within a minute, the next one for {error}; "
            f"trying again in {seconds:.0f} s: look for a defect of this release, and for what its handlers depend on"
        )
