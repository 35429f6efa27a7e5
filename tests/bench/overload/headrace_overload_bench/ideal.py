"""The best that the modest tenants could have, whatever a system does: they go first at every free slot. Pure.

No call is broken off for another one, so that a call waits for the first slot that becomes free, and for the modest
ones before it. With a greedy tenant every slot is taken when it arrives: that much longer takes it in any order.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

from headrace_overload_bench.arrivals import GREEDY, Arrival


def best_milliseconds(
    asked: Sequence[Arrival], slots: int, token_seconds: float, deadline_seconds: float
) -> list[tuple[float, float]]:
    """When each request of a modest tenant would have ended, in seconds after the load's start, and its milliseconds.

    Args:
        asked: All requests, in ascending order of their time.
        slots: Calls at a time of the node.
        token_seconds: Of a call, for each token of its answer, with all slots in use.
        deadline_seconds: A greedy tenant's request that has waited for as long is not begun.
    """
    ended: list[tuple[float, float]] = []
    free = [0.0] * slots
    modest: deque[Arrival] = deque()
    greedy: deque[Arrival] = deque()
    number = 0
    while number < len(asked) or modest:
        now = heapq.heappop(free)
        if not modest and not greedy:
            now = max(now, asked[number].at)
        while number < len(asked) and asked[number].at <= now:
            (greedy if asked[number].tenant == GREEDY else modest).append(asked[number])
            number += 1
        while greedy and greedy[0].at + deadline_seconds <= now:
            greedy.popleft()
        if modest:
            call = modest.popleft()
            ended.append((now + call.tokens * token_seconds, 1000 * (now + call.tokens * token_seconds - call.at)))
        elif greedy:
            call = greedy.popleft()
        else:
            # What waited had no time left.
            heapq.heappush(free, now)
            if number == len(asked):
                break
            continue
        heapq.heappush(free, now + call.tokens * token_seconds)
    return ended
