"""Rounds over the sizes of each dimension, in turn: one is measured while the others are idle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from headrace_gateway_bench.figures import MeasuredWindow, Setup, order
from headrace_gateway_bench.measuring import callers_running, say, upstream_running
from headrace_gateway_bench.processes import Parts
from headrace_gateway_bench.windows import Windows, idle_cores, rest

from headrace_scale_bench.agent_sessions import AgentSessions
from headrace_scale_bench.platforms import PlatformSize, ScaledPlatform, platform_running

DIMENSIONS: Final = ("partitions", "agents", "tenants", "history")
_FIRST_CALLERS: Final = 16
_FIRST_SECONDS: Final = 10.0


class PlatformSilent(Exception):
    """A platform that has just started does not answer; the message has what callers got instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePlan:
    """What to measure.

    Attributes:
        dimensions: Names from `DIMENSIONS`.
        scales: Partitions and instances of each configuration, smallest first.
        agents, tenants, history: How many there are in each configuration, smallest first.
        first_tasks: Load on each platform before its first window, until compilers have seen what is hot; more if one
            that it is compared with has had more. As many tasks for all, since a busy machine gives one platform more
            time than another, and a broker's compiler is not done with its hot code after some thousands of tasks.
        warm_up_seconds: Load before each window opens, without a pause.
    """

    dimensions: Sequence[str]
    scales: Sequence[tuple[int, int]]
    agents: Sequence[int]
    tenants: Sequence[int]
    history: Sequence[int]
    callers: int
    rounds: int
    seconds: float
    warm_up_seconds: float
    first_tasks: int


async def _nothing() -> None:
    """Most sizes need no preparation."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One size of a dimension.

    Attributes:
        turns: Headers that requests have in turn.
        prepare: Makes its platform this size, where that is not its own.
    """

    name: str
    platform: ScaledPlatform
    turns: Sequence[Mapping[str, str]] = ()
    prepare: Callable[[], Awaitable[None]] = _nothing


@dataclass(slots=True)
class ScaleResults:
    """Everything that was measured of a dimension.

    Attributes:
        idle: Processors that each size keeps busy when nothing is asked of it.
    """

    windows: list[MeasuredWindow] = field(default_factory=list)
    idle: dict[str, float] = field(default_factory=dict)


async def measure(plan: ScalePlan, folder: Path) -> dict[str, ScaleResults]:
    """All dimensions, one after another. Raises ContestantFailed, PlatformSilent."""
    results: dict[str, ScaleResults] = {}
    async with AsyncExitStack() as stack:
        upstream, origin = await stack.enter_async_context(upstream_running())
        callers = await stack.enter_async_context(callers_running(folder))
        rounds = ScaleRounds(plan, Windows(callers, Parts({"upstream": upstream})), origin)
        # The smallest of all dimensions, and so the first of each.
        smallest = await rounds.start(stack, PlatformSize(*plan.scales[0], plan.tenants[0], plan.history[0]))
        for name in plan.dimensions:
            async with AsyncExitStack() as own:
                subjects = await rounds.subjects(name, smallest, own)
                results[name] = await rounds.run(subjects)
    return results


