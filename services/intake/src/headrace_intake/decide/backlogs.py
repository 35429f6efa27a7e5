"""How long a tenant's tasks wait, and whether another one would still be answered in time.

The wait follows from what is seen here: so many of the tenant's tasks that ask for the same have not ended, and so many
of them are answered a second (Little's law). Routers and workers serve tenants in turns, so that one tenant's wait says
nothing about another's. Each process measures its own share of the tasks and of the answers, so that the quotient is
right with any number of processes, without a shared store.
"""

from __future__ import annotations

import math
from typing import Final

from headrace_contracts.events import Failure, Lane, TaskStatus
from headrace_runtime.rate_limit import used_up

from headrace_intake.decide.promises import Promises
from headrace_intake.decide.refusals import Refusal

LEAST_LIVE: Final = 4
"""With fewer live tasks than that nothing is measured, and nobody is refused."""
USABLE: Final = 0.7
"""Share of a task's time that it may be expected to wait: it is an estimate, and the answer takes its time as well."""
RETRY_IN_VAIN_SECONDS: Final = 60
"""When to come back where nothing is answered."""
FURTHEST_SECONDS: Final = 600
"""No place is promised for later."""
KEPT_SECONDS: Final = 2.0
"""How long a promised place is kept for who comes later than it was told; at most a quarter of the time it may wait."""
_AHEAD_SECONDS: Final = 1.0
"""How long before its time others no longer get it: it is promised for a whole second. At most a quarter as above."""
_TOLERATED: Final = 1.25
"""By how much the wait of who comes back in time may be longer than was expected; that and `USABLE` leave an eighth."""
_EARLY_MS: Final = 100
"""How much too early is in time."""
_ENDS: Final = 8
"""Ends that make a measurement."""
_FADE_SECONDS: Final = 10.0
"""In which time a former measurement falls to about a third of its weight."""
PRESSED_MS: Final = 2_000
"""How long after a refusal it is certain that the tenant wants more than it has."""
_BELIEVED_MS: Final = 60_000
"""How long a rate is believed without a newer measurement, or twice as long as the last one took, if that is more."""
_IN_VAIN: Final = frozenset({"no_capacity", "no_local_capacity", "overloaded", "provider_overloaded"})
"""Failures of tasks that waited and did not get a turn."""


AskedFor = tuple[str | None, str | None, str | None, str | None]
"""Role, model, privacy level and lane of a task, as far as it names them."""


