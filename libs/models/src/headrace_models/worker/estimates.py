"""How long calls of models take: pure estimates from those that have ended.

What a call costs is known by its size: tokens of its prompt, and of its answer, which is guessed from the last answers
of the model. An endpoint has a speed for each of its models. So a long answer makes an endpoint look busy for as long
as it runs, and never slow. That a call is overdue counts at once and not only when it has ended, as in Finagle's peak
EWMA (twitter.github.io/finagle, "Clients": load balancing). Times are seconds of any monotonic clock. All figures come
from outside: whatever they are, estimates are finite and not negative.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

_HALF_LIFE_SECONDS: Final = 120.0
"""After so long a measured call counts half."""
_KEPT_OF_OLDER: Final = 0.85
"""With each newer call it counts so much less."""
_STALE_SECONDS: Final = 600.0
"""How far an endpoint is behind the best one counts half (as a ratio) each time that it was not measured for so long:
it may be better now, and only a call can tell."""
PRIOR_OUTPUT_TOKENS: Final = 128
PRIOR_PROMPT_TOKENS_PER_SECOND: Final = 500.0
PRIOR_TOKENS_PER_SECOND: Final = 25.0
_PRIOR_LOAD_SECONDS: Final = 5.0
_WEIGHT_OF_NEWEST: Final = 0.3
_ANSWERS_KEPT: Final = 64
_MOST_TOKENS: Final = 10_000_000
_MOST_SECONDS: Final = 86_400.0
_OVERDUE: Final = 0.25
"""A call that has taken longer than expected is expected to take so much of its time more: the longer it has taken, the
longer what is left."""


@dataclass(frozen=True, slots=True)
class CallSize:
    """What is known of a call before it is made.

    Attributes:
        prompt_tokens: Of its prompt, as estimated.
        max_output_tokens: The longest answer; None without a limit.
        prefix: What its prompt begins with (`warm_prefixes`); nothing where that is of no use.
    """

    prompt_tokens: int = 0
    max_output_tokens: int | None = None
    prefix: tuple[int, ...] = field(default=(), compare=False, repr=False)

    def without(self, warm_tokens: int) -> CallSize:
        """What is left of it where so many tokens of its beginning are warm. The last token is always read."""
        return CallSize(max(1, self.prompt_tokens - warm_tokens), self.max_output_tokens) if warm_tokens else self


UNSIZED: Final = CallSize()
"""A call of which nothing is known."""


def sane(value: float, most: float) -> float:
    """A figure from outside as a number from 0 to `most`; 0 if it is none."""
    return min(max(value, 0.0), most) if math.isfinite(value) else 0.0


class OutputLengths:
    """The lengths of a model's last answers, in tokens."""

    __slots__ = ("_above", "_newest", "_sorted")

    def __init__(self) -> None:
        self._newest: deque[int] = deque(maxlen=_ANSWERS_KEPT)
        self._sorted: list[int] = []
        # The sum of the answers from each place on.
        self._above: list[int] = []

    def observe(self, tokens: float) -> None:
        """An answer has ended."""
        self._newest.append(int(sane(tokens, _MOST_TOKENS)))
        self._sorted = sorted(self._newest)
        self._above = [*reversed([0, *accumulate(reversed(self._sorted))])]

    def usual(self, most: int | None = None) -> float:
        """The average answer, if none may be longer than `most`."""
        if not self._sorted:
            return float(PRIOR_OUTPUT_TOKENS if most is None else min(max(most, 0), PRIOR_OUTPUT_TOKENS))
        if most is None:
            return self._above[0] / len(self._sorted)
        place = bisect_right(self._sorted, most)
        return (self._above[0] - self._above[place] + max(most, 0) * (len(self._sorted) - place)) / len(self._sorted)

    def left(self, written: float, most: int | None = None) -> float:
        """What is left on average of an answer that has so many tokens already: as of the longer ones among the last; a
        share of what it has (`_OVERDUE`), if it is the longest."""
        place = bisect_right(self._sorted, written)
        longer = len(self._sorted) - place
        left = self._above[place] / longer - written if longer else written * _OVERDUE
        if not self._sorted:
            left = max(left, PRIOR_OUTPUT_TOKENS - written)
        return max(0.0, left if most is None else min(left, most - written))


class _AgedLine:
    """Seconds by tokens: a straight line through calls, of which older ones count less.

    Where calls differ little in size, the line goes through the origin. It never falls, nor begins below nothing.
    """

    __slots__ = ("_n", "_x", "_xx", "_xy", "_y")

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, kept: float, tokens: float, seconds: float) -> None:
        self._n = self._n * kept + 1.0
        self._x = self._x * kept + tokens
        self._y = self._y * kept + seconds
        self._xx = self._xx * kept + tokens * tokens
        self._xy = self._xy * kept + tokens * seconds

    def at(self, tokens: float) -> float | None:
        """Seconds for so many tokens; None while nothing is known."""
        if self._n <= 0.0:
            return None
        x, y = self._x / self._n, self._y / self._n
        if x <= 0.0:
            return y
        # Least squares with a pull towards the line through the origin, as strong as a spread of half the usual size.
        pull = x * x / 4
        slope = (self._xy / self._n - x * y + pull * y / x) / (max(0.0, self._xx / self._n - x * x) + pull)
        slope = min(max(slope, 0.0), y / x)
        return max(0.0, y + slope * (tokens - x))


