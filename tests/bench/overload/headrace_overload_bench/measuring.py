"""One step of load after another, each followed by rest until the platform has done what it was left to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from headrace_bench.children import ContestantFailed
from headrace_gateway_bench.measuring import say
from headrace_gateway_bench.processes import Parts, machine_cpu_seconds, since
from headrace_gateway_bench.systems import CHAT
from headrace_gateway_bench.windows import idle_cores, rest

from headrace_overload_bench.arrivals import OverloadStep, arrivals, step_of, without_the_greedy
from headrace_overload_bench.figures import StepFigures, step_figures, window
from headrace_overload_bench.open_load import AskedRequest
from headrace_overload_bench.platform import MODEL, LoadedPlatform, Models, loaded_platform
from headrace_overload_bench.readings import MemoryReadings

_BEGIN_SECONDS: Final = 1.0
_ROOM_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadPlan:
    """What to measure.

    Attributes:
        times: How many times what the models can do, of each step.
        seconds: How long the window of a step is open.
        deadline_seconds: Of every request. A window opens after load of as long as that, when a backlog has become as
            long as it will.
        first_seconds: Load as large as the models' capacity before the first step, until compilers have seen what is
            hot.
        reading_seconds: Between two readings of the memory.
        seed: Of the times of arrival.
    """

    times: Sequence[float]
    tenants: int
    models: Models
    seconds: float
    deadline_seconds: float
    first_seconds: float
    reading_seconds: float
    seed: int


@dataclass(frozen=True, slots=True)
class OverloadResults:
    """Everything that was measured.

    Attributes:
        capacity: Answers a second of the models.
        memory: By part: seconds since the first step began, and bytes.
        spans: When each step's window was open, on the same axis.
        elsewhere: Processors that other work kept busy, in each window.
    """

    capacity: float
    steps: Sequence[StepFigures]
    memory: Mapping[str, Sequence[tuple[float, int]]]
    spans: Mapping[str, tuple[float, float]]
    elsewhere: Sequence[float]


async def measure(plan: OverloadPlan, folder: Path) -> OverloadResults:
    """All steps, beginning with the one without the greedy tenant. Raises ContestantFailed, AssertionError."""
    async with loaded_platform(plan.models, plan.tenants, folder) as platform:
        steps = [without_the_greedy(platform.capacity, plan.tenants)]
        steps += [step_of(times, platform.capacity, plan.tenants) for times in plan.times]
        await warmed(platform, plan.first_seconds, plan.deadline_seconds)
        idle = sum((await idle_cores(platform.parts())).values())
        memory = MemoryReadings(platform.parts, plan.reading_seconds)
        found: list[StepFigures] = []
        spans: dict[str, tuple[float, float]] = {}
        elsewhere: list[float] = []
        async with memory.going_on():
            for step in steps:
                figures, spans[step.name], other = await _step(plan, platform, step, memory)
                found.append(figures)
                elsewhere.append(other)
                _tell(figures)
                await rest(platform.parts(), idle)
        return OverloadResults(platform.capacity, found, dict(memory.readings), spans, elsewhere)


async def warmed(platform: LoadedPlatform, seconds: float, deadline_seconds: float) -> None:
    """Load as large as the models' capacity for a while. Raises ContestantFailed when nothing is answered."""
    rates = [platform.capacity / len(platform.tenants)] * len(platform.tenants)
    asked = await play(platform, rates, seconds, deadline_seconds, 0, time.monotonic() + _BEGIN_SECONDS)
    if not any(one.status == 200 for one in asked):
        raise ContestantFailed(f"the platform answers nothing: {[one.status for one in asked][:20]}")


async def play(
    platform: LoadedPlatform,
    rates: Sequence[float],
    seconds: float,
    deadline_seconds: float,
    seed: int,
    starts_at: float,
) -> list[AskedRequest]:
    """Everything that tenants asked at these rates, when the last of it has ended. Raises ContestantFailed."""
    request = {
        "host": platform.host,
        "port": platform.port,
        "path": CHAT,
        "model": f"ollama/{MODEL}",
        "max_tokens": platform.models.tokens,
        "tenants": [dict(one) for one in platform.tenants],
        "arrivals": list(arrivals(rates, seconds, seed)),
        "starts_at": starts_at,
        "deadline_seconds": deadline_seconds,
    }
    answer = await platform.load.round(request, seconds + deadline_seconds + _ROOM_SECONDS)
    return [AskedRequest(*one) for one in answer["asked"]]


async def _step(
    plan: OverloadPlan, platform: LoadedPlatform, step: OverloadStep, memory: MemoryReadings
) -> tuple[StepFigures, tuple[float, float], float]:
    starts_at, restarts, began = time.monotonic() + _BEGIN_SECONDS, memory.restarts, memory.now
    opens, closes = plan.deadline_seconds, plan.deadline_seconds + plan.seconds
    asking = asyncio.create_task(play(platform, step.rates, closes, plan.deadline_seconds, plan.seed, starts_at))
    try:
        await asyncio.sleep(starts_at + opens - time.monotonic())
        opened, before = memory.now, _cpu(platform)
        await asyncio.sleep(starts_at + closes - time.monotonic())
        closed, after = memory.now, _cpu(platform)
        asked = await asking
    finally:
        asking.cancel()
    own, others, machine = (since(now, then) for now, then in zip(after, before, strict=True))
    ours = sum(own.values())
    figures = step_figures(
        step,
        window(asked, opens, closes),
        plan.seconds,
        plan.deadline_seconds,
        memory.most(began),
        memory.restarts - restarts,
        ours / (closed - opened),
    )
    elsewhere = max(sum(machine.values()) - ours - sum(others.values()), 0.0) / (closed - opened)
    return figures, (opened, closed), elsewhere


def _cpu(platform: LoadedPlatform) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Processor seconds of the platform, of what belongs to the benchmark, and of the machine."""
    bench = Parts({"load": platform.load.process.pid, "simulator": platform.simulator})
    try:
        own = platform.parts().cpu_seconds()
    except psutil.NoSuchProcess:
        # A process has just ended: the platform's time is not known, and counts as none.
        own = {}
    return own, bench.cpu_seconds(), {"machine": machine_cpu_seconds()}


def _tell(found: StepFigures) -> None:
    p99 = "–" if found.modest.p99 is None else f"{found.modest.p99:,.0f} ms"
    say(
        f"{found.step.name}: asked {found.everyone.asked:.1f}/s, goodput {found.everyone.goodput:.1f}/s, "
        f"the others got {found.modest.share:.0%}, p99 {p99}, not in time: {dict(found.statuses)}"
    )
