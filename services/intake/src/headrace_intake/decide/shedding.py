"""Who is refused first when there is more than this process can hold, or interactive tasks wait for too long.

In the order of what is lost by it: tasks of the batch lane before interactive ones, and of each, those of tenants that
have their share of the live tasks before others'. What was accepted is never given up for it.
"""

from __future__ import annotations

from typing import Final

from headrace_contracts.events import Lane
from headrace_runtime.rate_limit import used_up

from headrace_intake.decide.refusals import Refusal

BATCH_ABOVE_SHARE: Final = 0.7
"""How full the process is when tasks of the batch lane are refused to tenants that have their share."""
BATCH: Final = 0.8
"""When they are refused to all, and lines of batches wait in Postgres."""
ABOVE_SHARE: Final = 0.9
"""When interactive tasks are refused to tenants that have their share. To others only when it is full."""
RETRY_SECONDS: Final = 5


def shed(
    fullness: float, lane: Lane | str | None, *, share: int, has_its_share: bool, is_pressed: bool
) -> Refusal | None:
    """Why a task is not taken on; None if it is.

    Args:
        fullness: What this process holds, of the most that it may; 1 is full.
        share: The tenant's share of the live tasks here.
        has_its_share: Whether it has as many.
        is_pressed: Whether interactive tasks are refused at the moment, which the batch lane must not compete with.
    """
    if lane == Lane.BATCH:
        if not is_pressed and fullness < (BATCH_ABOVE_SHARE if has_its_share else BATCH):
            return None
        wanted = "interactive tasks go first" if is_pressed else "there is little room left"
        what = "tasks of the batch lane are not taken on"
    elif has_its_share and fullness >= ABOVE_SHARE:
        wanted, what = "there is little room left", "tasks of tenants that have their share of it are not taken on"
    else:
        return None
    why = f"At the moment {what}, since {wanted}: try again in {RETRY_SECONDS} s."
    if has_its_share:
        headers = used_up("share", share, "concurrent-requests", RETRY_SECONDS)
        return Refusal(429, "above-share", why, headers=headers)
    return Refusal(503, "overloaded", why, headers={"Retry-After": str(RETRY_SECONDS)})
