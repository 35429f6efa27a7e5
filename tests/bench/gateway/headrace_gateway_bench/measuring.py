"""Rounds over all systems, loads and modes: each system in turn, while the others are idle."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from headrace_bench.children import Child, ContestantFailed, running

from headrace_gateway_bench.figures import MODES, MeasuredWindow, Setup, order
from headrace_gateway_bench.litellm import CannotRun, ProxyEnded
from headrace_gateway_bench.processes import Memory, Parts
from headrace_gateway_bench.systems import SYSTEMS, Gateway
from headrace_gateway_bench.windows import Windows, idle_cores, rest

_FIRST_CALLERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlan:
    """What to measure.

    Attributes:
        first_seconds: Load on each system before the first round, in all modes together, until compilers have seen what
            is hot and everything that is loaded at its first use is there.
        warm_up_seconds: Load before each window opens, without a pause.
    """

    systems: Sequence[str]
    callers: Sequence[int]
    modes: Sequence[str] = MODES
    rounds: int
    seconds: float
    warm_up_seconds: float
    first_seconds: float


@dataclass(slots=True, kw_only=True)
class Measured:
    """What was found out about a system beside its windows.

    Attributes:
        start_seconds: From its start until it was ready.
        idle_cores, idle_cpu: Processors busy when nothing was asked of it, all together and by part.
        memory: The most that each part has had at the end of a window.
        missing: Why it could not run here.
    """

    settings: str = ""
    start_seconds: float = 0.0
    idle_cores: float = 0.0
    idle_cpu: Mapping[str, float] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    missing: str | None = None


@dataclass(slots=True)
class GatewayResults:
    """Everything that was measured."""

    windows: list[MeasuredWindow] = field(default_factory=list)
    systems: dict[str, Measured] = field(default_factory=dict)


async def measure(plan: GatewayPlan, folder: Path) -> GatewayResults:
    """All rounds of all systems that can run here, which start one after another. Raises ContestantFailed."""
    results = GatewayResults()
    async with AsyncExitStack() as stack:
        upstream, origin = await stack.enter_async_context(upstream_running())
        callers = await stack.enter_async_context(callers_running(folder))
        gateways: dict[str, Gateway] = {}
        for name in plan.systems:
            found = results.systems[name] = Measured()
            began = time.monotonic()
            try:
                gateway = await stack.enter_async_context(SYSTEMS[name](origin, os.cpu_count() or 1))
            except (CannotRun, ProxyEnded) as error:
                found.missing = str(error)
                say(f"{name}: left out, {error}")
                continue
            gateways[name] = gateway
            found.start_seconds, found.settings = round(time.monotonic() - began, 1), gateway.settings
            say(f"{name}: ready after {found.start_seconds:.1f} s")
        rounds = _Rounds(plan, gateways, results, Windows(callers, Parts({"upstream": upstream})))
        await rounds.run()
    return results


class _Rounds:
    def __init__(
        self,
        plan: GatewayPlan,
        gateways: Mapping[str, Gateway],
        results: GatewayResults,
        windows: Windows,
    ) -> None:
        self._plan = plan
        self._gateways = gateways
        self._results = results
        self._windows = windows

    async def run(self) -> None:
        plan = self._plan
        for name in self._gateways:
            for mode in plan.modes:
                await self._window(Setup(mode, _FIRST_CALLERS, name), 0, plan.first_seconds / len(plan.modes), 1.0)
            await self._rest_from_start(name)
        turn = 0
        for number in range(1, plan.rounds + 1):
            for mode in plan.modes:
                for callers in plan.callers:
                    for name in order(list(self._gateways), turn) if self._gateways else []:
                        window = await self._window(
                            Setup(mode, callers, name), number, plan.warm_up_seconds, plan.seconds
                        )
                        self._results.windows.append(window)
                        self._tell(window)
                        await rest(self._gateways[name].parts, self._results.systems[name].idle_cores)
                    turn += 1

    async def _window(self, setup: Setup, number: int, warm_up: float, seconds: float) -> MeasuredWindow:
        gateway = self._gateways[setup.system]
        others = [one.parts for name, one in self._gateways.items() if name != setup.system]
        window = await self._windows.measure(gateway, others, setup, number, warm_up, seconds)
        found = self._results.systems[setup.system]
        for part, memory in gateway.parts.memory().items():
            known = found.memory.get(part, Memory(0, 0))
            found.memory[part] = Memory(max(known.rss, memory.rss), max(known.pss, memory.pss))
        return window

    async def _rest_from_start(self, name: str) -> None:
        """Wait until a system has done what its first load left it to do, and read what it takes when idle."""
        found = self._results.systems[name]
        found.idle_cpu = await idle_cores(self._gateways[name].parts)
        found.idle_cores = sum(found.idle_cpu.values())
        say(f"{name}: {found.idle_cores:.3f} processors busy when idle")

    @staticmethod
    def _tell(window: MeasuredWindow) -> None:
        setup = window.setup
        failed = f", {sum(window.errors.values())} failed" if window.errors else ""
        say(
            f"round {window.round} {setup.mode:8} {setup.callers:4} callers {setup.system:14} "
            f"{window.rate:8.1f} /s, {window.cpu_ms or 0:6.2f} ms of processor time each{failed}"
        )


def callers_running(folder: Path) -> AbstractAsyncContextManager[Child]:
    """The process with the callers; what it writes to standard error is kept below `folder`."""
    return running("callers", [sys.executable, "-m", "headrace_gateway_bench.load"], folder)


@asynccontextmanager
async def upstream_running() -> AsyncIterator[tuple[int, str]]:
    """The upstream's process id, and its origin."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headrace_gateway_bench.upstream",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise ContestantFailed(f"the upstream ended with {await process.wait()}")
        yield process.pid, f"http://127.0.0.1:{int(line)}"
    finally:
        process.stdin.close()
        await process.wait()


def say(text: str) -> None:
    """Tell how far the measurement is, on standard error."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()
