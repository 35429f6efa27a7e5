"""One step of load after another, each followed by rest until the platform has done what it was left to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
from headrace_bench.children import ContestantFailed
from headrace_bench.ratios import percentile
from headrace_gateway_bench.litellm import CannotRun, ProxyEnded
from headrace_gateway_bench.measuring import say
from headrace_gateway_bench.processes import Parts, machine_cpu_seconds, since
from headrace_gateway_bench.systems import CHAT
from headrace_gateway_bench.windows import idle_cores, rest

from headrace_overload_bench.arrivals import OverloadStep, arrivals, step_of, without_the_greedy
from headrace_overload_bench.figures import StepFigures, step_figures, window
from headrace_overload_bench.ideal import best_milliseconds
from headrace_overload_bench.open_load import AskedRequest
from headrace_overload_bench.peers import loaded_proxy
from headrace_overload_bench.platform import PLATFORM, LoadedNode, LoadedSystem, Models, loaded_node, loaded_platform
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
        first_seconds: Load as large as the models' capacity on each system before the first step, until compilers have
            seen what is hot.
        reading_seconds: Between two readings of the memory.
        seed: Of the times of arrival.
    """

    systems: Sequence[str]
    times: Sequence[float]
    tenants: int
    models: Models
    seconds: float
    deadline_seconds: float
    first_seconds: float
    reading_seconds: float
    seed: int


@dataclass(slots=True)
class SystemResults:
    """What was measured of one system.

    Attributes:
        memory: By part: seconds since the first step began, and bytes.
        spans: When each step's window was open, on the same axis.
        missing: Why it could not run here.
    """

    settings: str = ""
    steps: list[StepFigures] = field(default_factory=list)
    memory: Mapping[str, Sequence[tuple[float, int]]] = field(default_factory=dict)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class OverloadResults:
    """Everything that was measured.

    Attributes:
        capacity: Answers a second of the models.
        systems: By name.
        elsewhere: Processors that other work kept busy, in each window.
    """

    capacity: float
    systems: Mapping[str, SystemResults]
    elsewhere: Sequence[float]


async def measure(plan: OverloadPlan, folder: Path) -> OverloadResults:
    """All steps, beginning with the one without the greedy tenant, each on every system in turn while the others are
    idle. Raises ContestantFailed, AssertionError."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(loaded_node(plan.models, folder))
        found: dict[str, SystemResults] = {}
        contestants: list[_Contestant] = []
        for name in plan.systems:
            found[name] = SystemResults()
            try:
                system = await stack.enter_async_context(_started(name, node, plan))
            except (CannotRun, ProxyEnded) as error:
                found[name].missing = str(error)
                say(f"{name}: left out, {error}")
                continue
            found[name].settings = system.settings
            contestants.append(_Contestant(plan, node, system, found[name]))
        elsewhere: list[float] = []
        for one in contestants:
            await one.prepare(stack)
        steps = [without_the_greedy(node.capacity, plan.tenants)]
        steps += [step_of(times, node.capacity, plan.tenants) for times in plan.times]
        for step in steps:
            for one in contestants:
                idle = [other.system for other in contestants if other is not one]
                elsewhere.append(await one.step(step, idle))
        for one in contestants:
            one.results.memory = dict(one.memory.readings)
        return OverloadResults(node.capacity, found, elsewhere)


def _started(name: str, node: LoadedNode, plan: OverloadPlan) -> AbstractAsyncContextManager[LoadedSystem]:
    if name == PLATFORM:
        return loaded_platform(node, plan.tenants)
    return loaded_proxy(node, plan.tenants, plan.deadline_seconds)


async def warmed(node: LoadedNode, system: LoadedSystem, seconds: float, deadline_seconds: float) -> None:
    """Load as large as the models' capacity for a while. Raises ContestantFailed when nothing is answered."""
    rates = [node.capacity / len(system.tenants)] * len(system.tenants)
    asked = await play(node, system, rates, seconds, deadline_seconds, 0, time.monotonic() + _BEGIN_SECONDS)
    if not any(one.status == 200 for one in asked):
        raise ContestantFailed(f"{system.name} answers nothing: {[one.status for one in asked][:20]}")


