"""A load that the models bear easily, for long, and what memory the platform has meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace_gateway_bench.measuring import say

from headrace_overload_bench.figures import in_time
from headrace_overload_bench.measuring import play, warmed
from headrace_overload_bench.platform import Models, loaded_node, loaded_platform
from headrace_overload_bench.readings import MemoryReadings, ceilings
from headrace_overload_bench.slopes import Growth, growths

_PIECE_SECONDS: Final = 60.0
"""The load goes on in pieces of this length, so that it is told how far it is and never held in memory as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakPlan:
    """How long, and under what.

    Attributes:
        after_minutes: At the beginning, that say nothing about growth: caches fill and compilers compile.
        times: How many times what the models can do, of all tenants together.
        reading_seconds: Between two readings of the memory.
    """

    minutes: float
    after_minutes: float
    times: float
    tenants: int
    models: Models
    deadline_seconds: float
    first_seconds: float
    reading_seconds: float


@dataclass(frozen=True, slots=True)
class SoakResults:
    """What came of it.

    Attributes:
        missed: Requests that were not answered in time, by status: 0 is none at all, 200 an answer that came late.
        memory: By part: seconds, and bytes.
    """

    asked: int
    missed: Mapping[int, int]
    restarts: int
    memory: Mapping[str, Sequence[tuple[float, int]]]
    growth: Mapping[str, Growth]


async def soak(plan: SoakPlan, folder: Path) -> SoakResults:
    """All of it. Raises ContestantFailed, AssertionError."""
    async with loaded_node(plan.models, folder) as node, loaded_platform(node, plan.tenants) as platform:
        await warmed(node, platform, plan.first_seconds, plan.deadline_seconds)
        rates = [node.capacity * plan.times / plan.tenants] * plan.tenants
        memory = MemoryReadings(platform.parts, plan.reading_seconds)
        asked, missed, piece = 0, Counter[int](), 0
        async with memory.going_on():
            while (left := plan.minutes * 60 - memory.now) > 0:
                piece += 1
                seconds = min(left, _PIECE_SECONDS)
                found = await play(node, platform, rates, seconds, plan.deadline_seconds, piece, time.monotonic())
                asked += len(found)
                missed.update(one.status for one in found if not in_time(one, plan.deadline_seconds))
                total = sum(memory.most(memory.now - 4 * plan.reading_seconds).values())
                say(f"{memory.now / 60:6.1f} min: {asked:,} asked, missed {dict(missed)}, {total / 2**20:,.0f} MiB")
        readings = dict(memory.readings)
        grown = growths(readings, plan.after_minutes * 60, ceilings(platform.parts()))
        return SoakResults(asked, dict(missed), memory.restarts, readings, grown)
