"""Seconds of an endpoint's slots, shared by tenants in proportion to their weights.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) in seconds of slots: what a tenant has used since the endpoint was
last wanted by more than it had slots for, divided by its weight, says when it is next; the lowest is. So a tenant of
long calls gets no more seconds than one of short calls. A call counts with what it has taken so far, at first with what
is usual, so that it hardly matters how well that was estimated.

Nobody saves up but a little: who comes, or comes back, starts `CREDIT_CALLS` usual calls before those who are being
served, or where it was if that is later. So a tenant that asks for less than its share goes first also when a few of
its calls come together. Nobody owes anything for slots that nobody else wanted.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Set
from dataclasses import dataclass
from itertools import count
from typing import Final

CREDIT_CALLS: Final = 4
"""Calls of usual length (for a weight of 1) that a tenant may have first after it asked for less than its share."""
_WEIGHT_OF_NEWEST: Final = 0.1
"""Of a call in the average length of all."""


@dataclass(slots=True, eq=False)
class _Running:
    """A call; `is_late` once it has taken its usual seconds, from when on it counts with what it takes."""

    began: float
    usual: float
    weight: int
    is_late: bool = False


class _Account:
    """A tenant's: seconds for its weight that its calls have taken, and those that are running, as sums: a tenant may
    have a thousand, and is asked about with every call."""

    __slots__ = ("_early", "_ends", "_forgiven_at", "_late_began", "_late_weights", "_numbers", "running", "used")

    def __init__(self, used: float) -> None:
        self.used = used
        self.running: deque[_Running] = deque()
        # Those that have not taken their usual time yet: the sum of `usual / weight`, and which is over next.
        self._early = 0.0
        self._ends: list[tuple[float, int, _Running]] = []
        self._numbers = count()
        # The others: the sums of `1 / weight` and `began / weight`.
        self._late_weights = 0.0
        self._late_began = 0.0
        self._forgiven_at = -math.inf

    def claim(self, now: float) -> float:
        self._look(now)
        return self.used + self._early + max(0.0, self._late_weights * now - self._late_began)

    def begin(self, call: _Running) -> None:
        self.running.append(call)
        self._early += call.usual / call.weight
        heapq.heappush(self._ends, (call.began + call.usual, next(self._numbers), call))

    def end(self, now: float) -> float:
        """The call that began first has ended; the seconds for which it had its slot, or since it was forgiven."""
        self._look(now)
        call = self.running.popleft()
        began = max(call.began, self._forgiven_at)
        self.used += (now - began) / call.weight
        if call.is_late:
            self._late_weights -= 1 / call.weight
            self._late_began -= began / call.weight
        else:
            self._early -= call.usual / call.weight
            # It stays in the heap for now, and counts no more.
            call.is_late = True
            if len(self._ends) > 2 * len(self.running):
                self._ends = [one for one in self._ends if not one[2].is_late]
                heapq.heapify(self._ends)
        if not self.running:
            # Nothing is left of what was rounded.
            self._early = self._late_weights = self._late_began = 0.0
            self._ends.clear()
        return now - began

    def forgive(self, now: float) -> None:
        """What was used until now does not count."""
        self.used = 0.0
        if self.running and self._forgiven_at < now:
            for _, _, call in self._ends:
                if not call.is_late:
                    call.is_late = True
                    self._late_weights += 1 / call.weight
            self._ends.clear()
            self._early = 0.0
            self._late_began = self._late_weights * now
            self._forgiven_at = now

    def _look(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            call = heapq.heappop(self._ends)[2]
            if not call.is_late:
                call.is_late = True
                self._early -= call.usual / call.weight
                self._late_weights += 1 / call.weight
                self._late_began += call.began / call.weight


class FairShares:
    """The tenants of one endpoint. Times are seconds of any monotonic clock."""

    __slots__ = ("_accounts", "_average", "_served", "_waiting")

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._waiting: Set[str] = frozenset()
        self._served = 0.0
        """The highest claim of those that have been served."""
        self._average: float | None = None
        """Of the seconds of calls."""

    @property
    def _entry(self) -> float:
        """The claim of a tenant that has asked for nothing lately."""
        return self._served - CREDIT_CALLS * (self._average or 0.0)

    def claim(self, tenant: str, now: float) -> float:
        """What the tenant has used; of those that wait, the one with the lowest claim is next."""
        account = self._accounts.get(tenant)
        return self._entry if account is None else account.claim(now)

    def wait(self, tenants: Set[str], now: float) -> None:
        """These tenants have calls that wait for the endpoint now; say so before one of them is served."""
        for tenant in tenants - self._waiting:
            if (account := self._accounts.get(tenant)) is not None:
                # Most of what it did not use while it did not want more is gone.
                account.used += max(0.0, self._entry - account.claim(now))
            else:
                self._accounts[tenant] = _Account(self._entry)
        self._waiting = tenants
        self._accounts = {
            tenant: account
            for tenant, account in self._accounts.items()
            if account.running or tenant in tenants or (tenants and account.used > self._entry)
        }
        if not tenants:
            self._served = 0.0
            for account in self._accounts.values():
                account.forgive(now)

    def began(self, tenant: str, weight: int, now: float, usual: float) -> None:
        """A call of the tenant has got a slot; calls like it usually take `usual` seconds."""
        account = self._accounts.setdefault(tenant, _Account(self._entry))
        self._served = max(self._served, account.claim(now))
        account.begin(_Running(now, usual, weight))

    def ended(self, tenant: str, now: float) -> None:
        """A call of the tenant has given its slot back. Which one makes no difference to the sum."""
        took = self._accounts[tenant].end(now)
        self._average = took if self._average is None else self._average + _WEIGHT_OF_NEWEST * (took - self._average)