async def play(
    node: LoadedNode,
    system: LoadedSystem,
    rates: Sequence[float],
    seconds: float,
    deadline_seconds: float,
    seed: int,
    starts_at: float,
) -> list[AskedRequest]:
    """Everything that tenants asked at these rates, when the last of it has ended. Raises ContestantFailed."""
    request = {
        "host": system.host,
        "port": system.port,
        "path": CHAT,
        "model": system.model,
        "tenants": [dict(one) for one in system.tenants],
        "arrivals": list(arrivals(rates, seconds, seed, node.models.tokens)),
        "starts_at": starts_at,
        "deadline_field": system.deadline_field,
        "deadline_seconds": deadline_seconds,
    }
    answer = await node.load.round(request, seconds + deadline_seconds + _ROOM_SECONDS)
    return [AskedRequest(*one) for one in answer["asked"]]


class _Contestant:
    """One system, step by step."""

    def __init__(self, plan: OverloadPlan, node: LoadedNode, system: LoadedSystem, results: SystemResults) -> None:
        self._plan = plan
        self._node = node
        self._idle = 0.0
        self.system = system
        self.results = results
        self.memory = MemoryReadings(system.parts, plan.reading_seconds)

    async def prepare(self, stack: AsyncExitStack) -> None:
        """The first load, and readings of its memory from then on."""
        await warmed(self._node, self.system, self._plan.first_seconds, self._plan.deadline_seconds)
        self._idle = sum((await idle_cores(self.system.parts())).values())
        await stack.enter_async_context(self.memory.going_on())

    async def step(self, step: OverloadStep, idle: Sequence[LoadedSystem]) -> float:
        """One step, and rest after it. Returns the processors that other work than the systems kept busy."""
        plan, memory = self._plan, self.memory
        starts_at, restarts, began = time.monotonic() + _BEGIN_SECONDS, memory.restarts, memory.now
        opens, closes = plan.deadline_seconds, plan.deadline_seconds + plan.seconds
        asking = asyncio.create_task(
            play(self._node, self.system, step.rates, closes, plan.deadline_seconds, plan.seed, starts_at)
        )
        try:
            await asyncio.sleep(starts_at + opens - time.monotonic())
            opened, before = memory.now, self._cpu(idle)
            await asyncio.sleep(starts_at + closes - time.monotonic())
            closed, after = memory.now, self._cpu(idle)
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
            self._best(step, opens, closes),
        )
        self.results.steps.append(figures)
        self.results.spans[step.name] = opened, closed
        self._tell(figures)
        await rest(self.system.parts(), self._idle)
        return max(sum(machine.values()) - ours - sum(others.values()), 0.0) / (closed - opened)

    def _best(self, step: OverloadStep, opens: float, closes: float) -> float | None:
        """The 99th percentile of the modest tenants, in ms, if they went first at every free slot of the node."""
        plan, models = self._plan, self._node.models
        asked = list(arrivals(step.rates, closes, plan.seed, models.tokens))
        token_seconds = models.slots / self._node.capacity / models.tokens
        ended = best_milliseconds(asked, models.slots, token_seconds, plan.deadline_seconds)
        took = sorted(took for at, took in ended if opens <= at < closes)
        return percentile(took, 0.99) if took else None

    def _cpu(self, idle: Sequence[LoadedSystem]) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Processor seconds of the system, of all else that belongs to the benchmark, and of the machine."""
        bench = Parts({"load": self._node.load.process.pid, "simulator": self._node.simulator}).cpu_seconds()
        for number, other in enumerate(idle):
            bench |= {f"{number} {part}": seconds for part, seconds in _seconds(other).items()}
        return _seconds(self.system), bench, {"machine": machine_cpu_seconds()}

    def _tell(self, found: StepFigures) -> None:
        p99 = "–" if found.modest.p99 is None else f"{found.modest.p99:,.0f} ms"
        say(
            f"{self.system.name}, {found.step.name}: asked {found.everyone.asked:.1f}/s, goodput "
            f"{found.everyone.goodput:.1f}/s, the others got {found.modest.share:.0%}, p99 {p99}, not in time: "
            f"{dict(found.statuses)}"
        )


def _seconds(system: LoadedSystem) -> dict[str, float]:
    try:
        return system.parts().cpu_seconds()
    except psutil.NoSuchProcess:
        # A process has just ended: the system's time is not known, and counts as none.
        return {}
