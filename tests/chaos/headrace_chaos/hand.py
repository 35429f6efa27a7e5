"""What every fault consists of: signals to the processes of a running platform, some of them taken back later."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable

import psutil

from headrace_chaos.plan import Blow
from headrace_chaos.platform import Platform
from headrace_chaos.recovery import Death

_FIND_SECONDS = 10.0


class Hand:
    """Keeps what it did in `deaths` and `dealt`, and what it could not do in `skipped`."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._asleep: set[int] = set()
        self._holding: set[asyncio.Task[None]] = set()
        self.trouble = False
        """Whether a dependency of the services is down."""
        self.deaths: list[Death] = []
        self.dealt: Counter[Blow] = Counter()
        self.skipped: list[str] = []

    async def strike(self, blow: Blow, target: str, number: signal.Signals) -> None:
        """Send a signal to a part."""
        pid = await self.find(target)
        if pid is None:
            self.skipped.append(f"{blow.value} {target}: it was not running")
            return
        self.note(blow, target)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    async def freeze(self, blow: Blow, target: str, seconds: float) -> None:
        """SIGSTOP a part, and SIGCONT it later."""
        pid = await self.find(target)
        if pid is None:
            self.skipped.append(f"{blow.value} {target}: it was not running")
            return
        self.note(blow, target)
        self._stop(pid)
        self.later(seconds, lambda: self._wake(pid))

    async def hold_down(self, target: str, seconds: float, number: signal.Signals = signal.SIGKILL) -> None:
        """End a part, and stop what its supervisor starts in its place before it can do anything."""
        pid = await self.find(target)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while (again := await self.find(target)) == pid:  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.01)
        if again is not None:
            self._stop(again)
            self.later(seconds, lambda: self._wake(again))

    def later(self, seconds: float, undo: Callable[[], None]) -> None:
        """Undo something; `undone` waits for it."""

        async def hold() -> None:
            await asyncio.sleep(seconds)
            undo()

        holding = asyncio.create_task(hold())
        self._holding.add(holding)
        holding.add_done_callback(self._holding.discard)

    async def undone(self) -> None:
        """Wait until everything is undone."""
        await asyncio.gather(*self._holding)

    def wake_all(self) -> None:
        """Thaw everything that is frozen, also if the run was interrupted."""
        for pid in list(self._asleep):
            self._wake(pid)

    def note(self, blow: Blow, target: str) -> None:
        """A fault was applied."""
        self.dealt[blow] += 1
        self.note_moment(blow.value, target)

    def note_moment(self, name: str, target: str) -> None:
        """A moment from which recovery is measured."""
        self.deaths.append(Death(time.time_ns() // 1_000_000, target, name, self.trouble))

    async def find(self, target: str) -> int | None:
        """The process of a part, waiting for it for a while."""
        deadline = time.monotonic() + _FIND_SECONDS
        while (pid := self._platform.pid(target)) is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.05)
        return pid

    def _stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self._asleep.add(pid)

    def _wake(self, pid: int) -> None:
        self._asleep.discard(pid)
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            os.kill(pid, signal.SIGCONT)
