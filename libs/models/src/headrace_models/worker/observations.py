"""How the last answers of one model at one endpoint came: what routers compare models by."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

from headrace_contracts.events import ModelObserved

_WINDOW_SECONDS: Final = 300.0
"""An answer counts for so long: minutes, since what a provider was like an hour ago says little."""
_KEPT: Final = 256
_FEWEST_TOKENS: Final = 8
"""Of a shorter answer the speed is as good as unknown."""
_MOST_PER_SECOND: Final = 1_000_000.0


class Observations:
    """The newest answers. Times are seconds of a monotonic clock."""

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: deque[tuple[float, float, float | None]] = deque(maxlen=_KEPT)

    def observe(self, now: float, first_seconds: float, writing_seconds: float, output_tokens: int) -> None:
        """An answer has ended: the time to its first piece, the time from there on, and its length."""
        speed = None
        if output_tokens >= _FEWEST_TOKENS and writing_seconds > 0:
            speed = min((output_tokens - 1) / writing_seconds, _MOST_PER_SECOND)
        self._answers.append((now, first_seconds, speed))

    def summary(self, now: float) -> ModelObserved | None:
        """The figures of the last minutes; None if there was no answer."""
        while self._answers and self._answers[0][0] <= now - _WINDOW_SECONDS:
            self._answers.popleft()
        if not self._answers:
            return None
        first = sorted(seconds for _, seconds, _ in self._answers)
        speeds = sorted(speed for _, _, speed in self._answers if speed is not None)
        return ModelObserved(
            calls=len(first),
            first_output_p50_ms=_ms(_percentile(first, 0.5)),
            first_output_p95_ms=_ms(_percentile(first, 0.95)),
            tokens_per_second_p50=round(_percentile(speeds, 0.5), 2) if speeds else None,
            tokens_per_second_p5=round(_percentile(speeds, 0.05), 2) if speeds else None,
        )


def _percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank: a value that was observed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