class Backlog:
    """The live tasks of one tenant that ask for the same, and how fast they are answered while there are many.

    The rate is measured from one end to another, as long as there are always at least `LEAST_LIVE` tasks, or some were
    refused: the rate at which a tenant asks for little says nothing about how much it would get, and neither does the
    time until the first of many answers. What few ends say is uncertain, so that a rate is as high as it well may be:
    nobody is refused by mistake, and the longest wait is a little longer.

    Attributes:
        live: How many have not ended, as far as known.
        promises: Places for those who were refused.
    """

    __slots__ = (
        "_believed_until_ms",
        "_ended",
        "_pressed_until_ms",
        "_seconds",
        "_served",
        "_since_ms",
        "_total",
        "live",
        "promises",
    )

    def __init__(self) -> None:
        self.live = 0
        self.promises = Promises()
        # The measurement under way: since which end (None: none yet), how many ended since, and how many were served.
        self._since_ms: int | None = None
        self._ended = 0
        self._served = 0
        # The former measurements: tasks served, in so many seconds, newer ones with more weight.
        self._total = 0.0
        self._seconds = 0.0
        self._believed_until_ms = 0
        self._pressed_until_ms = 0

    def add(self) -> None:
        """One more is live."""
        self.live += 1

    def refused(self, now_ms: int) -> None:
        """Another one was not taken on."""
        self._pressed_until_ms = now_ms + PRESSED_MS

    def remove(self, now_ms: int) -> None:
        """One of them counts no more, and nothing is known of its end."""
        self.live -= 1
        self._give_up_if_few(now_ms)

    def ended(self, now_ms: int, *, served: bool) -> None:
        """One of them has ended: it got its turn, or waited for it in vain."""
        if self.live >= LEAST_LIVE or now_ms < self._pressed_until_ms:
            self._measure(now_ms, served)
        self.live -= 1
        self._give_up_if_few(now_ms)

    def wait_seconds(self, now_ms: int) -> float | None:
        """How long another one would wait for its answer; None if that is not known, or there are few."""
        if self.live < LEAST_LIVE or not self.is_known(now_ms):
            return None
        # Above what was counted by a standard deviation.
        most = self._total + math.sqrt(self._total)
        return self.live * self._seconds / most if most else math.inf

    def come_back_after(self, who: int, now_ms: int, budget: float, *, may_promise: bool = True) -> int | None:
        """After how many seconds somebody is to ask again; None if its task is taken on now.

        Args:
            who: Who asks, by what it asks.
            budget: How many seconds the task may wait.
            may_promise: Whether there is memory for another promise.
        """
        promises, wait = self.promises, self.wait_seconds(now_ms)
        if wait is None or budget == math.inf:
            if promises.of(who) is not None:
                promises.take_up(who)
            return None
        if wait == math.inf:
            return RETRY_IN_VAIN_SECONDS
        # Not as optimistic as `wait_seconds`: a promise must come true.
        seconds_each = self._seconds / self._total
        promises.fade(now_ms - int(1000 * min(KEPT_SECONDS, budget / 4)))
        told = promises.of(who)
        if told is None:
            ahead_ms = int(1000 * min(_AHEAD_SECONDS, budget / 4))
            if wait + promises.places_until(now_ms + ahead_ms) * seconds_each <= budget:
                return None
        elif now_ms < told - _EARLY_MS:
            return math.ceil((told - now_ms) / 1000)
        else:
            promises.take_up(who)
            if wait <= _TOLERATED * budget:
                return None
        after = max(math.ceil(wait - budget + promises.places * seconds_each), 1)
        if after <= FURTHEST_SECONDS and may_promise:
            promises.make(who, now_ms + 1000 * after)
        return min(after, FURTHEST_SECONDS)

    def is_known(self, now_ms: int) -> bool:
        """Whether a rate was measured that is still believed."""
        return now_ms < self._believed_until_ms

    def _measure(self, now_ms: int, served: bool) -> None:
        if self._since_ms is None:
            self._since_ms = now_ms
            return
        self._ended += 1
        self._served += served
        took = now_ms - self._since_ms
        if self._ended < _ENDS or took <= 0:
            return
        # By time and not by ends, or a burst of ends would outweigh the pause before it.
        kept = math.exp(-took / 1000 / _FADE_SECONDS)
        self._total = kept * self._total + self._served
        self._seconds = kept * self._seconds + took / 1000
        self._believed_until_ms = now_ms + max(_BELIEVED_MS, 2 * took)
        self._since_ms, self._ended, self._served = now_ms, 0, 0

    def _give_up_if_few(self, now_ms: int) -> None:
        if self.live < LEAST_LIVE and now_ms >= self._pressed_until_ms:
            self._since_ms, self._ended, self._served = None, 0, 0


def asked_for(model: str | None, role: str | None, privacy: str | None, lane: str | None) -> AskedFor:
    """What a task asks for, by which its wait is measured: other tasks may run elsewhere, or before it."""
    return role, model, privacy, lane


def got_its_turn(status: str, failure: Failure | None) -> bool:
    """Whether a task that ended did so because it was served, well or badly, and not because it had to wait."""
    if status == TaskStatus.EXPIRED:
        return False
    return status != TaskStatus.FAILED or failure is None or failure.code not in _IN_VAIN


def budget_seconds(deadline_at: int | None, lane: str | None, now_ms: int, patience_seconds: float) -> float:
    """How long a task may be expected to wait for its answer.

    Args:
        patience_seconds: Of tasks that have no deadline of their own, and are not for the batch lane.
    """
    if deadline_at is not None:
        return USABLE * max(deadline_at - now_ms, 0) / 1000
    return math.inf if lane == Lane.BATCH else USABLE * patience_seconds


def overload(live: int, wait_seconds: float, budget: float, after: int, *, above_share: bool) -> Refusal:
    """The answer to a task that is not taken on, since it would wait for too long.

    429 if its tenant has its share of the live tasks, or more, so that others still get in; else 503: there is more to
    do than can be done.

    Args:
        live: The tenant's tasks that ask for the same.
        wait_seconds: How long another one would wait.
        budget: How long it may wait, in seconds.
        after: When to come back, in seconds.
    """
    headers = used_up("backlog", int(live * budget / wait_seconds), "concurrent-requests", after)
    wait = f"about {wait_seconds:.0f} s" if wait_seconds < math.inf else "in vain at the moment"
    too_long = f"{wait}, longer than this one could: try again in {after} s."
    if above_share:
        why = f"This tenant has {live} such tasks here that have not ended, and they wait {too_long}"
        return Refusal(429, "backlog-too-long", why, headers=headers)
    return Refusal(503, "overloaded", f"Tasks wait {too_long}", headers=headers)
