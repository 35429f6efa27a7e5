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

from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Final

CREDIT_CALLS: Final = 4
"""Calls of usual length (for a weight of 1) that a tenant may have first after it asked for less than its share."""
_WEIGHT_OF_NEWEST: Final = 0.1
"""Of a call in the average length of all."""


@dataclass(slots=True)
class _Running:
    began: float
    usual: float
    weight: int

    def claim(self, now: float) -> float:
        return max(self.usual, now - self.began) / self.weight


@dataclass(slots=True)
class _Account:
    """A tenant's: seconds for its weight that its calls have taken, and those that are running."""

    used: float
    running: deque[_Running] = field(default_factory=deque)

    def claim(self, now: float) -> float:
        return self.used + sum(call.claim(now) for call in self.running)


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
                account.used = 0.0
                for call in account.running:
                    call.began, call.usual = now, 0.0

    def began(self, tenant: str, weight: int, now: float, usual: float) -> None:
        """A call of the tenant has got a slot; calls like it usually take `usual` seconds."""
        account = self._accounts.setdefault(tenant, _Account(self._entry))
        self._served = max(self._served, account.claim(now))
        account.running.append(_Running(now, usual, weight))

    def ended(self, tenant: str, now: float) -> None:
        """A call of the tenant has given its slot back. Which one makes no difference to the sum."""
        account = self._accounts[tenant]
        call = account.running.popleft()
        took = now - call.began
        account.used += took / call.weight
        self._average = took if self._average is None else self._average + _WEIGHT_OF_NEWEST * (took - self._average)