class ScaleRounds:
    """Measures the sizes of one dimension after another.

    Args:
        origin: Of the upstream.
    """

    def __init__(self, plan: ScalePlan, windows: Windows, origin: str) -> None:
        self._plan = plan
        self._windows = windows
        self._origin = origin
        self._running: list[ScaledPlatform] = []
        # What each of them has answered.
        self._answered: dict[PlatformSize, int] = {}

    async def start(self, stack: AsyncExitStack, size: PlatformSize) -> ScaledPlatform:
        """A platform that has had its first load, until the stack is closed. Raises PlatformSilent."""
        say(f"starting a platform: {size}")
        platform = await stack.enter_async_context(platform_running(size, self._origin))
        self._running.append(platform)
        stack.callback(self._running.remove, platform)
        subject, enough = Subject("first load", platform, platform.turns), max(self._answered.values(), default=0)
        self._answered[size] = 0
        stack.callback(self._answered.pop, size)
        while self._answered[size] < max(enough, self._plan.first_tasks):
            window = await self._window(subject, 0, 0.0, _FIRST_SECONDS)
            if not window.answered:
                raise PlatformSilent(f"{size} answered nothing in {_FIRST_SECONDS:g} s: {dict(window.errors)}")
        await platform.add_history()
        return platform

    async def subjects(self, dimension: str, smallest: ScaledPlatform, stack: AsyncExitStack) -> list[Subject]:
        """The sizes of a dimension; platforms that it needs run until the stack is closed."""
        plan = self._plan
        if dimension == "agents":
            running = smallest.stack
            sessions = AgentSessions(running.skills_url, running.ops_urls["skill-broadcaster"], running.api_key)
            stack.push_async_callback(sessions.hold, 0)
            return [_agents(count, smallest, sessions) for count in plan.agents]
        first = smallest.size
        sizes = {
            "partitions": {
                f"{instances} of each, {partitions} partitions": PlatformSize(partitions, instances)
                for partitions, instances in plan.scales
            },
            "tenants": {f"{count:,} tenants": PlatformSize(tenants=count) for count in plan.tenants},
            "history": {f"{count:,} finished tasks": PlatformSize(history=count) for count in plan.history},
        }[dimension]
        platforms = {name: smallest if size == first else await self.start(stack, size) for name, size in sizes.items()}
        return [Subject(name, platform, platform.turns) for name, platform in platforms.items()]

    async def run(self, subjects: Sequence[Subject]) -> ScaleResults:
        """All rounds of a dimension."""
        plan, results = self._plan, ScaleResults()
        by_name = {subject.name: subject for subject in subjects}
        for subject in subjects:
            await subject.prepare()
            idle = await idle_cores(subject.platform.gateway.parts)
            results.idle[subject.name] = sum(idle.values())
            say(f"{subject.name}: {results.idle[subject.name]:.3f} processors busy when idle: {_most(idle)}")
        for number in range(1, plan.rounds + 1):
            for name in order(list(by_name), number - 1):
                subject = by_name[name]
                await subject.prepare()
                await rest(subject.platform.gateway.parts, results.idle[name])
                window = await self._window(subject, number, plan.warm_up_seconds, plan.seconds)
                results.windows.append(window)
                failed = f", {sum(window.errors.values())} failed: {dict(window.errors)}" if window.errors else ""
                say(
                    f"round {number} {name:32} {window.rate:7.1f} tasks/s, "
                    f"{window.cpu_ms or 0:6.2f} ms of processor time each{failed}"
                )
        return results

    async def _window(self, subject: Subject, number: int, warm_up: float, seconds: float) -> MeasuredWindow:
        others = [one.gateway.parts for one in self._running if one is not subject.platform]
        callers = self._plan.callers if number else _FIRST_CALLERS
        window = await self._windows.measure(
            subject.platform.gateway,
            others,
            Setup("plain", callers, subject.name),
            number,
            warm_up,
            seconds,
            subject.turns,
        )
        self._answered[subject.platform.size] += window.answered
        return window


def _agents(count: int, platform: ScaledPlatform, sessions: AgentSessions) -> Subject:
    async def hold() -> None:
        if sessions.lost:
            say(f"{sessions.lost} sessions were closed by the service")
        await sessions.hold(count)

    turns = [{"X-Headrace-Session": f"agent-{number}"} for number in range(count)]
    return Subject(f"{count:,} agents", platform, turns, hold)


def _most(idle: Mapping[str, float]) -> str:
    ordered = sorted(idle.items(), key=lambda item: -item[1])
    return ", ".join(f"{part} {cores:.3f}" for part, cores in ordered[:4])