class ModelSpeed:
    """How fast one endpoint runs one model."""

    __slots__ = ("_load_seconds", "_measured_at", "_output", "_prompt", "_read_at")

    def __init__(self) -> None:
        self._prompt = _AgedLine()
        self._output = (0.0, 0.0)
        self._load_seconds: float | None = None
        self._measured_at = -math.inf
        self._read_at = -math.inf

    def observe(
        self, now: float, size: CallSize, output_tokens: float, first_seconds: float, total_seconds: float,
        *, cold: bool = False, queued: bool = False,
    ) -> None:  # fmt: skip
        """A call has ended with an answer.

        Args:
            first_seconds: Until its first token.
            cold: Whether the model had to be loaded for it.
            queued: Whether it has waited at the endpoint: then its first token says nothing about the speed.
        """
        prompt = sane(size.prompt_tokens, _MOST_TOKENS)
        total = sane(total_seconds, _MOST_SECONDS)
        first = min(sane(first_seconds, _MOST_SECONDS), total)
        output = sane(output_tokens, _MOST_TOKENS)
        kept = 0.5 ** (max(0.0, now - self._measured_at) / _HALF_LIFE_SECONDS) * _KEPT_OF_OLDER
        # The first token comes at the end of `first`.
        self._output = (self._output[0] * kept + max(0.0, output - 1.0), self._output[1] * kept + total - first)
        self._measured_at = now
        if cold:
            load = max(0.0, first - self.prompt_seconds(prompt))
            before = self._load_seconds
            self._load_seconds = load if before is None else before + _WEIGHT_OF_NEWEST * (load - before)
        elif not queued:
            kept = 0.5 ** (max(0.0, now - self._read_at) / _HALF_LIFE_SECONDS) * _KEPT_OF_OLDER
            self._prompt.add(kept, prompt, first)
            self._read_at = now

    def prompt_seconds(self, tokens: float) -> float:
        """Until the first token of a call, with the model in memory."""
        known = self._prompt.at(tokens)
        return tokens / PRIOR_PROMPT_TOKENS_PER_SECOND if known is None else known

    @property
    def seconds_per_token(self) -> float:
        """From one token of an answer to the next."""
        tokens, seconds = self._output
        if tokens < 1e-9:
            return 0.0 if self._measured_at > -math.inf and seconds <= 0.0 else 1 / PRIOR_TOKENS_PER_SECOND
        return min(seconds / tokens, _MOST_SECONDS)

    @property
    def load_seconds(self) -> float:
        """Until the model is in memory."""
        return _PRIOR_LOAD_SECONDS if self._load_seconds is None else self._load_seconds

    def seconds(self, size: CallSize, usual_output: float) -> float:
        """A call of this size, whose answer has so many tokens, with the model in memory."""
        return self.prompt_seconds(sane(size.prompt_tokens, _MOST_TOKENS)) + usual_output * self.seconds_per_token

    def idle_seconds(self, now: float) -> float:
        """For how long it was not measured."""
        return max(0.0, now - self._measured_at)


UNMEASURED: Final = ModelSpeed()
"""Of a model that nobody has run yet."""


def seconds_left(speed: ModelSpeed, lengths: OutputLengths, size: CallSize, load_seconds: float, since: float) -> float:
    """What is left on average of a call that has been running for `since` seconds, of which the first `load_seconds`
    may load its model."""
    first = load_seconds + speed.prompt_seconds(sane(size.prompt_tokens, _MOST_TOKENS))
    per_token = speed.seconds_per_token
    if since < first:
        return first - since + lengths.usual(size.max_output_tokens) * per_token
    # Compared as a product: a quotient by next to nothing would be infinite.
    if since - first > per_token * _MOST_TOKENS:
        return since * _OVERDUE
    left = lengths.left((since - first) / per_token if since > first else 0.0, size.max_output_tokens) * per_token
    # It should have ended: the speed is not what it was, or the call is stuck.
    return left if left > 0.0 else since * _OVERDUE


def closed_up(seconds: float, best: float, idle_seconds: float) -> float:
    """The estimate of an endpoint, nearer to the best one the longer it was not measured (`_STALE_SECONDS`)."""
    if seconds <= best or best <= 0.0 or not idle_seconds > 0.0:
        return seconds
    return best * math.pow(seconds / best, math.pow(0.5, idle_seconds / _STALE_SECONDS))
