"""What a fleet must keep to, whatever its machines do: an oracle over the result of a day. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from headrace_contracts.events import Lane

from headrace_testing.fleet_day.machines import Condition
from headrace_testing.fleet_day.world import INTERRUPTIONS, DayResult

KNOWN_AFTER_SECONDS: Final = 20.0
"""A machine that has been gone for so long is known to be: two probes, each of which may wait for its time-out."""
GIVEN_UP_AFTER_SECONDS: Final = 25.0
"""A call at a machine that has been gone for so long was given up, to be made elsewhere."""
_GONE: Final = (Condition.AWAY, Condition.DEAD)


def violations(result: DayResult) -> Sequence[str]:
    """What was not kept; empty if all was."""
    return [
        *_of_tasks(result),
        *_of_machines(result),
        *_of_interruptions(result),
        *(f"a callback failed: {failure}" for failure in result.failures),
    ]


def _of_tasks(result: DayResult) -> Iterator[str]:
    for one in result.asked:
        if len(one.ends) != 1:
            yield f"{one.task_id}, asked at {one.at:.0f}, has {len(one.ends)} ends"
            continue
        _, how, code = one.ends[0]
        if how in ("succeeded", "expired") or code in ("deadline_passed", "too_little_time"):
            # Whether it is in time is a matter of how much is asked for: see the availability. What expires has the
            # code of its last attempt, where that asked nobody.
            continue
        yield f"{one.task_id}, asked at {one.at:.0f} of {one.kind.model}, ended as {how} ({code})"


def _of_interruptions(result: DayResult) -> Iterator[str]:
    """Batch work is not starved by interactive work: an attempt is interrupted so often, and then runs to its end."""
    # The prompt ends with the task's id in parentheses.
    cut = Counter(call.text.rpartition("(")[2][:-1] for call in result.ledger.calls if call.interrupted)
    for one in result.asked:
        times = cut[one.task_id]
        # A worker also ends a call at a healthy machine that has said nothing for too long; then the next one is asked.
        if one.kind.lane is Lane.BATCH and times > (INTERRUPTIONS + 1) * max(1, one.attempts):
            yield f"{one.task_id}, asked at {one.at:.0f}, was interrupted {times} times in {one.attempts} attempts"


def _of_machines(result: DayResult) -> Iterator[str]:
    """A machine that is known to be gone gets no call, and no call waits for it."""
    late: Counter[str] = Counter()
    changes = result.ledger.changes
    for call in result.ledger.calls:
        condition, since = result.ledger.condition(call.machine, call.began)
        if condition in _GONE and call.began - since > KNOWN_AFTER_SECONDS:
            late[call.machine] += 1
        left = next((at for at, became in changes.get(call.machine, ()) if call.began < at and became in _GONE), None)
        if left is not None and (call.ended or math.inf) - left > GIVEN_UP_AFTER_SECONDS:
            back = next((at for at, _ in changes[call.machine] if at > left), math.inf)
            if back - left > GIVEN_UP_AFTER_SECONDS:
                yield f"{call.machine} left at {left:.0f}, and its call went on until {call.ended or math.inf:.0f}"
    for machine, number in late.items():
        yield f"{machine} got {number} calls after it had been gone for {KNOWN_AFTER_SECONDS:.0f} s"
