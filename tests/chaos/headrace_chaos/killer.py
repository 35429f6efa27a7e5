"""Applies the faults of a plan to the parts of a running platform."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable

import psutil

from headrace_chaos.plan import Act, Blow
from headrace_chaos.platform import Platform
from headrace_chaos.recovery import Death

_PARTS = {
    Blow.KAFKA_RESTART: ("kafka", signal.SIGTERM),
    Blow.KAFKA_KILL: ("kafka", signal.SIGKILL),
    Blow.POSTGRES_RESTART: ("postgres", signal.SIGINT),
    Blow.POSTGRES_KILL: ("postgres", signal.SIGKILL),
}
_FIND_SECONDS = 10.0
_WELL_SECONDS = 120.0
_NOTICED_SECONDS = 0.5
"""By then a supervisor has noticed that one of its processes has ended."""
_FIRST_SECONDS = 3.0
_REGISTRY_PAUSE = 0.3


class Killer:
    """Executes a plan; what it did is in `deaths` and `dealt`."""

    def __init__(self, platform: Platform, say: Callable[[str], None]) -> None:
        self._platform = platform
        self._say = say
        self._asleep: dict[int, str] = {}
        self._holding: set[asyncio.Task[None]] = set()
        self._trouble = False
        self.deaths: list[Death] = []
        self.dealt: Counter[Blow] = Counter()
        self.skipped: list[str] = []

    async def run(self, acts: Iterable[Act], until: float | None) -> None:
        """Apply the faults; returns when none are left, or before one that would end after `until` (monotonic)."""
        await asyncio.sleep(_FIRST_SECONDS)
        for act in acts:
            if until is not None and time.monotonic() + act.hold + act.pause > until:
                return
            self._say(f"  {act.blow.value} {' '.join(act.targets)}")
            await self._deal(act)
            began = time.monotonic()
            await asyncio.gather(*self._holding)
            await self._until_well()
            self._say(f"    healthy again after {time.monotonic() - began:.1f} s")
            self._trouble = False
            await asyncio.sleep(act.pause)

    def wake_all(self) -> None:
        """Thaw everything that is frozen, also if the run was interrupted."""
        for pid in list(self._asleep):
            self._wake(pid)
        if self._platform.disk.mounted:
            self._platform.disk.free()

    async def _deal(self, act: Act) -> None:
        match act.blow:
            case Blow.KILL | Blow.STOP | Blow.ALL:
                number = signal.SIGTERM if act.blow is Blow.STOP else signal.SIGKILL
                await asyncio.gather(*(self._strike(act.blow, target, number) for target in act.targets))
            case Blow.ZOMBIE:
                for target in act.targets:
                    await self._sleep(act.blow, target, act.hold)
            case Blow.REGISTRY_GONE:
                self._trouble = True
                await self._sleep(act.blow, "registry", act.hold)
                await asyncio.sleep(_REGISTRY_PAUSE)
                for target in act.targets:
                    await self._strike(Blow.KILL, target, signal.SIGKILL)
            case Blow.DISK_FULL:
                self._trouble = True
                self._note(act.blow, "kafka")
                self._platform.disk.fill()
                self._later(act.hold, self._platform.disk.free)
            case _:
                self._trouble = True
                await self._strike(act.blow, *_PARTS[act.blow])

    async def _strike(self, blow: Blow, target: str, number: signal.Signals) -> None:
        pid = await self._find(target)
        if pid is None:
            self.skipped.append(f"{blow.value} {target}: it was not running")
            return
        self._note(blow, target)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    async def _sleep(self, blow: Blow, target: str, seconds: float) -> None:
        pid = await self._find(target)
        if pid is None:
            self.skipped.append(f"{blow.value} {target}: it was not running")
            return
        self._note(blow, target)
        os.kill(pid, signal.SIGSTOP)
        self._asleep[pid] = target
        self._later(seconds, lambda: self._wake(pid))

    def _wake(self, pid: int) -> None:
        self._asleep.pop(pid, None)
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            os.kill(pid, signal.SIGCONT)

    async def _find(self, target: str) -> int | None:
        deadline = time.monotonic() + _FIND_SECONDS
        while (pid := self._platform.pid(target)) is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.05)
        return pid

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        async def hold() -> None:
            await asyncio.sleep(seconds)
            undo()

        holding = asyncio.create_task(hold())
        self._holding.add(holding)
        holding.add_done_callback(self._holding.discard)

    def _note(self, blow: Blow, target: str) -> None:
        self.dealt[blow] += 1
        self.deaths.append(Death(time.time_ns() // 1_000_000, target, blow.value, self._trouble))

    async def _until_well(self) -> None:
        await asyncio.sleep(_NOTICED_SECONDS)
        deadline = time.monotonic() + _WELL_SECONDS
        while (trouble := await self._platform.trouble()) and time.monotonic() < deadline:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.2)
        if trouble:
            self._say(f"    not healthy after {_WELL_SECONDS:.0f} s: {trouble}")
