"""Which of the calls that wait for an endpoint gets its next slot.

The tenant with the lowest claim is next (`FairShares`): a tenant with a hundred calls waiting keeps another one's first
call waiting for no longer than one of its own takes. Batch work counts as having arrived `BATCH_HANDICAP_SECONDS` later
than it did: interactive work of all tenants overtakes it, and nothing waits forever. Where batch calls have all slots,
interactive work is next in any case.

Of a tenant's calls the longest waiting one goes first, which is the best order while all make their deadlines. Once a
call has waited for `OLD_SECONDS`, there is more work than slots for it, and who has waited longest would mostly begin
too late. From then on the one with the least slack goes first of those that have ample time (`RecentTimes.ample`).
Slack is the time until the deadline without what the model takes. If none has ample time, the one with the most time
left goes first: the oldest ones would only just miss their deadlines, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from headrace_contracts.events import Lane

from headrace_models.worker.estimates import UNSIZED, CallSize

BATCH_HANDICAP_SECONDS: Final = 10.0
OLD_SECONDS: Final = 5.0
"""Once a call has waited for so long, slack decides instead of age."""


@dataclass(slots=True, eq=False)
class WaitingCall:
    """A call that waits for a slot. Times are seconds of any monotonic clock.

    Attributes:
        weight: Its tenant's.
        since: When it began to wait, here or before it came here.
        rank: When it counts as having come here: see `rank_of`.
        due: Its deadline.
        size: What is known of it.
    """

    provider: str
    model: str
    tenant: str
    weight: int
    since: float
    rank: float
    due: float | None
    lane: Lane = Lane.INTERACTIVE
    size: CallSize = UNSIZED


W = TypeVar("W", bound=WaitingCall)

AmpleSeconds = Callable[[WaitingCall], float]
"""With how much time a call will almost certainly be in time."""


def rank_of(lane: Lane, now: float) -> float:
    """When a call that comes now counts as having come."""
    return now + (BATCH_HANDICAP_SECONDS if lane is Lane.BATCH else 0.0)


def next_of(
    waiting: Sequence[W],
    claim_of: Callable[[str], float],
    now: float,
    ample_seconds: AmpleSeconds,
    *,
    batch_gives_way: bool = False,
) -> W:
    """The one of the waiting calls that is next; there must be one.

    Args:
        claim_of: A tenant's claim: see `FairShares`.
        batch_gives_way: Whether batch calls have, or had last, all slots of the endpoint: then interactive ones go
            first, however long batch calls have waited.
    """
    interactive = [one for one in waiting if one.lane is Lane.INTERACTIVE] if batch_gives_way else []
    candidates = [one for one in interactive or waiting if one.rank <= now] or waiting
    longest: dict[str, float] = {}
    for one in candidates:
        longest[one.tenant] = min(one.rank, longest.get(one.tenant, math.inf))
    tenant = min(longest, key=lambda tenant: (claim_of(tenant), longest[tenant]))
    own = [one for one in candidates if one.tenant == tenant]
    if now - min(one.since for one in waiting) < OLD_SECONDS:
        return min(own, key=lambda one: one.rank)
    return min(own, key=lambda one: _slack(one, now, ample_seconds))


def _slack(one: WaitingCall, now: float, ample_seconds: AmpleSeconds) -> tuple[bool, float, float]:
    if one.due is None:
        return False, math.inf, one.rank
    left = one.due - now - ample_seconds(one)
    # Of those that may not make it, the one that is most likely to.
    return left < 0, abs(left), one.rank
