"""Which of the calls that wait gets a slot first.

Tenants take turns: a tenant with a hundred calls waiting keeps another one's first call waiting for no longer than one
of its own takes. Batch work counts as having arrived `BATCH_HANDICAP_SECONDS` later than it did: interactive work
overtakes it, and nothing waits forever.

Of a tenant's calls the longest waiting one goes first, which is the best order while all make their deadlines. Once a
call has waited for `OLD_SECONDS`, there is more work than slots for it, and who has waited longest would mostly begin
too late. From then on the one with the least slack goes first of those that have ample time (`RecentTimes.ample`), then
those that may or may not make it. Slack is the time until the deadline without what the model takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Final, TypeVar

from headrace_contracts.events import Lane

BATCH_HANDICAP_SECONDS: Final = 10.0
OLD_SECONDS: Final = 5.0
"""Once a call has waited for so long, slack decides instead of age."""


@dataclass(slots=True, eq=False)
class WaitingCall:
    """A call that waits for a slot. Times are seconds of any monotonic clock.

    Attributes:
        since: When it began to wait.
        rank: When it counts as having begun: see `rank_of`.
        due: Its deadline.
    """

    provider: str
    model: str
    tenant: str
    since: float
    rank: float
    due: float | None


W = TypeVar("W", bound=WaitingCall)

AmpleSeconds = Callable[[str, str], float]
"""With how much time a call of a provider (the first argument) and model will almost certainly be in time."""


def rank_of(lane: Lane, now: float) -> float:
    """When a call that begins to wait now counts as having begun."""
    return now + (BATCH_HANDICAP_SECONDS if lane is Lane.BATCH else 0.0)


def in_order(waiting: Sequence[W], turns: Mapping[str, int], now: float, ample_seconds: AmpleSeconds) -> Sequence[W]:
    """The waiting calls, the first to be given a slot first.

    Args:
        turns: When tenants had their last turn, by a number that grows; a tenant that has had none is not in it.
    """
    if not waiting:
        return ()
    by_age = sorted(waiting, key=lambda one: one.rank)
    first = _by_slack(by_age, now, ample_seconds) if now - min(one.since for one in waiting) >= OLD_SECONDS else by_age
    return [
        *_in_turns([one for one in first if one.rank <= now], turns),
        *_in_turns([one for one in first if one.rank > now], turns),
    ]


def _by_slack(waiting: Sequence[W], now: float, ample_seconds: AmpleSeconds) -> Sequence[W]:
    ample = {name: ample_seconds(*name) for name in {(one.provider, one.model) for one in waiting}}

    def slack(one: W) -> tuple[bool, float]:
        if one.due is None:
            return False, math.inf
        left = one.due - now - ample[one.provider, one.model]
        return left < 0, left

    return sorted(waiting, key=slack)


def _in_turns(waiting: Sequence[W], turns: Mapping[str, int]) -> Sequence[W]:
    """One of each tenant, then a second one of each: a call that finds no slot holds up nobody."""
    by_tenant: dict[str, list[W]] = {}
    for one in waiting:
        by_tenant.setdefault(one.tenant, []).append(one)
    lines = [by_tenant[tenant] for tenant in sorted(by_tenant, key=lambda tenant: turns.get(tenant, 0))]
    return [one for one in chain.from_iterable(zip_longest(*lines)) if one is not None]
