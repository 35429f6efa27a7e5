"""When a call would end at each of several endpoints, if it were given to it now."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from headrace_models.worker.endpoint import Endpoint, EndpointView
from headrace_models.worker.estimates import CallSize, closed_up


class Queues:
    """The calls that are before another one at full endpoints: those that run there, and those that are expected to
    wait for it. Read and filled in one go, at one time.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._ends: dict[Endpoint, list[float]] = {}

    def wait(self, endpoint: Endpoint) -> float:
        """Seconds until one more call gets a slot."""
        ends = self._of(endpoint)
        return ends[0] if ends else 0.0

    def longest_wait(self, endpoint: Endpoint, seconds: float) -> float:
        """At most, if calls of so many seconds in all wait before one more."""
        ends = self._of(endpoint)
        return max(ends) + seconds / len(ends) if ends else 0.0

    def join(self, endpoint: Endpoint, seconds: float) -> None:
        """One more call waits, which takes so long."""
        ends = self._of(endpoint)
        if ends:
            heapq.heapreplace(ends, ends[0] + seconds)

    def _of(self, endpoint: Endpoint) -> list[float]:
        ends = self._ends.get(endpoint)
        if ends is None:
            # Sorted is as good as a heap.
            ends = self._ends[endpoint] = endpoint.seconds_left(self._now)
        return ends


def run_seconds(endpoints: Sequence[Endpoint], model: str, size: CallSize, now: float) -> list[float]:
    """What a call takes at each endpoint once it has a slot there, loading its model included. One that has never run
    the model counts as the fastest: it is tried soon, and gets more only after that (`slow_start`)."""
    known = [one.run_seconds(model, size) if model in one.speeds else None for one in endpoints]
    best = min((seconds for seconds in known if seconds is not None), default=None)
    found = []
    for one, seconds in zip(endpoints, known, strict=True):
        if seconds is None or best is None:
            run = one.run_seconds(model, size) if best is None else best
            run += (one.status.latency_ms or 0.0) / 1000
        else:
            run = closed_up(seconds, best, one.speeds[model].idle_seconds(now))
        found.append(run + one.load_seconds(model))
    return found


class Prospect(NamedTuple):
    """An endpoint for a call, whatever waits there: how many such calls may begin now, and what one takes."""

    endpoint: Endpoint
    free: int
    seconds: float


def prospects(endpoints: Sequence[Endpoint], model: str, size: CallSize, now: float) -> list[Prospect]:
    """The endpoints as they are for a call that would begin now."""
    alone = sum(one.offers(model) for one in endpoints) <= 1
    return [
        Prospect(one, one.room(model, now, alone=alone), seconds)
        for one, seconds in zip(endpoints, run_seconds(endpoints, model, size, now), strict=True)
    ]


def views(found: Sequence[Prospect], queues: Queues) -> list[EndpointView]:
    """What to choose from for one more call, behind those in the queues."""
    return [one.view(free, seconds if free > 0 else seconds + queues.wait(one)) for one, free, seconds in found]
