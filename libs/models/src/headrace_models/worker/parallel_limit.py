"""How many calls of one model an endpoint really runs at once, learned from how long calls wait inside it.

A server that runs fewer calls at once than it is sent (Ollama runs one unless OLLAMA_NUM_PARALLEL says otherwise) keeps
the others in a queue of its own, which nobody sees and in which nobody goes first: their first token comes late, and
not one token more is written in a second. Such calls are better kept in our queue.

By Little's law a server with `k` calls in it runs `k` times the share of their time that they are not waiting. That
share is the gradient of Netflix's concurrency limits (github.com/Netflix/concurrency-limits, `GradientLimit`: the time
without load, by the time now); here the time without load is the usual time to a first token plus what the answer
itself took. The limit is lowered to the median of the last calls, halved when the endpoint refuses for want of room,
and raised by one, or an eighth, now and then to see whether that helps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from headrace_models.worker.estimates import sane

_FEWEST: Final = 3
"""Calls since the limit was changed last, before it is lowered."""
_KEPT: Final = 9
_STEPS: Final = 8
_RUNNING_SHARE: Final = 0.65
"""Calls that run for so much of their time are not waiting: prompts differ, and first tokens come late for other
reasons."""
_FIRST_PROBE_SECONDS: Final = 30.0
_LONGEST_PROBE_SECONDS: Final = 1_800.0
_LEAST_WAIT_SECONDS: Final = 0.05
"""A shorter wait for the first token is none."""


@dataclass(frozen=True, slots=True)
class ParallelLimit:
    """Of one model at one endpoint.

    Attributes:
        most: Calls to send at once; infinite while nothing speaks against any number.
        shares: Of the time of each of the last calls, what it did not wait.
        probe_at: When some more are tried (`step`).
        probe_seconds: How long it takes until then, which doubles each time in vain.
    """

    most: float = math.inf
    shares: tuple[float, ...] = ()
    probe_at: float = math.inf
    probe_seconds: float = _FIRST_PROBE_SECONDS

    def at(self, now: float) -> float:
        """Calls to send at once now."""
        return self.most + self.step if now >= self.probe_at else self.most

    @property
    def step(self) -> float:
        """By how much it is raised: one by one, what is wrongly low would stay so for hours where it is high."""
        return float(max(1, self.most // _STEPS)) if self.most < math.inf else 1.0


UNLIMITED: Final = ParallelLimit()


def waited_inside(first_seconds: float, usual_first_seconds: float, total_seconds: float) -> float:
    """The share of a call's time that it waited at its endpoint for others, from 0 to 1.

    Args:
        usual_first_seconds: Until the first token of a call like it, which does not wait.
    """
    total = sane(total_seconds, 1e9)
    waited = sane(first_seconds, total) - sane(usual_first_seconds, 1e9)
    return waited / total if waited > _LEAST_WAIT_SECONDS else 0.0


def after_answer(limit: ParallelLimit, sent: int, waited: float, now: float) -> ParallelLimit:
    """After a call has ended that was one of `sent` at its start, and waited for such a share of its time."""
    if sent < 2:
        return limit
    shares = (*limit.shares, 1.0 - sane(waited, 1.0))[-_KEPT:]
    if len(shares) < _FEWEST:
        return replace(limit, shares=shares)
    share = sorted(shares)[len(shares) // 2]
    if share < _RUNNING_SHARE and round(sent * share) < limit.at(now):
        seconds = min(limit.probe_seconds * 2, _LONGEST_PROBE_SECONDS) if limit.most < math.inf else limit.probe_seconds
        return ParallelLimit(float(max(1, round(sent * share))), (), now + seconds, seconds)
    if now >= limit.probe_at and sent > limit.most:
        # More help, and so may even more.
        return ParallelLimit(limit.most + limit.step, (), now + _FIRST_PROBE_SECONDS, _FIRST_PROBE_SECONDS)
    return replace(limit, shares=shares)


def after_refusal(limit: ParallelLimit, sent: int, now: float) -> ParallelLimit:
    """After an endpoint has refused one of `sent` calls for want of room."""
    return ParallelLimit(float(max(1, min(limit.most, sent) // 2)), (), now + limit.probe_seconds, limit.probe_seconds)
